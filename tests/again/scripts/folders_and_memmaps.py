import contextlib, io, json, os, sys, pathlib, shutil, tempfile, itertools, collections
from collections import defaultdict, Counter, deque, OrderedDict
import numpy as np
from tqdm import tqdm
from prefect_optuna import optimize

best = defaultdict(lambda: float("inf"))
seen = Counter()
recent = deque(maxlen=3)
ids = itertools.count()
table = OrderedDict(a=1, b=2)


@contextlib.contextmanager
def workdir():
    d = tempfile.mkdtemp()
    old = os.getcwd()
    os.chdir(d)
    try:
        yield pathlib.Path(d)
    finally:
        os.chdir(old)
        shutil.rmtree(d)


def gen(n):
    while n:
        yield np.random.exponential()
        n -= 1


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    k = trial.suggest_categorical("k", ["a", "b", None, True, 3])
    seen[k] += 1
    with workdir() as d:
        mm = np.memmap("m.dat", dtype="float64", mode="w+", shape=(100,))
        mm[:] = np.random.rand(100)
        mm.flush()
        total = np.fromfile(d / "m.dat").sum()
        (d / "c.json").write_text(json.dumps(table))
    for g in tqdm(gen(5), total=5, disable=False, file=io.StringIO()):
        total += g * x
    buf = io.StringIO()
    with contextlib.redirect_stdout(buf):
        print(total)
    best[k] = min(best[k], total)
    recent.append(total)
    return float(buf.getvalue())


optimize(objective, study_name="again", n_trials=4)
