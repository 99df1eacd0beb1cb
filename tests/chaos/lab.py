"""A lab of containers, out of deployments/compose.yaml, in which things break.

    python tests/chaos/lab.py                        one worker of three is killed
    python tests/chaos/lab.py --faults cut pause     a cable is cut, and a machine stands still
    python tests/chaos/lab.py --faults install       workers install what a script needs
    python tests/chaos/lab.py --faults pool          a pool for Docker runs it in containers
    python tests/chaos/lab.py --faults gpus          three containers on two GPUs, which are feigned
    python tests/chaos/lab.py --faults all

For each fault a study runs over the workers. It has to end with exactly the trials asked for, none
of them failed, and with all that was computed. How long it took until the trial of a worker that is
gone ran elsewhere, and how long the other workers had nothing to do, is measured. The lab is taken
down in any case, also after Ctrl-C. Images are those of compose.yaml, and one that is built of this
working tree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.history import ARTIFACTS, STORAGE, Json, find_wrong, idle_seconds
from chaos.package_index import PackageIndex

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deployments/compose.yaml"
SECRETS = ("postgres", "redis_messaging", "redis_studies", "store_key", "store_secret")
TO_RUN_ELSEWHERE = 60.0  # seconds, at most
IDLE = 2.0  # seconds, at most
UP_SECONDS, BEGIN_SECONDS, STUDY_SECONDS = 400.0, 400.0, 600.0

NO_DOCKER = """There is no Docker here that this lab could be made with: {why}
Install it and start it, for example:
    Debian, Ubuntu:  sudo apt-get install docker.io docker-compose; sudo systemctl start docker
    macOS, Windows:  Docker Desktop
