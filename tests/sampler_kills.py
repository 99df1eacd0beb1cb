"""Kill studies with SIGKILL at random moments, and compare with studies that nobody has killed.

    python tests/sampler_kills.py 200 1

kills 200 processes, with the seed 1, and prints a table; GP is in it where there is PyTorch.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from sampler_cases import SAMPLERS, counted, problem_of, run_study, told

from prefect_optuna.blocks import as_study_storage

KINDS = ["random", "qmc", "nsgaii", "nsgaiii", "brute-force", "cmaes", "tpe", "gp"]
N_TRIALS = 20


def program(url: str, kind: str) -> None:
    """What is killed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = as_study_storage(url).get_storage()
    run_study(storage, problem_of(kind), N_TRIALS, sampler=SAMPLERS[kind], slow=0.01)


def trials_of(url: str) -> list[Any]:
    study = as_study_storage(url).load_study("study")
    return counted(study.trials)


def kill_at_random(url: str, kind: str, rng: random.Random | None, longest: float = 0) -> bool:
    """Begin the program, and kill it; whether it was still there."""
    process = multiprocessing.get_context("fork").Process(target=program, args=(url, kind))
    process.start()
    process.join(rng and rng.uniform(longest / 20, longest))
    if not (alive := process.is_alive()):
        assert process.exitcode == 0, process.exitcode
    else:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def main(kills: int, seed: int) -> int:
    """Print the table; 1 if a study has other trials than it should."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = random.Random(seed)
    kinds = [kind for kind in KINDS if kind in SAMPLERS]
    print("| sampler | kills | studies | trials | the same |\n", "| --- " * 5 + "|", sep="")
    wrong = 0
    for place, kind in enumerate(kinds):
        expected = told(
            run_study(InMemoryStorage(), problem_of(kind), N_TRIALS, sampler=SAMPLERS[kind])
        )
        with TemporaryDirectory() as folder:
            began = time.monotonic()
            assert not kill_at_random(f"sqlite:///{folder}/studies.db", kind, None)
            longest = time.monotonic() - began
        wanted = (kills * (place + 1)) // len(kinds) - (kills * place) // len(kinds)
        done = studies = trials = same = 0
        while done < wanted:
            scheme = ("sqlite", "journal")[studies % 2]
            with TemporaryDirectory() as folder:
                file = Path(folder, "studies.db" if scheme == "sqlite" else "studies.journal")
                url = f"{scheme}:///{file}"
                while kill_at_random(url, kind, rng, longest):
                    done += 1
                ended = trials_of(url)
                found = told(ended)
                # A trial that was hit for a fourth time counts as failed, and is none to compare.
                hit = any("as often before" in t.user_attrs.get("error", "") for t in ended)
            if hit:
                print(f"{kind}: one study left out, where a trial was hit four times", flush=True)
                continue
            studies, trials = studies + 1, trials + len(found)
            same += found == expected
            if found != expected:
                pairs = enumerate(zip(found, expected, strict=False))
                print(kind, next((p for p in pairs if p[1][0] != p[1][1]), len(found)), flush=True)
        wrong += studies - same
        print(f"| {kind} | {done} | {studies} | {trials} | {same} of {studies} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
