"""Ray and Dask: where they are, what their workers have, and what of it a trial gets."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

from prefect.task_runners import TaskRunner

from prefect_optuna.blocks.errors import InvalidSettingError
from prefect_optuna.tasks.machine import Machine
from prefect_optuna.tasks.resources import Resources

ClusterName = Literal["dask", "ray"]

_ADDRESSES = {"dask": "DASK_SCHEDULER_ADDRESS", "ray": "RAY_ADDRESS"}
_OF_DASK = ("CPU", "MEMORY", "GPU")


def make_cluster_runner(name: ClusterName, n_jobs: int) -> TaskRunner[Any]:
    """The task runner of a cluster: the one that its variable names, or one on this machine.

    Raises:
        InvalidSettingError: the package is not installed here.
    """
    try:
        module: Any = importlib.import_module(f"prefect_{name}")
    except ImportError as error:
        raise InvalidSettingError(
            f"task_runner={name!r} needs a package that is not installed here ({error}): "
            f"pip install 'prefect-optuna[{name}]'."
        ) from None
    address = os.environ.get(_ADDRESSES[name])
    if name == "ray":
        here = Machine.here()
        own = {"num_gpus": len(here.gpus), "include_dashboard": False}
        return module.RayTaskRunner(address=address, init_kwargs={} if address else own)
    own = {"n_workers": n_jobs, "threads_per_worker": 1, "dashboard_address": None}
    return module.DaskTaskRunner(address=address, cluster_kwargs=None if address else own)


class ClusterRunner(TaskRunner[Any]):
    """A task runner of Ray or Dask, whose task runs each have the resources of a trial."""

    def __init__(self, runner: TaskRunner[Any], needs: Resources) -> None:
        super().__init__()
        self._runner = runner
        self._needs = needs
        self._is_ray = type(runner).__module__.startswith("prefect_ray")
        if self._is_ray:
            _require(needs, _ray_workers(), "Ray cluster", "")
        else:
            _require(needs, _dask_workers(runner, needs), "Dask cluster", _DECLARE)

    def duplicate(self) -> ClusterRunner:
        """One like this, on the same cluster."""
        return ClusterRunner(self._runner, self._needs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Have a task run where its resources are free."""
        with self._asking():
            return self._runner.submit(*args, **kwargs)

    @contextlib.contextmanager
    def _asking(self) -> Generator[None]:
        cpus, memory, gpus = self._needs.cpus, self._needs.memory_bytes, self._needs.gpus
        if self._is_ray:
            around: Any = importlib.import_module("prefect_ray.context").remote_options(
                num_gpus=gpus,
                **({} if cpus is None else {"num_cpus": cpus}),
                **({} if memory is None else {"memory": memory}),
            )
        else:
            wanted = zip(_OF_DASK, (cpus, memory, gpus), strict=True)
            dask: Any = importlib.import_module("dask")
            around = dask.annotate(resources={name: value for name, value in wanted if value})
        with around:
            yield


def is_cluster(runner: TaskRunner[Any]) -> bool:
    """Tell whether task runs go to Ray or Dask."""
    return type(runner).__module__.startswith(("prefect_ray", "prefect_dask"))


_DECLARE = (
    " Its workers say by themselves what they have: dask worker ADDRESS --nthreads 4 "
    "--resources 'CPU=4 MEMORY=16e9 GPU=1'."
)


def _require(needs: Resources, workers: Sequence[Machine], what: str, hint: str) -> None:
    if any(worker.room(needs) != 0 for worker in workers):
        return
    have = "; ".join(sorted({str(worker) for worker in workers})) or "no worker at all"
    raise InvalidSettingError(
        f"A trial wants {needs}, and no worker of the {what} has that. They have: {have}.{hint}"
    )


def _ray_workers() -> list[Machine]:
    ray: Any = importlib.import_module("ray")
    nodes = [node["Resources"] for node in ray.nodes() if node.get("Alive", node.get("alive"))]
    return [
        _machine(node.get("CPU", 0), node.get("memory", 0), node.get("GPU", 0)) for node in nodes
    ]


def _dask_workers(runner: Any, needs: Resources) -> list[Machine]:
    client = runner.client
    client.wait_for_workers(1, timeout=60)
    workers: Mapping[str, Mapping[str, Any]] = client.scheduler_info()["workers"]
    if runner.address is None and not any(worker["resources"] for worker in workers.values()):
        # A cluster of this run alone, on this machine.
        here = Machine.here()
        for place, address in enumerate(sorted(workers)):
            own = (len(here.gpus) - place + len(workers) - 1) // len(workers)
            # One trial at a time in each process that has GPUs: its threads would share them.
            client.run(
                _declare,
                cpus=here.cpus / len(workers),
                memory=here.memory // len(workers),
                gpus=min(own, max(needs.gpus, 1)) if needs.gpus else 0,
                workers=[address],
            )
        workers = client.scheduler_info()["workers"]
    for address, w in workers.items():
        gpus = w["resources"].get("GPU", 0)
        if needs.gpus and w["nthreads"] > 1 and gpus >= needs.gpus + max(needs.gpus, 1):
            raise InvalidSettingError(
                f"The Dask worker {address} has {gpus:g} GPUs and {w['nthreads']} threads: its "
                "trials would see the same GPUs. Start a worker for each of them: dask worker "
                f"ADDRESS --nworkers {gpus:g} --nthreads 1 --resources 'GPU={needs.gpus:g}'."
            )
    return [
        _machine(*(one["resources"].get(name, 0) for name in _OF_DASK)) for one in workers.values()
    ]


async def _declare(dask_worker: Any, cpus: float, memory: float, gpus: float) -> None:
    """Runs in a Dask worker: say what it has."""
    await dask_worker.set_resources(CPU=cpus, MEMORY=memory, GPU=gpus)


def _machine(cpus: float, memory: float, gpus: float) -> Machine:
    """A worker's amounts; which of its GPUs is which, it knows."""
    whole = {str(number): 1.0 for number in range(int(gpus))}
    return Machine(cpus, int(memory), whole | ({"part": gpus % 1} if gpus % 1 else {}))
