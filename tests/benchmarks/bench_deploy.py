"""What it takes to deploy a script: until its first trial, and for each trial in an environment.

Aim: a trial of 50 ms in an environment that a worker has installed takes at most 5 % longer than
in the worker's own. A trial sleeps, so that what is measured is what is around it. The script
imports a small package, which the worker has not; recorded are that and what prefect-optuna needs,
some 90 packages, which uv takes from the index that everybody has. A row of the first table is one
run: from the call of `deploy_optimization` (the command line takes about a second longer, to
import) to the beginning of the first trial.

    python tests/benchmarks/bench_deploy.py --trials 200 --rounds 3
"""

import argparse
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import uv
from prefect.client.orchestration import get_client
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import ArtifactFileSystem, JournalStudyStorage
from prefect_optuna.deployments import (
    LocalServer,
    LocalWorker,
    deploy_optimization,
    make_process_pool,
)
from prefect_optuna.tasks import ArchivedStudy
from prefect_optuna.tasks.archive.record import environment
from prefect_optuna.tasks.environments import needed_here

MILLISECONDS = 50
PACKAGE = "tabulate==0.9.0"
PLACES: dict[str, Any] = {
    "storage": "journal-study-storage/bench",
    "artifacts": "artifact-file-system/bench",
}

SCRIPT = """
import time
{imported}

def objective(trial):
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
    time.sleep({seconds})
    return x**2 + y**2 + {used}
"""
OWN = {"imported": "", "used": "0"}
INSTALLED = {"imported": "import tabulate", "used": "len(tabulate.tabulate([]))"}


def run(study: str, n_trials: int, parts: dict[str, str]) -> tuple[float, float]:
    """Deploy and run a script.

    Returns:
        Seconds to the first trial, and milliseconds from one to the next.
    """
    Path("fit.py").write_text(SCRIPT.format(seconds=MILLISECONDS / 1e3, **parts), encoding="utf-8")
    sys.modules.pop("fit", None)
    began = time.time()
    flow_run = deploy_optimization(
        "fit.py:objective",
        study_name=study,
        n_trials=n_trials,
        install=parts is INSTALLED,
        pool="bench",
        options={"sampler": "random", "seed": 1},
        **PLACES,
    ).run()
    while True:
        time.sleep(0.5)
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run).state
        if state is not None and state.is_final():
            break
    assert state.is_completed(), state.message
    trials = ArchivedStudy.load(study, **PLACES).study.trials
    starts = sorted(t.datetime_start.timestamp() for t in trials if t.datetime_start)
    # The first few import what they need.
    counted = starts[5:]
    return starts[0] - began, (counted[-1] - counted[0]) / (len(counted) - 1) * 1e3


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    pins = dict(pin.split("==") for pin in [*needed_here().values(), PACKAGE])
    starts: list[tuple[str, float]] = []
    paces: dict[str, list[float]] = {"the worker's own": [], "installed": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(LocalServer(folder / "prefect"))
        JournalStudyStorage(path=folder / "studies.journal").save("bench", overwrite=True)
        ArtifactFileSystem(url=str(folder / "files")).save("bench", overwrite=True)
        make_process_pool("bench")
        places = {"UV_CACHE_DIR": folder / "uv", "ENVIRONMENTS": folder / "environments"}
        os.environ["UV_CACHE_DIR"] = str(places["UV_CACHE_DIR"])
        os.environ["PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS"] = str(places["ENVIRONMENTS"])
        (folder / "work").mkdir()
        stack.enter_context(chdir(folder / "work"))
        stack.enter_context(LocalWorker("bench", folder / "worker.log", query=1.0))
        # Whoever deploys has the package; the worker was started without it.
        target = [uv.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*target, str(folder / "site-packages"), PACKAGE], check=True)
        shutil.rmtree(places["UV_CACHE_DIR"])
        sys.path.insert(0, str(folder / "site-packages"))
        stack.enter_context(patch.object(environment, "_distributions", lambda: pins))
        stack.enter_context(patch.object(environment, "sources", dict))

        starts.append(("the worker's own", run("own", 10, OWN)[0]))
        starts.append(("cold: nothing is there", run("cold", 10, INSTALLED)[0]))
        shutil.rmtree(places["ENVIRONMENTS"])
        starts.append(("cold: uv has the packages", run("cached", 10, INSTALLED)[0]))
        starts.append(("warm", run("warm", 10, INSTALLED)[0]))
        for number in range(options.rounds):
            for name, parts in (("the worker's own", OWN), ("installed", INSTALLED)):
                study = f"{'own' if parts is OWN else 'in'}-{number}"
                paces[name].append(run(study, options.trials, parts)[1])

    console = Console()
    table = Table("environment", "seconds to the first trial", title="One run each")
    for name, seconds in starts:
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)
    own = statistics.median(paces["the worker's own"])
    title = f"{options.trials} trials of {MILLISECONDS} ms, {options.rounds} rounds"
    table = Table("environment", "ms a trial: median", "least", "most", "ratio", title=title)
    for name, found in paces.items():
        middle = statistics.median(found)
        table.add_row(
            name, f"{middle:.2f}", f"{min(found):.2f}", f"{max(found):.2f}", f"{middle / own:.3f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
