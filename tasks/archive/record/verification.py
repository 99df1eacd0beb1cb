"""Verification of an archive's signatures, signing of what has none, and later records."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json
from prefect_optuna.tasks.archive.record.manifest import (
    Manifest,
    SigningKeys,
    canonical,
    with_ledger,
    write_head,
    write_version,
)
from prefect_optuna.tasks.archive.record.trial_records import (
    AFTERWARDS,
    SIGNATURE_OF,
    Entry,
    close_lists,
    full_content,
    known_now,
    list_problems,
    record_problem,
    shown_numbers,
    signed_names,
    trial_content,
    trial_problem,
    trial_signature,
    trial_version,
    write_record,
)

if TYPE_CHECKING:
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

# Later records of trials: re-evaluations, and late trials.
#
# A re-evaluation is a file beside the archive, never changed. A late trial is what one came to
# whose place another one had taken meanwhile.


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


_OF_TRIALS = f"{SIGNATURE_OF}{AFTERWARDS}"
_RECORDS = (_OF_TRIALS, f"{SIGNATURE_OF}run:")  # these sign no attribute
_DIGITS = 4  # of a trial's digest, which only say where a list breaks; the signature has all
_MAX_GONE = 10_000  # trials behind the last one there is: so many are looked at
_MAX_PLACES = 10_000  # of such digits in one attribute, which not every storage lets be large


@dataclass(frozen=True)
class SignatureCheck:
    """The result of checking the signatures of an archive.

    Attributes:
        configured: whether there is a key here to check them with.
        keys: the ids of the keys that the archive names, sorted.
        problems: what does not hold, each as a sentence; without a key there are none.
        gaps: what holds as far as one can see, and where something could be missing that nobody
            would miss, each as a sentence.

    Example:
        >>> from prefect_optuna.tasks.archive.record.verification import SignatureCheck
        >>> check = SignatureCheck(configured=False, keys=("85588aed",))
        >>> print(check, check.holds)
        Signed with the key 85588aed, which is not configured here False
    """

    configured: bool
    keys: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True if everything is signed by a key that is configured here, and unchanged."""
        return self.configured and not self.problems

    @property
    def complete(self) -> bool:
        """True if it holds, and nothing could be missing that was signed: there are no gaps."""
        return self.holds and not self.gaps

    def __str__(self) -> str:
        if self.holds:
            start = f"Signed with the key {' and '.join(self.keys)}; the signatures hold"
            if not self.gaps:
                return f"{start}, and nothing is missing"
            return _listed([f"{start}, with gaps:", *self.gaps])
        if self.problems:
            return _listed(["The signatures do not hold:", *self.problems])
        if self.keys:
            return f"Signed with the key {' and '.join(self.keys)}, which is not configured here"
        return "Not signed"


def version_of(manifest: Manifest, trial: FrozenTrial, ids: Sequence[str] | None = None) -> int:
    """The place of the version that a trial ran with, as it says itself.

    By its number, where it does not say: what 0.1.0 took from the queue, and what is asked and
    told by Optuna alone.
    """
    if len(manifest.versions) == 1:
        return 0
    named = trial_version(trial)
    started = 0
    for place, version in enumerate(manifest.versions):
        if (version.id if ids is None else ids[place]) == named:
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
    """Check every signature of an archive."""
    signatures = [manifest.signature, *(version.signature for version in manifest.versions)]
    findings = _Found()
    if keys is not None:  # else there is no need to read the trials
        # Attributes first: a run that goes on tells a trial before its list has it.
        attributes = study.user_attrs
        trials = list(study.get_trials(deepcopy=False))
        for trial in chosen:
            trials[trial.number] = trial
        to_run = {trial.number for trial in chosen}
        signatures += map(trial_signature, trials)
        findings = _look(study, attributes, trials, to_run, manifest, keys)
    named = {str(s["key"]) for s in signatures if isinstance(s, Mapping) and "key" in s}
    return SignatureCheck(
        keys is not None, tuple(sorted(named)), tuple(findings.problems), tuple(findings.gaps)
    )


@dataclass
class _Found:
    """Findings of checking the signatures of a study.

    Attributes:
        problems: what does not hold, each as a sentence.
        gaps: what nothing can be said of.
        entries: the trials in the lists of runs, by run, whose signatures hold.
    """

    problems: list[str] = field(default_factory=list[str])
    gaps: list[str] = field(default_factory=list[str])
    entries: dict[str, list[Entry]] = field(default_factory=dict[str, list[Entry]])


