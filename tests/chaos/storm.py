"""A storm over a study: machines are killed, stopped and cut off, and its servers restarted.

    python tests/chaos/storm.py --seconds 600 --seed 7

Each machine is a program in process and host namespaces of its own, as far as the system allows
that, so that it is another machine for the rest. It reaches Redis, S3 and Prefect through cables of
its own, which are pulled, drop everything, or are slow; it has a small disk, which gets full (as
root), and a clock, which jumps (with libfaketime). Afterwards the history is checked: exactly the
trials asked for have ended, each was told once, nothing that was acknowledged or computed is lost,
every archived file is whole, nothing is left running, and the report says so.
"""

from __future__ import annotations

import argparse
import functools
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
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.history import dump, find_wrong
from filesystems import s3_filesystem, s3_options
from redis_servers import RedisServer
from servers import Cable, free_port, prefect_home, s3_server, without_prefect

from prefect_optuna.blocks import RedisStudyStorage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.tasks import ArchivedStudy

LEASE = 6.0  # seconds: a cut or a pause may be longer or shorter
N_JOBS = 2
CALM_SECONDS = 240.0  # at least, on a quiet computer; a long storm may leave more to do
DISK = "24m"  # of each machine
JUMP = 2  # hours by which a clock jumps
# Machines whose clock jumps: libfaketime has each thread that waits for Python's lock read a file,
# and where all machines of a storm do so, they have no time left for anything else.
CLOCKS = 2
SLOW = 0.2  # seconds for each piece that passes through a slow cable
FAKETIME = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]

# How often each fault comes, in relation to the others; those of a machine first.
OF_A_MACHINE = {"kill": 3, "pause": 2, "cut": 2, "silence": 2, "slow": 2, "disk": 1, "clock": 1}
OF_A_SERVER = {"store": 1, "s3": 1, "redis": 1, "prefect": 1, "restart": 1, "reset": 1}


@functools.cache
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
        cables: to Redis, to S3 and to Prefect.
        own_clock: whether its clock may be set.
    """

    def __init__(
        self,
        number: int,
        folder: Path,
        apart: list[str],
        given: dict[str, Any],
        environment: dict[str, str],
        cables: list[Cable],
        *,
        own_clock: bool,
    ) -> None:
        self.name = f"machine {number}"
        self.folder = folder
        self.cables = cables
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self._clock = folder / "clock"
        self.set_clock(0)
        self._command = [*apart, sys.executable, str(Path(__file__).parent / "machine.py")]
        self._command.append(json.dumps(given))
        self._environment = {
            **environment,
            "PREFECT_HOME": str(self.disk / "prefect"),
            "HOME": str(self.disk),
            "TMPDIR": str(self.disk),
            **(_own_clock(self._clock) if own_clock else {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.killed: list[float] = []
        self.full: list[tuple[float, float]] = []
        self.busy = False  # with a fault
        self.has_disk = False

    def __enter__(self) -> Machine:
        """Give it a disk of its own, where that is possible."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "storm", str(self.disk)]
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=True, capture_output=True)
            self.has_disk = True
        return self

    def __exit__(self, *_: object) -> None:
        """Take its disk away."""
        if self.has_disk:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)

    def set_clock(self, hours: int) -> None:
        """Set its clock so many hours ahead of that of the others."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{hours:+d}h\n", encoding="utf-8")
        new.replace(self._clock)

    def fill_disk(self) -> Path:
        """Leave no room on its disk; the file that takes it."""
        path = self.disk / "full"
        with path.open("wb", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        return path

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
        self.killed.append(time.monotonic())
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def has_left_any(self) -> bool:
        """Whether something runs there though its program has ended."""
        if self.process is None:
            return False
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

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


def _own_clock(file: Path) -> dict[str, str]:
    """The variables that give a program a clock which says what the file says."""
    if not FAKETIME:
        return {}
    return {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


class Servers:
    """Redis, a store that speaks S3, and Prefect's server, each of which may be restarted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.prefect = self._stack.enter_context(LocalServer(prefect_home(folder / "prefect")))
        self.redis = self._stack.enter_context(RedisServer(folder / "redis", append_only=True))
        self._store = ExitStack()
        self.store = self._start_store(free_port())
        s3_filesystem(self.store)  # makes the bucket

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._stack.close()

    def _start_store(self, port: int) -> str:
        kept = str(self._folder / "s3.kept")
        return self._store.enter_context(s3_server(self._folder, port, MOTO_KEEP=kept))

    @contextmanager
    def without_store(self) -> Generator[None]:
        """The store is restarted."""
        self._store.close()
        try:
            yield
        finally:
            self._start_store(int(self.store.rpartition(":")[2]))


