"""A script with scikit-learn in the lab, whose containers have this package and nothing else.

It lies in a folder outside, beside a virtual environment that has scikit-learn, and is deployed
from there with the real command line, which reaches nothing of the lab but Prefect's API.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uv
from chaos.history import ARTIFACTS, STORAGE, Json, find_wrong

from prefect_optuna.flows._worker_runs import CLAIMS_VOLUME

if TYPE_CHECKING:
    from chaos.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
BEGIN_SECONDS, RUN_SECONDS, AWAY_SECONDS = 400.0, 600.0, 5.0
BEST, TRIALS_EACH = 5, 60
POOL, POOL_TRIALS, CPUS, GIB = "containers", 12, 1, 1
GPUS, GPU_TRIALS = 2, 24
_VERSION = "import sys; print('.'.join(map(str, sys.version_info[:2])))"


class Outside:
    """A place that reaches Prefect alone, as somebody has it who deploys.

    Args:
        lab: the lab that it reaches.
        name: of the folder, below that of the lab.
        packages: what is installed there beside this package.
        extras: of this package.
    """

    def __init__(self, lab: Lab, name: str, *packages: str, extras: str = "") -> None:
        self._lab, self._folder = lab, lab.folder / name
        self.bin = self._folder / "venv/bin"
        self._folder.mkdir(exist_ok=True)
        for script in ("fit.py", "gpus.py"):
            shutil.copy(Path(__file__).with_name(f"lab_{script}"), self._folder / script)
        # The same one as in the image: nobody has to fetch a Python.
        python = lab.docker("run", "--rm", lab.image, "python", "-c", _VERSION)
        what = ("--editable", f"{ROOT}{extras}", *packages)
        self._uv("venv", "--quiet", "--clear", "--python", python, str(self.bin.parent))
        self._uv("pip", "install", "--quiet", "--python", str(self.bin / "python"), *what)

    def _uv(self, *words: str) -> None:
        done = subprocess.run(
            [uv.find_uv_bin(), *words],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env={**os.environ, **self._lab.index.variables},
        )
        if done.returncode != 0:
            raise RuntimeError(f"uv {' '.join(words)}: {done.stderr.strip()}")

    @property
    def environment(self) -> dict[str, str]:
        """What a program there is told: where Prefect is, and the names of two saved blocks."""
        return {
            "PATH": os.pathsep.join([str(self.bin), os.environ["PATH"]]),
            "HOME": str(self._folder),
            "PREFECT_API_URL": self._lab.url,
            "PREFECT_INTEGRATIONS_OPTUNA_STORAGE": STORAGE,
            "PREFECT_INTEGRATIONS_OPTUNA_ARTIFACTS": ARTIFACTS,
            "DO_NOT_TRACK": "1",
        }

    def call(self, *words: str) -> Json:
        """What the command line answers."""
        done = self.program("prefect-optuna", *words, "--json")
        if done.returncode != 0:
            raise RuntimeError(f"prefect-optuna {' '.join(words)}: {done.stdout}\n{done.stderr}")
        return json.loads(done.stdout)

    def program(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of its environment."""
        return subprocess.run(
            [self.bin / name, *words],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=self.environment,
        )

    @contextmanager
    def background(self, name: str, *words: str) -> Generator[None]:
        """Have a program of its environment run while the block lasts."""
        with (self._lab.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [self.bin / name, *words],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self.environment,
            )
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(
                    f"{name} {' '.join(words)} ended by itself: {process.returncode}"
                )
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def version_of(self, package: str) -> str:
        """The version of a package that is installed there."""
        code = f"from importlib.metadata import version; print(version('{package}'))"
        return self.program("python", "-c", code).stdout.strip()


