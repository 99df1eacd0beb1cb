"""The same study by one of those that `peers.py` compares, in whichever interpreter has it.

    python tests/benchmarks/peer_studies.py WAY FOLDER BEGUN TRIALS CASE...

FOLDER is an empty one to work in, BEGUN the time at which this was started, and each CASE is
`MILLISECONDSxAT_ONCE`: a study of that many trials of an objective that sleeps as long. For each, a
line `MEASURED {...}` is printed. Nothing but the standard library is imported before a way asks
for more, so that the start of each is its own. Each trial appends its begin and its end to a file,
in whichever process it runs: so it is counted that all of them ran, and none twice.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

NAMES = [f"x{number}" for number in range(5)]
LOW, HIGH, SEED = -5.0, 5.0, 1


class Case(NamedTuple):
    """A study to measure.

    Attributes:
        folder: an empty one, for what is kept.
        trials: how many.
        seconds: what the objective sleeps.
        at_once: how many trials at once.
    """

    folder: Path
    trials: int
    seconds: float
    at_once: int

    @property
    def times(self) -> str:
        return str(self.folder / "times")


def noted(times: str, begun: float) -> None:
    """Append when a trial began, and that it ends now; whole also beside other processes."""
    file = os.open(times, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, struct.pack("dd", begun, time.time()))
    os.close(file)


def work(params: dict[str, float], times: str, seconds: float) -> float:
    """The work of a trial: a sleep and a sum of squares."""
    begun = time.time()
    if seconds:
        time.sleep(seconds)
    value = sum(x**2 for x in params.values())
    noted(times, begun)
    return value


def objective_of(case: Case) -> Callable[[Any], float]:
    """The objective for everybody whose trials have `suggest_float`."""
    times, seconds = case.times, case.seconds

    def objective(trial: Any) -> float:
        return work({name: trial.suggest_float(name, LOW, HIGH) for name in NAMES}, times, seconds)

    return objective


def optuna_study(storage: Any = None) -> Any:
    """A study of Optuna itself with the sampler that all have."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="peer", storage=storage, sampler=optuna.samplers.RandomSampler(seed=SEED)
    )


def journal(case: Case) -> Any:
    """Optuna's own file of a study."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(case.folder / "study.journal")))


def plain(case: Case, storage: Any = None) -> int:
    study = optuna_study(storage)
    study.optimize(objective_of(case), n_trials=case.trials, n_jobs=case.at_once)
    return len(study.trials)


def plain_sqlite(case: Case) -> int:
    return plain(case, f"sqlite:///{case.folder}/study.db")


def plain_journal(case: Case) -> int:
    return plain(case, journal(case))


def ours(case: Case, problem: Any = None, **options: Any) -> int:
    """`optimize` as it is: its storage and its archive in a folder, a server of Prefect's own."""
    import optuna

    from prefect_optuna.flows import optimize

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.chdir(case.folder)
    result = optimize(
        problem or objective_of(case),
        study_name=case.folder.name,
        n_trials=case.trials,
        n_jobs=case.at_once,
        sampler=optuna.samplers.RandomSampler(seed=SEED),
        progress=False,
        **options,
    )
    return result.states["complete"]


def ours_problem(case: Case) -> int:
    import numpy as np

    from prefect_optuna.flows import Problem

    times, seconds = case.times, case.seconds
    steps = np.arange(21.0)

    def suggest(trial: Any) -> dict[str, float]:
        return {name: trial.suggest_float(name, LOW, HIGH) for name in NAMES}

    def run(params: dict[str, float]) -> dict[str, Any]:
        value = work(params, times, seconds)
        return {"value": value, "a": params["x0"] * steps, "b": params["x1"] * steps}

    def evaluate(result: dict[str, Any]) -> float:
        return result["value"]

    return ours(case, Problem(suggest=suggest, run=run, evaluate=evaluate))


def ours_processes(case: Case) -> int:
    return ours(case, task_runner="processes")


def ray_tune(case: Case, reuse_actors: bool = False) -> int:
    """Ray Tune with its search by Optuna; a cluster of its own on this machine."""
    import logging

    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    times, seconds = case.times, case.seconds

    def trainable(config: dict[str, float]) -> dict[str, float]:
        return {"value": work(config, times, seconds)}

    if not ray.is_initialized():
        # A processor for each of the trials at once, though there may be fewer: they sleep.
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=str(case.folder.parent / "r"),  # the paths of its sockets have to be short
        )
    found = tune.Tuner(
        trainable,
        param_space={name: tune.uniform(LOW, HIGH) for name in NAMES},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(sampler=optuna.samplers.RandomSampler(seed=SEED)),
            metric="value",
            mode="min",
            num_samples=case.trials,
            max_concurrent_trials=case.at_once,
            reuse_actors=reuse_actors,
        ),
        run_config=tune.RunConfig(
            name="peer", storage_path=str(case.folder / "results"), verbose=0
        ),
    ).fit()
    return len(found) - found.num_errors


