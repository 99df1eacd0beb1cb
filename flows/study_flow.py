"""A Prefect flow whose parameters may be problems, samplers and blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect.flows import Flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import BaseModel

from prefect_optuna.blocks import ArtifactFileSystem, StudyStorage
from prefect_optuna.tasks.problem import Problem

__all__ = ["StudyFlow", "study_flow"]

P = ParamSpec("P")
R = TypeVar("R")


class StudyFlow(Flow[P, R]):
    """A flow that is called with live objects, and recorded with words for them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow here.

        Prefect's flow heartbeat serves automations that watch deployed runs, which do not come
        this way; its thread takes a second to end, and a study may take less.
        """
        # Sets up Prefect's logging. `from prefect import flow` imports it, too; here it waits for
        # the first call, since it takes as long as importing this package.
        importlib.import_module("prefect.main")

        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return super().__call__(*args, **kwargs)

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as the server records them: no contents of contexts, no secrets."""
        return {name: _describe(value) for name, value in parameters.items()}


def study_flow(
    *, name: str, flow_run_name: str | Callable[[], str]
) -> Callable[[Callable[P, R]], StudyFlow[P, R]]:
    """Make a function a `StudyFlow`, as `prefect.flow` makes one a `Flow`.

    Args:
        name: the flow's name.
        flow_run_name: the name of its runs, as Prefect takes it.
    """

    def decorate(function: Callable[P, R]) -> StudyFlow[P, R]:
        return StudyFlow(function, name=name, flow_run_name=flow_run_name)

    return decorate


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Problem):
        return f"{value.name} (Problem)"
    if isinstance(value, StudyStorage):
        return value.location
    if isinstance(value, ArtifactFileSystem):
        return value.location()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_describe(item) for item in value]
    return getattr(value, "__qualname__", None) or type(value).__name__
