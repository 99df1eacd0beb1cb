"""Scripts as people write them: each archived, deleted, and its trials run again elsewhere.

    python tests/again/run.py             all of them
    python tests/again/run.py artifacts   some, by the names of their files
    python tests/again/run.py --here      in a fresh process only, which needs no index of packages

A script is copied to an empty folder and run there, removed, and all of its trials are run again
to the last bit: from a process that has never seen it, and in an environment built from what was
recorded. One that is a folder has modules and data beside its `main.py`; the data stays. A script
whose packages are not installed is left out, and the table says so; `make again` installs them. It
ends with 1 if a trial was not reproduced.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SCRIPTS = Path(__file__).parent / "scripts"
STUDY = "again"

PLACES = ("here", "recorded")
"""In the environment of this process, and in one that is built from what was recorded."""

_AGAIN = f"""
import json, sys
from prefect_optuna.flows import reevaluate

for environment in sys.argv[1:]:
    again = reevaluate({STUDY!r}, trials="all", trusted=True, environment=environment, rtol=0.0)
    found = [(t.verdict, t.message or t.cause) for t in again.trials]
    print("VERDICTS", json.dumps([environment, found]))
"""


@dataclass
class Verdict:
    """What came of a script.

    Attributes:
        name: of the script.
        trials: how many trials of each verdict, in each environment.
        why: of what was not reproduced.
        missing: the packages that are not installed.
        seconds: how long it took.
    """

    name: str
    trials: dict[str, Counter[str]] = field(default_factory=dict)
    why: str = ""
    missing: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        counts = self.trials.values()
        return bool(self.missing) or (
            not self.why and bool(counts) and all({*one} == {"reproduced"} for one in counts)
        )

    def count(self, place: str) -> str:
        """How many trials were reproduced in an environment, for people."""
        found = self.trials.get(place)
        return f"{found['reproduced']} of {found.total()}" if found else "none"


def packages_of(script: Path) -> set[str]:
    """The top-level modules that a script imports."""
    found: set[str] = set()
    files = sorted(script.rglob("*.py")) if script.is_dir() else [script]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Attribute) and node.attr == "integration":
            found.add("optuna_integration")
    beside = {path.stem for path in script.iterdir()} if script.is_dir() else set()
    return found - beside


def run(script: Path, places: Sequence[str] = PLACES[:1]) -> Verdict:
    """Run a script, remove it, and run its trials again."""
    started = time.monotonic()
    verdict = Verdict(script.stem)
    absent = [name for name in packages_of(script) if importlib.util.find_spec(name) is None]
    if absent:
        verdict.missing = tuple(sorted(absent))
        return verdict
    with tempfile.TemporaryDirectory() as folder:
        if script.is_dir():
            shutil.copytree(script, folder, dirs_exist_ok=True)
        else:
            shutil.copyfile(script, Path(folder, "main.py"))
        first = _python(folder, "main.py")
        for file in [*Path(folder).rglob("*.py"), *Path(folder).rglob("*.pyc")]:
            file.unlink()
        if first.returncode == 0:
            second = _python(folder, "-c", _AGAIN, *places)
            for line in second.stdout.splitlines():
                if line.startswith("VERDICTS "):
                    _count(verdict, *json.loads(line.removeprefix("VERDICTS ")))
            if len(verdict.trials) < len(places):
                verdict.why = _last(second.stderr)
        else:
            verdict.why = _last(first.stderr)
    verdict.seconds = time.monotonic() - started
    return verdict


def _python(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def _count(verdict: Verdict, place: str, found: list[Any]) -> None:
    verdict.trials[place] = Counter(word for word, _ in found)
    verdict.why = verdict.why or next((why for word, why in found if word != "reproduced"), "")


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it ended")


def table_of(verdicts: list[Verdict], places: Sequence[str]) -> Table:
    """The verdicts for people."""
    table = Table()
    table.add_column("script")
    for place in places:
        heading = "in a fresh process" if place == "here" else f"{place} environment"
        table.add_column(heading, justify="right")
    table.add_column("s", justify="right")
    table.add_column("")
    for one in verdicts:
        if one.missing:
            told = ["left out", *[""] * len(places), f"needs {', '.join(one.missing)}"]
            table.add_row(one.name, *told)
        else:
            table.add_row(one.name, *map(one.count, places), f"{one.seconds:.0f}", one.why)
    return table


def main(arguments: list[str]) -> int:
    """Run scripts on a Prefect server of their own, and say what came of it."""
    from prefect_optuna.deployments import LocalServer

    places = PLACES[:1] if "--here" in arguments else PLACES
    names = [name for name in arguments if name != "--here"]
    chosen = [script for script in scripts() if not names or script.stem in names]
    if unknown := set(names) - {script.stem for script in chosen}:
        print(f"There is no script {', '.join(sorted(unknown))} in {SCRIPTS}.", file=sys.stderr)
        return 2
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, LocalServer(home):
        for script in chosen:
            verdicts.append(run(script, places))
            shown = [f"{place}: {verdicts[-1].count(place)}" for place in places]
            print(script.stem, *(verdicts[-1].missing or shown), verdicts[-1].why, flush=True)
    Console().print(table_of(verdicts, places))
    held = sum(one.holds and not one.missing for one in verdicts)
    print(f"{held} of {len(verdicts)} scripts are reproduced to the last bit.")
    return 0 if all(one.holds for one in verdicts) else 1


def scripts() -> list[Path]:
    """All of them: files, and folders with a `main.py`."""
    found = [
        path for path in SCRIPTS.iterdir() if path.suffix == ".py" or (path / "main.py").exists()
    ]
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
