"""Blocks that hand out an Optuna storage: in memory, a journal, a database, a gRPC proxy."""

from __future__ import annotations

import json
import os
import platform
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias
from uuid import uuid4

import optuna
from optuna import Study
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    InMemoryStorage,
    RDBStorage,
    _CachedStorage,  # pyright: ignore[reportPrivateUsage]
)
from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import (
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
)

from prefect_optuna.blocks._journal_file import os_lock
from prefect_optuna.blocks._journal_storage import FileStorage
from prefect_optuna.blocks._secrets import check_login, secrets_in, without_secrets
from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.codec.values import CheckedAttributes, check_attributes
from prefect_optuna.blocks.patience import PatientStorage
from prefect_optuna.blocks.settings import LOGO_URL, invalid_setting, page
from prefect_optuna.blocks.texts import card
from prefect_optuna.errors import (
    DamagedStorageError,
    StorageFormatError,
    StorageUnavailableError,
    StudyMismatchError,
    StudyNotFoundError,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

# The identity of a study, and of the owner of a folder of artifacts.


OWNERS = "owners"
"""The directory in a study's folder that says which study of which storage it belongs to."""

UUID_ATTRIBUTE = "prefect_optuna:uuid"
"""The system attribute of a study that holds its UUID; copies of a study have the same."""

_ARCHIVE = "backupContext"  # the user attribute that is the manifest of the study's archive
_HERE = ("localhost", "127.0.0.1", "::1", "")


def study_uuid(study: Study) -> str:
    """Return what names a study's folder: a name may be given again once a study is deleted.

    It is kept with the study; the first call makes it.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks.study_storage import study_uuid
        >>> study = optuna.create_study()
        >>> study_uuid(study) == study_uuid(study)
        True
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    if (uuid := uuid_of(storage, study_id)) is None:
        storage.set_study_system_attr(study_id, UUID_ATTRIBUTE, str(uuid4()))
        # Another process may have done so at the same time, and the last one holds.
        uuid = str(storage.get_study_system_attrs(study_id)[UUID_ATTRIBUTE])
    return uuid


def uuid_of(storage: BaseStorage, study_id: int) -> str | None:
    """The same of a study that is only looked at; `None` if it has none yet."""
    manifest = storage.get_study_user_attrs(study_id).get(_ARCHIVE)
    if isinstance(manifest, Mapping) and isinstance(manifest.get("uuid"), str):
        return manifest["uuid"]
    return storage.get_study_system_attrs(study_id).get(UUID_ATTRIBUTE)


def claim_folder(study: Study, artifacts: ArtifactFileSystem) -> str:
    """Return the folder of a study, `studies/<uuid>`, and say in it whose it is.

    What a copied study has logged is in the folder of the first one, which then has two owners.
    """
    path, content = owner_file(study)
    artifacts.create(path, content)
    return path.rpartition(f"/{OWNERS}/")[0]


def owner_file(study: Study) -> tuple[str, bytes]:
    """The file in a study's folder that says whose it is: its path, and what is in it."""
    owner = {
        "study_name": study.study_name,
        "storage": storage_identity(study._storage),  # pyright: ignore[reportPrivateUsage]
    }
    content = json.dumps(owner, sort_keys=True).encode()
    name = sha256(content).hexdigest()[:16]
    return f"studies/{study_uuid(study)}/{OWNERS}/{name}.json", content


def storage_identity(storage: BaseStorage) -> str | None:
    """Say which storage it is, the same from everywhere; `None` where that cannot be said.

    What is a file, or a server on this machine, has the machine's name in it. No passwords.

    Example:
        >>> from optuna.storages import InMemoryStorage
        >>> from prefect_optuna.blocks.study_storage import storage_identity
        >>> storage_identity(InMemoryStorage()) is None
        True
    """
    # Optuna puts a cache before some storages, which it does not name in public.
    storage = storage.storage if isinstance(storage, PatientStorage) else storage
    storage = getattr(storage, "_backend", storage) if _is_cache(storage) else storage
    engine = getattr(storage, "engine", None)
    if engine is not None:
        url = engine.url.set(password=None, query={})
        if url.get_backend_name() == "sqlite":
            return _on_this_machine("sqlite", url.database)
        host = platform.node() if (url.host or "") in _HERE else url.host
        return f"{url.get_backend_name()}://{host}:{url.port or ''}/{url.database}"
    if isinstance(storage, FileStorage):
        return _on_this_machine("journal", storage.path)
    backend = getattr(storage, "_backend", None)  # of Optuna's own JournalStorage
    path = getattr(backend, "_file_path", None)
    return None if path is None else _on_this_machine("journal", path)


def _is_cache(storage: BaseStorage) -> bool:
    return isinstance(storage, _CachedStorage)


def _on_this_machine(kind: str, path: Any) -> str | None:
    if not path or str(path) == ":memory:":
        return None
    return f"{kind}://{platform.node()}{Path(path).resolve()}"


_Direction: TypeAlias = Literal["minimize", "maximize"] | StudyDirection

_opening = threading.RLock()
_inherited: list[BaseStorage] = []


def _renew_lock_after_fork() -> None:
    # Another thread of the parent may have held the lock; in the child nobody would release it.
    global _opening
    _opening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_after_fork)


