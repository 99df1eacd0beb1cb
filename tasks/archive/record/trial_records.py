"""Signed content of a trial: number, state, values, parameters, attributes and version.

A trial is signed by the process that tells its values, just before it does, since a storage
changes nothing in a trial that has ended. The signature is part of an attribute that the trial
gets anyway: its reference to the archived result, or else the attribute `signature`. It is also
an entry in the list of its run (`running_list.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.tasks.archive.record.attributes import RESULT_KEY
from prefect_optuna.tasks.archive.record.manifest import Manifest
from prefect_optuna.tasks.archive.record.running_list import Entry, RunningList
from prefect_optuna.tasks.archive.record.signing import SigningKeys
from prefect_optuna.tasks.archive.series.timeseries import KEY_TIMESERIES
from prefect_optuna.tasks.seeding import SEED

MARK = "prefect_optuna:session"
"""The system attribute of a trial that says who took it: the `id` of the session, and the
`version` of the archive that it runs. What 0.1.0 wrote is the session's id alone."""

VERSION = "prefect_optuna:version"
"""The system attribute of a trial in the queue: the id of the version that was saved last."""

SIGNATURE = "signature"
"""The user attribute of a trial that holds its signature, where it has no archived result."""


# The system attributes that say what a trial is worth, or where its parameters and its random
# numbers come from. That of constraints as samplers write them is in the list of the run: it comes
# after the signature.
_SYSTEM = ("constraints:", "fixed_params", "prefect_optuna:lost", SEED)
_LINK = ("run", "place", "before")
_MAX_NAMES = 1000


