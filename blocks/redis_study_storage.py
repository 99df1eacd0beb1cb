"""Studies on a Redis server."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)

from prefect_optuna.blocks.redis_storage import (
    RedisDescription,
    RedisReport,
    RedisStorage,
    check,
    repair,
)
from prefect_optuna.blocks.redis_storage.layout import location_of
from prefect_optuna.blocks.redis_storage.maintenance import describe
from prefect_optuna.blocks.settings import LOGO_URL, page
from prefect_optuna.blocks.study_storage import StudyStorage

if TYPE_CHECKING:
    from prefect_optuna.blocks.redis_storage.server import Server


class RedisStudyStorage(StudyStorage):
    """Keeps studies on a Redis or Valkey server, for many workers on one study.

    Needs Redis 6.2 or later, or Valkey. What is to survive a restart of the server has to be
    kept on its disk (`appendonly yes`): `describe()` says whether it is.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import RedisStudyStorage

        storage = RedisStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "Redis Study Storage"
    _block_type_slug = "redis-study-storage"
    _documentation_url = page("howto/redis")
    _logo_url = LOGO_URL

    url: SecretStr = Field(
        description=(
            "redis://host:6379/0; rediss:// for TLS; unix:///path/of/redis.sock; "
            "redis+sentinel://host:26379,host2:26379/service/0; redis+cluster://host:6379. "
            "A user and a password may be in it, or in the fields below."
        )
    )
    username: str | None = Field(default=None, description="The ACL user, if it is not default.")
    password: SecretStr | None = Field(default=None, description="The password of the user.")
    namespace: str = Field(
        default="optuna",
        min_length=1,
        description="Begins the name of every key; blocks of one namespace share their studies.",
    )
    write_mode: Literal["buffered", "strict", "fast"] = Field(
        default="buffered",
        description=(
            "'buffered': parameters and attributes of a trial travel with its next report, read "
            "or state, at the latest after 50 ms. 'strict': all is on the server when a call "
            "returns. 'fast': reports wait as well, and reads may be 1 ms old."
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
    timeout: PositiveFloat = Field(
        default=10.0, description="Seconds to wait for a connection, and for each reply."
    )
    retry_limit: float = Field(
        default=30.0,
        ge=0,
        description="Seconds for which a call is tried again while the server is away.",
    )
    tls_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authority that has signed the server's certificate.",
    )
    tls_certificate_file: Path | None = Field(
        default=None, description="PEM file with this client's certificate, if the server asks."
    )
    tls_key_file: Path | None = Field(
        default=None, description="PEM file with the key of this client's certificate."
    )
    tls_key_password: SecretStr | None = Field(
        default=None, description="The password of that key, if it has one."
    )
    tls_check_hostname: bool = Field(
        default=True, description="Whether the server's certificate must be for its host."
    )
    sentinel_username: str | None = Field(
        default=None, description="The ACL user on the Sentinels, if they have users."
    )
    sentinel_password: SecretStr | None = Field(
        default=None, description="The password of the Sentinels, if they ask for one."
    )

    @field_validator("url")
    @classmethod
    def _known(cls, secret: SecretStr) -> SecretStr:
        scheme, separator, rest = secret.get_secret_value().partition("://")
        url = f"{scheme.lower()}{separator}{rest}"
        location_of(url)
        return SecretStr(url)

    @field_validator("tls_ca_file", "tls_certificate_file", "tls_key_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().absolute()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        parts = urlsplit(self.url.get_secret_value())
        login = parts.netloc.rpartition("@")[0]
        if login and (self.username is not None or self.password is not None):
            raise ValueError(
                "a user or a password is in the URL, and another in username or password. "
                "Give them in one place."
            )
        if not parts.scheme.startswith("rediss") and self._tls():
            raise ValueError(
                f"the tls_ fields need a rediss:// URL, and this is one of {parts.scheme}://. "
                "Write the URL with rediss, or leave them out."
            )
        if not parts.scheme.endswith("+sentinel") and self._sentinel_login():
            raise ValueError(
                "sentinel_username and sentinel_password need a redis+sentinel:// URL, and this "
                f"is one of {parts.scheme}://. For the server itself, use username and password."
            )
        return self

    @property
    def location(self) -> str:
        """The storage's URL for people to read, without user, password and options."""
        return location_of(self.url.get_secret_value())

    def describe(self) -> RedisDescription:
        """Say what the server is, what it keeps on disk, and how much is in the namespace.

        Nothing is written, and the namespace need not exist. Counting takes a moment for each
        study.

        Returns:
            The description; print it to read it.

        Raises:
            StorageUnavailableError: the server cannot be reached, or refuses.

        Example:
            With a server on this machine:
            ```python
            print(RedisStudyStorage(url="redis://localhost:6379/0").describe())
            ```
        """
        with closing(self._server()) as server:
            return describe(server, self.namespace)

    def check(self) -> RedisReport:
        """Look for damage in the namespace. Nothing is written.

        Returns:
            What is wrong; print it to read it.

        Raises:
            StorageUnavailableError: the server cannot be reached, or refuses.

        Example:
            With a server on this machine:
            ```python
            print(RedisStudyStorage(url="redis://localhost:6379/0").check())
            ```
        """
        with closing(self._server()) as server:
            return check(server, namespace=self.namespace)

    def repair(self, distributions: Iterable[BaseDistribution] = ()) -> RedisReport:
        """Mend what `check` calls damaged. Run it while nobody makes or deletes a study.

        Nothing that can be read is removed. Workers that are open read their studies again.

        Args:
            distributions: of your search space, in case the server has lost some of them.

        Returns:
            What was mended, and what is left.

        Raises:
            StorageUnavailableError: the server cannot be reached, or refuses.

        Example:
            With a server on this machine:
            ```python
            print(RedisStudyStorage(url="redis://localhost:6379/0").repair())
            ```
        """
        with closing(self._server()) as server:
            return repair(server, namespace=self.namespace, distributions=distributions)

    def _open(self) -> BaseStorage:
        return RedisStorage(
            self.url.get_secret_value(),
            namespace=self.namespace,
            write_mode=self.write_mode,
            heartbeat_interval=self.heartbeat_interval,
            grace_period=self.grace_period,
            timeout=self.timeout,
            retry_limit=self.retry_limit,
            connection_options=self._options(),
            sentinel_options=self._sentinel_login(),
        )

    def _server(self) -> Server:
        from prefect_optuna.blocks.redis_storage.server import Server

        return Server(
            self.url.get_secret_value(),
            namespace=self.namespace,
            timeout=self.timeout,
            retry_limit=self.retry_limit,
            options=self._options(),
            sentinel_options=self._sentinel_login(),
        )

    def _options(self) -> dict[str, Any]:
        login = {"username": self.username, "password": _revealed(self.password)}
        return {**_given(login), **self._tls()}

    def _tls(self) -> dict[str, Any]:
        """The TLS settings that are not the default, as redis-py names them."""
        return _given(
            {
                "ssl_ca_certs": self.tls_ca_file and str(self.tls_ca_file),
                "ssl_certfile": self.tls_certificate_file and str(self.tls_certificate_file),
                "ssl_keyfile": self.tls_key_file and str(self.tls_key_file),
                "ssl_password": _revealed(self.tls_key_password),
                "ssl_check_hostname": None if self.tls_check_hostname else False,
            }
        )

    def _sentinel_login(self) -> dict[str, str]:
        return _given(
            {
                "username": self.sentinel_username,
                "password": _revealed(self.sentinel_password),
            }
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