class StudyStorage(Block, ABC):
    """Where the studies of a project are kept: the base of all storage blocks.

    A block is configuration. It opens the Optuna storage on first use and keeps it for as long
    as the block lives in this process; a copy, a pickle and a forked child open their own.
    """

    # A slot, because pydantic copies, compares and pickles its private attributes.
    __slots__ = ("_opened",)

    # Without this, pydantic quotes the rejected input, and with it a URL's password.
    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    if not TYPE_CHECKING:  # checkers know the fields

        def __init__(self, *args: Any, **settings: Any) -> None:
            try:
                super().__init__(*args, **settings)
            except ValidationError as error:
                raise invalid_setting(f"The block {type(self).__name__}", error) from None

    if TYPE_CHECKING:
        _opened: tuple[int, BaseStorage] = PrivateAttr()

    @abstractmethod
    def _open(self) -> BaseStorage:
        """Open the storage, or raise `StorageUnavailableError`."""

    @property
    @abstractmethod
    def location(self) -> str:
        """The storage's URL for people to read, without any password."""

    def _repr_html_(self) -> str:
        """Return the card that notebooks show."""
        return card(type(self).__name__, [("where", self.location)])

    def get_storage(self) -> BaseStorage:
        """Return the Optuna storage of this block, the same one each time.

        Safe to call from many threads.

        Returns:
            A storage to pass to Optuna's own functions.

        Raises:
            StorageUnavailableError: the storage cannot be reached, read or written.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> block = InMemoryStudyStorage(name="docs")
            >>> block.get_storage() is block.get_storage()
            True
        """
        storage = self._opened_here()
        if storage is None:
            with _opening:
                storage = self._opened_here()
                if storage is None:
                    storage = self._open()
                    self._opened = (os.getpid(), storage)
        return storage

    def _opened_here(self) -> BaseStorage | None:
        pid, storage = getattr(self, "_opened", (None, None))
        if storage is None or pid == os.getpid():
            return storage
        # A fork's connections are its parent's: closing them here, which is what collecting the
        # garbage would do, would close them there.
        _inherited.append(storage)
        return None

    def create_study(
        self,
        study_name: str | None = None,
        *,
        direction: _Direction | None = None,
        directions: Sequence[_Direction] | None = None,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        load_if_exists: bool = False,
    ) -> optuna.Study:
        """Create a study in this storage, as `optuna.create_study` does.

        Args:
            study_name: its name; Optuna makes one up if there is none.
            direction: `"minimize"` (the default) or `"maximize"`, for one objective.
            directions: one direction for each objective, in place of `direction`.
            sampler: suggests the parameters; Optuna's default is TPE.
            pruner: stops trials early; Optuna's default is the median pruner.
            load_if_exists: return a study of that name if there is one, which must have the
                directions asked for.

        Returns:
            The study.

        Raises:
            StudyMismatchError: a study of that name exists and has other directions.
            optuna.exceptions.DuplicatedStudyError: a study of that name exists, and
                `load_if_exists` is false.
            StorageUnavailableError: the storage cannot be reached.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> study = InMemoryStudyStorage(name="docs").create_study(
            ...     "tuning", direction="maximize", load_if_exists=True
            ... )
            >>> study.direction.name
            'MAXIMIZE'
        """
        study = optuna.create_study(
            storage=self.get_storage(),
            study_name=study_name,
            direction=direction,
            directions=directions,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=load_if_exists,
        )
        wanted: Sequence[_Direction] = directions or ([direction] if direction else [])
        if wanted and _names(wanted) != _names(study.directions):
            raise StudyMismatchError(
                f"The study {study_name!r} in {self.location} has the directions "
                f"{_names(study.directions)}, and {_names(wanted)} were asked for. "
                "Take another study name, or the directions that the study has."
            )
        return study

    def load_study(
        self,
        study_name: str,
        *,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
    ) -> optuna.Study:
        """Load a study of this storage, as `optuna.load_study` does.

        Args:
            study_name: its name.
            sampler: suggests the parameters of further trials.
            pruner: stops further trials early.

        Returns:
            The study.

        Raises:
            StudyNotFoundError: the storage has no study of that name; says which are near.
            StorageUnavailableError: the storage cannot be reached.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> block = InMemoryStudyStorage(name="docs")
            >>> _ = block.create_study("lynx-hare", load_if_exists=True)
            >>> block.load_study("lynx-hare").study_name
            'lynx-hare'
        """
        try:
            return optuna.load_study(
                study_name=study_name, storage=self.get_storage(), sampler=sampler, pruner=pruner
            )
        except KeyError:
            names = self.study_names()
        raise StudyNotFoundError(
            f"There is no study {study_name!r} in {self.location}. {_near(study_name, names)}"
        )

    def study_names(self) -> list[str]:
        """List the names of all studies in this storage.

        Returns:
            The names, oldest study first.

        Raises:
            StorageUnavailableError: the storage cannot be reached.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> InMemoryStudyStorage(name="nothing yet").study_names()
            []
        """
        return [study.study_name for study in self.get_storage().get_all_studies()]


