"""What faults cost a study on several machines, what many workers cost it, and their parent.

Three tables:

- From a fault to the moment in which all is as before: two machines, which are process namespaces
  where that is allowed, with two trials of a second each. A trial of a machine that is gone counts
  from the fault until it runs elsewhere; what was away counts from its return until the next trial
  ends. Aims: 60 s after a kill of another machine, which is noticed by its lease of 45 s.
- Trials a second against the ideal, which is one for each worker, as the objective sleeps for a
  second. Aim: 95 % with 64 workers, which are 8 processes of 8 threads. Processor time a trial is
  beside it: with more workers than that has room for, the machine is the limit.
- What the parent of a distributed study costs, by the number of its trials: processor time of its
  looks, four a second. Aim: at most 10 % of a core, and flat.

    python tests/benchmarks/bench_lab.py --only parent
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import psutil
from optuna.trial import FrozenTrial
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.history import dump
from chaos.storm import Machine, Servers, make_machines
from filesystems import s3_filesystem
from redis_servers import RedisServer
from servers import prefect_home, wait_until

from prefect_optuna.blocks import RedisStudyStorage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows._worker_runs import WorkerRuns
from prefect_optuna.flows.distribute_flow import _Queue  # pyright: ignore[reportPrivateUsage]
from prefect_optuna.flows.session import Session, owner_of
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.tasks import ArchivedStudy

LOOKS_A_SECOND = 4
AWAY = 5.0  # seconds


def faults(lease: float) -> None:
    """Cause each fault once, and print how long it took to recover."""
    table = Table(title="from a fault to recovery, in seconds")
    table.add_column("fault")
    table.add_column("seconds", justify="right")
    table.add_column("until")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        servers = stack.enter_context(Servers(folder))
        machines = make_machines(
            stack, servers, folder, 2, lease=lease, n_trials=10_000, n_jobs=2, seconds=1.0
        )
        try:
            for machine in machines:
                machine.start()
            look = _Look(servers)
            _measure(look, machines, servers, lease, table.add_row)
        finally:
            for machine in machines:
                machine.kill()
    Console(width=100).print(table)


class _Look:
    """Looks at the study of the machines."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self._block = RedisStudyStorage(url=SecretStr(servers.redis.url))
        wait_until(
            lambda: "storm" in self._block.study_names(), what="the study begins", timeout=300
        )
        self._artifacts = s3_filesystem(servers.store, "storm")

    def history(self) -> dict[str, Any]:
        archived = ArchivedStudy.load("storm", storage=self._block, artifacts=self._artifacts)
        study = self._block.load_study("storm")
        return dump(study, archived, results=False)

    def running(self, machine: Machine) -> list[int]:
        """The trials that a machine runs."""
        runs: set[int] = set()
        for note in machine.notes():
            if note["kind"] == "started":
                runs.clear()  # what ran before has died with it
            elif note["kind"] == "began":
                runs.add(note["number"])
            elif note["kind"] == "computed":
                runs.discard(note["number"])
        return sorted(runs)

    def until_both_run(self, machines: list[Machine]) -> None:
        """Wait until all machines have ended a trial since now, and run another one."""
        since = time.monotonic()

        def run() -> bool:
            return all(
                self.running(machine)
                and any(n["kind"] == "told" and n["at"] > since for n in machine.notes())
                for machine in machines
            )

        wait_until(run, what="both machines run trials", timeout=300, every=0.5)

    def elsewhere(self, numbers: list[int], other: Machine) -> float:
        """When one of these trials was begun again by another machine, by the notes' clock."""
        found: list[float] = []

        def again() -> bool:
            repeats = {
                t["number"]
                for t in self.history()["trials"]
                if not {*t["repeats"]}.isdisjoint(numbers)
            }
            found[:] = [
                n["at"] for n in other.notes() if n["kind"] == "began" and n["number"] in repeats
            ]
            return bool(found)

        wait_until(again, what="the trial runs elsewhere", timeout=300, every=0.5)
        return min(found)

    def next_told(self, machines: list[Machine], since: float) -> float:
        """When the next trial was told."""
        found: list[float] = []

        def told() -> bool:
            found[:] = [
                n["at"]
                for machine in machines
                for n in machine.notes()
                if n["kind"] == "told" and n["at"] > since
            ]
            return bool(found)

        wait_until(told, what="the next trial ends", timeout=300, every=0.1)
        return min(found)


def _measure(
    look: _Look,
    machines: list[Machine],
    servers: Servers,
    lease: float,
    row: Callable[..., None],
) -> None:
    one, other = machines
    look.until_both_run(machines)
    for what, end in (
        (f"kill -9 of a machine (lease {lease:g} s)", signal.SIGKILL),
        ("SIGTERM of a machine", signal.SIGTERM),
    ):
        ran, at = look.running(one), time.monotonic()
        one.send(end)
        assert one.process is not None
        one.process.wait()
        took = look.elsewhere(ran, other) - at
        row(what, f"{took:.1f}", "its trial runs elsewhere")
        one.start()
        look.until_both_run(machines)

    def away(what: str, cause: Callable[[], Any], who: list[Machine], until: str) -> None:
        with cause():
            time.sleep(AWAY)
        back = time.monotonic()
        row(what, f"{look.next_told(who, back) - back:.1f}", until)
        look.until_both_run(machines)

    def cables(which: slice, of: list[Machine], how: str) -> ExitStack:
        stack = ExitStack()
        for machine in of:
            for cable in machine.cables[which]:
                stack.enter_context(getattr(cable, how)())
        return stack

    words = "after its return, the next trial ends"
    away(f"cable out for {AWAY:g} s", lambda: cables(slice(3), [one], "out"), [one], words)
    away(f"cable silent for {AWAY:g} s", lambda: cables(slice(3), [one], "silent"), [one], words)
    away("Redis out of reach", lambda: cables(slice(1), machines, "out"), machines, words)
    away("S3 out of reach", lambda: cables(slice(1, 2), machines, "out"), machines, words)
    away("S3 restarted", servers.without_store, machines, words)
    away("Prefect out of reach", lambda: cables(slice(2, 3), machines, "out"), machines, words)