def _look(
    study: Study,
    attributes: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
    to_run: Container[int],
    manifest: Manifest,
    keys: SigningKeys,
) -> _Found:
    findings = _Found()
    findings.problems += _manifest_problems(manifest, keys)
    findings.problems += _attribute_problems(attributes, manifest.uuid, keys)
    _look_at_trials(study, attributes, trials, to_run, manifest, keys, findings)
    problems, gaps = list_problems(attributes, manifest, keys, findings.entries, trials)
    findings.problems += problems
    findings.gaps += gaps
    return findings


def sign_study(study: Study, manifest: Manifest, keys: SigningKeys) -> None:
    """Sign what is not signed yet: the manifest, its versions, attributes, and ended trials."""
    wrong = [
        problem
        for problem in check_signatures(study, manifest, keys).problems
        if not problem.endswith("not signed.")
    ]
    if wrong:
        raise ArchiveError(
            f"The archive of the study {study.study_name!r} is not signed again, as it was signed "
            f"before and that does not hold: {' '.join(wrong)}"
        )
    manifest = with_ledger(study, manifest, keys)
    if manifest.signature is None:
        write_head(study, manifest.signed(keys))
    for version in manifest.versions:
        if version.signature is None:
            write_version(
                study, version, uuid=manifest.uuid, artifacts=manifest.artifacts, keys=keys
            )
    attributes = study.user_attrs
    for name in signed_names(attributes):
        if f"{SIGNATURE_OF}{name}" not in attributes:
            signature = keys.sign("attribute", manifest.uuid, [name, attributes[name]])
            study.set_user_attr(f"{SIGNATURE_OF}{name}", signature)
    attributes = study.user_attrs
    trials = study.get_trials(deepcopy=False)
    entries = _look(study, attributes, trials, (), manifest, keys).entries
    close_lists(study, attributes, manifest, keys, entries)
    listed = {entry.trial.number for run in entries.values() for entry in run}
    numbers = [t.number for t in trials if t.state.is_finished() and t.number not in listed]
    digests = _digests(study, trials, manifest, numbers)
    record = {
        "numbers": _ranges(numbers),
        "count": len(numbers),
        "places": "".join(d[:_DIGITS] for d in digests) if len(digests) <= _MAX_PLACES else "",
        "knows": known_now(study, keys, but=AFTERWARDS),
    }
    write_record(study, manifest, keys, AFTERWARDS, record, digests)


def _manifest_problems(manifest: Manifest, keys: SigningKeys) -> Iterator[str]:
    if why := keys.problem("manifest", manifest.uuid, manifest.content(), manifest.signature):
        yield f"The manifest {why}."
    for place, version in enumerate(manifest.versions):
        if why := keys.problem("version", manifest.uuid, version.content(), version.signature):
            yield f"Version {place} {why}."


def _attribute_problems(
    attributes: Mapping[str, Any], uuid: str, keys: SigningKeys
) -> Iterator[str]:
    for name in signed_names(attributes):
        content = [name, attributes[name]]
        if why := keys.problem("attribute", uuid, content, attributes.get(f"{SIGNATURE_OF}{name}")):
            yield f"The attribute {name!r} {why}."
    for name in attributes:
        signed = name.removeprefix(SIGNATURE_OF)
        is_record = name.startswith(_RECORDS)
        if name.startswith(SIGNATURE_OF) and not is_record and signed not in attributes:
            yield f"The attribute {signed!r} is gone, and its signature is there."


def _look_at_trials(
    study: Study,
    attributes: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
    to_run: Container[int],
    manifest: Manifest,
    keys: SigningKeys,
    found: _Found,
) -> None:
    directions = _directions(study)
    ids = {version.id for version in manifest.versions}
    afterwards = _Afterwards(study, trials, manifest, attributes.get(_OF_TRIALS))
    wrong: dict[str, list[int]] = {}
    failed: list[int] = []
    for place, trial in enumerate(trials):
        if trial.number != place:
            wrong.setdefault("is in the place of another one", []).append(trial.number)
        if not trial.state.is_finished():
            continue
        signature = trial_signature(trial)
        why = ""
        if trial.number in afterwards.covered:
            if not isinstance(signature, Mapping) or "run" in signature:
                continue  # the list below says whether it is as it was
        elif signature is None:
            why = "is not signed"
        if not why:
            why = trial_problem(keys, manifest, trial, signature, directions)
        told = signature if isinstance(signature, Mapping) and "run" in signature else None
        if not why and trial_version(trial) not in ids:
            why = "ran with a version that is gone"
        if not why:
            if told is not None:
                found.entries.setdefault(told["run"], []).append(Entry(trial, told))
        elif (
            trial.state == TrialState.FAIL
            and trial.number not in to_run
            and (signature is None or told is not None)
        ):
            # Whoever fails a trial for a dead process has no key, and nothing comes of it. What
            # has been more than that is in a list, which misses it.
            failed.append(trial.number)
        else:
            wrong.setdefault(why, []).append(trial.number)
    for why, numbers in wrong.items():
        found.problems.append(
            f"{shown_numbers(numbers)}{'' if len(numbers) == 1 else ': each'} {why}."
        )
    found.problems += afterwards.problems(keys)
    if failed:
        found.gaps.append(
            f"{shown_numbers(failed)} failed without a signature, as trials do that were lost with "
            "their process: whether something else was there, only the lists of runs say."
        )


