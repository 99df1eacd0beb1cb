"""The project's settings, read from where Prefect reads its own."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import AfterValidator, Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from prefect_optuna.blocks._secrets import without_secrets
from prefect_optuna.errors import InvalidSettingError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# The metadata that Prefect's UI shows of every block of this package.


LOGO_URL = HttpUrl("https://avatars.githubusercontent.com/u/57251745?s=200&v=4")


def page(name: str) -> HttpUrl:
    """The address of a page of the documentation, which the release puts there."""
    return HttpUrl(f"https://prefect-optuna.github.io/prefect-optuna/{name}.html")


class OptunaSettings(PrefectBaseSettings):
    """Defaults for studies that name no storage and no artifact filesystem.

    They come from the environment (`PREFECT_INTEGRATIONS_OPTUNA_STORAGE`), a `.env` file,
    `prefect.toml` or `pyproject.toml`, or Prefect's active profile.

    Attributes:
        storage: where studies are kept: whatever `as_study_storage` accepts. Secret, because it
            may be a URL with a password. Without it, a journal file below the current directory.
        artifacts: where artifacts are kept: whatever `as_artifact_filesystem` accepts.
        archive_key: signs the archives that are written here. With a key, archives that are not
            signed with it do not run. Several keys, with commas between them, all verify, and the
            first one signs.
        archive_key_block: the name of the Prefect `Secret` block that holds the key, in place of
            the key itself.
        archive_sources: whether an archive also keeps the script that was started, and the
            changes to tracked files that git has not committed. Both may hold more than the
            problem does.
        patience: seconds that a flow waits for a storage that is away, such as during a restart or
            with a cable cut. What was computed is told afterwards.
        lease: seconds after which a session on another machine is dead, if its record in the
            study has not changed; it is renewed three times in that time.
        grace: seconds that trials have after SIGTERM, where they look whether they should stop.
            What is left of the time that the machine gives is for telling.
        spool: the folder of this machine where trials that ended while their storage was away wait
            for it; `optuna-spool` in Prefect's home by default.
        spool_limit: how many bytes they may take together; what is more stays in memory.
        environments: the folder of this machine for the Pythons and packages in which archived
            trials run again; `prefect-optuna` in the user's folder for caches by default.
        claims: the folder of this machine where trials write down which processors, memory and
            GPUs they have, so that no others take them; one of the user's by default.
        task_runner: where trials of `optimize` run that names no task runner: `threads`,
            `processes`, `dask` or `ray`. A work pool sets it for all that runs there.
        dashboard_url: where people open optuna-dashboard on these studies: `http://lab:8080`.
            Reports then link to it.

    Raises:
        InvalidSettingError: a setting has a value that cannot work.

    Example:
        >>> from prefect_optuna.blocks import OptunaSettings
        >>> OptunaSettings(artifacts="memory://demo").artifacts
        'memory://demo'
    """

    model_config: ClassVar[SettingsConfigDict] = build_settings_config(("integrations", "optuna"))

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise invalid_setting("PREFECT_INTEGRATIONS_OPTUNA", error) from None

    storage: SecretStr | None = Field(
        default=None,
        description="Where studies are kept, as a URL or a saved block's 'slug/name'.",
    )
    artifacts: str = Field(
        default=".prefect-optuna/artifacts",
        description="Where artifacts are kept, as a path, a URL or a saved block's 'slug/name'.",
    )
    archive_key: SecretStr | None = Field(
        default=None, description="Signs the archives that are written, and verifies those read."
    )
    archive_key_block: str | None = Field(
        default=None, description="The Secret block that holds the key, by its name."
    )
    archive_sources: bool = Field(
        default=True,
        description="Whether archives keep the script and the changes that git has not committed.",
    )
    patience: float = Field(
        default=4 * 3600.0,
        ge=0,
        description="Seconds that a flow waits for a storage that is away, before it ends.",
    )
    lease: float = Field(
        default=45.0, gt=0, description="Seconds without a sign of life that end a session."
    )
    grace: float = Field(
        default=8.0, ge=0, description="Seconds that trials have to stop by themselves."
    )
    spool: Path | None = Field(
        default=None, description="The folder for trials whose storage is away when they end."
    )
    spool_limit: int = Field(
        default=2_000_000_000, ge=0, description="How many bytes such trials may take together."
    )
    environments: Path | None = Field(
        default=None, description="The folder for environments in which archived trials run again."
    )
    claims: Path | None = Field(
        default=None, description="The folder where trials note what they have of this machine."
    )
    task_runner: Literal["threads", "processes", "dask", "ray"] | None = Field(
        default=None, description="Where trials run: threads, processes, dask or ray."
    )
    # Reports go to Prefect's server; a browser asks for the password.
    dashboard_url: Annotated[str, AfterValidator(without_secrets)] | None = Field(
        default=None, description="Where optuna-dashboard is; the reports of studies link to it."
    )

    @classmethod
    def here(cls) -> OptunaSettings:
        """Return the settings as the running flow has read them, since reading is slow."""
        return _read.get() or cls()


_read: ContextVar[OptunaSettings | None] = ContextVar("prefect_optuna_settings", default=None)


@contextmanager
def settings_read_once() -> Generator[None]:
    """Have one run see the same settings from its begin to its end."""
    token = _read.set(OptunaSettings())
    try:
        yield
    finally:
        _read.reset(token)


def invalid_setting(what: str, error: ValidationError) -> InvalidSettingError:
    """Say what pydantic has found, without what was given, which may be a secret."""
    return InvalidSettingError(f"{what} cannot have these settings: {reasons(error)}")


def reasons(error: ValidationError) -> str:
    """Say why settings are not valid, each with its name."""
    texts: list[str] = []
    for detail in error.errors(include_input=False, include_url=False):
        text = detail["msg"].removeprefix("Value error, ")
        name = ".".join(map(str, detail["loc"][:1]))
        texts.append(text if detail["type"] == "value_error" else f"{name}: {text}")
    return "; ".join(texts)


# Prefect's server, as its settings say it.


def quick_client() -> SyncPrefectClient:
    """A client of its own of Prefect's server, for what can wait: a request has ten seconds.

    Prefect's reads the certificates of all authorities for each client, which takes as long as
    five requests; these read them once, and a file of the settings when it changes.
    """
    from prefect.client.orchestration import get_client

    api = get_current_settings().api
    changed = Path(api.ssl_cert_file).stat().st_mtime_ns if api.ssl_cert_file else 0
    verify = _certificates(api.tls_insecure_skip_verify, api.ssl_cert_file, changed)
    return get_client(httpx_settings={"timeout": 10.0, "verify": verify}, sync_client=True)


@functools.lru_cache(maxsize=2)
def _certificates(unverified: bool, cert_file: str | None, changed: int) -> ssl.SSLContext:
    """What Prefect makes of these settings."""
    import certifi

    if not unverified:
        return ssl.create_default_context(cafile=cert_file or certifi.where())
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
