"""Tasks that take their scope along, on Prefect's real runners and a real server."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from servers import running, wait_until

from prefect_optuna.tasks.scope import (
    SCOPE,
    SCOPE_ARGUMENT,
    InvalidParameterError,
    ScopedTask,
    auto_param,
    capture,
    param_scope,
    scoped_task,
)

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    param_scope.warn_unread(False)
    yield
    param_scope.warn_unread(True)


@auto_param
def simulate(dt: float = 1.0) -> float:
    return dt


@scoped_task
def work(x: int = 0) -> tuple[int, float, Any]:
    param_scope.written = x
    return x, simulate(), param_scope.seed(None)


@scoped_task
async def async_work(x: int = 0) -> tuple[int, float, Any]:
    await asyncio.sleep(0)
    return x, simulate(), param_scope.seed(None)


attempts: dict[str, list[Any]] = {}


@scoped_task(retries=2)
def flaky(name: str) -> list[Any]:
    seen = attempts.setdefault(name, [])
    seen.append((param_scope.n(0), param_scope.written("no")))
    param_scope.written = "yes"
    if len(seen) < 3:
        raise ValueError("again")
    return seen


def every_way() -> list[Any]:
    """Submit, map and submit again under other scopes; the scopes have ended before the result."""
    with param_scope("simulate.dt=0.1", seed="a"):
        first = [work.submit(1), *work.map([2, 3]), async_work.submit(4)]
    with param_scope("simulate.dt=0.2", seed="b"):
        second = [work.with_options(name="renamed").submit(5), work.submit(x=6)]
    return [future.result() for future in [*first, *second, work.submit(7)]]


EVERY_WAY = [
    (1, 0.1, "a"),
    (2, 0.1, "a"),
    (3, 0.1, "a"),
    (4, 0.1, "a"),
    (5, 0.2, "b"),
    (6, 0.2, "b"),
    (7, 1.0, None),
]


def test_on_threads_a_task_runs_in_the_scope_of_its_submission() -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
    def study() -> Any:
        return every_way()

    assert study() == EVERY_WAY


def lambda_scope() -> list[Any]:
    """What only a pickle by value can carry, and what none can."""
    with param_scope(seed=lambda: 42):
        called = work.submit(1).result()[2]()
    with param_scope(model={"lock": threading.Lock()}):
        future = work.submit(2)
    with pytest.raises(InvalidParameterError, match=r"'model\.lock' cannot travel"):
        future.result()
    return called


@pytest.mark.slow
def test_in_a_process_pool_as_well() -> None:
    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def study() -> Any:
        return every_way(), lambda_scope()

    assert study() == (EVERY_WAY, 42)


@pytest.mark.slow
def test_on_dask_as_well() -> None:
    from prefect_dask import DaskTaskRunner

    runner = DaskTaskRunner(
        cluster_kwargs={"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    )

    @flow(task_runner=runner)
    def study() -> Any:
        return every_way()

    before = set(psutil.Process().children(recursive=True))
    assert study() == EVERY_WAY
    left = set(psutil.Process().children(recursive=True)) - before
    psutil.wait_procs(left, timeout=10)
    assert not [p for p in left if p.is_running() and "resource_tracker" not in str(p.cmdline())]


def test_called_directly_a_task_runs_in_the_scope_around_it_and_writes_for_itself() -> None:
    @flow
    def study() -> Any:
        with param_scope("simulate.dt=0.1"):
            return work(1), param_scope.written("no"), work.fn(2), asyncio.run(async_work(3))

    assert study()[:2] == ((1, 0.1, None), "no")
    with param_scope("simulate.dt=0.5"):
        assert work(1) == (1, 0.5, None), "outside of a flow"


def test_what_a_task_reads_on_a_thread_is_recorded_where_it_was_submitted() -> None:
    @flow
    def study() -> Any:
        with param_scope("simulate.dt=0.1"), param_scope.recording() as used:
            work.submit(1).result()
        return used

    assert study() == {"simulate.dt": 0.1, "seed": None}


def test_a_retry_starts_with_the_scope_of_the_submission() -> None:
    @flow
    def study() -> Any:
        with param_scope(n=5):
            future = flaky.submit("retried")
        with param_scope(n=6):
            return future.result()

    assert study() == [(5, "no")] * 3


def test_generator_tasks_run_in_the_scope_of_the_call() -> None:
    @scoped_task
    def several(n: int) -> Generator[Any]:
        for number in range(n):
            yield number, simulate()

    @flow
    def study() -> Any:
        with param_scope("simulate.dt=0.1"):
            items = several(2)
            first = next(items)
        with param_scope("simulate.dt=0.2"):
            return [first, *items]

    assert study() == [(0, 0.1), (1, 0.1)]


@pytest.mark.slow
def test_hundreds_of_tasks_at_once_never_mix_their_scopes() -> None:
    together = threading.Barrier(16)

    @scoped_task
    def overlapping(number: int) -> bool:
        if number < 16:
            together.wait(30)
        seen = []
        for step in range(20):
            param_scope.step = step
            with param_scope(inner=number):
                time.sleep(0)
                seen.append((param_scope.n(-1), param_scope.inner(-1), param_scope.step(-1)))
        return seen == [(number, number, step) for step in range(20)]

    @scoped_task
    async def asynchronous(number: int) -> bool:
        seen = []
        for step in range(20):
            param_scope.step = step
            await asyncio.sleep(0)
            seen.append((param_scope.n(-1), param_scope.step(-1)))
        return seen == [(number, step) for step in range(20)]

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=16))
    def threads() -> list[bool]:
        futures: list[PrefectFuture[bool]] = []
        for number in range(200):
            with param_scope(n=number):
                futures.append(overlapping.submit(number))
        return [future.result() for future in futures]

    @flow
    async def tasks() -> list[bool]:
        running = []
        for number in range(100):
            with param_scope(n=number):
                running.append(asynchronous(number))
        return await asyncio.gather(*running)

    assert threads() == [True] * 200
    assert asyncio.run(tasks()) == [True] * 100


def test_a_result_is_used_again_under_the_same_scope_only(tmp_path: Path) -> None:
    calls: list[Any] = []

    def simulated(x: int) -> float:
        calls.append((x, simulate()))
        return simulate()

    def study(policy: Any, make: Callable[..., Any] = scoped_task) -> list[float]:
        cached = make(cache_policy=policy, result_storage=tmp_path)(simulated)

        @flow
        def inner() -> list[float]:
            results = []
            for dt in (0.1, 0.2, 0.1):
                with param_scope(**{"simulate.dt": dt}):
                    results.append(cached(1))
            return results

        return inner()

    assert study(INPUTS + SCOPE) == [0.1, 0.2, 0.1]
    assert calls == [(1, 0.1), (1, 0.2)]
    assert study(SCOPE + INPUTS) == [0.1, 0.2, 0.1]
    assert study(TASK_SOURCE + SCOPE) == [0.1, 0.2, 0.1]
    calls.clear()
    assert study(INPUTS + TASK_SOURCE) == [0.1, 0.1, 0.1], "INPUTS alone takes no notice"
    assert study(INPUTS + SCOPE, make=task) == [0.1, 0.2, 0.1], "a plain task, called directly"


@pytest.mark.slow
def test_a_delayed_task_runs_in_its_scope_in_whoever_serves_it(tmp_path: Path) -> None:
    module = tmp_path / "background.py"
    module.write_text(
        """if True:
        from prefect_optuna.tasks.scope import param_scope, scoped_task

        @scoped_task(persist_result=True)
        def without_parameters():
            return param_scope.n(0)

        @scoped_task(persist_result=True)
        async def later(x, factor=2):
            return x, param_scope.n(0) * factor

        if __name__ == "__main__":
            from prefect.task_worker import serve
            serve(without_parameters, later)
        """
    )
    background = load(module)
    futures = []
    for n in (3, 4):
        with param_scope(n=n):
            futures += [background.without_parameters.delay(), background.later.delay(n)]
    with param_scope(n=5):
        futures += background.later.map([1, 2], deferred=True)
    with running([sys.executable, str(module)], tmp_path / "serve.log"):
        for future in futures:
            future.wait(timeout=30)
    assert [f.state.result() for f in futures] == [3, (3, 6), 4, (4, 8), (1, 10), (2, 10)]


@pytest.mark.slow
def test_in_a_worker_a_deployment_runs_its_tasks_in_their_scope(tmp_path: Path) -> None:
    (tmp_path / "deployed.py").write_text(
        """if True:
        from pathlib import Path
        from prefect import flow
        from prefect_optuna.tasks.scope import auto_param, param_scope, scoped_task

        @auto_param
        def simulate(dt=1.0):
            return dt

        @scoped_task
        def work(x):
            return x, simulate(), str(param_scope.explain("simulate.dt").origin)

        @flow
        def study(scope: dict, target: str):
            with param_scope.labelled(scope, origin="deployment"):
                futures = work.map([1, 2])
            Path(target).write_text(repr(futures.result()))
        """
    )
    from prefect.client.schemas.actions import WorkPoolCreate

    target = tmp_path / "result.txt"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="scopes", type="process"))
        source = flow.from_source(source=str(tmp_path), entrypoint="deployed.py:study")
        deployment = source.deploy(
            "scopes", work_pool_name="scopes", build=False, print_next_steps=False
        )
        parameters = {"scope": {"simulate": {"dt": "0.25"}}, "target": str(target)}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "scopes"]
        log = tmp_path / "worker.log"
        with running([*command, "--type", "process", "--run-once"], log) as worker:

            def ended() -> bool:
                state = client.read_flow_run(run.id).state
                return bool(state and state.is_final()) or worker.poll() is not None

            wait_until(ended, what="the flow run ends", every=0.2)
            worker.wait(30)
    assert target.exists(), log.read_text()
    assert target.read_text() == repr([(1, 0.25, "deployment"), (2, 0.25, "deployment")])


def load(path: Path) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_scoped_task_is_a_task_like_any_other() -> None:
    @scoped_task(name="named", tags={"x"})
    def named(a: int, *rest: int, b: int = 2, **more: int) -> Any:
        """What it does."""
        return a, rest, b, more, param_scope.n(0)

    @flow
    def study() -> Any:
        with param_scope(n=7):
            return named(1, 2, c=3), named.submit(1, b=4).result()

    assert study() == ((1, (2,), 2, {"c": 3}, 7), (1, (), 4, {}, 7))
    assert (named.name, named.tags, named.description) == ("named", {"x"}, "What it does.")
    again = named.with_options(retries=3)
    assert isinstance(again, ScopedTask)
    assert (again.retries, named.retries, again.name) == (3, 0, "named")
    assert again.task_key == named.task_key
    assert isinstance(copy.copy(named), ScopedTask)
    plain = task(named.fn.__wrapped__)
    assert named.task_key == plain.task_key
    assert (named.isasync, async_work.isasync) == (False, True)
    assert inspect.iscoroutinefunction(async_work.fn)


def test_a_task_runner_that_is_handed_the_task_is_given_the_scope_with_the_parameters() -> None:
    @flow
    def study() -> Any:
        with param_scope("simulate.dt=0.1"), ThreadPoolTaskRunner() as runner:
            parameters = {"x": 1, SCOPE_ARGUMENT: capture()}
        with ThreadPoolTaskRunner() as runner:
            return runner.submit(work, parameters).result()

    assert study() == (1, 0.1, None)


def test_methods_can_be_scoped_tasks() -> None:
    class Model:
        scale = 3

        @scoped_task
        def run(self, x: int) -> float:
            return self.scale * x * simulate()

    @flow
    def study() -> float:
        with param_scope("simulate.dt=0.5"):
            return Model().run(2)

    assert study() == 3.0


def test_a_parameter_of_the_reserved_name_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match=r"f has a parameter '_param_scope'"):

        @scoped_task
        def f(_param_scope: int) -> None:
            pass


def test_mapping_over_one_argument_leaves_the_others_alone() -> None:
    @scoped_task
    def pair(a: int, b: list[int]) -> Any:
        return a, b, param_scope.n(0)

    @flow
    def study() -> Any:
        with param_scope(n=1):
            return pair.map([1, 2], unmapped([3, 4])).result()

    assert study() == [(1, [3, 4], 1), (2, [3, 4], 1)]
