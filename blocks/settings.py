"""The project's settings, read from where Prefect reads its own."""

from __future__ import annotations

from typing import ClassVar

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

__all__ = ["OptunaSettings"]


class OptunaSettings(PrefectBaseSettings):
    """Defaults for studies that name no storage and no artifact filesystem.

    They come from the environment (`PREFECT_INTEGRATIONS_OPTUNA_STORAGE`), a `.env` file,
    `prefect.toml` or `pyproject.toml`, or Prefect's active profile.

    Attributes:
        storage: where studies are kept: whatever `as_study_storage` accepts. Secret, because it
            may be a URL with a password. Without it, a journal file below the current directory.
        artifacts: where artifacts are kept: whatever `as_artifact_filesystem` accepts.

    Example:
        >>> from prefect_optuna.blocks import OptunaSettings
        >>> OptunaSettings(artifacts="memory://demo").artifacts
        'memory://demo'
    """

    model_config: ClassVar[SettingsConfigDict] = build_settings_config(("integrations", "optuna"))

    storage: SecretStr | None = Field(
        default=None,
        description="Where studies are kept, as a URL or a saved block's 'slug/name'.",
    )
    artifacts: str = Field(
        default=".prefect-optuna/artifacts",
        description="Where artifacts are kept, as a path, a URL or a saved block's 'slug/name'.",
    )
