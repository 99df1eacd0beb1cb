"""`persisted`: results of Prefect tasks as files of their own, looked up and never lost."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from prefect.cache_policies import TASK_SOURCE, CachePolicy
from prefect.filesystems import LocalFileSystem
from prefect.logging import get_run_logger
from prefect.results import (
    ResultRecord,  # pyright: ignore[reportPrivateImportUsage]
    ResultRecordMetadata,  # pyright: ignore[reportPrivateImportUsage]
    ResultStore,
    get_default_result_serializer,
)
from prefect.serializers import Serializer
from prefect.transactions import get_transaction
from pydantic import Field, PrivateAttr

from prefect_optuna.blocks import ArtifactFileSystem, InvalidSettingError, as_artifact_filesystem
from prefect_optuna.errors import (
    FileOfOthersError,
    InvalidPersistenceClassError,
    PathNotFoundError,
    PersistenceError,
    UnsetFieldError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.container import (
    Container,
    header_of,
    object_of,
    to_be_saved,
    write_container,
)
from prefect_optuna.tasks.persistence.handler import ArrowHandler, ZstdHandler
from prefect_optuna.tasks.persistence.info import (
    CLASSES,
    PersistentClass,
    Storage,
    ensure_persistence_class,
    is_folder,
    missing,
)

if TYPE_CHECKING:
    from prefect.context import TaskRunContext

# Results of task runs as files of their own: looked up, saved, and never lost.
#
# Prefect's own result store writes when the run has ended already, under a name that was fixed
# before, and only logs what goes wrong. This one takes its place for the length of a run. It
# saves while the run can still fail, and lets the handler choose the number.


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
            except PathNotFoundError:
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
            raise PathNotFoundError(f"No file of {key!r} has been found.")
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
    raise InvalidSettingError(
        f"Expected an ArtifactFileSystem or a folder as the result storage of a persisted task, "
        f"found {type(storage).__name__}, which cannot create a file exclusively."
    )


def _remove(artifacts: ArtifactFileSystem, name: str, _: Any) -> None:
    """Remove the file of a transaction that is rolled back."""
    if artifacts.exists(name):
        artifacts.rm(name)


# Prefect's cache policy by which a task's result is found by the keys of its class.


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


# Prefect's serializer for objects of persistence classes.


class PersistenceSerializer(Serializer):
    """Serializes objects of persistence classes as the Arrow files that `ArrowHandler` writes.

    The bytes are no text, so that it can serialize the results of flows, and of tasks with
    `persisted`; for other results of tasks Prefect wraps what it is given into JSON.

    Example:
        >>> from prefect_optuna.tasks.persistence import PersistenceSerializer, field
        >>> from prefect_optuna.tasks.persistence import persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        >>> serializer = PersistenceSerializer()
        >>> serializer.loads(serializer.dumps(Session("lynx")))
        Session{animal=lynx}
    """

    type: str = Field(default="persistence", frozen=True)
    module: str | None = Field(
        default=None,
        description="The module of the class, which is imported if the class is not known yet.",
    )

    def dumps(self, obj: Any) -> bytes:
        """Encode an object.

        Args:
            obj: an object of a persistence class.

        Returns:
            An Arrow file.

        Raises:
            InvalidPersistenceClassError: it is none.
            UnsetFieldError: a field is not set; names it.
            UnsupportedValueError: a value cannot be held; names the field.
        """
        info = ensure_persistence_class(obj)
        file = io.BytesIO()
        values = to_be_saved(obj, "the result of a run")
        write_container(file, values, header_of(info), where=f"{info.cls_name}.")
        return file.getvalue()

    def loads(self, blob: bytes) -> Any:
        """Decode an object.

        Args:
            blob: what `dumps` returned, or the content of a file of `ArrowHandler`.

        Returns:
            The object.

        Raises:
            CorruptPersistenceError: this is no such file.
            WrongPersistenceClassError: its class is not known here.
            SchemaChangedError: its class has changed.
        """
        container = Container(blob, "the result of a run")
        return object_of(self._info(container.header), container)

    def _info(self, header: dict[str, Any]) -> PersistentClass[Any]:
        home = header.get("home", "")
        if home not in CLASSES and self.module is not None:
            try:
                importlib.import_module(self.module)
            except ImportError as error:
                raise WrongPersistenceClassError(
                    f"The result is of the class {home}, and its module {self.module} cannot be "
                    f"imported: {error}. Put the class into a module that this process can import."
                ) from error
        cls = CLASSES.get(home)
        if cls is None:
            raise WrongPersistenceClassError(
                f"The result is of the class {home}, which this process does not know. Import the "
                "module of the class first."
            )
        return ensure_persistence_class(cls)


class PersistedOptions(TypedDict):
    """The options of a task, for `@task(**persisted(...))`."""

    persist_result: bool
    result_storage: Any
    result_serializer: Serializer[Any]
    cache_policy: CachePolicy
    cache_result_in_memory: bool


def persisted(
    cls: type,
    storage: Storage | None = None,
    *,
    code: bool = False,
    dependencies: tuple[str, ...] = (),
    compression: int | None = None,
    lazy: bool = False,
) -> PersistedOptions:
    """The options of a task that returns objects of a persistence class.

    Each object is saved as a file of its own name. A run whose parameters have the values of the
    keys of a file takes the object from there and does not compute, in whichever process; if the
    class counts, from the newest. Parameters that are no keys of the class do not count. A file
    that is damaged, of older fields or of other validated values is computed anew. If the object
    cannot be saved, the run fails.

    Beside these options, a task takes all others, such as `retries`, `cache_expiration` and
    `refresh_cache`.

    Args:
        cls: the persistence class.
        storage: where to: `"artifact-file-system/name"`, a saved `ArtifactFileSystem`, or a
            folder; by default, where artifacts go.
        code: whether a file is used only if the task had the same source code.
        dependencies: distributions, such as `("numpy",)`, of which it must have had the same
            versions.
        compression: a level of zstd, such as -1 or 3, to compress the files; by default they
            are not.
        lazy: whether arrays of a file that is used again are read when they are asked for.

    Returns:
        The options.

    Raises:
        InvalidPersistenceClassError: `cls` is no persistence class.
        InvalidSettingError: the storage is none, or is remote and not a saved block, so that
            others would not find it.

    Example:
        >>> from prefect import flow, task
        >>> from prefect_optuna.tasks.persistence import field, persisted, persistence_class
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     power: list[float]
        >>> @task(**persisted(Spectrum, storage="lab"))
        ... def analyse(animal):
        ...     print("computes")
        ...     return Spectrum(animal, power=[0.5, 0.25])
        >>> @flow
        ... def study():
        ...     return [analyse("lynx").power, analyse("lynx").power]
        >>> study()
        computes
        [[0.5, 0.25], [0.5, 0.25]]
    """
    ensure_persistence_class(cls)
    return PersistedOptions(
        persist_result=True,
        result_storage=_result_storage(storage),
        result_serializer=PersistenceSerializer(module=cls.__module__),
        cache_policy=PersistenceCachePolicy(
            data_cls=cls,
            compression=compression,
            lazy=lazy,
            code=code,
            dependencies=tuple(dependencies),
        ),
        cache_result_in_memory=False,
    )


def _result_storage(storage: Storage | None) -> Any:
    """Return what Prefect takes: the name of a saved block, the block, or a folder."""
    slug = ArtifactFileSystem.get_block_type_slug()
    if isinstance(storage, str) and storage.startswith(f"{slug}/"):
        return storage  # loaded when the task runs
    artifacts = as_artifact_filesystem(storage)
    if getattr(artifacts, "_block_document_id", None) is not None:
        return artifacts
    if is_folder(artifacts):
        return Path(artifacts.url)
    raise InvalidSettingError(
        f"Expected a saved block or a folder as the storage of a persisted task, found "
        f"{artifacts.location()}. Save it once, block.save('lab'), and pass storage='{slug}/lab'."
    )
