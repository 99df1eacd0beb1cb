"""The same study with others that can be installed, side by side: what each of them costs.

    python tests/benchmarks/peers.py --install      an environment for each peer, in .cache/peers
    python tests/benchmarks/peers.py                measure, and print the tables
    python tests/benchmarks/peers.py --list         what there is, and which is installed
    python tests/benchmarks/peers.py ours rustuna   some of them

Everybody has the same objective: five floats drawn at random from the same bounds, a sleep of
10 ms, or none, and a sum of squares. One trial at a time, then 4 at once. A way is one process,
`peer_studies.py`, in the environment of its peer, an empty home and an empty folder; the ways take
turns, so that a change of the machine's pace hits all. A round that would end after `--minutes`
is not begun. What cannot be installed, or fails, is named below the tables with its reason. It ends
with 1 when a way failed that was to run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from prefect_optuna.deployments import LocalServer

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "peers"
PROGRAM = Path(__file__).with_name("peer_studies.py")
MARK = "PREFECT_OPTUNA_PEERS"
BASE = "optuna-memory"
CASES = ("10x1", "10x4", "0x1", "0x4")
SLEEPING = CASES[:2]

PEERS = {
    "ray": ("ray[tune]>=2.40,<3", "optuna>=5,<6"),
    "optuna-distributed": ("optuna-distributed>=0.7,<1", "optuna>=5,<6"),
    "mlflow": ("mlflow>=3.3,<4", "optuna>=5,<6"),
    "flytekitplugins-optuna": ("flytekitplugins-optuna>=1.16,<2",),  # needs Optuna 4
    "rustuna": ("rustuna>=0.2,<1",),
    "metaflow-optuna": ("metaflow-optuna>=0.1,<1", "optuna>=5,<6"),
    "wandb": ("wandb>=0.19,<1",),
}
"""What is installed for each peer, in an environment of its own: some exclude others."""


class Way(NamedTuple):
    """A way to run the study.

    Attributes:
        title: for the tables.
        kept: what is on the disk afterwards.
        jobs: by what several trials run at once.
        peer: whose environment it needs, if any.
        cases: those that it runs. Where a trial costs a hundred times the sleep, a study without
            the sleep says nothing more.
        trials: at most so many, where more would take minutes.
        rounds: at most so many, for the same reason.
        expected: why it cannot run without more than an installation.
        server: a Prefect server runs already, as `prefect-optuna up` keeps one.
    """

    title: str
    kept: str
    jobs: str
    peer: str = ""
    cases: tuple[str, ...] = CASES
    trials: int = 1_000_000
    rounds: int = 1_000_000
    expected: str = ""
    server: bool = False


RESULTS = "results, state of the search"
ARCHIVED = "values, code, environment, seeds"
WAYS = {
    BASE: Way("Optuna, in memory", "nothing", "threads"),
    "optuna-sqlite": Way("Optuna, SQLite", "values", "threads", trials=20),
    "optuna-journal": Way("Optuna, JournalFileBackend", "values", "threads"),
    "ours": Way("prefect-optuna, an objective", ARCHIVED, "threads"),
    "ours-up": Way(
        "prefect-optuna, an objective, a server runs", ARCHIVED, "threads", server=True
    ),
    "ours-problem": Way("prefect-optuna, a problem", f"{ARCHIVED}, two series", "threads"),
    "ours-processes": Way(
        "prefect-optuna, an objective, processes", ARCHIVED, "processes", cases=SLEEPING
    ),
    "rustuna": Way("Rustuna, its journal", "values", "processes started by hand", "rustuna"),
    "optuna-distributed": Way(
        "optuna-distributed", "values", "a process a trial", "optuna-distributed"
    ),
    "optuna-distributed-dask": Way(
        "optuna-distributed, Dask", "values", "workers of Dask", "optuna-distributed", SLEEPING
    ),
    "flyte": Way(
        "flytekitplugins-optuna, without Flyte", "values", "coroutines", "flytekitplugins-optuna"
    ),
    "mlflow": Way("Optuna, MLflow's storage on SQLite", "runs", "threads", "mlflow", SLEEPING, 10),
    "ray": Way("Ray Tune", RESULTS, "actors", "ray", SLEEPING, 10),
    "ray-reusing": Way("Ray Tune, `reuse_actors=True`", RESULTS, "actors", "ray", SLEEPING),
    "metaflow": Way(
        "metaflow-optuna", "artifacts of tasks", "a process a trial", "metaflow-optuna",
        SLEEPING, 4, 1,
    ),
    "wandb": Way(
        "W&B sweeps", "runs", "agents", "wandb", ("10x1",), 10,
        expected="their controller is a server, so an account is needed, or a server of one's own",
    ),
}  # fmt: skip

NOT_TRIED = {
    "Katib": "it runs on Kubernetes only",
    "MLflow's MlflowSparkStudy": "it needs a cluster of Spark; MLflow's storage is measured",
}

Found = dict[str, dict[str, list[dict[str, float]]]]  # of a way, of a case, one for each round


def python_of(peer: str) -> Path:
    """The interpreter of a peer, or of this package."""
    return CACHE / peer / "bin" / "python" if peer else Path(sys.executable)


def why_absent(peer: str) -> str:
    """Why a peer is not there; empty if it is."""
    if not peer or _stamp(peer) == "\n".join(PEERS[peer]):
        return ""
    why = CACHE / f"{peer}.failed"
    return why.read_text("utf-8") if why.exists() else "not installed; `make peers` does it"


def _stamp(peer: str) -> str:
    stamp = CACHE / peer / "installed"
    return stamp.read_text("utf-8") if stamp.exists() else ""


def install() -> None:
    """Install the peers that are not there; a failure is kept for the tables, and tried again."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for peer, requirements in PEERS.items():
        failed = CACHE / f"{peer}.failed"
        if not why_absent(peer):
            continue
        print(f"installing {', '.join(requirements)}", flush=True)
        python = str(python_of(peer))
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(CACHE / peer)],
            [python, "-m", "pip", "install", "--quiet", *requirements],
        ):
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                said = [line for line in ended.stderr.splitlines() if "rror" in line]
                failed.write_text(said[-1] if said else "its installation failed", "utf-8")
                print(f"NOT INSTALLED: {peer}: {failed.read_text('utf-8')}", flush=True)
                break
        else:
            (CACHE / peer / "installed").write_text("\n".join(requirements), "utf-8")
            failed.unlink(missing_ok=True)
    if not any(map(why_absent, PEERS)):
        (CACHE / "installed").touch()  # else the next `make peers` tries again


