"""Later records of trials: re-evaluations, and late trials.

A re-evaluation is a file beside the archive, never changed. A late trial is what one came to whose
place another one had taken meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial
from pydantic import ValidationError

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json

if TYPE_CHECKING:
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

_PREFIX = "prefect_optuna:late:"  # of system attributes of the study: an ended trial takes no more


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

    reevaluations: list[Reevaluation] = []
    # Their names begin with the time.
    paths = sorted(artifacts.glob(f"studies/{uuid}/reevaluations/*.json"))
    paths = paths if last is None else paths[-last:]
    for path, content in sorted(artifacts.read_many(paths).items()):
        try:
            reevaluations.append(Reevaluation.model_validate_json(content))
        except ValidationError as error:
            raise ArchiveError(
                f"{artifacts.location(path)} is no record of a re-evaluation: "
                f"{error.errors()[0]['msg']}. Remove it, or bring it back from a copy."
            ) from None
    return reevaluations


def late_attribute(trial: FrozenTrial, *, told_as: int, at: float) -> tuple[str, dict[str, Any]]:
    """The system attribute of a study that keeps a late trial: its name, and its value as JSON.

    Args:
        trial: the trial as it ended.
        told_as: the number of the trial that had ended in its place.
        at: when it ended, in seconds since 1970.
    """
    value = trial_to_json(trial)
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return f"{_PREFIX}{trial.number}:{digest[:8]}", {"trial": value, "instead": told_as, "at": at}


def late_trials(system_attrs: Mapping[str, Any]) -> list[FrozenTrial]:
    """The late trials among the system attributes of a study, by their numbers."""
    records = [value for name, value in system_attrs.items() if name.startswith(_PREFIX)]
    trials = [trial_from_json(value["trial"]) for value in records]
    return sorted(trials, key=lambda trial: trial.number)
