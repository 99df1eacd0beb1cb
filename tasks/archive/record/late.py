"""Late trials: what one came to whose place another one had taken meanwhile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json

_PREFIX = "prefect_optuna:late:"  # of system attributes of the study: an ended trial takes no more


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
    found = [value for name, value in system_attrs.items() if name.startswith(_PREFIX)]
    trials = [trial_from_json(value["trial"]) for value in found]
    return sorted(trials, key=lambda trial: trial.number)
