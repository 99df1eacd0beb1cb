"""The spool: trials that ended while their storage was away, on this machine's disk.

Whoever waits for a storage may not live to see it again: the machine is restarted, somebody loses
patience. What was computed lies here meanwhile, and the next run of the study on this machine
tells it, or `prefect-optuna spool send` does.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger
from prefect.settings import get_current_settings

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.blocks.patience import Patience, PatientStorage, before_waiting
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.stores.local import is_private, shared_part
from prefect_optuna.flows.session import OF_ONE_ATTEMPT, history_of, is_lost, living_sessions
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.tasks.archive import ArchivedStudy, Manifest
from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY, SCOPE_KEY, SigningKeys
from prefect_optuna.tasks.archive.record.trial_records import MARK, TrialSigner
from prefect_optuna.tasks.archive.record.verification import late_attribute
from prefect_optuna.tasks.archive.series.results import EncodedResult, ResultWriter
from prefect_optuna.tasks.seeding import SHARED_KEY
from prefect_optuna.tasks.trial import TOLD_TO_PRUNE, Outcome

_MAGIC = b"prefect-optuna trial 1"
_SUFFIX = ".trial"
_LATEST = 1e11  # seconds since 1970

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class SpooledTrial:
    """A trial in the spool.

    Attributes:
        study_name: of its study.
        storage: where the study is, for people.
        uuid: of the study's archive.
        session: who ran it.
        trial: the trial as it ended.
        encoded: its result, where that could not be archived.
        at: when it was put down, in seconds since 1970.
        path: of its file; `None` for one that is not in the spool.
    """

    study_name: str
    storage: str
    uuid: str
    session: str
    trial: FrozenTrial
    encoded: EncodedResult | None
    at: float
    path: Path | None = None

    @property
    def id(self) -> str:
        """The trial's name in the spool."""
        return f"{_study_id(self.uuid)}-{self.trial.number:06d}-{self.session[:8]}"

    def drop(self) -> None:
        """Remove it from the spool."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Spool:
    """The folder of this machine where trials wait for their storage; only its user may look in.

    Example:
        >>> from prefect_optuna.flows.spool import Spool
        >>> list(Spool())
        []
    """

    def __init__(self, folder: Path | None = None) -> None:
        given = folder or OptunaSettings.here().spool
        self.folder: Path = given or get_current_settings().home / "optuna-spool"

    def __iter__(self) -> Iterator[SpooledTrial]:
        """The trials that are here, the oldest first; what is damaged is left out, and logged."""
        return iter(self._read_all(self._paths()))

    def _read_all(self, paths: Iterable[Path]) -> list[SpooledTrial]:
        trials: list[SpooledTrial] = []
        for path in paths:
            try:
                trials.append(_read(path))
            except FileNotFoundError:
                continue  # another process has just told it
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are whole
                get_logger(__name__).warning(
                    "%s is no whole file of the spool, and is left alone: %s",
                    path,
                    error_words(error),
                )
        return sorted(trials, key=lambda one: (one.at, one.id))

    def of(self, uuid: str) -> list[SpooledTrial]:
        """The trials of a study."""
        mine = [path for path in self._paths() if path.name.startswith(f"{_study_id(uuid)}-")]
        return [kept for kept in self._read_all(mine) if kept.uuid == uuid]

    def put(self, kept: SpooledTrial) -> SpooledTrial:
        """Put a trial down; an earlier one of the same name is replaced."""
        head = {
            "study_name": kept.study_name,
            "storage": kept.storage,
            "uuid": kept.uuid,
            "session": kept.session,
            "at": kept.at,
            "trial": trial_to_json(kept.trial),
            "reference": None if kept.encoded is None else kept.encoded.reference,
        }
        body = json.dumps(head).encode() + b"\n"
        body += b"" if kept.encoded is None else kept.encoded.content
        held, limit = sum(map(_size, self._paths())), OptunaSettings.here().spool_limit
        if held + len(body) > limit:
            raise ValueError(
                f"the spool {self.folder} holds {held:,} bytes of at most {limit:,} "
                "(PREFECT_INTEGRATIONS_OPTUNA_SPOOL_LIMIT), and this trial has "
                f"{len(body):,}"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shared := shared_part(self.folder):
            raise ValueError(
                f"the spool {self.folder} is not its user's alone, because of {shared}: chmod 700 "
                "that, or name another folder in PREFECT_INTEGRATIONS_OPTUNA_SPOOL"
            )
        path = self.folder / f"{kept.id}{_SUFFIX}"
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")  # for its user only
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(b"\n".join([_MAGIC, hashlib.sha256(body).hexdigest().encode(), body]))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return replace(kept, path=path)

    def _paths(self) -> list[Path]:
        # What is told is signed: nobody else may have put it there.
        if shared_part(self.folder):
            return []
        paths = [path for path in self.folder.glob(f"*{_SUFFIX}") if path.name[0] != "."]
        return [path for path in paths if is_private(path)]


def _study_id(uuid: str) -> str:
    return hashlib.sha256(uuid.encode()).hexdigest()[:8]


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _read(path: Path) -> SpooledTrial:
    magic, digest, body = path.read_bytes().split(b"\n", 2)
    if magic != _MAGIC:
        raise ValueError("it is of another version, or of something else")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("it is not what was written")
    head, content = body.split(b"\n", 1)
    data = json.loads(head)
    reference = data["reference"]
    words = [data[name] for name in ("study_name", "storage", "uuid", "session")]
    if not all(word.encode() for word in words) or not 0 <= data["at"] < _LATEST:
        raise ValueError("it says nothing of a trial")
    return SpooledTrial(
        data["study_name"],
        data["storage"],
        data["uuid"],
        data["session"],
        trial_from_json(data["trial"]),
        None if reference is None else EncodedResult(content, reference),
        data["at"],
        path,
    )


class TrialKeeper:
    """Puts trials of one session into the spool while a storage is waited for; picklable."""

    def __init__(
        self, study_name: str, storage: str, uuid: str, session: str, spool: Spool | None = None
    ) -> None:
        self._of = (study_name, storage, uuid, session)
        self.uuid = uuid
        self.session = session
        self.spool: Spool = spool or Spool()

    @contextlib.contextmanager
    def keeping(
        self,
        outcome: Outcome,
        trial: FrozenTrial,
        encoded: EncodedResult | None = None,
    ) -> Generator[None]:
        """Keep a trial while the code within waits for a storage.

        What ends there in good order has been written, and is kept no more.
        """
        kept: list[SpooledTrial] = []

        def keep() -> None:
            try:
                kept.append(self.spool.put(self.ended(outcome, trial, encoded)))
            except Exception as error:  # noqa: BLE001 - it still waits in memory
                get_logger(__name__).warning(
                    "Trial %d waits for its storage in memory only: %s",
                    trial.number,
                    error_words(error),
                )

        with before_waiting(keep):
            yield
        for entry in kept:
            entry.drop()

    def ended(
        self, outcome: Outcome, trial: FrozenTrial, encoded: EncodedResult | None = None
    ) -> SpooledTrial:
        """A trial as it is put into the spool."""
        # No deep copy: nothing here changes what is in the attributes.
        ended = FrozenTrial(
            number=trial.number,
            trial_id=trial.number,
            state=STATES[outcome.state],
            value=None,
            values=None if outcome.values is None else list(outcome.values),
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={**trial.user_attrs, **told_attributes(outcome)},
            system_attrs=trial.system_attrs,
            datetime_start=trial.datetime_start,
            datetime_complete=datetime.now(),  # as Optuna's, in this process's time zone  # noqa: DTZ005
        )
        return SpooledTrial(*self._of, ended, encoded, time.time())


def told_attributes(outcome: Outcome) -> dict[str, Any]:
    """The user attributes that a trial gets when it is told."""
    attributes: dict[str, Any] = {}
    if outcome.used:
        attributes[SCOPE_KEY] = outcome.used
    if outcome.state == "failed":
        attributes["error"] = outcome.message
    if outcome.result is not None:
        attributes[RESULT_KEY] = outcome.result
    if outcome.shared:
        attributes[SHARED_KEY] = list(outcome.shared)
    if outcome.told_to_prune:
        attributes[TOLD_TO_PRUNE] = list(outcome.told_to_prune)
    return attributes


class Delivery:
    """Tells a study what its trials came to that could not be told in time."""

    def __init__(
        self,
        study: FlowStudy,
        writer: ResultWriter,
        signer: Callable[[str], TrialSigner | None],
        logger: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._study = study
        self._writer = writer
        self._signer = signer
        self._logger = logger

    def tell(self, kept: SpooledTrial) -> FrozenTrial | None:
        """Tell what a trial came to.

        Whoever tells first wins. Where the trial was given to another one meanwhile, which has not
        ended, this is its outcome; where that has ended, this one is kept beside it, see
        `ArchivedStudy.late_trials`.
        """
        number = kept.trial.number
        trials = self._study.get_trials(deepcopy=False)
        if number >= len(trials):
            self._logger.warning(
                "The study has no trial %d, whose outcome %s is in the spool.", number, kept.id
            )
            return None
        attempts = [trials[number], *(t for t in trials if number in history_of(t))]
        ours = next((trial for trial in attempts if _is_same(trial, kept.trial)), None)
        if ours is not None:
            kept.drop()  # it was told after all
            return ours
        if len(attempts) == 1 and is_lost(attempts[0]):
            return None  # another process is about to ask it again
        attributes = dict(kept.trial.user_attrs)
        if kept.encoded is not None:
            attributes[RESULT_KEY] = self._writer.put(number, kept.encoded)
        last = attempts[-1]
        told = None
        if not last.state.is_finished() and _fits(last, kept.trial):
            with contextlib.suppress(UpdateFinishedTrialError):
                told = self._told(last, kept, attributes)
        if told is None:
            kept.trial.user_attrs = attributes
            name, value = late_attribute(kept.trial, told_as=last.number, at=kept.at)
            storage = self._study.storage
            storage.set_study_system_attr(self._study._study_id, name, value)  # pyright: ignore[reportPrivateUsage]
            self._logger.warning(
                "Trial %d was given to another one meanwhile, trial %d; what it came to here is "
                "archived beside that, see ArchivedStudy.late_trials().",
                number,
                last.number,
            )
        else:
            words = f"as trial {told.number}: it had been taken for lost"
            self._logger.info(
                "What trial %d came to while its storage was away is told%s.",
                number,
                "" if told.number == number else f" {words}",
            )
        kept.drop()
        return told

    def _told(
        self, trial: FrozenTrial, kept: SpooledTrial, attributes: dict[str, Any]
    ) -> FrozenTrial | None:
        storage, of = self._study.storage, trial._trial_id  # pyright: ignore[reportPrivateUsage]
        if trial.state == TrialState.WAITING and not storage.set_trial_state_values(
            of, TrialState.RUNNING
        ):
            return None
        store_given(storage, of, kept.trial, attributes)
        state, values = kept.trial.state, kept.trial.values
        mark = kept.trial.system_attrs.get(MARK)
        signer = self._signer(mark["version"] if isinstance(mark, dict) else "")
        if signer is not None:
            stored = storage.get_trial(of)
            attributes = signer.signed(stored, attributes, state, values)
        for name, value in attributes.items():
            storage.set_trial_user_attr(of, name, value)
        study = self._study.for_one_trial()
        study.sampler = copy.deepcopy(study.sampler)  # it is asked, and must not draw for that
        frozen = study.tell(optuna.Trial(study, of), values=values, state=state)
        if signer is not None:
            signer.told(frozen)
            signer.close()
        return frozen


def store_given(
    storage: optuna.storages.BaseStorage, of: int, given: FrozenTrial, late: Any = ()
) -> None:
    """Store what a trial was given where the storage did not hear of it."""
    stored = storage.get_trial(of)
    for name in given.params.keys() - stored.params.keys():
        distribution = given.distributions[name]
        value = distribution.to_internal_repr(given.params[name])
        storage.set_trial_param(of, name, value, distribution)
    for step in given.intermediate_values.keys() - stored.intermediate_values.keys():
        storage.set_trial_intermediate_value(of, step, given.intermediate_values[step])
    for name, value in given.user_attrs.items():
        if name not in late:
            storage.set_trial_user_attr(of, name, value)
    for name, value in given.system_attrs.items():
        # It may be stored as a later attempt, which stays that: else it would be asked once more.
        if name not in OF_ONE_ATTEMPT and stored.system_attrs.get(name) != value:
            storage.set_trial_system_attr(of, name, value)


def _is_same(stored: FrozenTrial, trial: FrozenTrial) -> bool:
    """Tell whether a stored trial has ended as this one did."""
    if stored.state != trial.state or is_lost(stored) or stored.params != trial.params:
        return False
    return trial.values is None or stored.values == trial.values


def _fits(stored: FrozenTrial, trial: FrozenTrial) -> bool:
    """Tell whether an unfinished trial has no other parameters than this one."""
    if stored.number == trial.number:
        return True
    given = {**stored.system_attrs.get("fixed_params", {}), **stored.params}
    return all(name in trial.params and trial.params[name] == given[name] for name in given)


def send(
    trials: Iterable[SpooledTrial],
    storage: StudyStorage | str | Path | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
) -> list[SpooledTrial]:
    """Tell studies what is in the spool of them, but for what a program that runs waits with."""
    block, filesystem = as_study_storage(storage), as_artifact_filesystem(artifacts)
    kept_of: dict[str, list[SpooledTrial]] = {}
    for kept in trials:
        kept_of.setdefault(kept.study_name, []).append(kept)
    sent: list[SpooledTrial] = []
    for name, those in kept_of.items():
        archived = ArchivedStudy.load(name, storage=block, artifacts=filesystem)
        manifest = archived.manifest
        if any(kept.uuid != manifest.uuid for kept in those):
            raise ArchiveError(
                f"Expected the study {name!r} that the trials in the spool are of, found another "
                f"one of that name in {block.location}. Theirs was in {those[0].storage}: name "
                "that storage."
            )
        study = FlowStudy.open(name, PatientStorage(block.get_storage(), Patience(0)), None, None)
        signer_of = partial(_signer, SigningKeys.configured(), study, manifest)
        writer = ResultWriter(filesystem, manifest.uuid)
        delivery = Delivery(study, writer, signer_of, get_logger(__name__))
        alive = living_sessions(study)
        for kept in those:
            if kept.session not in alive:
                delivery.tell(kept)
                if kept.path is None or not kept.path.exists():
                    sent.append(kept)
    return sent


def _signer(
    keys: SigningKeys | None, study: FlowStudy, manifest: Manifest, version: str
) -> TrialSigner | None:
    return None if keys is None else TrialSigner(keys, study, manifest, version)