def make_machines(
    stack: ExitStack,
    servers: Servers,
    folder: Path,
    count: int,
    *,
    lease: float,
    n_trials: int,
    n_jobs: int,
    seconds: float,
    n_clocks: int = 0,
) -> list[Machine]:
    """Machines that are to run one study, not started yet.

    Args:
        stack: takes away what they have.
        servers: what they share.
        folder: for their own.
        count: how many.
        lease: of their sessions, in seconds.
        n_trials: of the study.
        n_jobs: how many trials each runs at once.
        seconds: of a trial.
        n_clocks: how many of them have a clock that may be set.
    """
    ports = [servers.redis.port, int(servers.store.rpartition(":")[2]), servers.prefect.port]
    machines: list[Machine] = []
    for number in range(count):
        cables = [stack.enter_context(Cable(port)) for port in ports if port is not None]
        given = {
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "redis": f"redis://127.0.0.1:{cables[0].port}/0",
            "s3": {
                **s3_options(f"http://127.0.0.1:{cables[1].port}"),
                "config_kwargs": {"connect_timeout": 1, "read_timeout": 2},
            },
        }
        environment = {
            **os.environ,
            "PREFECT_API_URL": f"http://127.0.0.1:{cables[2].port}/api",
            "PREFECT_INTEGRATIONS_OPTUNA_LEASE": str(lease),
            "PREFECT_LOGGING_LEVEL": "INFO",
            "STORM_SECONDS": str(seconds),
            "MPLCONFIGDIR": str(folder / "matplotlib"),  # one list of fonts is enough
        }
        own = folder / str(number)
        machine = Machine(
            number, own, namespaces(), given, environment, cables, own_clock=number < n_clocks
        )
        machines.append(stack.enter_context(machine))
    return machines


