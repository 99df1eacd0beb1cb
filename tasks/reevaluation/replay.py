"""A real trial of a real study, in memory, for archived code that runs again.

The parameters are fixed to the archived ones. Where the code mentions its study, the study has the
trials that had ended before the archived one began, as they were. A pruner repeats what was decided
then, and no sampler draws anything.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json
from prefect_optuna.tasks.archive.record.attributes import is_of_the_archive
from prefect_optuna.tasks.stopping import FlowTrial

if TYPE_CHECKING:
    from collections.abc import Generator

    from prefect_optuna.tasks.archive.code.capture import Capture

_LOOKING = ("study", "storage")


@dataclass(frozen=True)
class Past:
    """The part of its study that archived code may see: data, and picklable."""

    name: str = "study"
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[FrozenTrial] = ()

    @classmethod
    def of(cls, study: optuna.Study, capture: Capture) -> Past:
        """Take it from a study."""
        sources = [str(symbol.get("source", "")) for symbol in capture.document["symbols"]]
        looks = any(word in source for source in sources for word in _LOOKING)
        return cls(
            study.study_name,
            own_attributes(study.user_attrs),
            study.get_trials(deepcopy=False) if looks else (),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, for `from_json`."""
        trials: list[dict[str, Any]] = []
        for trial in self.trials:
            data = trial_to_json(trial)
            data["user_attrs"] = own_attributes(data["user_attrs"])
            data["system_attrs"] = {}
            if is_json(data):
                trials.append(data)
        return {"name": self.name, "user_attrs": dict(self.user_attrs), "trials": trials}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Past:
        """Read what `to_json` gave."""
        trials = [trial_from_json(stored) for stored in data["trials"]]
        return cls(data["name"], data["user_attrs"], trials)


def own_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The user attributes that are not the archive's, as far as they travel."""
    return {
        name: value
        for name, value in attributes.items()
        if not is_of_the_archive(name) and is_json(value)
    }


def is_json(value: Any) -> bool:
    """Tell whether a value travels; a study in memory has attributes of any kind."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


class Replay:
    """A study in memory, in which one archived trial after the other runs again."""

    def __init__(self, past: Past, directions: Sequence[str]) -> None:
        self._storage = _PastStorage(past)
        self._pruner = _ArchivedPruner()
        with _quiet():
            self._storage.create_new_study([StudyDirection[d.upper()] for d in directions])
        self._study = optuna.load_study(
            study_name=self._storage.get_study_name_from_id(0),
            storage=self._storage,
            sampler=_NoSampler(),
            pruner=self._pruner,
        )

    def trial(
        self,
        number: int,
        params: Mapping[str, Any],
        *,
        pruned_at: int | None = None,
        told_to_prune: Sequence[int] = (),
        started: datetime | None = None,
        user_attrs: Mapping[str, Any] | None = None,
    ) -> optuna.Trial:
        """The trial, as it was when it began.

        It is told to end after as many reports as it was, else from `pruned_at` reports on.
        """
        self._pruner.pruned_at, self._pruner.told = pruned_at, told_to_prune
        self._storage.begin(number, dict(params), dict(user_attrs or {}), started)
        return FlowTrial(self._study, number)


class _PastStorage(InMemoryStorage):
    """Memory with the trials of a study, which shows those that one of them could see."""

    def __init__(self, past: Past) -> None:
        super().__init__()
        self._past = past
        self._number = -1
        self._started: datetime | None = None
        self._known = 0

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        study_id = super().create_new_study(directions, study_name or self._past.name)
        for trial in self._past.trials:
            self.create_new_trial(study_id, trial)
        self._known = len(self._past.trials)
        return study_id

    def begin(
        self,
        number: int,
        params: dict[str, Any],
        user_attrs: dict[str, Any],
        started: datetime | None,
    ) -> None:
        """Put a trial that runs in the place of an archived one, and all others back."""
        info = self._studies[0]
        if 0 <= self._number < len(self._past.trials):
            self._set_trial(self._number, copy.deepcopy(self._past.trials[self._number]))
        while len(info.trials) <= number:
            self.create_new_trial(0)
        running = self._create_running_trial()
        running.number = running._trial_id = number  # pyright: ignore[reportPrivateUsage]
        running.user_attrs = user_attrs
        running.system_attrs = {"fixed_params": params}
        self._set_trial(number, running)
        info.user_attrs = copy.deepcopy(dict(self._past.user_attrs))
        info.param_distribution = {}
        self._number, self._started, self._known = number, started, len(info.trials)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        self._check_study_id(study_id)
        seen = filter(None, map(self._as_seen, list(self._studies[study_id].trials)))
        chosen = [trial for trial in seen if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(self, study_id)

    def _as_seen(self, trial: FrozenTrial) -> FrozenTrial | None:
        """A trial as the one that runs could see it."""
        number = trial.number
        if number == self._number or number >= self._known:
            return trial
        if number >= len(self._past.trials):
            return None  # nothing is known of it
        ended, started = trial.datetime_complete, self._started
        if ended is not None and (ended <= started if started else number < self._number):
            return trial
        if number > self._number:
            return None
        under_way = copy.copy(trial)
        under_way.state = TrialState.RUNNING
        under_way.values = None
        under_way.datetime_complete = None
        return under_way


class _ArchivedPruner(optuna.pruners.BasePruner):
    """Prunes where the archived trial was told to end, and nowhere else.

    By the number of reports: their steps may come in any order.
    """

    pruned_at: int | None = None
    told: Sequence[int] = ()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        reports = len(trial.intermediate_values)
        if self.told:
            return reports in self.told
        return self.pruned_at is not None and reports >= self.pruned_at


class _NoSampler(optuna.samplers.BaseSampler):
    """Says which parameter the archived trial does not have."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        known = ", ".join(trial.system_attrs["fixed_params"]) or "none"
        raise ValueError(
            f"the archived trial has no parameter {param_name!r}; it has: {known}. The code went "
            "another way this time"
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Silence Optuna's log line about a new study, which is not the user's."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