def environment(folder: Path, mark: str) -> dict[str, str]:
    """A home and temporary files of a way's own, and no word to anybody."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    return {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PATH": os.environ.get("PATH", os.defpath),
        "TERM": "dumb",
        "USERNAME": "peer",  # Metaflow wants one
        MARK: mark,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder / "home" / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
    }


def end_all(mark: str) -> None:
    """Kill what a way has left: all that inherited its mark, in whichever session."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                process.kill()
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or belongs to somebody else


def run(name: str, trials: int, limit: float) -> tuple[dict[str, dict[str, float]], str]:
    """Run a way in a process of its own.

    Returns:
        What was measured, by case, each a trial where it is about trials; and why that is not all.
    """
    way, mark = WAYS[name], uuid.uuid4().hex
    trials = min(trials, way.trials)
    found: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place,
        contextlib.ExitStack() as until_done,
    ):
        folder = Path(place)
        given = environment(folder, mark)
        if way.server:
            server = until_done.enter_context(LocalServer(folder / "server"))
            given["PREFECT_API_URL"] = f"{server.url}/api"
        command = [str(python_of(way.peer)), str(PROGRAM), name, place, str(time.time())]
        process = None
        why = ""
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            try:
                process = subprocess.Popen(
                    [*command, str(trials), *way.cases],
                    env=given, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    start_new_session=True,
                )  # fmt: skip
                process.wait(limit)
            except subprocess.TimeoutExpired:
                why = f"not done within {limit:.0f} s"
            finally:
                end_all(mark)
                if process is not None:
                    process.wait()
        for line in (folder / "out").read_text("utf-8", "replace").splitlines():
            if line.startswith("MEASURED "):
                case = json.loads(line.removeprefix("MEASURED "))
                found[case.pop("case")] = case | {"trials": trials}
        if len(found) < len(way.cases) and not why:
            said = (folder / "err").read_text("utf-8", "replace").split("\n")
            why = next((line for line in reversed(said) if line.strip()), "it ended")
    return found, why


def middle(found: Found, name: str, case: str, figure: str) -> str:
    """The median of a figure over the rounds, as text; a dash where there is none."""
    at_once = int(case.split("x")[1])
    values = []
    rounds = found[name].get(case, [])
    bases = found.get(BASE, {}).get(case, [])
    for number, one in enumerate(rounds):
        each = one["steady"] / one["trials"] * 1e3
        if figure == "each":
            values.append(each)
        elif figure == "lost":
            values.append(each - one["own"] / one["trials"] / at_once * 1e3)
        elif figure == "ratio":
            if number < len(bases):
                base = bases[number]
                values.append(each / (base["steady"] / base["trials"] * 1e3))
        else:
            values.append(one[figure])
    if not values:
        return "-"
    value = statistics.median(values)
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def table(head: str, rows: list[list[str]]) -> str:
    """A table in Markdown; figures stand to the right."""
    columns = head.split(" | ")
    ruler = ["---"] * 2 + ["---:"] * (len(columns) - 2)
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ruler, *rows])