class TrialSigner:
    """Signs the trials that one run tells, one after the other, and keeps the list of them."""

    def __init__(self, keys: SigningKeys, study: Study, manifest: Manifest, version: str) -> None:
        self._keys = keys
        self._version = version
        self._directions = [direction.name for direction in study.directions]
        self._list = RunningList(keys, study, manifest, version)
        self._pending: tuple[Any, ...] = ()

    def signed(
        self,
        trial: FrozenTrial,
        attributes: Mapping[str, Any],
        state: TrialState,
        values: Sequence[float] | None,
    ) -> dict[str, Any]:
        """Add the signature of a trial to the attributes that it is about to get."""
        attributes = dict(attributes)
        content = full_content(
            trial,
            directions=self._directions,
            version=self._version,
            attributes={**trial.user_attrs, **attributes},
            state=state,
            values=self._values(trial, state, values),
        )
        link = self._list.next()
        manifest = self._list.manifest
        signature: dict[str, Any] = {
            **self._keys.sign("told", manifest.uuid, [manifest.ledger, link, content]),
            "version": self._version,
            **link,
        }
        if isinstance(result := attributes.get(RESULT_KEY), dict):
            attributes[RESULT_KEY] = {**result, SIGNATURE: signature}
        else:
            attributes[SIGNATURE] = signature
        self._pending = (trial.number, signature, state, content["values"])
        return attributes

    def told(self, trial: FrozenTrial) -> None:
        """Take a trial that has been signed and told into the list; another one is left out."""
        signature = trial_signature(trial)
        values = None if trial.values is None else [_number(value) for value in trial.values]
        # Whether the signature holds, readers work out; here it matters that it is this one.
        if (trial.number, signature, trial.state, values) == self._pending:
            self._list.append(Entry(trial, signature))
        self._pending = ()

    def close(self) -> None:
        """Say that this run tells no trials any more: the list is complete."""
        self._list.close()

    def _values(
        self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> Sequence[float] | None:
        """The values that a trial will have: of a pruned one, Optuna takes the last it reported."""
        if state != TrialState.PRUNED or trial.last_step is None or len(self._directions) > 1:
            return values
        last = trial.intermediate_values[trial.last_step]
        return None if math.isnan(last) else [last]


def trial_content(
    trial: FrozenTrial,
    *,
    directions: Sequence[str],
    version: str,
    attributes: Mapping[str, Any] | None = None,
    state: TrialState | None = None,
    values: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return the signed content of a trial, as JSON."""
    attributes = dict(trial.user_attrs if attributes is None else attributes)
    attributes.pop(SIGNATURE, None)
    if isinstance(result := attributes.get(RESULT_KEY), Mapping):
        attributes[RESULT_KEY] = {k: v for k, v in result.items() if k != SIGNATURE}
    if state is None:
        state, values = trial.state, trial.values
    return {
        "number": trial.number,
        "state": state.name,
        "values": None if values is None else [_number(value) for value in values],
        "directions": list(directions),
        "version": version,
        # As Optuna stores them: a category is its place in the list of choices.
        "params": {
            name: _number(trial.distributions[name].to_internal_repr(value))
            for name, value in trial.params.items()
        },
        "distributions": {
            name: _distribution_json(name, distribution)
            for name, distribution in trial.distributions.items()
        },
        "intermediate_values": {
            str(step): _number(value) for step, value in trial.intermediate_values.items()
        },
        "attributes": attributes,
    }


def full_content(trial: FrozenTrial, **rest: Any) -> dict[str, Any]:
    """The same, with what system attributes say of its worth, and `1` told from `True`."""
    return {
        **trial_content(trial, **rest),
        "system": {
            name: value for name, value in trial.system_attrs.items() if name.startswith(_SYSTEM)
        },
        "confused": [
            *(name for name in trial.params if _is_confused(trial, name)),
            *(str(number) for number in trial.values or () if type(number) is bool),
        ],
    }


def trial_problem(
    keys: SigningKeys,
    manifest: Manifest,
    trial: FrozenTrial,
    signature: Any,
    directions: Sequence[str],
) -> str:
    """Say why the signature of a trial does not hold, as the rest of a sentence, or nothing."""
    rest: dict[str, Any] = {"directions": directions, "version": trial_version(trial) or ""}
    if (link := _link(signature)) is None:
        # Of a former version, or none.
        return keys.problem("trial", manifest.uuid, trial_content(trial, **rest), signature)
    content = [manifest.ledger, link, full_content(trial, **rest)]
    return keys.problem("told", manifest.uuid, content, signature)


def _link(signature: Any) -> dict[str, Any] | None:
    """Return a signature's place in the list of its run; `None` if it is in none."""
    if isinstance(signature, Mapping) and "run" in signature:
        return {name: signature.get(name) for name in _LINK}
    return None


_last: dict[str, tuple[BaseDistribution, str]] = {}


def _distribution_json(name: str, distribution: BaseDistribution) -> str:
    """A distribution as JSON; the trials of a study often have one object for all."""
    known = _last.get(name)
    if known is None or known[0] is not distribution:
        if len(_last) > _MAX_NAMES:
            _last.clear()
        known = _last[name] = distribution, distribution_to_json(distribution)
    return known[1]


def _is_confused(trial: FrozenTrial, name: str) -> bool:
    """Tell whether a parameter equals what was suggested but has another type: `1` for `True`."""
    value, distribution = trial.params[name], trial.distributions[name]
    if not isinstance(distribution, CategoricalDistribution):
        return isinstance(value, bool)  # the others have numbers
    exact = distribution.to_external_repr(distribution.to_internal_repr(value))
    return isinstance(value, bool) != isinstance(exact, bool)


def trial_signature(trial: FrozenTrial) -> Any:
    """The signature of a trial; `None` if it has none."""
    result = trial.user_attrs.get(RESULT_KEY)
    if isinstance(result, Mapping) and SIGNATURE in result:
        return result[SIGNATURE]
    return trial.user_attrs.get(SIGNATURE)


def trial_version(trial: FrozenTrial) -> str | None:
    """The id of the version that a trial says it ran with; `None` if it does not say.

    What is signed says it first, then whoever took the trial, then what a loop of one's own has
    kept with it. What a repetition has of its predecessor comes after that.
    """
    version = _named(trial_signature(trial)) or _named(trial.user_attrs.get(RESULT_KEY))
    if version or (version := _named(trial.system_attrs.get(MARK))):
        return version
    for key, value in trial.user_attrs.items():
        if key.startswith(KEY_TIMESERIES) and (version := _named(value)):
            return version
    return _named({"version": trial.system_attrs.get(VERSION)})


def _named(record: Any) -> str | None:
    version = record.get("version") if isinstance(record, Mapping) else None
    return version if isinstance(version, str) and version else None


def _number(value: float) -> float:
    return float(value) + 0.0  # SQLite has no negative zero
