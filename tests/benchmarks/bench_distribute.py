"""What distribution costs: 400 trials of 50 ms on one worker and on two, and against the peers.

Aims: two workers are at least 1.8 times as fast as one, once they run; and less is lost for each
trial than with `optuna-distributed` and with `flytekitplugins-optuna`, run locally. A trial sleeps,
so that what is measured is the coordination and not the machine's load. "lost" is what a worker
does with its time beside the objective: workers / rate - 50 ms. The start (a Prefect worker picks
up a flow run, Python imports) is listed beside it, for it is paid once. The peers run in
interpreters of their own, which are named; Flyte's plugin needs Optuna 4:

    python -m venv peers && peers/bin/pip install optuna-distributed
    python -m venv flyte && flyte/bin/pip install flytekitplugins-optuna
    python tests/benchmarks/bench_distribute.py --peers peers/bin/python --flyte flyte/bin/python
"""

import argparse
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import ArtifactFileSystem, JournalStudyStorage
from prefect_optuna.deployments import LocalServer, LocalWorker, deploy_worker, make_process_pool
from prefect_optuna.flows import distribute
from prefect_optuna.flows.session import owner_of

Study = Callable[[], optuna.Study]
Row = tuple[str, int, float, float, float, float]

MILLISECONDS = 50
WARM = 0.25  # of the trials, before anything is counted

PEER = """
import sys, time, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

def objective(trial):
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
    time.sleep({seconds})
    return x**2 + y**2

if __name__ == "__main__":
    import optuna_distributed
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="peer", storage=JournalStorage(
        JournalFileBackend(sys.argv[1])), sampler=optuna.samplers.TPESampler(seed=1))
    optuna_distributed.from_study(study).optimize(objective, n_trials={n}, n_jobs={workers})
"""

FLYTE = """
import asyncio, sys
import flytekit, optuna
from flytekitplugins.optuna import Optimizer, suggest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

@flytekit.task
async def objective(x: float, y: float) -> float:
    await asyncio.sleep({seconds})  # locally, its trials are coroutines of one process
    return x**2 + y**2

optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(study_name="peer", storage=JournalStorage(
    JournalFileBackend(sys.argv[1])), sampler=optuna.samplers.TPESampler(seed=1))
optimizer = Optimizer(objective, concurrency={workers}, n_trials={n}, study=study)
xy = dict(x=suggest.float(low=-5, high=5), y=suggest.float(low=-5, high=5))
asyncio.run(optimizer(**xy))
"""


def objective(trial: optuna.Trial) -> float:
    """Two parameters and a sleep."""
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
    time.sleep(MILLISECONDS / 1e3)
    return x**2 + y**2


def steady(trials: list[optuna.trial.FrozenTrial], workers: int) -> tuple[float, float]:
    """Trials a second once every worker runs, and the milliseconds that each trial loses."""
    ended = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
    first: dict[Any, float] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        assert trial.datetime_start is not None
        owner, at = owner_of(trial), trial.datetime_start.timestamp()
        first[owner] = min(at, first.get(owner, at))
    begin = max(ended[int(WARM * len(ended))], *first.values(), 0.0)
    # The last trials find one worker idle.
    counted = [at for at in ended[:-workers] if at > begin]
    rate = (len(counted) - 1) / (counted[-1] - counted[0])
    return rate, workers / rate * 1e3 - MILLISECONDS


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--peers", help="an interpreter that has optuna-distributed")
    parser.add_argument("--flyte", help="an interpreter that has flytekitplugins-optuna")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    rows: list[Row] = []

    def add(way: str, workers: int, call: Callable[[], object], study: Study) -> None:
        began = time.time()
        call()
        seconds = time.time() - began
        trials = study().trials
        first = min(t.datetime_start.timestamp() for t in trials if t.datetime_start)
        rows.append((way, workers, seconds, first - began, *steady(trials, workers)))

    with tempfile.TemporaryDirectory() as name, LocalServer(Path(name) / "prefect"):
        folder = Path(name)
        block = JournalStudyStorage(path=folder / "studies.journal")
        block.save("bench")
        ArtifactFileSystem(url=str(folder / "artifacts")).save("bench")
        make_process_pool("bench")
        deploy_worker("bench")
        bare = block.create_study("bare", sampler=optuna.samplers.TPESampler(seed=1))
        add(
            "bare study.optimize",
            1,
            lambda: bare.optimize(objective, n_trials=options.trials),
            lambda: bare,
        )
        with LocalWorker("bench", folder / "worker.log"):
            for workers in (1, 2):
                name = f"bench-{workers}"
                ours = partial(
                    distribute,
                    objective,
                    study_name=name,
                    workers=workers,
                    deployment="bench",
                    n_trials=options.trials,
                    storage="journal-study-storage/bench",
                    artifacts="artifact-file-system/bench",
                    seed=1,
                    progress=False,
                )
                add("distribute", workers, ours, partial(block.load_study, name))
        peers = (
            ("optuna-distributed", options.peers, PEER),
            ("flytekitplugins-optuna", options.flyte, FLYTE),
        )
        for way, interpreter, source, workers in [
            (*peer, workers) for peer in peers if peer[1] for workers in (1, 2)
        ]:
            path, script = folder / f"{way}-{workers}.journal", folder / "peer.py"
            script.write_text(
                source.format(seconds=MILLISECONDS / 1e3, n=options.trials, workers=workers)
            )
            peer = partial(
                subprocess.run,
                [interpreter, str(script), str(path)],
                check=True,
                stdout=subprocess.DEVNULL,  # it logs every trial
                stderr=subprocess.DEVNULL,
            )
            theirs = JournalStudyStorage(path=path, lock="symlink")
            add(way, workers, peer, partial(theirs.load_study, "peer"))
        show(rows, options.trials)


def show(rows: list[Row], n_trials: int) -> None:
    """Print the table."""
    table = Table(title=f"bench_distribute: {n_trials} trials of {MILLISECONDS} ms")
    columns = ("way", "workers", "wall s", "start s", "trials/s", "speed-up", "lost ms", "lost %")
    for column in columns:
        table.add_column(column, justify="left" if column == "way" else "right")
    one = {way: rate for way, workers, _, _, rate, _ in rows if workers == 1}
    for way, workers, seconds, start, rate, lost in rows:
        table.add_row(
            way,
            str(workers),
            f"{seconds:.1f}",
            f"{start:.1f}",
            f"{rate:.2f}",
            f"{rate / one[way]:.2f}",
            f"{lost:.1f}",
            f"{100 * lost / (lost + MILLISECONDS):.0f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
