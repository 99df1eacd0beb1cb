"""`gc`: what deleted studies have left is removed, on a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect.logging import get_run_logger

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.flows.optimize_flow import Storage
from prefect_optuna.flows.study_flow import study_flow
from prefect_optuna.tasks import collect_garbage
from prefect_optuna.tasks.environments import collect_environments, garbage_text


@study_flow(name="gc", flow_run_name="gc")
def gc(
    storage: Storage | Sequence[Storage] | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    delete: bool = False,
) -> str:
    """Remove what deleted studies and expired artifacts have left, or say what that would be.

    So go the environments on this machine in which no archived trial has run for 30 days.

    Args:
        storage: Where the studies are kept, or several such places, as `optimize` takes them.
        artifacts: Where their archives are kept.
        delete: Whether to remove it; otherwise it is only looked for.

    Returns:
        What has been removed, or would be, in words.

    Raises:
        InvalidSettingError: A storage is in memory, or cannot be told from others.
        StorageUnavailableError: A storage or the filesystem failed.

    Example:
        >>> from prefect_optuna.flows.gc_flow import gc
        >>> gc("journal:///docs.journal", "memory://docs-gc-flow")
        'There is no garbage.'
    """
    garbage = collect_garbage(artifacts, storage, dry_run=not delete)
    text = garbage_text(garbage, collect_environments(dry_run=not delete), dry=not delete)
    get_run_logger().info("%s", text)
    return text
