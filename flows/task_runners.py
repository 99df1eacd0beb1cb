"""Where task runs run: threads, processes, or whatever Prefect task runner somebody brings."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, Literal

from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from prefect_optuna.blocks.errors import InvalidSettingError

__all__ = ["RunnerName", "open_task_runner"]

RunnerName = Literal["threads", "processes"]


@contextlib.contextmanager
def open_task_runner(
    wanted: RunnerName | TaskRunner[Any] | None, n_jobs: int
) -> Generator[TaskRunner[Any]]:
    """Have a task runner ready, within a flow.

    Args:
        wanted: `"threads"`, `"processes"`, a Prefect task runner, or `None` for the flow's own.
        n_jobs: how many task runs there will be at once.

    Raises:
        InvalidSettingError: it is none of these.
    """
    if wanted is None:
        context = FlowRunContext.get()
        assert context is not None  # noqa: S101 - this is the flow
        yield context.task_runner
        return
    if wanted == "threads":
        # A lane ends while the next one begins.
        wanted = ThreadPoolTaskRunner(max_workers=2 * n_jobs)
    elif wanted == "processes":
        wanted = ProcessPoolTaskRunner(max_workers=n_jobs)
    elif not isinstance(wanted, TaskRunner):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSettingError(
            f"`task_runner` is `threads`, `processes` or a Prefect task runner; found {wanted!r}."
        )
    with wanted.duplicate() as runner:
        yield runner
