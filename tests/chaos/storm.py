"""A storm over a study: machines are killed, stopped and cut off, its storages restarted.

    python tests/chaos/storm.py --seconds 600 --seed 7

Each machine is a program in process and host namespaces of its own, as far as the system allows
that, so that it is another machine for the rest; it reaches Redis and S3 through cables of its
own. Afterwards the history is checked: exactly the trials asked for have ended, each was told
once, nothing that was acknowledged or computed is lost, every archived file is whole, and nothing
is left running.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.history import dump, find_wrong
from filesystems import s3_filesystem, s3_options
from redis_servers import RedisServer
from servers import Cable, prefect_home, s3_server

LEASE = 6.0  # seconds: a cut or a pause may be longer or shorter
N_JOBS = 2
CALM_SECONDS = 240.0


def namespaces() -> list[str]:
    """How to start a program in namespaces of its own; nothing where that is not allowed."""
    command = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
    for given in (command, [*command, "--map-root-user"]):
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run([*given, "true"], check=True, capture_output=True, timeout=20)
            return given
    return []


class Machine:
    """A machine of the storm.

    Args:
        number: of the machine.
        folder: its own.
        apart: how its program is started, see `namespaces`.
        given: what its program is told.
        environment: of its program.
    """

    def __init__(
        self,
        number: int,
        folder: Path,
        apart: list[str],
        given: dict[str, Any],
        environment: dict[str, str],
    ) -> None:
        self.name = f"machine {number}"
        self.folder = folder
        folder.mkdir(parents=True)
        self._command = [*apart, sys.executable, str(Path(__file__).parent / "machine.py")]
        self._command.append(json.dumps(given))
        home = str(folder / "home")
        self._environment = {**environment, "PREFECT_HOME": home, "HOME": str(folder)}
        self.process: subprocess.Popen[bytes] | None = None
        self.killed: list[float] = []
        self.busy = False  # with a fault

    def start(self) -> None:
        """Start its program, or start it again."""
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        """Send a signal to all that runs there."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Take the power away."""
        self.killed.append(time.time())
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def ended(self) -> int | None:
        """The exit code of its program; `None` while it runs."""
        return None if self.process is None else self.process.poll()

    def notes(self) -> Iterator[dict[str, Any]]:
        """What its program has written down."""
        path = self.folder / "notes.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    yield json.loads(line)