def ray_tune_reusing(case: Case) -> int:
    return ray_tune(case, reuse_actors=True)


def optuna_distributed(case: Case, client: Any = None) -> int:
    """Without a client, a process for each trial."""
    import optuna_distributed as peer

    study = optuna_study(journal(case))
    # More processes than processors it does only when it is told that there are as many.
    os.cpu_count = lambda: max(4, case.at_once)
    peer.from_study(study, client=client).optimize(
        objective_of(case), n_trials=case.trials, n_jobs=case.at_once
    )
    return len(study.trials)


def optuna_distributed_dask(case: Case) -> int:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=case.at_once,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(case.folder / "dask"),
        ) as cluster,
        # By its address, or else the workers would not be used.
        Client(cluster.scheduler_address) as client,
    ):
        return optuna_distributed(case, client)


def mlflow(case: Case) -> int:
    """Optuna on MLflow's storage: each trial is a run of an experiment."""
    import logging

    import mlflow as peer
    from mlflow.optuna.storage import MlflowStorage

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    peer.set_tracking_uri(f"sqlite:///{case.folder.parent}/mlflow.db")
    storage = MlflowStorage(experiment_id=peer.create_experiment(case.folder.name))
    count = plain(case, storage)
    storage.flush_all_batches()  # what it keeps back for a second belongs to the study
    return count


FLYTE: dict[str, Any] = {}
"""The case of Flyte's objective, which has to be a function of a module."""


async def flyte_objective(x0: float, x1: float, x2: float, x3: float, x4: float) -> float:
    """The same work; its trials take turns in one thread, so a sleep must not stop the others."""
    import asyncio

    begun = time.time()
    if FLYTE["seconds"]:
        await asyncio.sleep(FLYTE["seconds"])
    value = x0**2 + x1**2 + x2**2 + x3**2 + x4**2
    noted(FLYTE["times"], begun)
    return value


def flyte(case: Case) -> int:
    """Flyte's plugin without Flyte: its trials are coroutines of this process."""
    import asyncio

    import flytekit
    from flytekitplugins.optuna import Optimizer, suggest

    FLYTE.update(times=case.times, seconds=case.seconds)
    # The annotations of this file are texts; Flyte wants types.
    flyte_objective.__annotations__ = dict.fromkeys([*NAMES, "return"], float)
    study = optuna_study(journal(case))
    optimizer = Optimizer(
        flytekit.task(flyte_objective),
        concurrency=case.at_once,
        n_trials=case.trials,
        study=study,
    )
    asyncio.run(optimizer(**{name: suggest.float(low=LOW, high=HIGH) for name in NAMES}))
    return len(study.trials)


def rustuna(case: Case, trials: int = 0) -> int:
    """Rustuna has no jobs: several at once are several processes on one file, as many as asked."""
    import rustuna as peer

    storage = peer.storages.JournalFileStorage(str(case.folder / "study.rustuna"))
    study = peer.create_study(
        study_name="peer",
        storage=storage,
        sampler=peer.samplers.RandomSampler(seed=None if trials else SEED),
        load_if_exists=True,
    )
    if trials or case.at_once == 1:
        study.optimize(objective_of(case), n_trials=trials or case.trials)
    else:
        others = []
        for place in range(case.at_once):
            share = case.trials // case.at_once + (place < case.trials % case.at_once)
            if (child := os.fork()) == 0:
                code = 1
                try:
                    rustuna(case, share)
                    code = 0
                finally:
                    os._exit(code)
            others.append(child)
        for child in others:
            assert os.waitpid(child, 0)[1] == 0, "a process of Rustuna's failed"
    return len(study.trials)


METAFLOW = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from metaflow import FlowSpec, Parameter, current, step
from metaflow_optuna import hyperparam, optuna_coordinator
from metaflow_optuna.rendezvous import await_coordinator
from peer_studies import HIGH, LOW, NAMES, work