def _names(directions: Sequence[_Direction]) -> list[str]:
    return [d.name.lower() if isinstance(d, StudyDirection) else d for d in directions]


def _near(wanted: str, names: list[str]) -> str:
    if not names:
        return "It has no studies yet."
    if near := get_close_matches(wanted, names, n=5, cutoff=0.5):
        return f"Did you mean {' or '.join(map(repr, near))}?"
    newest = ", ".join(map(repr, names[-5:]))
    return f"It has {len(names)} studies; the newest are: {newest}."


# Studies that live as long as the process.


class _MemoryStorage(CheckedAttributes, InMemoryStorage):
    """Optuna's, without attributes that nobody could copy."""


_storages: dict[str, _MemoryStorage] = {}

if hasattr(os, "register_at_fork"):
    # A copy in a forked child would silently go its own way: it starts empty, as after a spawn.
    os.register_at_fork(after_in_child=_storages.clear)


class InMemoryStudyStorage(StudyStorage):
    """Keeps studies in the memory of the process, for tests and for trying things out.

    All blocks of one name share one storage within a process, so that a study can be loaded and
    resumed there. Another process has its own, and nothing outlives the process.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import InMemoryStudyStorage

        storage = InMemoryStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "In-Memory Study Storage"
    _block_type_slug = "in-memory-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    name: str = Field(
        default="default",
        description="Blocks of the same name share their studies within one process.",
    )

    @property
    def location(self) -> str:
        """The storage's URL for people to read."""
        return f"memory://{self.name}"

    def _open(self) -> BaseStorage:
        # setdefault is atomic: threads that come at once get the same storage.
        return _storages.setdefault(self.name, _MemoryStorage())


# Studies behind an Optuna gRPC proxy.


class _Proxy(CheckedAttributes, GrpcStorageProxy):
    """Optuna's, without attributes that would make a study unreadable."""


