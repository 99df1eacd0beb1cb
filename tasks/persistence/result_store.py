"""Results of task runs as files of their own: looked up, saved, and never lost.

Prefect's own result store writes when the run has ended already, under a name that was fixed
before, and only logs what goes wrong. This one takes its place for the length of a run. It saves
while the run can still fail, and lets the handler choose the number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from prefect.filesystems import LocalFileSystem
from prefect.logging import get_run_logger
from prefect.results import (
    ResultRecord,  # pyright: ignore[reportPrivateImportUsage]
    ResultRecordMetadata,  # pyright: ignore[reportPrivateImportUsage]
    ResultStore,
    get_default_result_serializer,
)
from prefect.transactions import get_transaction
from pydantic import PrivateAttr

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.errors import (
    ArtifactNotFoundError,
    FileOfOthersError,
    InvalidLocationError,
    InvalidPersistenceClassError,
    PersistenceError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.arrow_handler import ArrowHandler
from prefect_optuna.tasks.persistence.fields import missing


class PersistedResultStore(ResultStore):
    """The result store of one run of a persisted task; made by `PersistenceCachePolicy`."""

    _plain: ResultStore = PrivateAttr()
    _handler: ArrowHandler[Any] | None = PrivateAttr(default=None)
    _asked: dict[str, Any] = PrivateAttr(default_factory=dict)
    _fingerprint: str | None = PrivateAttr(default=None)
    _lifetime: timedelta | None = PrivateAttr(default=None)
    _problem: Exception | None = PrivateAttr(default=None)
    _hit: ResultRecord[Any] | None = PrivateAttr(default=None)

    @classmethod
    def over(
        cls,
        plain: ResultStore,
        handler: ArrowHandler[Any] | None,
        asked: Mapping[str, Any],
        *,
        fingerprint: str | None = None,
        lifetime: timedelta | None = None,
        problem: Exception | None = None,
    ) -> PersistedResultStore:
        """Make one."""
        store = cls(**{name: getattr(plain, name) for name in ResultStore.model_fields})
        store._plain = plain
        store._handler = handler
        store._asked = dict(asked)
        store._fingerprint = fingerprint
        store._lifetime = lifetime
        store._problem = problem
        return store

    def exists(self, key: str) -> bool:
        """Look for a file that holds what the run would compute."""
        if self._problem is not None:
            raise self._problem
        handler = self._own_handler()
        counts = handler.persistence_info.autoinc_field is not None
        for name in self._candidates(handler):
            try:
                reason = self._read_hit(handler, name)
            except ArtifactNotFoundError:
                continue
            except (FileOfOthersError, WrongPersistenceClassError) as error:
                if not counts:  # it is in the way, and is not ours to replace
                    raise
                reason = str(error)
            except PersistenceError as error:
                reason = str(error)
            if reason is None:
                return True
            get_run_logger().warning(
                "%s is not used again: %s", handler.artifacts.location(name), reason
            )
        return False

    async def aexists(self, key: str) -> bool:
        """Look for a file that holds what the run would compute."""
        return await asyncio.to_thread(self.exists, key)

    def read(self, key: str, holder: str | None = None) -> ResultRecord[Any]:
        """Return what `exists` has found."""
        if self._hit is None:
            raise ArtifactNotFoundError(f"No file of {key!r} has been found.")
        return self._hit

    async def aread(self, key: str, holder: str | None = None) -> ResultRecord[Any]:
        """Return what `exists` has found."""
        return self.read(key)

    def create_result_record(
        self, obj: Any, key: str | None = None, expiration: Any = None
    ) -> ResultRecord[Any]:
        """Save the object that the task has returned."""
        if isinstance(obj, BaseException):  # the run has failed
            return self._plain.create_result_record(obj, key=key, expiration=expiration)
        if self._problem is not None:
            raise self._problem
        handler = self._own_handler()
        if not isinstance(obj, handler.persistence_class):
            raise InvalidPersistenceClassError(
                f"The task is persisted as {handler.persistence_info.cls_name}, and has returned a "
                f"{type(obj).__name__}. Return an object of that class."
            )
        counter = handler.persistence_info.autoinc_field
        if counter is not None and getattr(obj, counter.field_name, None) is None:
            number = self._asked[counter.field_name]
            setattr(obj, counter.field_name, None if number is missing else number)
        handler.check_found(self._asked, obj)
        handler.save_persistence(obj)
        name = handler.filename(obj)
        if (transaction := get_transaction()) is not None:
            remove = partial(_remove, handler.artifacts, name)
            remove.log_on_run = False  # pyright: ignore[reportAttributeAccessIssue]
            transaction.on_rollback_hooks.append(remove)
        return self._record(handler, name, obj, expiration)

    def persist_result_record(
        self, result_record: ResultRecord[Any], holder: str | None = None
    ) -> None:
        """Nothing: the file is there already. What a failed run has raised is not kept."""

    async def apersist_result_record(
        self, result_record: ResultRecord[Any], holder: str | None = None
    ) -> None:
        """Nothing: the file is there already. What a failed run has raised is not kept."""

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Any:
        """The plain store: the tasks that this one calls keep their results as ever."""
        update = {"serializer": get_default_result_serializer(), **(update or {})}
        return self._plain.model_copy(update=update, deep=deep)

    def _own_handler(self) -> ArrowHandler[Any]:
        assert self._handler is not None, "there is a handler unless there is a problem"  # noqa: S101
        return self._handler

    def _candidates(self, handler: ArrowHandler[Any]) -> list[str]:
        info = handler.persistence_info
        if any(self._asked[field.field_name] is missing for field in info.fields if field.filename):
            return handler.names(**self._asked)[::-1]  # the newest first
        return [handler.filename(**self._asked)]

    def _read_hit(self, handler: ArrowHandler[Any], name: str) -> str | None:
        """Read a file; returns why it is no hit, or `None`."""
        if self._lifetime is not None:
            age = datetime.now(UTC) - handler.artifacts.info(name).modified
            if age > self._lifetime:
                return f"it is {age} old, and cache_expiration is {self._lifetime}"
        container = handler.opened(name)
        if self._fingerprint not in (None, container.header.get("fingerprint")):
            return "the code or a dependency has changed since"
        accepted = handler.accepted(container, name, self._asked)
        self._hit = self._record(handler, name, accepted, None)
        return None

    def _record(
        self, handler: ArrowHandler[Any], name: str, obj: Any, expiration: Any
    ) -> ResultRecord[Any]:
        block = self.result_storage_block_id
        metadata = ResultRecordMetadata(
            # Without a saved block, Prefect finds the file by its absolute path.
            storage_key=name if block else handler.artifacts.location(name),
            storage_block_id=block,
            serializer=self.serializer,
            expiration=expiration,
        )
        record: ResultRecord[Any] = ResultRecord(metadata=metadata, result=obj)
        record.mark_persisted()
        return record


def artifacts_of(store: ResultStore) -> ArtifactFileSystem:
    """The artifact filesystem of a result store."""
    storage = store.result_storage
    if isinstance(storage, ArtifactFileSystem):
        return storage
    if isinstance(storage, LocalFileSystem):
        return ArtifactFileSystem(url=str(Path(storage.basepath or ".").expanduser()))
    raise InvalidLocationError(
        f"Expected an ArtifactFileSystem or a folder as the result storage of a persisted task, "
        f"found {type(storage).__name__}, which cannot create a file exclusively."
    )


def _remove(artifacts: ArtifactFileSystem, name: str, _: Any) -> None:
    """Remove the file of a transaction that is rolled back."""
    if artifacts.exists(name):
        artifacts.rm(name)