class Peer(FlowSpec):
    n_trials = Parameter("trials", type=int)
    seconds = Parameter("seconds", type=float)
    times = Parameter("times")

    @step
    def start(self):
        self.coordinator_id = current.run_id
        self.n_trials_int = self.n_trials
        self.next(self.coordinator, self.launch)

    @optuna_coordinator(sampler="random")
    @step
    def coordinator(self):
        self.next(self.join)

    @step
    def launch(self):
        self.coordinator_url = await_coordinator(self.coordinator_id)
        self.numbers = list(range(self.n_trials))
        self.next(self.train, foreach="numbers")

    @hyperparam(objective="value")
    @step
    def train(self):
        params = {{name: self.trial.suggest_float(name, LOW, HIGH) for name in NAMES}}
        self.value = work(params, self.times, self.seconds)
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.next(self.join)

    @step
    def join(self, inputs):
        print("KEPT", len(inputs.coordinator.study.trials), flush=True)
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    Peer()
"""


def metaflow(case: Case) -> int:
    """A task of Metaflow, which is a process, for each trial, and one that has the study."""
    program = case.folder / "peer.py"
    program.write_text(METAFLOW, encoding="utf-8")
    command = [
        *(sys.executable, str(program), "--no-pylint", "--datastore=local", "--metadata=local"),
        *("run", f"--max-workers={case.at_once + 1}", f"--trials={case.trials}"),
        *(f"--seconds={case.seconds}", f"--times={case.times}"),
    ]
    said = subprocess.run(command, cwd=case.folder, capture_output=True, text=True)
    kept = [line.split("KEPT ")[1] for line in said.stdout.splitlines() if "KEPT " in line]
    if said.returncode or not kept:
        raise RuntimeError(f"{said.stdout}\n{said.stderr}")
    return int(kept[0])


def wandb(case: Case) -> int:
    """A sweep of Weights & Biases."""
    import wandb as peer

    times, seconds, lock = case.times, case.seconds, threading.Lock()
    done: list[float] = []

    def trial() -> None:
        with peer.init() as run:
            value = work({name: run.config[name] for name in NAMES}, times, seconds)
            run.log({"value": value})
        with lock:
            done.append(value)

    sweep = peer.sweep(
        {
            "method": "random",
            "metric": {"name": "value", "goal": "minimize"},
            "parameters": {name: {"min": LOW, "max": HIGH} for name in NAMES},
        },
        project="peer",
    )
    peer.agent(sweep, trial, count=case.trials)
    return len(done)


WAYS: dict[str, Callable[[Case], int]] = {
    "optuna-memory": plain,
    "optuna-sqlite": plain_sqlite,
    "optuna-journal": plain_journal,
    "ours": ours,
    "ours-up": ours,
    "ours-problem": ours_problem,
    "ours-processes": ours_processes,
    "ray": ray_tune,
    "ray-reusing": ray_tune_reusing,
    "optuna-distributed": optuna_distributed,
    "optuna-distributed-dask": optuna_distributed_dask,
    "mlflow": mlflow,
    "flyte": flyte,
    "rustuna": rustuna,
    "metaflow": metaflow,
    "wandb": wandb,
}


def measure(way: str, folder: Path, begun: float, trials: int, case: str) -> dict[str, float]:
    """Run one study, and say how long everything took, in seconds.

    Returns:
        `first`, from the start of the program to the first trial; `call`, from the call to its
        end; `whole`, from the start of the program to there; `steady`, from the begin of the first
        trial to the end of the last; `after`, from there to the end of the call; `own`, what the
        objective itself took, all trials together.
    """
    milliseconds, at_once = case.split("x")
    (place := folder / case.replace(".", "-")).mkdir()
    given = Case(place, trials, float(milliseconds) / 1e3, int(at_once))
    called = time.time()
    finished = WAYS[way](given)
    ended = time.time()
    times = list(struct.iter_unpack("dd", Path(given.times).read_bytes()))
    if not finished == len(times) == trials:
        raise RuntimeError(f"{finished} trials kept and {len(times)} run, {trials} were asked for")
    first, last = min(begin for begin, _ in times), max(end for _, end in times)
    return {
        "first": first - begun,
        "call": ended - called,
        "whole": ended - begun,
        "steady": last - first,
        "after": ended - last,
        "own": sum(end - begin for begin, end in times),
    }


def main() -> Iterator[dict[str, Any]]:
    """Measure the cases one after the other."""
    way, folder, begun, trials, *cases = sys.argv[1:]
    os.chdir(folder)
    for case in cases:
        yield {"case": case, **measure(way, Path(folder), float(begun), int(trials), case)}


if __name__ == "__main__":
    for line in main():
        print("MEASURED", json.dumps(line), flush=True)