class Storm:
    """Faults from a seed, one after the other, some of them at once.

    Args:
        machines: the machines.
        servers: what they share.
        seed: of the faults.
    """

    def __init__(self, machines: list[Machine], servers: Servers, seed: int) -> None:
        self.machines = machines
        self._servers = servers
        self._quiet = threading.Lock()  # one restart at a time
        self._rng = random.Random(seed)
        self._began = time.monotonic()
        self._ends: list[threading.Thread] = []
        self._errors: list[str] = []
        self.faults: Counter[str] = Counter()
        of_a_machine = dict(OF_A_MACHINE)
        if not machines[0].has_disk:
            del of_a_machine["disk"]
            print("Disks do not get full: this needs root.", flush=True)
        if not FAKETIME:
            del of_a_machine["clock"]
            print("Clocks do not jump: this needs libfaketime (the package faketime).", flush=True)
        self._kinds = {**of_a_machine, **OF_A_SERVER}

    def blow(self, seconds: float, is_over: Callable[[], bool]) -> list[str]:
        """Cause faults for so many seconds, or until the study is over; what went wrong here."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not is_over():
            time.sleep(self._rng.uniform(1.0, 4.0))
            self.supervise()
            (kind,) = self._rng.choices([*self._kinds], [*self._kinds.values()])
            duration = self._rng.uniform(0.5, 2.5 * LEASE)
            machine = self._rng.choice(self.machines)
            if kind == "clock":
                machine = self.machines[self.machines.index(machine) % CLOCKS]
            if kind in OF_A_MACHINE:
                if machine.busy:
                    continue
                machine.busy = True
            elif kind != "store" and self._quiet.locked():
                continue  # on a busy machine a restart takes its time, and the next ones would wait
            self.faults[kind] += 1
            what = machine.name if kind in OF_A_MACHINE else "of the servers"
            at = time.monotonic() - self._began
            print(f"  {at:6.1f} s: {kind} {what} for {duration:.1f} s", flush=True)
            thread = threading.Thread(target=self._cause, args=(kind, machine, duration))
            thread.start()
            self._ends.append(thread)
        for thread in self._ends:
            thread.join()
        return self._errors

    def _cause(self, kind: str, machine: Machine, duration: float) -> None:
        try:
            getattr(self, f"_{kind}")(machine, duration)
        except Exception as error:  # noqa: BLE001 - a storm that is none finds nothing
            self._errors.append(f"the fault {kind}: {type(error).__name__}: {error}")
        finally:
            if kind in OF_A_MACHINE:
                machine.busy = False

    def supervise(self) -> None:
        """Start programs again that ended with an error, as a supervisor does.

        One that begins in an outage does: what is wrong may be its settings.
        """
        for machine in self.machines:
            if not machine.busy and machine.ended() not in (None, 0):
                self.faults["began in an outage"] += 1
                machine.start()

    def _kill(self, machine: Machine, duration: float) -> None:
        machine.kill()
        time.sleep(duration / 3)
        machine.start()

    def _pause(self, machine: Machine, duration: float) -> None:
        machine.send(signal.SIGSTOP)
        time.sleep(duration)
        machine.send(signal.SIGCONT)

    def _cut(self, machine: Machine, duration: float) -> None:
        with ExitStack() as stack:
            for cable in machine.cables:
                stack.enter_context(cable.out())
            time.sleep(duration)

    def _silence(self, machine: Machine, duration: float) -> None:
        with ExitStack() as stack:
            for cable in machine.cables:
                stack.enter_context(cable.silent())
            time.sleep(duration)

    def _slow(self, machine: Machine, duration: float) -> None:
        with ExitStack() as stack:
            for cable in machine.cables:
                stack.enter_context(cable.slow(SLOW))
            time.sleep(duration)

    def _disk(self, machine: Machine, duration: float) -> None:
        began, path = time.monotonic(), machine.fill_disk()
        time.sleep(duration)
        path.unlink()
        machine.full.append((began, time.monotonic()))

    def _clock(self, machine: Machine, duration: float) -> None:
        machine.set_clock(self._rng.choice((-JUMP, JUMP)))
        time.sleep(duration)
        machine.set_clock(0)

    def _store(self, _: object, duration: float) -> None:
        with ExitStack() as stack:
            for machine in self.machines:
                stack.enter_context(machine.cables[1].out())
            time.sleep(duration)

    def _s3(self, _: object, duration: float) -> None:
        with self._quiet, self._servers.without_store():
            time.sleep(duration / 3)

    def _redis(self, _: object, duration: float) -> None:
        with self._quiet:
            self._servers.redis.kill()
            time.sleep(duration / 3)
            self._servers.redis.start()

    def _prefect(self, _: object, duration: float) -> None:
        with self._quiet:
            assert self._servers.prefect.pid is not None
            os.kill(self._servers.prefect.pid, signal.SIGSTOP)
            time.sleep(duration)
            os.kill(self._servers.prefect.pid, signal.SIGCONT)

    def _restart(self, _: object, duration: float) -> None:
        with self._quiet, without_prefect(self._servers.prefect):
            time.sleep(duration / 3)

    def _reset(self, _: object, duration: float) -> None:
        with self._quiet, without_prefect(self._servers.prefect, reset=True):
            time.sleep(duration / 3)


def _slowness() -> float:
    """How many times longer all takes, as others use this computer, too; 4 at most."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def wrong_in_report(server: LocalServer, n_trials: int) -> list[str]:
    """What the report in Prefect's UI says that is not so."""
    with httpx.Client(base_url=server.api_url) as client:
        found = client.post(
            "/artifacts/filter", json={"artifacts": {"key": {"like_": "study-storm"}}}
        )
        reports = sorted(found.raise_for_status().json(), key=lambda one: one["updated"])
    text = reports[-1]["data"] if reports else "there is none"
    if "completed" in text and f"{n_trials:,} of {n_trials:,}" in text:
        return []
    return [f"the report: {text[:400]!r}"]


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
    seconds_a_trial = 0.6 * n_machines * N_JOBS * seconds / n_trials
    print(
        f"seed {seed}, {n_machines} machines, {n_trials} trials of {seconds_a_trial:.1f} s, in "
        f"{folder}",
        flush=True,
    )
    if not namespaces():
        print("No namespaces here: the machines know each other's process ids.", flush=True)
    with Servers(folder) as servers, ExitStack() as stack:
        machines = make_machines(
            stack,
            servers,
            folder,
            n_machines,
            lease=LEASE,
            n_trials=n_trials,
            n_jobs=N_JOBS,
            seconds=seconds_a_trial,
            n_clocks=CLOCKS,
        )
        blown = Storm(machines, servers, seed)
        try:
            for machine in machines:
                machine.start()
            time.sleep(8)  # they import
            wrong = blown.blow(seconds, lambda: all(m.ended() == 0 for m in machines))
            print(f"  calm after {dict(blown.faults)}", flush=True)
            blown.faults.clear()
            left = max(CALM_SECONDS, seconds)
            while any(m.ended() != 0 for m in machines) and left > 0:
                time.sleep(0.5)
                left -= 0.5 / _slowness()
                blown.supervise()
            wrong += [f"{m.name} ended with {m.ended()}" for m in machines if m.ended() != 0]
            wrong += [f"{m.name} has left processes" for m in machines if m.has_left_any()]
        finally:
            for machine in machines:
                machine.send(signal.SIGCONT)
                machine.send(signal.SIGKILL)
                if machine.process is not None:
                    machine.process.wait()
        block = RedisStudyStorage(url=SecretStr(servers.redis.url))
        archived = ArchivedStudy.load(
            "storm", storage=block, artifacts=s3_filesystem(servers.store, "storm")
        )
        more, counts = find_wrong(
            dump(block.load_study("storm"), archived),
            {machine.name: list(machine.notes()) for machine in machines},
            {machine.name: machine.killed for machine in machines},
            n_trials,
            {machine.name: machine.full for machine in machines},
        )
        wrong += more + wrong_in_report(servers.prefect, n_trials)
    print("  " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    return wrong


def main() -> int:
    """Run what the command line says; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--machines", type=int, default=6)
    parser.add_argument("--trials", type=int, default=0, help="by default as the time allows")
    options = parser.parse_args()
    trials = options.trials or max(60, int(options.seconds * 10 / 3))
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