class _Afterwards:
    """The trials that were signed when they had ended, and what their signature says of them."""

    def __init__(
        self, study: Study, trials: Sequence[FrozenTrial], manifest: Manifest, record: Any
    ) -> None:
        self._study, self._trials = study, trials
        self._manifest, self._record = manifest, record
        self._is_former = not isinstance(record, Mapping) or "knows" not in record
        numbers: list[int] = []
        if record is not None and self._is_former:
            last = record.get("last", -1) if isinstance(record, Mapping) else -1
            numbers = [
                t.number
                for t in trials
                if t.state.is_finished() and trial_signature(t) is None and t.number <= last
            ]
        elif record is not None:
            numbers = _from_ranges(record.get("numbers"), len(trials) + _MAX_GONE)
        self._numbers = numbers
        self.covered = frozenset(numbers)

    def problems(self, keys: SigningKeys) -> Iterator[str]:
        """Yield what does not hold, each as a sentence."""
        if self._record is None:
            return
        numbers, manifest, record = self._numbers, self._manifest, self._record
        what = f"What was signed afterwards ({shown_numbers(numbers)})"
        if self._is_former:
            there = [number for number in numbers if number < len(self._trials)]
            content = _former(self._study, self._trials, manifest, there)
            if why := keys.problem("trials", manifest.uuid, content, record):
                yield f"{what} {why}."
            return
        digests = _digests(self._study, self._trials, manifest, numbers)
        if not (why := record_problem(manifest, keys, AFTERWARDS, record, digests)):
            return
        places = str(record.get("places", ""))
        changed = [
            number
            for place, (number, digest) in enumerate(zip(numbers, digests, strict=True))
            if places[_DIGITS * place :][:_DIGITS] != digest[:_DIGITS]
        ]
        where = f", from the look of it: {shown_numbers(changed)}" if changed and places else ""
        yield f"{what} {why}{where}."


def _digests(
    study: Study, trials: Sequence[FrozenTrial], manifest: Manifest, numbers: Sequence[int]
) -> list[str]:
    """A digest of each trial, whatever signature of its own it has."""
    directions, ids = _directions(study), [version.id for version in manifest.versions]
    digests: list[str] = []
    for number in numbers:
        if number >= len(trials):
            digests.append("")
            continue
        trial = trials[number]
        version = ids[version_of(manifest, trial, ids)]
        content = full_content(trial, directions=directions, version=version)
        late = trial.system_attrs.get("constraints")
        digests.append(hashlib.sha256(canonical([content, late])).hexdigest())
    return digests


def _former(
    study: Study, trials: Sequence[FrozenTrial], manifest: Manifest, numbers: Sequence[int]
) -> list[Any]:
    """Return what a former version has signed of trials that had ended."""
    directions = _directions(study)
    content: list[Any] = []
    for number in numbers:
        version = manifest.versions[version_of(manifest, trials[number])].id
        record = trial_content(trials[number], directions=directions, version=version)
        content.append([number, hashlib.sha256(canonical(record)).hexdigest()])
    return content


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order as text: `0-3,7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)


def _from_ranges(text: Any, most: int) -> list[int]:
    """The numbers below `most` that `_ranges` has written; none if it has not."""
    numbers: list[int] = []
    try:
        for part in str(text).split(",") if text else ():
            first, _, last = part.partition("-")
            if numbers and int(first) <= numbers[-1]:
                return []
            numbers.extend(range(int(first), min(int(last or first) + 1, most)))
    except ValueError:
        return []
    return numbers


def _listed(lines: Sequence[str]) -> str:
    return "\n  - ".join(map(visible_line, lines))


def _directions(study: Study) -> list[str]:
    return [direction.name for direction in study.directions]