def try_install(lab: Lab, n_trials: int) -> list[str]:
    """Deploy the script with `--install`, kill a worker, and have trials run again by schedule.

    Returns:
        What is wrong.
    """
    # Enough that the others have not done all of it before the one that was killed is back.
    n_trials = max(n_trials, TRIALS_EACH * lab.n_workers)
    print(f"\na script with scikit-learn, {n_trials} trials, --install", flush=True)
    outside = Outside(lab, "outside", "scikit-learn")
    wrong = [*_has_scikit_learn(lab), *_open_doors(lab)]
    workers = {container[:12]: container for container in lab.containers("worker")}
    began = time.monotonic()
    with lab.watching("fit", n_trials) as watch:
        outside.call(
            *("deploy", "fit.py:problem", "--study", "fit", "--trials", str(n_trials)),
            *("--pool", "lab", "--workers", str(lab.n_workers), "--install", "--run"),
        )
        first = watch.until(lambda look: look["finished"], "a trial has ended", BEGIN_SECONDS)
        print(f"  {time.monotonic() - began:5.1f} s: the first trial has ended", flush=True)
        look = watch.until(
            lambda look: (
                look["finished"] > first["finished"] + 3 * lab.n_workers
                and len({*look["running"]}) == lab.n_workers
            ),
            "a trial runs on each worker",
            BEGIN_SECONDS,
        )
        chosen = workers[look["running"][0]]
        print(f"  {time.monotonic() - began:5.1f} s: docker kill of a worker", flush=True)
        lab.docker("kill", chosen)
        killed = time.time()
        time.sleep(AWAY_SECONDS)
        lab.docker("start", chosen)
        watch.until_over()
    print(f"  {time.monotonic() - began:5.1f} s: over", flush=True)
    history, notes = _come_to(lab, "fit")
    found, counts = find_wrong(history, notes, {chosen[:12]: [killed]}, n_trials)
    wrong += found
    print("  " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    hosts = {key: one["host"] for key, one in history["sessions"].items() if "parent" in one}
    told = [t for t in history["trials"] if t["state"] == "COMPLETE"]
    each = {host: [t for t in told if hosts.get(t["session"]) == host] for host in workers}
    print(f"  trials per machine: { {h: len(ts) for h, ts in each.items()} }", flush=True)
    wrong += [f"{host} has told no trial" for host, ts in each.items() if not ts]
    after = [t["began"] - killed for t in each[chosen[:12]] if t["began"] > killed]
    if after:
        print(f"  the killed one began a trial again after {min(after):.1f} s", flush=True)
    else:
        wrong.append("the container that was killed has told no trial since it is back")
    wrong += _with_what(notes, outside.version_of("scikit-learn"))
    if left := lab.unfinished_runs("fit"):
        wrong.append(f"flow runs have not ended: {left}")
    return [*wrong, *_again_by_schedule(lab, outside)]


def try_pool(lab: Lab, n_trials: int) -> list[str]:
    """Have a pool for Docker run the script, each run in a container with limits of its own.

    Returns:
        What is wrong.
    """
    n_trials = min(n_trials, POOL_TRIALS)
    print(f"\na pool for Docker, {n_trials} trials, --install", flush=True)
    outside = Outside(lab, "outside", "scikit-learn")
    seen = _run_in_containers(
        lab,
        outside,
        lab.image,
        *("fit.py:problem", "--study", "boxes", "--trials", str(n_trials)),
        *("--workers", str(lab.n_workers), "--install"),
        *("--resources", f"cpus={CPUS},memory={GIB}GiB"),
    )
    history = lab.history("boxes")
    wrong, counts = find_wrong(history, {}, {}, n_trials)
    print("  " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    hosts = {one["host"] for one in history["sessions"].values() if "parent" in one}
    told = [container for name, container in seen.items() if name[:12] in hosts]
    print(f"  {len(seen)} containers, of which {len(told)} had trials", flush=True)
    if len(told) < lab.n_workers or len(told) != len(hosts):
        wrong.append(f"trials ran in {hosts}, and the containers are {[*seen]}")
    limits = {(one["HostConfig"]["NanoCpus"], one["HostConfig"]["Memory"]) for one in told}
    print(f"  their CPUs in billionths, and bytes: {limits}", flush=True)
    if limits != {(CPUS * 10**9, GIB << 30)}:
        wrong.append(f"a container of trials has NanoCpus and Memory {limits}")
    return [*wrong, *_built_once(lab)]


# What nvidia-smi says; a container has it where Docker was asked for GPUs, as the real one.
_SMI = r"""FROM {image}
USER root
RUN printf '#!/bin/sh\n[ "$NVIDIA_VISIBLE_DEVICES" = all ] || exit 9\n\
for n in {numbers}; do echo "GPU $n: Of the lab (UUID: GPU-$n)"; done\n' > /usr/bin/nvidia-smi \
    && chmod 755 /usr/bin/nvidia-smi
USER prefect
"""


def has_gpus() -> bool:
    """Whether Docker has GPUs to give, or believes so."""
    return shutil.which("nvidia-container-runtime-hook") is not None


def try_gpus(lab: Lab, n_trials: int) -> list[str]:
    """Have one worker more than there are GPUs, each in a container that sees all of them.

    Docker, Prefect's worker and who takes which GPU are real; the GPUs are a program that lists
    two. Docker hands out GPUs where it finds `nvidia-container-runtime-hook` when it starts, of
    NVIDIA's toolkit; without a GPU, `true` under that name will do.

    Returns:
        What is wrong.
    """
    print(f"\n{GPUS + 1} containers on {GPUS} GPUs, {GPU_TRIALS} trials", flush=True)
    if not has_gpus():
        return ["Docker has no GPUs to give: there is no nvidia-container-runtime-hook"]
    image = f"{lab.image}-gpus"
    recipe = _SMI.format(image=lab.image, numbers=" ".join(map(str, range(1, GPUS + 1))))
    lab.docker("build", "-q", "-t", image, "-", stdin=recipe)
    outside = Outside(lab, "outside")
    seen = _run_in_containers(
        lab,
        outside,
        image,
        *("gpus.py:problem", "--study", "gpus", "--trials", str(GPU_TRIALS)),
        *("--workers", str(GPUS + 1), "--resources", "gpus=1"),
    )
    history = lab.history("gpus")
    wrong, counts = find_wrong(history, {}, {}, GPU_TRIALS)
    print("  " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
    asked = [one for one in seen.values() if one["HostConfig"]["DeviceRequests"]]
    print(f"  {len(seen)} containers, of which {len(asked)} were given GPUs", flush=True)
    used: dict[float, list[Json]] = {}
    for trial in sorted(history["trials"], key=lambda one: one["began"]):
        used.setdefault(trial["value"], []).append(trial)
    print(f"  trials on each: { {gpu: len(trials) for gpu, trials in used.items()} }", flush=True)
    if used.keys() != {*map(float, range(1, GPUS + 1))}:
        wrong.append(f"trials ran on the GPUs {[*used]}")
    for gpu, trials in used.items():
        for one, next_one in pairwise(trials):
            if next_one["began"] < one["ended"]:
                wrong.append(f"trials {one['number']} and {next_one['number']} shared GPU {gpu}")
    return wrong


def _run_in_containers(lab: Lab, outside: Outside, image: str, *words: str) -> dict[str, Json]:
    """Deploy something to a pool for Docker, have Prefect's worker run it, and wait for its end.

    Returns:
        What Docker has said of each of its containers, by its id.
    """
    worker = Outside(lab, "docker-worker", extras="[docker]")
    outside.call("make-pool", POOL, "--type", "docker", "--image", image)
    volumes = _move_into_lab(lab)
    seen: dict[str, Json] = {}

    def look() -> Json | None:
        seen.update(_containers(lab))
        run = lab.ask(f"/flow_runs/{given['flow_run_id']}", "GET")
        over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return run if run["state_type"] in over else None

    began = time.monotonic()
    try:
        with worker.background("prefect", "worker", "start", "--pool", POOL):
            given = outside.call("deploy", *words, "--pool", POOL, "--run")
            run = _wait(look, "the study on Docker has ended", RUN_SECONDS)
    finally:
        if left := _containers(lab):
            lab.docker("rm", "--force", *left)
        for volume in volumes:
            with suppress(RuntimeError):  # nothing has run
                lab.docker("volume", "rm", volume)
    print(f"  {time.monotonic() - began:5.1f} s: {run['state_name']}", flush=True)
    return seen


def _move_into_lab(lab: Lab) -> list[str]:
    """Say in the pool how containers reach the lab, as people do in Prefect's UI.

    Returns:
        Volumes, to be removed; that of environments is not the one that this machine may have.
    """
    template = lab.ask(f"/work_pools/{POOL}", "GET")["base_job_template"]
    properties = template["variables"]["properties"]
    volume, _, place = properties["volumes"]["default"][0].partition(":")
    ours = f"{lab.project}-{volume.removeprefix(f'{lab.project}-')}"  # a pool may be renewed
    properties["networks"]["default"] = [f"{lab.project}_default"]
    properties["volumes"]["default"] = [f"{ours}:{place}", *lab.index.volumes]
    properties["env"]["default"] |= {
        **lab.index.variables,
        "PREFECT_API_URL": "http://prefect-server:4200/api",
    }
    lab.ask(f"/work_pools/{POOL}", "PATCH", base_job_template=template)
    return [ours, CLAIMS_VOLUME] if CLAIMS_VOLUME not in lab.docker("volume", "ls") else [ours]


def _containers(lab: Lab) -> dict[str, Json]:
    """What Docker says of each container that a flow run of the pool is in, by its id."""
    label = f"label=io.prefect.work-pool-name={POOL}"
    ids = lab.docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
    found: dict[str, Json] = {}
    for container in ids:
        with suppress(RuntimeError):  # it has ended meanwhile
            [found[container]] = json.loads(lab.docker("inspect", container))
    return found


def _built_once(lab: Lab) -> list[str]:
    """Whether one container has built the environment, and all others have found it."""
    runs = lab.ask("/flow_runs/filter", flow_runs={"name": {"like_": "boxes"}})
    logs = lab.ask("/logs/filter", logs={"flow_run_id": {"any_": [run["id"] for run in runs]}})
    built = [one["message"] for one in logs if "The environment was built in" in one["message"]]
    found = [one for one in logs if "The environment is there already" in one["message"]]
    print(f"  {'; '.join(built)}; found {len(found)} times", flush=True)
    if len(built) != 1 or not found:
        return [f"the environment was built {len(built)} times, and found {len(found)} times"]
    return []


def _come_to(lab: Lab, study: str) -> tuple[Json, dict[str, list[Json]]]:
    """What a study has come to, and what workers have computed of it."""
    history = lab.history(study)
    (lab.folder / f"{study}.json").write_text(json.dumps(history), encoding="utf-8")
    mine = {t["x"] for t in history["trials"]}
    return history, {
        container[:12]: [one for one in lab.notes(container) if one["x"] in mine]
        for container in lab.containers("worker")
    }


def _has_scikit_learn(lab: Lab) -> list[str]:
    """The containers in which scikit-learn is: then they have installed nothing."""
    wrong: list[str] = []
    for container in lab.containers("worker"):
        try:
            lab.docker("exec", container, "python", "-c", "import sklearn")
        except RuntimeError as error:
            if "No module named 'sklearn'" not in str(error):
                raise
        else:
            wrong.append(f"the worker {container[:12]} has scikit-learn already")
    return wrong


def _open_doors(lab: Lab) -> list[str]:
    """What is reached from outside beside Prefect: by the name in its block, or by a port here."""
    wrong: list[str] = []
    for service, port in (("redis-studies", 6379), ("store", 9000)):
        with suppress(OSError), socket.create_connection((service, port), timeout=3):
            wrong.append(f"{service} is reached from outside")
        published = [lab.docker("port", container) for container in lab.containers(service)]
        wrong += [f"{service} is reached from outside: {ports}" for ports in published if ports]
    return wrong


def _with_what(notes: Mapping[str, Sequence[Json]], version: str) -> list[str]:
    """What trials ran with, where that is not what was recorded, in an environment of its own."""
    wrong: list[str] = []
    for host, lines in notes.items():
        versions, prefixes = {one["sklearn"] for one in lines}, {one["prefix"] for one in lines}
        if versions != {version}:
            wrong.append(f"{host} ran with scikit-learn {versions}, and {version} was recorded")
        if len(prefixes) != 1 or not all("environments" in prefix for prefix in prefixes):
            wrong.append(f"{host} ran trials in {prefixes}")
    return wrong


def _again_by_schedule(lab: Lab, outside: Outside) -> list[str]:
    """Deploy a re-evaluation as the README does for each night, for each minute."""
    print(f"  the best {BEST} again, by schedule", flush=True)
    began = time.monotonic()
    deployed = outside.call(
        *("deploy-reevaluation", "fit", "--best", str(BEST), "--environment", "both", "--trusted"),
        *("--pool", "lab", "--cron", "* * * * *"),
    )
    try:
        run = _ended_run(lab, deployed["id"])
    finally:
        # With it go the runs that are scheduled for the next minutes.
        lab.ask(f"/deployments/{deployed['id']}", "DELETE")
    print(f"  {time.monotonic() - began:5.1f} s: {run['state_name']}", flush=True)
    wrong: list[str] = []
    if not run["auto_scheduled"]:
        wrong.append("the re-evaluation was not started by its schedule")
    if run["state_type"] != "COMPLETED":
        wrong.append(f"the re-evaluation is {run['state_name']}: {run['state']['message']}")
    key = {"key": {"any_": ["reevaluation-fit"]}}
    pages = lab.ask("/artifacts/filter", artifacts=key, sort="CREATED_DESC")
    page = pages[0]["data"] if pages else "none"
    if f"# {BEST} of {BEST} trials reproduced" not in page or page.count("✅ reproduced") < BEST:
        wrong.append(f"its page does not say that {BEST} trials are reproduced: {page[:1500]}")
    if "with the Python and the packages that were recorded" not in page:
        wrong.append("its page does not say that they ran with the recorded packages")
    return wrong


def _ended_run(lab: Lab, deployment: str) -> Json:
    """The first flow run of a deployment, once it has ended."""
    asked: dict[str, Any] = {"deployment_id": {"any_": [deployment]}}
    asked["state"] = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
    return _wait(
        lambda: next(iter(lab.ask("/flow_runs/filter", flow_runs=asked)), None),
        "the first run of the deployment has ended",
        RUN_SECONDS,
    )


def _wait(look: Callable[[], Json | None], what: str, seconds: float) -> Json:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (seen := look()) is not None:
            return seen
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not within {seconds:g} s")