class GrpcStudyStorage(StudyStorage):
    """Keeps studies behind a proxy started with `optuna.storages.run_grpc_proxy_server`.

    For thousands of workers: the proxy holds the connections to the database, and they do not.
    The connection is neither encrypted nor authenticated, so keep the port private.
    Needs `pip install "prefect-optuna[grpc]"`. Optuna calls its proxy experimental, and warns so.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import GrpcStudyStorage

        storage = GrpcStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "gRPC Study Storage"
    _block_type_slug = "grpc-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    host: str = Field(
        default="localhost", min_length=1, description="The name or address of the proxy's host."
    )
    port: int = Field(default=13000, ge=1, le=65535, description="The proxy's port.")
    timeout: float = Field(
        default=10.0, gt=0, description="Seconds to wait for the proxy to answer when opening."
    )

    @field_validator("host")
    @classmethod
    def _only_a_host(cls, host: str) -> str:
        # What is before an @ may be a password, and is not quoted.
        if re.search(r"[@/?#\s\[\]]", host.removeprefix("[").removesuffix("]")):
            raise ValueError(
                "expected the name or the address of a host and nothing else, such as "
                "proxy.example.org, and found more. The port has a field of its own; there are "
                "no users and passwords."
            )
        if host.count(":") == 1:
            raise ValueError("expected a host without its port, which has a field of its own.")
        return host

    @property
    def location(self) -> str:
        """The storage's URL for people to read."""
        return f"grpc://{self._bracketed_host}:{self.port}"

    @property
    def _bracketed_host(self) -> str:
        is_ipv6 = ":" in self.host and not self.host.startswith("[")
        return f"[{self.host}]" if is_ipv6 else self.host

    def _open(self) -> BaseStorage:
        try:
            proxy = _Proxy(host=self._bracketed_host, port=self.port)
        except ImportError as error:
            raise StorageUnavailableError(
                f"The storage {self.location} needs the packages grpcio and protobuf. "
                'Install them with: pip install "prefect-optuna[grpc]"'
            ) from error
        try:
            proxy.wait_server_ready(timeout=self.timeout)
        except ConnectionError as error:
            proxy.close()
            raise StorageUnavailableError(
                f"No gRPC proxy answered at {self.location} within {self.timeout:g} s. Start one "
                "there with optuna.storages.run_grpc_proxy_server, or correct host and port."
            ) from error
        return proxy


# Studies in one append-only file.


class JournalStudyStorage(StudyStorage):
    """Keeps studies in one append-only file: the default, with no server to install.

    Many processes of one machine may write to it at once. A process that is killed, at any
    moment, leaves the file usable by the others at once: the kernel releases its lock, and a
    last line that it did not finish is cut off, with a warning, before the next is written.

    Everybody who writes to one journal must use the same kind of lock; Optuna itself uses
    `"symlink"` where nothing else is said.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import JournalStudyStorage

        storage = JournalStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "Journal Study Storage"
    _block_type_slug = "journal-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    path: Path = Field(
        description=(
            "The journal file; it and its folder are made when first used. A relative path is "
            "made absolute at once, so that a saved block means the same file everywhere."
        )
    )
    lock: Literal["os", "symlink", "open"] = Field(
        default="os",
        description=(
            "How writers exclude each other: 'os' is the kernel's lock, which a killed process "
            "releases; 'symlink' (NFSv2) and 'open' (NFSv3) are Optuna's lock files, for network "
            "folders whose server has no locks."
        ),
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if "\0" in str(path):
            raise ValueError("expected the path of a file, and found one with a NUL character.")
        try:
            return path.expanduser().absolute()
        except RuntimeError:
            raise ValueError(
                "expected the name of a user of this machine after ~, or just ~/, and there is "
                "none of that name. Write the whole path."
            ) from None

    @property
    def location(self) -> str:
        """The storage's URL for people to read."""
        return f"journal:///{self.path.as_posix()}"

    def _open(self) -> BaseStorage:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
            return FileStorage(self.path, self._make_lock())
        except StorageFormatError as error:
            raise StorageUnavailableError(
                f"{self.path} is no Optuna journal, and was left as it is: expected a first line "
                f'that starts with {{"op_code". {error} Name another file; if it is an SQLite '
                "database, give a URL such as sqlite:///study.db."
            ) from None
        except OSError as error:
            raise StorageUnavailableError(
                f"The journal {self.path} cannot be opened for writing: {error.strerror or error}. "
                "Expected a file, in a folder that this user may write to. Correct the path or "
                "the permissions."
            ) from error
        except DamagedStorageError as error:
            raise StorageUnavailableError(str(error)) from error

    def _make_lock(self) -> BaseJournalFileLock:
        if self.lock == "symlink":
            return JournalFileSymlinkLock(str(self.path))
        if self.lock == "open":
            return JournalFileOpenLock(str(self.path))
        return os_lock(self.path)


