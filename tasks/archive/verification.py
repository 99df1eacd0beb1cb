"""Whether the signatures of an archive hold, and signing what has none yet."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks.texts import visible
from prefect_optuna.tasks.archive.manifest import Manifest, write_head, write_version
from prefect_optuna.tasks.archive.signing import SigningKeys, canonical
from prefect_optuna.tasks.archive.trial_records import (
    trial_content,
    trial_signature,
    trial_version,
)

__all__ = ["SignatureCheck", "check_signatures", "sign_study", "version_of"]

_SIGNED_PREFIXES = ("axis:", "timeseries:", "entrypoint:")  # of study attributes
_OF = "signature:"  # before the name of the study attribute that it signs
_OF_TRIALS = "signature:trials"
_SHOWN = 5


@dataclass(frozen=True)
class SignatureCheck:
    """What the signatures of an archive say.

    Attributes:
        configured: whether there is a key here to check them with.
        keys: the ids of the keys that the archive names, sorted.
        problems: what does not hold, each as a sentence; without a key there are none.

    Example:
        >>> from prefect_optuna.tasks import SignatureCheck
        >>> check = SignatureCheck(configured=False, keys=("85588aed",))
        >>> print(check, check.holds)
        Signed with the key 85588aed, which is not configured here False
    """

    configured: bool
    keys: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether everything is signed by a key that is configured here, and unchanged."""
        return self.configured and not self.problems

    def __str__(self) -> str:
        if self.holds:
            return f"Signed with the key {' and '.join(self.keys)}; the signatures hold"
        if self.problems:
            return visible("\n  - ".join(["The signatures do not hold:", *self.problems]))
        if self.keys:
            return f"Signed with the key {' and '.join(self.keys)}, which is not configured here"
        return "Not signed"


def version_of(manifest: Manifest, trial: FrozenTrial) -> int:
    """The place of the version that a trial ran with, as it says itself.

    By its number, where it does not say: what 0.1.0 took from the queue, and what is asked and
    told by Optuna alone.
    """
    named = trial_version(trial)
    started = 0
    for place, version in enumerate(manifest.versions):
        if version.id == named:
            return place
        if version.first_trial <= trial.number:
            started = place
    return started


def check_signatures(
    study: Study,
    manifest: Manifest,
    keys: SigningKeys | None,
    chosen: Sequence[FrozenTrial] = (),
) -> SignatureCheck:
    """Check every signature of an archive.

    Args:
        study: the study.
        manifest: of its archive.
        keys: what to check with; without them, nothing can be said.
        chosen: trials that are about to run again: those, and not what the storage has by now.
    """
    signatures = [manifest.signature, *(version.signature for version in manifest.versions)]
    problems: list[str] = []
    if keys is not None:  # else there is no need to read the trials
        trials = list(study.get_trials(deepcopy=False))
        for trial in chosen:
            trials[trial.number] = trial
        to_run = {trial.number for trial in chosen}
        signatures += map(trial_signature, trials)
        problems = [
            *_manifest_problems(manifest, keys),
            *_attribute_problems(study.user_attrs, manifest.uuid, keys),
            *_trial_problems(study, trials, to_run, manifest, keys),
        ]
    named = {str(s["key"]) for s in signatures if isinstance(s, Mapping) and "key" in s}
    return SignatureCheck(keys is not None, tuple(sorted(named)), tuple(problems))