WORKER = """
import sys, time
from prefect_optuna.blocks import RedisStudyStorage
from prefect_optuna.flows import optimize

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    time.sleep(1)
    return x

optimize(
    objective, study_name="asleep", n_trials=10**6, n_jobs=int(sys.argv[2]), sampler="random",
    storage=RedisStudyStorage(url=sys.argv[1]), artifacts="archive", progress=False,
)
"""


def throughput(sizes: list[tuple[int, int]], seconds: float) -> None:
    """Run a study on more and more workers, and print what they do in a second."""
    table = Table(title="trials of a second each")
    for column in ("workers", "processes", "trials/s", "of the ideal %", "ms of a core a trial"):
        table.add_column(column, justify="right")
    for processes, threads in sizes:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            server = stack.enter_context(LocalServer(prefect_home(folder / "prefect")))
            redis = stack.enter_context(RedisServer(folder / "redis"))
            (folder / "worker.py").write_text(WORKER, encoding="utf-8")
            environment = {
                **os.environ,
                "PREFECT_API_URL": str(server.api_url),
                "PREFECT_HOME": str(folder / "prefect"),
                "PREFECT_LOGGING_LEVEL": "ERROR",
            }
            block = RedisStudyStorage(url=SecretStr(redis.url))
            block.create_study("asleep")
            workers = [
                stack.enter_context(
                    _ended_by_a_kill(
                        subprocess.Popen(
                            [sys.executable, "worker.py", redis.url, str(threads)],
                            cwd=folder,
                            env=environment,
                        )
                    )
                )
                for _ in range(processes)
            ]
            study = block.load_study("asleep")

            def ended(study: optuna.Study = study) -> list[FrozenTrial]:
                complete = (optuna.trial.TrialState.COMPLETE,)
                return study.get_trials(deepcopy=False, states=complete)

            def all_work(n: int = processes) -> bool:
                return len({owner_of(trial) for trial in ended()}) == n

            wait_until(all_work, what="all processes run trials", timeout=300, every=1)
            time.sleep(15)  # their task runs no longer end at the same moment
            began, used, before = time.monotonic(), _processor_seconds(workers), len(ended())
            time.sleep(seconds)
            told, used = len(ended()) - before, _processor_seconds(workers) - used
            rate, ideal = told / (time.monotonic() - began), processes * threads
        table.add_row(
            str(ideal),
            str(processes),
            f"{rate:.1f}",
            f"{100 * rate / ideal:.0f}",
            f"{1e3 * used / max(told, 1):.0f}",
        )
    Console(width=100).print(table)


@contextmanager
def _ended_by_a_kill(process: subprocess.Popen[bytes]) -> Generator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _processor_seconds(workers: list[subprocess.Popen[bytes]]) -> float:
    times = [psutil.Process(worker.pid).cpu_times() for worker in workers]
    return sum(each.user + each.system for each in times)


def parent(sizes: list[int]) -> None:
    """Print what the looks of a parent cost in studies of more and more trials."""
    table = Table(title="the parent of a distributed study")
    for column in ("trials", "ms of a core a look", "of a core %"):
        table.add_column(column, justify="right")
    distribution = optuna.distributions.FloatDistribution(0, 1)
    trial = optuna.trial.create_trial(
        params={"x": 0.5}, distributions={"x": distribution}, value=0.5
    )
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as redis:
        block = RedisStudyStorage(url=SecretStr(redis.url))
        for count in sizes:
            made = block.create_study(f"of {count}")
            for _ in range(count):
                made.add_trial(trial)
            study = FlowStudy.open(f"of {count}", block.get_storage(), "random", "none")
            session, log = Session(study, study.storage), logging.getLogger("bench")
            runs = WorkerRuns("work/none", "none", "none", lambda _: {}, uuid4(), log)
            queue = _Queue(study, session, runs, 8, 1, 10 * count, None, [], log)
            session.open()
            session.recover()
            queue._step()  # pyright: ignore[reportPrivateUsage]
            began, looks = time.process_time(), 80
            for look in range(looks):
                # Sessions are looked at once a second.
                at = -1e9 if look % LOOKS_A_SECOND == 0 else time.monotonic()
                queue._sessions_at = at  # pyright: ignore[reportPrivateUsage]
                queue._step()  # pyright: ignore[reportPrivateUsage]
            used = (time.process_time() - began) / looks
            session.close()
            share = 100 * used / (used + 1 / LOOKS_A_SECOND)
            table.add_row(f"{count:,}", f"{1e3 * used:.2f}", f"{share:.1f}")
    Console(width=100).print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["faults", "throughput", "parent"])
    parser.add_argument("--lease", type=float, default=45.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number of workers")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    if options.only in (None, "parent"):
        parent([1_000, 10_000, 100_000])
    if options.only in (None, "faults"):
        faults(options.lease)
    if options.only in (None, "throughput"):
        throughput([(1, 1), (1, 8), (8, 8)], options.seconds)


if __name__ == "__main__":
    main()
