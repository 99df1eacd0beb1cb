"""The re-evaluations of a study, kept beside its archive: one file each, never changed."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from pydantic import ValidationError

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem

if TYPE_CHECKING:
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation


def record(artifacts: ArtifactFileSystem, uuid: str, reevaluation: Reevaluation) -> str:
    """Keep a re-evaluation."""
    time = re.sub(r"[^0-9T]", "", reevaluation.created.partition("+")[0])
    path = f"studies/{uuid}/reevaluations/{time}-{secrets.token_hex(4)}.json"
    artifacts.create(path, reevaluation.model_dump_json(indent=1).encode())
    return path


def read_history(
    artifacts: ArtifactFileSystem, uuid: str, last: int | None = None
) -> list[Reevaluation]:
    """The re-evaluations of a study, oldest first."""
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

    found: list[Reevaluation] = []
    # Their names begin with the time.
    paths = sorted(artifacts.glob(f"studies/{uuid}/reevaluations/*.json"))
    paths = paths if last is None else paths[-last:]
    for path, content in sorted(artifacts.read_many(paths).items()):
        try:
            found.append(Reevaluation.model_validate_json(content))
        except ValidationError as error:
            raise ArchiveError(
                f"{artifacts.location(path)} is no record of a re-evaluation: "
                f"{error.errors()[0]['msg']}. Remove it, or bring it back from a copy."
            ) from None
    return found