The same storm without containers is `make chaos`."""


class NoDockerError(Exception):
    """Docker or Compose is not there."""


def find_compose() -> list[str]:
    """How Compose is called here: today's plugin, or the older program.

    Raises:
        NoDockerError: There is none, or no Docker that answers.
    """
    if shutil.which("docker") is None:
        raise NoDockerError("there is no `docker` on the PATH.")
    info = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if info.returncode != 0:
        raise NoDockerError((info.stderr.strip().splitlines() or ["it does not answer."])[-1])
    for command in (["docker", "compose"], ["docker-compose"]):
        with suppress(OSError):
            found = subprocess.run([*command, "version"], capture_output=True)
            if found.returncode == 0:
                return command
    raise NoDockerError("neither `docker compose` nor `docker-compose` is there.")


def docker(*words: str, timeout: float = 120.0, stdin: str | None = None) -> str:
    """What a command of Docker prints."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=timeout, input=stdin
    )
    if done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip() or done.stdout}")
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Lab:
    """The containers of compose.yaml, from `up` to `down`.

    Args:
        folder: for passwords and what the containers have logged.
        project: the name for Compose.
        workers: how many containers of workers.
        images: those to take in place of the ones that compose.yaml names, by service.

    Attributes:
        url: of Prefect's API, the only thing that programs outside are told.
        index: where packages come from.
    """

    def __init__(self, folder: Path, project: str, workers: int, images: dict[str, str]) -> None:
        self.folder, self.project, self.n_workers = folder, project, workers
        self.study, self.n_trials = "", 0  # what was started last
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}/api"
        self.index = PackageIndex.of_this_machine()
        self._environment = {
            **os.environ,
            **self.index.variables,
            "PREFECT_PORT": str(self._port),
            "DASHBOARD_PORT": str(_free_port()),
        }
        (folder / "secrets").mkdir(mode=0o700)
        for name in SECRETS:
            (folder / "secrets" / name).write_text(uuid.uuid4().hex, encoding="utf-8")
        self.image = f"{project}-image"
        services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        built = {name: self.image for name, service in services.items() if "build" in service}
        changed: dict[str, Json] = {k: {"image": v} for k, v in {**built, **images}.items()}
        for name in ("worker", "studies"):
            # Without values: Compose takes those that it has, and the file holds no password.
            changed[name]["environment"] = dict.fromkeys(self.index.variables)
            changed[name]["volumes"] = self.index.volumes
        override = folder / "override.json"
        override.write_text(
            json.dumps(
                {
                    "services": changed,
                    "secrets": {n: {"file": str(folder / "secrets" / n)} for n in SECRETS},
                }
            ),
            encoding="utf-8",
        )
        command = [*find_compose(), "-p", project, "-f", str(COMPOSE), "-f", str(override)]
        self._compose: list[str] = command

    docker = staticmethod(docker)

    def compose(self, *words: str, timeout: float = 600.0) -> str:
        """What a command of Compose prints; its progress goes into the folder."""
        with (self.folder / "compose.log").open("a", encoding="utf-8") as log:
            done = subprocess.run(
                [*self._compose, *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                timeout=timeout,
                cwd=COMPOSE.parent,
            )
        if done.returncode != 0:
            said = (self.folder / "compose.log").read_text(encoding="utf-8").splitlines()[-12:]
            raise RuntimeError(f"{' '.join(words)} of Compose failed:\n" + "\n".join(said))
        return done.stdout.strip()

    def containers(self, service: str) -> list[str]:
        """The ids of the containers of a service, with those that stand."""
        return self._ids(f"label=com.docker.compose.service={service}")

    def _ids(self, *filters: str) -> list[str]:
        filters = (f"label=com.docker.compose.project={self.project}", *filters)
        given = [word for one in filters for word in ("--filter", one)]
        return sorted(docker("ps", "--all", "--quiet", *given).split())

    def up(self) -> None:
        """Build the image, start everything, and wait until workers ask for work."""
        print("building the image of this working tree", flush=True)
        recipe = str(ROOT / "deployments/Dockerfile")
        docker("build", "-q", "-f", recipe, "-t", self.image, str(ROOT), timeout=1800)
        print("starting", flush=True)
        # Built above, and once: each of its services would build it.
        self.compose("up", "--detach", "--no-build", "--scale", f"worker={self.n_workers}")
        self._await_workers(self.n_workers + 1)

    def _await_workers(self, count: int) -> None:
        end = time.monotonic() + UP_SECONDS
        said: list[str] = []
        while len(said) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{said} of {count} workers are there after {UP_SECONDS:g} s")
            time.sleep(1)
            with suppress(Exception):  # the server may not be there yet
                said = [one["name"] for one in self.ask("/work_pools/lab/workers/filter")]

    def ask(self, path: str, method: str = "POST", **content: Any) -> Any:
        """What Prefect's API answers."""
        import httpx

        body = None if method in ("GET", "DELETE") else content
        reply = httpx.request(method, self.url + path, timeout=10, json=body)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def unfinished_runs(self, study: str) -> list[str]:
        """The flow runs of a study that have not ended, by the server."""
        found = self.ask("/flow_runs/filter", flow_runs={"name": {"like_": study}})
        return [
            f"{run['name']} {run['state_name']}"
            for run in found
            if run["state_type"] not in ("COMPLETED", "CANCELLED", "CRASHED", "FAILED")
        ]

    def start(self, study: str, n_trials: int) -> None:
        """Deploy the study of the lab and start it, as somebody on this machine would."""
        self.study, self.n_trials = study, n_trials
        done = subprocess.run(
            [
                *(sys.executable, "-m", "prefect_optuna.deployments.cli", "deploy"),
                *(f"{Path(__file__).parent / 'lab_problem.py'}:problem", "--study", study),
                *("--trials", str(n_trials), "--workers", str(self.n_workers), "--pool", "lab"),
                *("--storage", STORAGE, "--artifacts", ARTIFACTS, "--sampler", "random", "--run"),
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={
                **os.environ,
                "PREFECT_API_URL": self.url,
                "PREFECT_HOME": str(self.folder / "prefect"),
            },
        )
        if done.returncode != 0:
            raise RuntimeError(f"prefect-optuna deploy: {done.stdout}\n{done.stderr}")

    def start_again(self) -> None:
        """Start what was started last once more."""
        self.start(self.study, self.n_trials)

    def scale(self, service: str, count: int) -> None:
        """Have so many containers of a service."""
        words = ("--no-build", "--no-deps", "--no-recreate", "--scale", f"{service}={count}")
        self.compose("up", "--detach", *words, service)

    def history(self, study: str) -> Json:
        """What the study has come to."""
        return json.loads(self._inside("dump", study))

    def _inside(self, *words: str) -> str:
        source = Path(__file__).with_name("history.py").read_text(encoding="utf-8")
        return docker("exec", "-i", self._observer(), "python", "-", *words, stdin=source)

    def _observer(self) -> str:
        return self.containers("dashboard")[0]

    @contextmanager
    def watching(self, study: str, n_trials: int) -> Generator[Watch]:
        """Look at a study several times a second while the block lasts."""
        source = Path(__file__).with_name("history.py").read_text(encoding="utf-8")
        process = subprocess.Popen(
            [
                "docker",
                "exec",
                "-i",
                self._observer(),
                "python",
                "-",
                "watch",
                study,
                str(n_trials),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "watch.log").open("ab"),
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(source)
        process.stdin.close()
        watch = Watch(process)
        try:
            yield watch
        finally:
            process.kill()
            process.wait()

    def notes(self, container: str) -> list[Json]:
        """What a worker has computed, written down on its disk."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "notes.jsonl"
            with suppress(RuntimeError):
                docker("cp", f"{container}:/home/prefect/notes.jsonl", str(path))
            if not path.exists():
                return []
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def down(self, *, keep_logs: bool) -> None:
        """Remove the containers with their volumes; whatever stands is woken before."""
        for container in self._ids("status=paused"):
            docker("unpause", container)
        if keep_logs:
            with suppress(Exception):
                logs = self.compose("logs", "--no-color", "--timestamps")
                (self.folder / "containers.log").write_text(logs, encoding="utf-8")
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


class Watch:
    """What the observer has seen of a study until now."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.looks: list[Json] = []
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.looks.append(json.loads(line))

    def until(self, holds: Callable[[Json], object], what: str, seconds: float) -> Json:
        """Wait until a look shows something."""
        end, seen = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for look in self.looks[seen:]:
                seen += 1
                if "away" not in look and holds(look):
                    return look
            time.sleep(0.1)
            if not self._thread.is_alive() and seen == len(self.looks):
                break
        raise TimeoutError(f"{what}: not within {seconds:g} s; last seen: {self.looks[-1:]}")

    def until_over(self) -> None:
        """Wait until nobody runs the study any more."""
        self._thread.join(STUDY_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"the study still runs: {self.looks[-1:]}")


@dataclass
class Fault:
    """Something that breaks, and is mended again.

    Args:
        what: in words.
        blow: breaks it, waits as long as it lasts, and mends it; given the lab and a container.
        service: of which a container is taken: a worker that runs a trial, or the only one.
        others: whether the other workers go on meanwhile.
        elsewhere: whether the trial that the container ran has to run elsewhere.
        kills: whether what was being computed may be lost with it.
        after: brings the container back when the study is over.
    """

    what: str
    blow: Callable[[Lab, str], None]
    service: str = "worker"
    others: bool = True
    elsewhere: bool = True
    kills: bool = False
    after: Callable[[Lab, str], None] = field(default=lambda lab, container: None)


def _for(
    seconds: float,
    begin: Sequence[str],
    end: Sequence[str],
    meanwhile: Callable[[], None] = lambda: None,
) -> Callable[[Lab, str], None]:
    def blow(lab: Lab, container: str) -> None:
        def words(given: Sequence[str]) -> list[str]:
            named = {"CONTAINER": container, "NETWORK": f"{lab.project}_default"}
            return [named.get(word, word) for word in given]

        docker(*words(begin))
        began = time.monotonic()
        try:
            meanwhile()
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        finally:
            docker(*words(end))

    return blow


def _quietly(*words: str) -> None:
    docker(*words)


def _restart(_: Lab, container: str) -> None:
    docker("start", container)


def _kill_the_parent(lab: Lab, container: str) -> None:
    """Kill the machine of the run that distributes; then somebody starts the study again."""
    docker("kill", container)
    docker("start", container)
    lab.start_again()


def _pause_the_parent(lab: Lab, container: str) -> None:
    """Stop the machine of the run that distributes for longer than its lease lasts.

    Somebody starts the study again meanwhile, on another machine, and then there are two.
    """
    lab.scale("studies", 2)
    _for(75, ["pause", "CONTAINER"], ["unpause", "CONTAINER"], lab.start_again)(lab, container)


FAULTS = {
    "kill": Fault(
        "docker kill of a worker",
        lambda _, container: _quietly("kill", container),
        kills=True,
        after=_restart,
    ),
    "stop": Fault(
        "docker stop of a worker",
        lambda _, container: _quietly("stop", "--time", "60", container),
        after=_restart,
    ),
    "cut": Fault(
        "docker network disconnect of a worker for 48 s",
        _for(
            48,
            ["network", "disconnect", "NETWORK", "CONTAINER"],
            ["network", "connect", "NETWORK", "CONTAINER"],
        ),
        elsewhere=False,  # it may come back before it is missed
    ),
    "pause": Fault(
        "docker pause of a worker for 75 s",
        _for(75, ["pause", "CONTAINER"], ["unpause", "CONTAINER"]),
    ),
    # Cut off, and not stopped: stores that tests are made with keep everything in memory.
    "store": Fault(
        "docker network disconnect of the S3 store for 40 s",
        _for(
            40,
            ["network", "disconnect", "NETWORK", "CONTAINER"],
            ["network", "connect", "--alias", "store", "NETWORK", "CONTAINER"],
        ),
        service="store",
        others=False,
        elsewhere=False,
    ),
    "redis": Fault(
        "docker stop of the studies' Redis for 20 s",
        _for(20, ["stop", "--time", "5", "CONTAINER"], ["start", "CONTAINER"]),
        service="redis-studies",
        others=False,
        elsewhere=False,
    ),
    "server": Fault(
        "docker stop of Prefect's server for 40 s",
        _for(40, ["stop", "--time", "5", "CONTAINER"], ["start", "CONTAINER"]),
        service="prefect-server",
        elsewhere=False,
    ),
    "parent": Fault(
        "docker kill of the machine that distributes, and the study is started again",
        _kill_the_parent,
        service="studies",
        others=False,
        elsewhere=False,
    ),
    "parent-pause": Fault(
        "docker pause of that machine for 75 s, and the study is started again",
        _pause_the_parent,
        service="studies",
        others=False,
        elsewhere=False,
        after=lambda lab, _: lab.scale("studies", 1),
    ),
}


def try_fault(name: str, lab: Lab, n_trials: int) -> list[str]:
    """Run a study, break something meanwhile, and look what has become of it.

    Returns:
        What is wrong.
    """
    fault, study = FAULTS[name], f"lab-{name}"
    workers = lab.containers("worker")
    print(f"\n{fault.what}, in a study of {n_trials} trials", flush=True)
    began = time.monotonic()
    with lab.watching(study, n_trials) as watch:
        lab.start(study, n_trials)
        look = watch.until(
            lambda look: (
                look["finished"] > 3 * lab.n_workers and len({*look["running"]}) == lab.n_workers
            ),
            "a trial runs on each worker",
            BEGIN_SECONDS,
        )
        hosts = {container[:12]: container for container in workers}
        chosen = hosts[look["running"][0]]
        if fault.service != "worker":
            (chosen,) = lab.containers(fault.service)
        at = time.time()
        print(f"  {time.monotonic() - began:5.1f} s: now", flush=True)
        try:
            fault.blow(lab, chosen)
        finally:
            healed = time.time()
        watch.until_over()
    print(f"  {time.monotonic() - began:5.1f} s: over", flush=True)
    fault.after(lab, chosen)
    history = lab.history(study)
    (lab.folder / f"{study}.json").write_text(json.dumps(history), encoding="utf-8")
    mine = {t["x"] for t in history["trials"]}
    notes = {
        container[:12]: [one for one in lab.notes(container) if one["x"] in mine]
        for container in workers
    }
    wrong, counts = find_wrong(history, notes, {chosen[:12]: [at]} if fault.kills else {}, n_trials)
    print("  " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    wrong += _measure(fault, history, chosen[:12], at, healed)
    if left := lab.unfinished_runs(study):
        wrong.append(f"flow runs have not ended: {left}")
    return wrong


def _measure(fault: Fault, history: Json, host: str, at: float, healed: float) -> list[str]:
    """Print how long it took, and say what took too long."""
    wrong: list[str] = []
    sessions = history["sessions"]
    workers = {key: one["host"] for key, one in sessions.items() if "parent" in one}
    trials = history["trials"]
    # It may have told the one that it ran when it was chosen before it stood still.
    ran = [
        t["number"]
        for t in trials
        if t["lost"] and workers.get(t["session"]) == host and t["began"] and t["ended"] > at
    ]
    again = [t for t in trials if not {*t["repeats"]}.isdisjoint(ran) and t["began"]]
    took = {t["number"]: t["began"] - at for t in again if workers.get(t["session"]) != host}
    for number, seconds in took.items():
        print(f"  trial {ran} ran elsewhere, as trial {number}, after {seconds:.1f} s")
        if fault.elsewhere and seconds > TO_RUN_ELSEWHERE:
            wrong.append(f"its trial ran elsewhere after {seconds:.1f} s")
    if fault.elsewhere and not took:
        wrong.append(f"its trial {ran} ran nowhere else")
    if fault.service != "worker":
        after = min((t["ended"] - healed for t in trials if (t["ended"] or 0) > healed), default=0)
        print(f"  the first trial ended {after:.1f} s after it was back")
    longest = {
        key: idle_seconds(history, key, since=at) for key, where in workers.items() if where != host
    }
    words = ", ".join(f"{seconds:.1f}" for seconds in longest.values())
    print(f"  the other workers had nothing to do for at most {words} s")
    if fault.others and max(longest.values(), default=0.0) > IDLE:
        wrong.append(f"other workers had nothing to do for {words} s")
    per_host = Counter(workers.get(t["session"], "?") for t in trials if t["state"] == "COMPLETE")
    print(f"  trials per machine: {dict(per_host)}", flush=True)
    return wrong


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run what the command line says; 1 if something is wrong, 2 without Docker."""
    parser = argparse.ArgumentParser(description=__doc__)
    from chaos import lab_install

    parts = {
        "install": ("a script is deployed with --install", lab_install.try_install),
        "pool": ("a script is run by a pool for Docker", lab_install.try_pool),
        "gpus": ("containers on GPUs", lab_install.try_gpus),
    }  # what is no fault, and tried in the same lab
    parser.add_argument("--faults", nargs="+", default=["kill"], choices=[*FAULTS, *parts, "all"])
    parser.add_argument("--workers", type=int, help="3; of what is no fault, 2")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--project", default="prefect-optuna-lab", help="the name for Compose")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="SERVICE=IMAGE",
        help="another image for a service than compose.yaml names",
    )
    options = parser.parse_args()
    faults = options.faults
    if "all" in faults:
        faults = [*FAULTS, *parts]
        if not lab_install.has_gpus():
            print("Docker has no GPUs to give here: left out.", flush=True)
            faults.remove("gpus")
    workers = options.workers or (2 if set(faults) <= parts.keys() else 3)
    images = dict(given.split("=", 1) for given in options.image)
    signal.signal(signal.SIGTERM, _end)  # else it would leave the lab behind
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        lab = Lab(folder, options.project, workers, images)
    except NoDockerError as error:
        shutil.rmtree(folder)
        print(NO_DOCKER.format(why=error), file=sys.stderr)
        return 2
    wrong: list[str] = ["it did not come up"]
    try:
        lab.up()
        wrong = []
        for name in faults:
            what, attempt = parts.get(name) or (FAULTS[name].what, partial(try_fault, name))
            try:
                found = attempt(lab, options.trials)
            except (TimeoutError, RuntimeError) as error:
                found = [f"{error}"]
            wrong += [f"{what}: {line}" for line in found]
    finally:
        print("\ntaking it down", flush=True)
        lab.down(keep_logs=bool(wrong))
    for line in wrong:
        print(f"WRONG: {line}")
    if wrong:
        print(f"What the containers have said is in {folder}")
        return 1
    shutil.rmtree(folder)
    print("Each study has ended as it was asked to, and nothing is lost.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