def tables(found: Found) -> Iterator[str]:
    """Both tables, and what their columns say."""
    alone, together, rounds = [], [], {}
    for name, cases in found.items():
        if not cases:
            continue
        way, first = WAYS[name], next(iter(cases.values()))
        trials = f"{first[0]['trials']:.0f}"
        rounds.setdefault(len(first), []).append(way.title)

        def of(case: str, *figures: str, name: str = name) -> list[str]:
            return [middle(found, name, case, figure) for figure in figures]

        start = "first", "each", "lost", "ratio", "after", "whole"
        again = of("0x1", "each", "ratio")
        alone.append([way.title, way.kept, trials, *of("10x1", *start), *again])
        warm = of("10x4", "call", "each", "lost", "ratio")
        together.append([way.title, way.jobs, trials, *warm, *of("0x4", "each", "ratio")])
    most = max(rounds, default=0)
    fewer = "".join(f"; of {n}: {', '.join(rounds[n])}" for n in sorted(rounds) if n < most)
    yield (
        f"Medians of {most} round{'s' * (most > 1)} in turn{fewer}. A trial is counted from the "
        "begin of the first to the end of the last, divided by how many there are; what comes "
        "before and after, such as imports, servers and reports, has columns of its own."
    )
    yield "One trial at a time:"
    yield table(
        "way | kept on the disk | trials | first trial after, s | ms a trial | over the "
        "objective's, ms | x Optuna in memory | after the last, s | whole program, s | "
        "no sleep, ms a trial | x Optuna in memory",
        alone,
    )
    yield "4 trials at once, in the same process, when that is warm:"
    yield table(
        "way | at once by | trials | all of the call, s | ms a trial | over a quarter of the "
        "objective's, ms | x Optuna in memory | no sleep, ms a trial | x Optuna in memory",
        together,
    )


def versions(names: list[str]) -> str:
    """What each environment has of those that are compared."""
    said = []
    code = (
        "import importlib.metadata as m\n"
        "for name in {!r}:\n"
        "    print(name, m.version(name), end=', ')\n"
    )
    for peer in dict.fromkeys(WAYS[name].peer for name in names):
        wanted = ["prefect", "optuna"] if not peer else [PEERS[peer][0].split(">")[0].split("[")[0]]
        wanted += ["optuna"] if peer == "flytekitplugins-optuna" else []
        command = [str(python_of(peer)), "-c", code.format(wanted)]
        text = subprocess.run(command, capture_output=True, text=True).stdout.strip(", ")
        said.append(f"({text})" if peer == "flytekitplugins-optuna" else text)
    return ", ".join(said)


def main() -> int:
    """Install, list, or measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help="some of --list; by default all")
    parser.add_argument("--install", action="store_true", help="install the peers, and end")
    parser.add_argument("--list", action="store_true", help="list the ways, and end")
    parser.add_argument("--trials", type=int, default=50, help="of a study, by default 50")
    parser.add_argument("--rounds", type=int, default=3, help="by default 3")
    parser.add_argument("--minutes", type=float, default=10, help="begin no round that ends later")
    parser.add_argument("--limit", type=float, default=180, help="seconds for a way, at most")
    options = parser.parse_args()
    if unknown := [name for name in options.ways if name not in WAYS]:
        parser.error(f"no way {', '.join(unknown)}; there are {', '.join(WAYS)}")
    if options.install:
        install()
        return 0
    names = options.ways or list(WAYS)
    missing = {name: why for name in names if (why := why_absent(WAYS[name].peer))}
    if options.list:
        for name in names:
            print(f"{name:<24} {WAYS[name].title:<40} {missing.get(name, '')}".rstrip())
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    names = [name for name in names if name not in missing]
    failed: dict[str, str] = {}
    found: Found = {name: {} for name in names}
    begun = time.monotonic()
    for number in range(options.rounds):
        started = time.monotonic()
        for name in names:
            if name in failed or number >= WAYS[name].rounds:
                continue
            at = time.monotonic()
            measured, why = run(name, options.trials, options.limit)
            took = f"{time.monotonic() - at:.0f} s"
            print(f"round {number + 1}: {name}: {why or took}", file=sys.stderr, flush=True)
            for case, figures in measured.items():
                found[name].setdefault(case, []).append(figures)
            if why:
                failed[name] = why
        again = sum(name not in failed and number + 1 < WAYS[name].rounds for name in names)
        round_took = (time.monotonic() - started) * again / max(1, len(names))
        if time.monotonic() - begun + round_took > options.minutes * 60:
            break
    print("\n\n".join(tables(found)))
    print(
        f"\nMeasured on {dt.datetime.now(dt.UTC):%Y-%m-%d} in "
        f"{(time.monotonic() - begun) / 60:.0f} minutes: {os.cpu_count()} processors, load "
        f"{os.getloadavg()[1]:.1f}, {platform.system()}, Python {platform.python_version()}, "
        f"{versions(names)}."
    )
    print_absent(missing, failed, everything=not options.ways)
    return int(any(not WAYS[name].expected for name in failed))


def print_absent(missing: dict[str, str], failed: dict[str, str], *, everything: bool) -> None:
    """Name what was not measured, and why."""
    reasons: dict[str, Any] = {WAYS[name].title: why for name, why in missing.items()}
    for name, why in failed.items():
        reasons[WAYS[name].title] = f"{why} ({WAYS[name].expected or 'it failed'})"
    if everything:
        reasons |= NOT_TRIED
    if reasons:
        print("\nNOT MEASURED, or not all of it:\n")
        for title, why in reasons.items():
            print(f"- {title}: {why}")


if __name__ == "__main__":
    sys.exit(main())
