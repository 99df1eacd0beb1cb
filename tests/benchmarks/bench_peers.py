"""The same study by others that can be installed: seconds to the first trial, and for each trial.

    make peers

Two jobs, an objective of ten milliseconds, what each keeps by default on this machine's disk. Each
row is from two processes of their own, with few trials and with many: the difference is what a
trial takes, and the rest is the start. A tracker of experiments does other things than an
orchestrator; the table says what each costs, and not which is better.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

FLYTE = str(Path(sys.prefix, "flyte", "bin", "python"))
FEW, MANY, JOBS, SECONDS = 20, 120, 2, 0.01


def objective(trial: Any) -> float:
    """Ten milliseconds of work."""
    x = trial.suggest_float("x", -5, 5)
    time.sleep(SECONDS)
    return (x - 2) ** 2


def plain(n_trials: int) -> None:
    import optuna

    backend = optuna.storages.journal.JournalFileBackend("plain.journal")
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend))
    study.optimize(objective, n_trials=n_trials, n_jobs=JOBS)


def in_sqlite(n_trials: int) -> None:
    import optuna

    study = optuna.create_study(storage="sqlite:///plain.db")
    study.optimize(objective, n_trials=n_trials, n_jobs=JOBS)


def ours(n_trials: int) -> None:
    from prefect_optuna import optimize

    optimize(objective, n_trials=n_trials, n_jobs=JOBS)


def ray_tune(n_trials: int) -> None:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(config: dict[str, float]) -> None:
        time.sleep(SECONDS)
        tune.report({"value": (config["x"] - 2) ** 2})

    tune.Tuner(
        trainable,
        param_space={"x": tune.uniform(-5, 5)},
        tune_config=tune.TuneConfig(
            metric="value",
            mode="min",
            search_alg=OptunaSearch(),
            num_samples=n_trials,
            max_concurrent_trials=JOBS,
        ),
        run_config=tune.RunConfig(storage_path=str(Path("ray").resolve()), verbose=0),
    ).fit()


def mlflow_storage(n_trials: int) -> None:
    import mlflow
    import optuna
    from mlflow.optuna.storage import MlflowStorage

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    storage = MlflowStorage(experiment_id=mlflow.create_experiment("peers"))
    study = optuna.create_study(storage=storage, study_name="peers")
    study.optimize(objective, n_trials=n_trials, n_jobs=JOBS)


def optuna_distributed(n_trials: int) -> None:
    import optuna
    from optuna_distributed import from_study

    backend = optuna.storages.journal.JournalFileBackend("distributed.journal")
    study = from_study(optuna.create_study(storage=optuna.storages.JournalStorage(backend)))
    study.optimize(objective, n_trials=n_trials, n_jobs=JOBS, show_progress_bar=False)


def flytekit(n_trials: int) -> None:
    import optuna
    from flytekitplugins.optuna import Optimizer

    async def run(trial: Any) -> float:
        return await asyncio.to_thread(objective, trial)

    backend = optuna.storages.journal.JournalFileBackend("flyte.journal")
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend))
    asyncio.run(Optimizer(run, concurrency=JOBS, n_trials=n_trials, study=study)())


PEERS: dict[str, tuple[str, Callable[[int], None]]] = {
    "study.optimize, a journal": ("optuna", plain),
    "study.optimize, SQLite": ("optuna", in_sqlite),
    "prefect_optuna.optimize": ("prefect-optuna", ours),
    "optuna-distributed": ("optuna-distributed", optuna_distributed),
    "flytekitplugins-optuna": ("flytekitplugins-optuna", flytekit),
    "MLflow's storage": ("mlflow", mlflow_storage),
    "Ray Tune, OptunaSearch": ("ray", ray_tune),
}


def seconds(name: str, n_trials: int) -> tuple[float, str]:
    """How long a process of its own takes for so many trials, and the version that it has."""
    python = FLYTE if name == "flytekitplugins-optuna" else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect", "HOME": folder}
        command = [python, str(Path(__file__).resolve()), "--one", name, str(n_trials)]
        begun = time.perf_counter()
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise SystemExit(f"{name}:\n{ended.stderr[-2000:]}")
        return time.perf_counter() - begun, ended.stdout.split()[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "TRIALS"))
    asked = parser.parse_args()
    if asked.one:
        package, run = PEERS[asked.one[0]]
        run(int(asked.one[1]))
        print(f"\n{version(package)}")
        return
    print(f"{'':<26}{'version':>12}{'start, s':>10}{'trial, ms':>11}")
    for name in PEERS:
        (few, number), (many, _) = seconds(name, FEW), seconds(name, MANY)
        each = (many - few) / (MANY - FEW)
        start = few - FEW * each
        print(f"{name:<26}{number:>12}{start:10.2f}{each * 1000:11.2f}", flush=True)
    print(f"{'(the work alone)':<48}{SECONDS * 1000 / JOBS:11.2f}")


if __name__ == "__main__":
    main()
