import threading, queue, sys, csv, itertools, logging, time, collections, random
import numpy as np
from prefect_optuna import optimize

LOCK = threading.Lock()
RL = threading.RLock()
EV = threading.Event()
Q = queue.Queue()
SEM = threading.Semaphore(2)
CYC = itertools.cycle([1, 2, 3])
CNT = itertools.count(4)
SENT = object()
OUT = open("o.csv", "w")
W = sys.stderr
IT = iter([5, 6, 7, 8])
LOC = threading.local()


class Timer:
    def __init__(self):
        self.lock = threading.Lock()
        self.log = logging.getLogger("t")
        self.t = time.time()

    def __enter__(self):
        return self

    def __exit__(self, *a):
        pass


T = Timer()


def objective(trial):
    with LOCK, RL, T, SEM, T.lock:
        EV.set()
        Q.put(1)
        LOC.x = 3
        OUT.write("a")
        OUT.flush()
        print("x", file=W)
        csv.writer(OUT).writerow([1, 2])
        return (
            trial.suggest_float("x", 0, 1)
            + next(CYC)
            + next(CNT)
            + Q.get()
            + EV.is_set()
            + next(IT)
            + LOC.x
            + (trial.user_attrs.get("q", SENT) is SENT)
        )


optimize(objective, study_name="again", n_trials=2)