# Studies in a relational database.


# The drivers that this package's extras install. Optuna knows MariaDB only by the name of MySQL.
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")
# What each driver calls the seconds to wait: for the server, or, in SQLite, for a lock.
_TIMEOUTS = {
    "pysqlite": "timeout",
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
}


class _DatabaseStorage(CheckedAttributes, RDBStorage):
    """Optuna's, without attributes that would make a study unreadable."""

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        # What Optuna's cache around each database calls.
        check_attributes(template_trial)
        return super()._create_new_trial(study_id, template_trial)


class SQLStudyStorage(StudyStorage):
    """Keeps studies in a database: SQLite, PostgreSQL, MySQL or MariaDB.

    A server database is for studies that many machines share. A URL that names no driver gets
    the one that this package's extras install: `psycopg` for PostgreSQL, `pymysql` for MySQL.
    The folder and the file of an SQLite database are made when first used, and so are the tables
    of any database.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import SQLStudyStorage

        storage = SQLStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "SQL Study Storage"
    _block_type_slug = "sql-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    url: SecretStr = Field(
        description=(
            "A SQLAlchemy URL: sqlite:///study.db, postgresql://user:password@host/database or "
            "mysql://user:password@host/database. A relative SQLite path is made absolute at "
            "once, so that a saved block means the same file everywhere."
        )
    )
    engine_options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description=(
            "Options for sqlalchemy.create_engine, such as pool_size or connect_args; secret, "
            "because connect_args may hold credentials."
        ),
    )
    timeout: PositiveInt = Field(
        default=10,
        description=(
            "Seconds to wait for the server to accept a connection, or for another process to "
            "release an SQLite file."
        ),
    )
    heartbeat_interval: PositiveInt | None = Field(
        default=None,
        description=(
            "Seconds between signs of life of a running trial, recorded while study.optimize "
            "runs it; without it, none are recorded. Optuna calls this experimental."
        ),
    )
    grace_period: PositiveInt | None = Field(
        default=None,
        description=(
            "Seconds without a sign of life after which a trial counts as dead; without it, "
            "twice the heartbeat interval."
        ),
    )

    @field_validator("url")
    @classmethod
    def _complete(cls, secret: SecretStr) -> SecretStr:
        url = _parsed(secret)
        dialect = url.get_backend_name()
        if dialect not in _DIALECTS:
            raise ValueError(
                f"expected a URL of {', '.join(_DIALECTS[:-1])} or {_DIALECTS[-1]}, "
                f"and found one of {dialect!r}."
            )
        if dialect == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise ValueError(
                    "an SQLite database in memory is another one in each thread. Use "
                    "InMemoryStudyStorage ('memory://name'), or give a file."
                )
            if not url.database.startswith("file:"):
                url = url.set(database=Path(url.database).absolute().as_posix())
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        return SecretStr(url.render_as_string(hide_password=False))

    @property
    def location(self) -> str:
        """The storage's URL for people to read, without its password and its options."""
        url = _parsed(self.url)
        # Of the options, only these say where it is; another may be a password.
        place = {key: url.query[key] for key in ("host", "port") if key in url.query}
        return url.set(query=place).render_as_string(hide_password=True)

    def _open(self) -> BaseStorage:
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

        url = _parsed(self.url)
        try:
            if url.get_backend_name() == "sqlite" and url.database:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            return self._create(url)
        except (ImportError, NoSuchModuleError) as error:
            extra = "postgresql" if url.get_backend_name() == "postgresql" else "mysql"
            raise StorageUnavailableError(
                f"The driver for {self.location} is not installed ({error.__cause__ or error}). "
                "Install it, or leave the driver out of the URL and run: "
                f'pip install "prefect-optuna[{extra}]"'
            ) from None
        except (TypeError, ValueError, ArgumentError) as error:
            raise StorageUnavailableError(
                f"The engine of {self.location} does not accept its options "
                f"({self._without_secrets(error)}). Correct engine_options, and those "
                "in the URL."
            ) from None
        except (SQLAlchemyError, OSError, RuntimeError) as error:
            check = (
                "Check that it is an SQLite file, in a folder that this user may write to."
                if url.get_backend_name() == "sqlite"
                else "Check that it runs and is reachable from here, and that the user, the "
                "password and the database are right."
            )
            raise StorageUnavailableError(
                f"The database {self.location} cannot be used "
                f"({self._without_secrets(error)}). {check}"
            ) from None

    def _create(self, url: URL, attempts: int = 20) -> BaseStorage:
        from sqlalchemy.exc import DBAPIError, IntegrityError

        options: dict[str, Any] = dict(self.engine_options.get_secret_value())
        if keyword := _TIMEOUTS.get(url.get_driver_name()):
            options["connect_args"] = {keyword: self.timeout, **options.get("connect_args", {})}
        try:
            if url.get_backend_name() in ("mysql", "mariadb"):
                _make_exact_tables(url, options)
            storage = _DatabaseStorage(
                self.url.get_secret_value(),
                engine_kwargs=options,
                heartbeat_interval=self.heartbeat_interval,
                grace_period=self.grace_period,
            )
            if url.get_backend_name() == "sqlite":
                _lock_before_reading(storage.engine)
            return storage
        except DBAPIError as error:
            # Optuna makes its 15 tables when a database is first opened, and trips over those
            # of somebody who does the same at that moment, perhaps over each of them.
            is_race = isinstance(error, IntegrityError) or "already exists" in str(error.orig)
            if not is_race or attempts == 1:
                raise
            return self._create(url, attempts - 1)

    def _without_secrets(self, error: BaseException) -> str:
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        secrets = secrets_in(self.url.get_secret_value()) | secrets_in(
            self.engine_options.get_secret_value()
        )
        return without_secrets(text, secrets)


