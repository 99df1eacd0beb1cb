"""Prefect's cache policy by which a task's result is found by the keys of its class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from prefect.cache_policies import TASK_SOURCE, CachePolicy

from prefect_optuna.blocks import ArtifactFileSystem, InvalidSettingError
from prefect_optuna.errors import InvalidPersistenceClassError, UnsetFieldError
from prefect_optuna.tasks.persistence.arrow_handler import ArrowHandler, ZstdHandler
from prefect_optuna.tasks.persistence.fields import missing
from prefect_optuna.tasks.persistence.info import ensure_persistence_class
from prefect_optuna.tasks.persistence.result_store import PersistedResultStore, artifacts_of

if TYPE_CHECKING:
    from prefect.context import TaskRunContext


@dataclass
class PersistenceCachePolicy(CachePolicy):
    """A result is used again if the parameters that are keys of its class have the same values.

    The key is the name of its file; files that were saved by hand count as well. With an
    auto-increment field, the newest file is the hit.

    Args:
        data_cls: the persistence class that the task returns.
        compression: a level of zstd, such as -1 or 3, to compress the files, or `None`.
        lazy: whether arrays of a file that is used again are read when they are asked for.
        code: whether the source of the task has to be the same.
        dependencies: distributions whose versions have to be the same, such as `("numpy",)`.

    Example:
        >>> from prefect_optuna.tasks.persistence import PersistenceCachePolicy, field
        >>> from prefect_optuna.tasks.persistence import persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        >>> PersistenceCachePolicy(data_cls=Session).compute_key(None, {"animal": "lynx"}, {})
        'cache-Session-lynx.arrow'
    """

    data_cls: type | None = None
    compression: int | None = None
    lazy: bool = False
    code: bool = False
    dependencies: tuple[str, ...] = ()

    def compute_key(
        self,
        task_ctx: TaskRunContext | None,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The key of a run, and the result store by which it is looked up and saved.

        Args:
            task_ctx: the run.
            inputs: its parameters.
            flow_parameters: not used.
            kwargs: not used.

        Returns:
            The name of the file, with `*` in place of a number that is not chosen yet.
        """
        try:
            asked = self._asked(inputs)
            if task_ctx is None:
                return self._name(asked)
            fingerprint = self._fingerprint(task_ctx)
            handler = self._handler(artifacts_of(task_ctx.result_store), fingerprint)
            name = self._name(asked)
        except Exception as error:  # Prefect would log it, and go on without a result
            if task_ctx is None:
                raise
            task_ctx.result_store = PersistedResultStore.over(
                task_ctx.result_store, None, {}, problem=error
            )
            return "invalid"
        task_ctx.result_store = PersistedResultStore.over(
            task_ctx.result_store,
            handler,
            asked,
            fingerprint=fingerprint,
            lifetime=task_ctx.task.cache_expiration,
        )
        return name

    def __add__(self, other: CachePolicy) -> CachePolicy:
        """Refuse: the name of the file is the key, and has no room for another one."""
        raise InvalidSettingError(
            f"{type(self).__name__} cannot be combined with {type(other).__name__}: the key of a "
            "persisted result is the name of its file. Make what has to differ a field of the "
            "class, or use code=True and dependencies=(...)."
        )

    def _asked(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each key: a parameter of the task, a default, or any."""
        info = ensure_persistence_class(self._class)
        asked: dict[str, Any] = {}
        for field in info.fields:
            name = field.field_name
            if field.filename is False and field.validator is False:
                continue
            value = inputs.get(name, field.default)
            if field.autoinc and value is None:
                value = missing
            if value is missing and field.filename is not False and not field.autoinc:
                raise UnsetFieldError(
                    f"{info.cls_name}.{name} is a part of the file name, and the task has no "
                    f"parameter {name!r}. Expected parameters for all of "
                    f"{', '.join(f.field_name for f in info.fields if f.filename)}, found "
                    f"{', '.join(inputs) or 'none'}."
                )
            asked[name] = value
        return asked

    def _name(self, asked: Mapping[str, Any]) -> str:
        return ensure_persistence_class(self._class).filename(**asked) + ArrowHandler.ext

    def _handler(self, artifacts: ArtifactFileSystem, fingerprint: str | None) -> ArrowHandler[Any]:
        header = {"fingerprint": fingerprint} if fingerprint else None
        if self.compression is None:
            return ArrowHandler(self._class, artifacts, lazy=self.lazy, header=header)
        return ZstdHandler(
            self._class, artifacts, None, self.compression, lazy=self.lazy, header=header
        )

    @property
    def _class(self) -> type:
        if self.data_cls is None:
            raise InvalidPersistenceClassError(
                "Expected PersistenceCachePolicy(data_cls=...), the class that the task returns."
            )
        return self.data_cls

    def _fingerprint(self, task_ctx: TaskRunContext) -> str | None:
        parts = [f"{name}=={metadata.version(name)}" for name in sorted(self.dependencies)]
        if self.code:
            parts.append(TASK_SOURCE.compute_key(task_ctx, {}, {}) or "")
        if not parts:
            return None
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
