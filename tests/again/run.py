"""Scripts as people write them: each archived, deleted, and its trials run again elsewhere.

    python tests/again/run.py             all of them
    python tests/again/run.py artifacts   some, by the names of their files

A script is copied to an empty folder and run there, removed, and all of its trials are run again
from a process that has never seen it. A script whose packages are not installed is left out, and
the table says so; `make again` installs them. It ends with 1 if a trial was not reproduced.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SCRIPTS = Path(__file__).parent / "scripts"
STUDY = "again"

_AGAIN = f"""
import json
from prefect_optuna.flows import reevaluate

again = reevaluate({STUDY!r}, trials="all", trusted=True)
print("VERDICTS", json.dumps([(t.verdict, t.message or t.cause) for t in again.trials]))
"""


@dataclass
class Verdict:
    """What came of a script.

    Attributes:
        name: of the script.
        trials: how many trials of each verdict.
        why: of what was not reproduced.
        missing: the packages that are not installed.
        seconds: how long it took.
    """

    name: str
    trials: Counter[str] = field(default_factory=Counter)
    why: str = ""
    missing: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return bool(self.missing) or set(self.trials) == {"reproduced"}


def packages_of(script: Path) -> set[str]:
    """The top-level modules that a script imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Attribute) and node.attr == "integration":
            found.add("optuna_integration")
    return found


def run(script: Path) -> Verdict:
    """Run a script, remove it, and run its trials again."""
    started = time.monotonic()
    verdict = Verdict(script.stem)
    absent = [name for name in packages_of(script) if importlib.util.find_spec(name) is None]
    if absent:
        verdict.missing = tuple(sorted(absent))
        return verdict
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, script.name)
        shutil.copyfile(script, copy)
        first = _python(folder, copy.name)
        copy.unlink()
        if first.returncode == 0:
            second = _python(folder, "-c", _AGAIN)
            for line in second.stdout.splitlines():
                if line.startswith("VERDICTS "):
                    _count(verdict, json.loads(line.removeprefix("VERDICTS ")))
            if not verdict.trials:
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


def _count(verdict: Verdict, found: list[Any]) -> None:
    verdict.trials.update(word for word, _ in found)
    verdict.why = next((why for word, why in found if word != "reproduced"), "")


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it ended")


def table_of(verdicts: list[Verdict]) -> Table:
    """The verdicts for people."""
    table = Table()
    for heading in ("script", "reproduced", "s", ""):
        table.add_column(heading, justify="right" if heading in ("reproduced", "s") else "left")
    for one in verdicts:
        count = f"{one.trials['reproduced']} of {one.trials.total()}" if one.trials else "none"
        if one.missing:
            table.add_row(one.name, "left out", "", f"needs {', '.join(one.missing)}")
        else:
            table.add_row(one.name, count, f"{one.seconds:.0f}", one.why)
    return table


def main(names: list[str]) -> int:
    """Run scripts on a Prefect server of their own, and say what came of it."""
    from prefect_optuna.deployments import LocalServer

    scripts = sorted(SCRIPTS.glob("*.py"))
    chosen = [script for script in scripts if not names or script.stem in names]
    if unknown := set(names) - {script.stem for script in chosen}:
        print(f"There is no script {', '.join(sorted(unknown))} in {SCRIPTS}.", file=sys.stderr)
        return 2
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, LocalServer(home):
        for script in chosen:
            verdicts.append(run(script))
            print(f"{script.stem}: {dict(verdicts[-1].trials) or verdicts[-1].missing}", flush=True)
    Console().print(table_of(verdicts))
    return 0 if all(one.holds for one in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