def sign_study(study: Study, manifest: Manifest, keys: SigningKeys) -> None:
    """Sign what is not signed yet: the manifest, its versions, attributes, and ended trials.

    Raises:
        ArchiveError: something is signed already, and its signature does not hold.
    """
    wrong = [
        one
        for one in check_signatures(study, manifest, keys).problems
        if not one.endswith("not signed.")
    ]
    if wrong:
        raise ArchiveError(
            f"The archive of the study {study.study_name!r} is not signed again, as it was signed "
            f"before and that does not hold: {' '.join(wrong)}"
        )
    if manifest.signature is None:
        write_head(study, manifest.signed(keys))
    for version in manifest.versions:
        if version.signature is None:
            write_version(
                study, version, uuid=manifest.uuid, artifacts=manifest.artifacts, keys=keys
            )
    attributes = study.user_attrs
    for name in _signed_attributes(attributes):
        if f"{_OF}{name}" not in attributes:
            signature = keys.sign("attribute", manifest.uuid, [name, attributes[name]])
            study.set_user_attr(f"{_OF}{name}", signature)
    trials = study.get_trials(deepcopy=False)
    if ended := [t.number for t in trials if t.state.is_finished() and trial_signature(t) is None]:
        content = _together(study, trials, manifest, ended)
        signature = keys.sign("trials", manifest.uuid, content)
        study.set_user_attr(_OF_TRIALS, {**signature, "last": ended[-1]})


def _manifest_problems(manifest: Manifest, keys: SigningKeys) -> Iterator[str]:
    if why := keys.problem("manifest", manifest.uuid, manifest.content(), manifest.signature):
        yield f"The manifest {why}."
    for place, version in enumerate(manifest.versions):
        if why := keys.problem("version", manifest.uuid, version.content(), version.signature):
            yield f"Version {place} {why}."


def _attribute_problems(
    attributes: Mapping[str, Any], uuid: str, keys: SigningKeys
) -> Iterator[str]:
    for name in _signed_attributes(attributes):
        content = [name, attributes[name]]
        if why := keys.problem("attribute", uuid, content, attributes.get(f"{_OF}{name}")):
            yield f"The attribute {name!r} {why}."
    for name in attributes:
        signed = name.removeprefix(_OF)
        if name.startswith(_OF) and name != _OF_TRIALS and signed not in attributes:
            yield f"The attribute {signed!r} is gone, and its signature is there."


def _trial_problems(
    study: Study,
    trials: Sequence[FrozenTrial],
    to_run: Container[int],
    manifest: Manifest,
    keys: SigningKeys,
) -> Iterator[str]:
    directions = _directions(study)
    ids = {version.id for version in manifest.versions}
    together = study.user_attrs.get(_OF_TRIALS)
    last = together.get("last", -1) if isinstance(together, Mapping) else -1
    wrong: dict[str, list[int]] = {}
    afterwards: list[int] = []
    for trial in trials:
        if not trial.state.is_finished():
            continue
        signature = trial_signature(trial)
        if signature is None and trial.number <= last:
            afterwards.append(trial.number)
        elif signature is None and trial.state == TrialState.FAIL and trial.number not in to_run:
            pass  # lost: whoever fails it for a dead process has no key, and nothing came of it
        else:
            version = trial_version(trial)
            content = trial_content(trial, directions=directions, version=version or "")
            why = keys.problem("trial", manifest.uuid, content, signature)
            if not why and version not in ids:
                why = "ran with a version that is gone"
            if why:
                wrong.setdefault(why, []).append(trial.number)
    for why, numbers in wrong.items():
        yield f"{_numbers(numbers)}{'' if len(numbers) == 1 else ': each'} {why}."
    if together is not None:
        content = _together(study, trials, manifest, afterwards)
        if why := keys.problem("trials", manifest.uuid, content, together):
            yield f"What was signed afterwards ({_numbers(afterwards)}) {why}."


def _together(
    study: Study, trials: Sequence[FrozenTrial], manifest: Manifest, numbers: Iterable[int]
) -> list[Any]:
    """What one signature says of many trials: an attribute of a study stays small."""
    directions = _directions(study)
    content: list[Any] = []
    for number in numbers:
        version = manifest.versions[version_of(manifest, trials[number])].id
        record = trial_content(trials[number], directions=directions, version=version)
        content.append([number, hashlib.sha256(canonical(record)).hexdigest()])
    return content


def _signed_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """The names of those that have to be signed, and of those that are."""
    return [
        name
        for name in attributes
        if name.startswith(_SIGNED_PREFIXES) or f"{_OF}{name}" in attributes
    ]


def _directions(study: Study) -> list[str]:
    return [direction.name for direction in study.directions]


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{'Trial' if len(numbers) == 1 else 'Trials'} {shown}{more}"