class Storm:
    """Faults from a seed, one after the other, some of them at once.

    Args:
        machines: the machines, each with its cables.
        redis: the server of the study.
        prefect: the process id of Prefect's server.
        seed: of the faults.
    """

    def __init__(
        self,
        machines: list[tuple[Machine, Cable, Cable]],
        redis: RedisServer,
        prefect: int,
        seed: int,
    ) -> None:
        self.machines = machines
        self._server = redis
        self._pid = prefect
        self._quiet = threading.Lock()  # one restart at a time
        self._rng = random.Random(seed)
        self._began = time.monotonic()
        self._ends: list[threading.Thread] = []
        self.faults: Counter[str] = Counter()

    def blow(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Cause faults for so many seconds, or until the study is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not is_over():
            time.sleep(self._rng.uniform(1.0, 4.0))
            self.supervise()
            kinds = ["kill"] * 3 + ["pause"] * 2 + ["cut"] * 3 + ["store", "redis", "prefect"]
            kind = self._rng.choice(kinds)
            duration = self._rng.uniform(0.5, 2.5 * LEASE)
            machine = self._rng.choice(self.machines)
            if kind in ("kill", "pause", "cut"):
                if machine[0].busy:
                    continue
                machine[0].busy = True
            self.faults[kind] += 1
            what = machine[0].name if kind in ("kill", "pause", "cut") else ""
            at = time.monotonic() - self._began
            print(f"  {at:6.1f} s: {kind} {what} for {duration:.1f} s", flush=True)
            thread = threading.Thread(target=getattr(self, f"_{kind}"), args=(machine, duration))
            thread.start()
            self._ends.append(thread)
        for thread in self._ends:
            thread.join()

    def supervise(self) -> None:
        """Start programs again that ended with an error, as a supervisor does.

        One that begins in an outage does: what is wrong may be its settings.
        """
        for machine, _, _ in self.machines:
            if not machine.busy and machine.ended() not in (None, 0):
                self.faults["began in an outage"] += 1
                machine.start()

    def _kill(self, machine: tuple[Machine, Cable, Cable], duration: float) -> None:
        machine[0].kill()
        time.sleep(duration / 3)
        machine[0].start()
        machine[0].busy = False

    def _pause(self, machine: tuple[Machine, Cable, Cable], duration: float) -> None:
        machine[0].send(signal.SIGSTOP)
        time.sleep(duration)
        machine[0].send(signal.SIGCONT)
        machine[0].busy = False

    def _cut(self, machine: tuple[Machine, Cable, Cable], duration: float) -> None:
        with machine[1].out(), machine[2].out():
            time.sleep(duration)
        machine[0].busy = False

    def _store(self, _: object, duration: float) -> None:
        with ExitStack() as stack:
            for _machine, _redis, store in self.machines:
                stack.enter_context(store.out())
            time.sleep(duration)

    def _redis(self, _: object, duration: float) -> None:
        with self._quiet:
            self._server.kill()
            time.sleep(duration / 3)
            self._server.start()

    def _prefect(self, _: object, duration: float) -> None:
        with self._quiet:
            os.kill(self._pid, signal.SIGSTOP)
            time.sleep(duration)
            os.kill(self._pid, signal.SIGCONT)


def storm(seconds: float, seed: int, n_machines: int, n_trials: int, folder: Path) -> list[str]:
    """Run a study through a storm.

    Args:
        seconds: for which there are faults.
        seed: of the faults.
        n_machines: how many machines.
        n_trials: of the study.
        folder: for all that is made.

    Returns:
        What is wrong afterwards.
    """
    from pydantic import SecretStr

    from prefect_optuna.blocks import RedisStudyStorage
    from prefect_optuna.deployments import LocalServer
    from prefect_optuna.tasks import ArchivedStudy

    apart = namespaces()
    print(f"seed {seed}, {n_machines} machines, {n_trials} trials, in {folder}", flush=True)
    if not apart:
        print("No namespaces here: the machines know each other's process ids.", flush=True)
    with ExitStack() as stack:
        server = stack.enter_context(LocalServer(prefect_home(folder / "prefect")))
        redis = stack.enter_context(RedisServer(folder / "redis", append_only=True))
        store = stack.enter_context(s3_server(folder))
        s3_filesystem(store)  # makes the bucket
        environment = {
            **os.environ,
            "PREFECT_API_URL": f"{server.url}/api",
            "PREFECT_INTEGRATIONS_OPTUNA_LEASE": str(LEASE),
            "PREFECT_LOGGING_LEVEL": "INFO",
        }
        machines: list[tuple[Machine, Cable, Cable]] = []
        for number in range(n_machines):
            cables = [
                stack.enter_context(Cable(port))
                for port in (redis.port, int(store.rpartition(":")[2]))
            ]
            given = {
                "n_trials": n_trials,
                "n_jobs": N_JOBS,
                "redis": f"redis://127.0.0.1:{cables[0].port}/0",
                "s3": {
                    **s3_options(f"http://127.0.0.1:{cables[1].port}"),
                    "config_kwargs": {"connect_timeout": 1, "read_timeout": 2},
                },
            }
            machine = Machine(number, folder / str(number), apart, given, environment)
            machines.append((machine, cables[0], cables[1]))
        assert server.pid is not None
        blown = Storm(machines, redis, server.pid, seed)
        try:
            for machine, _, _ in machines:
                machine.start()
            time.sleep(8)  # they import
            blown.blow(seconds, lambda: all(m.ended() == 0 for m, _, _ in machines))
            print(f"  calm after {dict(blown.faults)}", flush=True)
            blown.faults.clear()
            end = time.monotonic() + CALM_SECONDS
            while any(m.ended() != 0 for m, _, _ in machines) and time.monotonic() < end:
                time.sleep(0.5)
                blown.supervise()
            codes = {m.name: m.ended() for m, _, _ in machines}
        finally:
            for machine, _, _ in machines:
                machine.send(signal.SIGCONT)
                machine.send(signal.SIGKILL)
                if machine.process is not None:
                    machine.process.wait()
        block = RedisStudyStorage(url=SecretStr(redis.url))
        archived = ArchivedStudy.load(
            "storm", storage=block, artifacts=s3_filesystem(store, "storm")
        )
        wrong, counts = find_wrong(
            dump(block.load_study("storm"), archived),
            {machine.name: list(machine.notes()) for machine, _, _ in machines},
            {machine.name: machine.killed for machine, _, _ in machines},
            n_trials,
        )
        wrong += [f"{name} ended with {code}" for name, code in codes.items() if code != 0]
    print("  " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    return wrong


def main() -> int:
    """Run what the command line says; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--machines", type=int, default=3)
    parser.add_argument("--trials", type=int, default=0, help="by default as the time allows")
    options = parser.parse_args()
    trials = options.trials or int(options.seconds * options.machines * N_JOBS)
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    wrong = storm(options.seconds, options.seed, options.machines, trials, folder)
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    if wrong:
        print(f"All of it is kept in {folder}; again: --seed {options.seed}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    print("Nothing is lost.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