def _make_exact_tables(url: URL, options: dict[str, Any]) -> None:
    """Make the tables in MySQL that are not there yet, such that they give back what they got.

    By the defaults of MySQL and MariaDB, Optuna's tables take `Rate` and `rate` for one parameter,
    and keep the first one only; refuse an emoji, where the database is of another character set;
    and keep whole seconds, and attributes up to 64 KB.
    """
    from optuna.storages._rdb.models import BaseModel
    from sqlalchemy import DateTime, MetaData, Text, create_engine
    from sqlalchemy.dialects.mysql import DATETIME, LONGTEXT

    tables = MetaData()
    for table in BaseModel.metadata.sorted_tables:
        ours = table.to_metadata(tables)
        for dialect in ("mysql", "mariadb"):
            ours.dialect_kwargs[f"{dialect}_charset"] = "utf8mb4"
            ours.dialect_kwargs[f"{dialect}_collate"] = "utf8mb4_bin"
        for column in ours.columns:
            if isinstance(column.type, DateTime):
                column.type = DATETIME(fsp=6)
            elif isinstance(column.type, Text):
                column.type = LONGTEXT()
    engine = create_engine(url, **options)
    try:
        tables.create_all(engine)
    finally:
        engine.dispose()


def _lock_before_reading(engine: Engine) -> None:
    """Make each transaction take SQLite's write lock at its start.

    Python's driver locks at the first write only. What Optuna read before that, such as the state
    of a trial, another process may have changed by then, and both would run the trial. The recipe
    is SQLAlchemy's own, "Serializable isolation / Savepoints / Transactional DDL" in its page on
    SQLite. It is also faster than the default: one lock, and not one that is upgraded.
    """
    from sqlalchemy import event

    engine.dispose()  # the connections that opened the database have the driver's ways

    def no_transactions_of_its_own(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", no_transactions_of_its_own)
    event.listen(engine, "begin", begin)


def _parsed(secret: SecretStr) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    text = secret.get_secret_value()
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The parser's own message may quote a piece of the URL, such as its password.
        raise ValueError(
            "expected a SQLAlchemy URL such as sqlite:///study.db or "
            "postgresql://user:password@host:5432/database. Write special characters of the "
            "password with urllib.parse.quote_plus."
        ) from None
    if url.host is not None or url.username is not None:
        check_login(text)
    return url
