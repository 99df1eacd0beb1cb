"""Studies in a relational database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from prefect.types import SecretDict
from pydantic import Field, PositiveInt, SecretStr, field_validator

from prefect_optuna.blocks._metadata import LOGO_URL, page
from prefect_optuna.blocks._secrets import check_login, secrets_in, without_secrets
from prefect_optuna.blocks.attribute_json import CheckedAttributes, check_attributes
from prefect_optuna.blocks.study_storage import StudyStorage
from prefect_optuna.errors import StorageUnavailableError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

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
