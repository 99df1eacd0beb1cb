"""`replay`: a study again, asked and told in the order in which it was."""

from __future__ import annotations

import ast
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from prefect_optuna.blocks import ArtifactFileSystem, StudyStorage, as_study_storage
from prefect_optuna.errors import (
    DamagedStorageError,
    InvalidSettingError,
    PrefectOptunaError,
)
from prefect_optuna.flows.session import is_lost
from prefect_optuna.flows.study import FlowStudy, Sampler, SamplerName, make_sampler
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.archive import ArchivedStudy
from prefect_optuna.tasks.archive.record.trial_records import MARK
from prefect_optuna.tasks.sampling import (
    MALFORMED,
    STATE,
    AskedSampler,
    Numbers,
    Places,
    as_of,
    asked_of,
    fresh_copy,
    is_asked,
    scrambles,
    with_max_trials,
)
from prefect_optuna.tasks.seeding import first_number


@dataclass(frozen=True)
class Replayed:
    """The outcome of replaying a study.

    Attributes:
        study: the study that was made; as far as the first difference, if there is one.
        n_trials: how many trials were asked again.
        n_taken: how many were taken as they are: those that nobody asked through this package.
        first_difference: the number of the first trial that got another parameter; or `None`.
        message: the same in a sentence.
    """

    study: optuna.Study
    n_trials: int
    n_taken: int
    first_difference: int | None
    message: str

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials of the study that was made."""
        return self.study.trials

    @property
    def same(self) -> bool:
        """True if trials were asked again, and all parameters came out as they were."""
        return self.n_trials > 0 and self.first_difference is None

    def __str__(self) -> str:
        return self.message


def replay(
    study: str | optuna.Study,
    *,
    storage: StudyStorage | str | Path | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    sampler: SamplerName | Sampler | BaseSampler | None = None,
    into: optuna.Study | None = None,
) -> Replayed:
    """Ask a study's sampler again for all its parameters, and compare.

    Each trial is asked with those told that were told when it was asked the first time, and with
    the random numbers that it had, whichever workers that was; values come from the record, so that
    no code of the archive runs. `reevaluate(trials="all")` runs that.

    Args:
        study: The study, or its name.
        storage: Where a study given by its name is kept, as `optimize` takes it.
        artifacts: Where its archive is kept, as `optimize` takes it.
        sampler: What asked for parameters; by default as it is archived, which does for names with
            options that are numbers and words.
        into: An empty study that gets the trials; by default a new one in memory.

    Returns:
        The study that was made, and the first trial that differs, if one does.

    Raises:
        StudyNotFoundError: There is no such study.
        InvalidSettingError: The sampler cannot be made of what is archived, or `into` is not empty.
        DamagedStorageError: What trials say of how they were asked is damaged.

    Example:
        >>> from prefect_optuna.flows import optimize, replay
        >>> def parabola(trial):
        ...     return (trial.suggest_float("x", -5, 5) - 2) ** 2
        >>> import tempfile, os
        >>> os.chdir(tempfile.mkdtemp())
        >>> result = optimize(parabola, study_name="docs", n_trials=20, n_jobs=4)
        >>> print(replay("docs"))
        Study 'docs': 20 trials were asked again, and have the parameters that they had.
    """
    recorded = as_study_storage(storage).load_study(study) if isinstance(study, str) else study
    archived = None
    if sampler is None:
        archived = ArchivedStudy.of(recorded, artifacts=artifacts)
    else:
        make_sampler(sampler)  # its name may be wrong
    try:
        return _Replay(recorded, archived, sampler, into).run()
    except PrefectOptunaError:
        raise
    except MALFORMED as error:
        raise DamagedStorageError(
            f"The study {recorded.study_name!r} does not say how its trials were asked, or its "
            f"sampler fails: the {type(error).__name__} before this says where. A study that is "
            "damaged comes back from a copy."
        ) from error


class _Replay:
    def __init__(
        self,
        recorded: optuna.Study,
        archived: ArchivedStudy | None,
        sampler: str | Sampler | BaseSampler | None,
        into: optuna.Study | None,
    ) -> None:
        self._name = recorded.study_name
        self._trials = recorded.get_trials(deepcopy=False)
        storage: Any = recorded._storage  # pyright: ignore[reportPrivateUsage]
        study_id = recorded._study_id  # pyright: ignore[reportPrivateUsage]
        self._attributes = storage.get_study_system_attrs(study_id)
        self._archived = archived
        self._given = sampler
        self._samplers: dict[str, BaseSampler] = {}
        self._numbers: dict[str, BaseSampler] = {}
        self._places = Places()
        if into is None:
            with _quiet():
                into = optuna.create_study(study_name=self._name, directions=recorded.directions)
        if into.trials or into.directions != recorded.directions:
            raise InvalidSettingError(
                f"`into` is an empty study with the directions of {self._name!r}; found one with "
                f"{len(into.trials)} trials and {len(into.directions)} directions."
            )
        self._into = into
        pruner = self._pruner() or recorded.pruner
        self._study = FlowStudy.open(
            into.study_name, into._storage, None, pruner  # pyright: ignore[reportPrivateUsage]
        )  # fmt: skip

    def run(self) -> Replayed:
        for trial in self._trials:
            template = self._waiting(trial) if self._is_asked(trial) else copy.deepcopy(trial)
            storage, study_id = self._study.storage, self._study._study_id  # pyright: ignore[reportPrivateUsage]
            storage.create_new_trial(study_id, template_trial=template)
        order = list(self._order())
        taken = sum(not is_lost(trial) and not self._is_asked(trial) for trial in self._trials)
        for asked, number in enumerate(order):
            if (difference := self._ask(self._trials[number])) is not None:
                return Replayed(self._into, asked + 1, taken, number, difference)
        if not order:
            message = (
                f"Study {self._name!r}: none of its {len(self._trials)} trials was asked through "
                "this package in a way that it has noted, so there is nothing to ask again. "
                "optimize and distribute note it."
            )
            return Replayed(self._into, 0, taken, None, message)
        count = f"{len(order)} trial{' was' if len(order) == 1 else 's were'} asked again"
        rest = f"; {taken} that this package did not ask stand as they were" if taken else ""
        message = f"Study {self._name!r}: {count}, and have the parameters that they had{rest}."
        return Replayed(self._into, len(order), taken, None, message)

    def _is_asked(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial is to be asked again: it has ended, and says how it was asked."""
        if not is_asked(trial) or not trial.state.is_finished() or is_lost(trial):
            return False
        return "seed" in asked_of(trial) or self._sequence(trial) is not None

    def _sequence(self, trial: FrozenTrial) -> str | None:
        """Return the id of the sequence that a trial has drawn from, if its start is known."""
        state = trial.system_attrs.get(STATE)
        return state[0] if state and f"{STATE}:{state[0]}" in self._attributes else None

    def _waiting(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial before it was asked."""
        first = trial if "seed" in asked_of(trial) else self._trials[first_number(trial)]
        names = ("retry_history", "failed_trial", MARK)
        given = {name: trial.system_attrs[name] for name in names if name in trial.system_attrs}
        if (fixed := first.system_attrs.get("fixed_params")) is not None:
            given["fixed_params"] = fixed
        constraints = {k: v for k, v in trial.system_attrs.items() if k.startswith("constraints")}
        return create_trial(
            state=TrialState.WAITING,
            user_attrs=dict(trial.user_attrs),
            system_attrs={**given, **constraints},
        )

    def _order(self) -> Iterator[int]:
        """The trials in the order in which they were asked: whatever one has seen comes before."""
        pending = [trial for trial in self._trials if self._is_asked(trial)]
        pending.sort(key=lambda one: (_n_told(one), one.number))
        done: set[int] = set()
        for trial in pending:
            stack = [trial]
            while stack:
                seen_count, unfinished = asked_of(stack[-1])["seen"]
                earlier = (
                    self._trials[number]
                    for number in map(int, unfinished)
                    if number < seen_count and unfinished[str(number)][0] > 0
                )
                before = next(
                    (
                        one
                        for one in earlier
                        if one.number not in done and self._is_asked(one) and one not in stack
                    ),
                    None,
                )
                if before is not None:
                    stack.append(before)
                elif (number := stack.pop().number) not in done:
                    done.add(number)
                    yield number

    def _ask(self, trial: FrozenTrial) -> str | None:
        """Ask for a trial, and tell it; what differs, if something does."""
        asked = asked_of(trial)
        storage, study_id = self._study.storage, self._study._study_id  # pyright: ignore[reportPrivateUsage]
        there, kept = self._seen(storage.get_all_trials(study_id, deepcopy=False), asked["seen"])
        alone, seed = self._study.for_one_trial(), asked.get("seed")
        own = self._sampler(trial) if seed is not None else self._continued(trial)
        asks = AskedSampler(own, asked["seen"], asked["place"], seed)
        asks.look(alone, there, kept)
        alone.sampler = asks
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        again = optuna.Trial(alone, trial_id)
        for name, distribution in trial.distributions.items():
            was = trial.params[name]
            now = again._suggest(name, distribution)  # pyright: ignore[reportPrivateUsage]
            if now != was and not (now != now and was != was):
                return (
                    f"Trial {trial.number} of the study {self._name!r} is the first that differs: "
                    f"{name} is {_shown(now)}, and was {_shown(was)}."
                )
        for step, value in trial.intermediate_values.items():
            storage.set_trial_intermediate_value(trial_id, step, value)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        alone.tell(again, values=values, state=trial.state)
        if seed is None:
            asks.publish()
        return None

    def _seen(self, trials: list[FrozenTrial], seen: Any) -> tuple[Sequence[FrozenTrial], Any]:
        """Return the trials that there were, and their places; settled ones are not read again."""
        count, unfinished = seen
        places = self._places
        if count < places.known or min(map(int, unfinished), default=count) < places.settled:
            places = Places()  # another process knew more than this one
        there, kept, _ = places.seen(as_of(trials, seen, since=places.settled))
        return there, kept

    def _sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler that asked for a trial, in the state in which it was before."""
        version = ""
        if self._given is None:
            version = trial.system_attrs[MARK].get("version", "")
        began = self._attributes.get(f"{STATE}:{trial.system_attrs[MARK]['id']}", {})
        key = f"{version}:{began.get('seeds')}"
        if key not in self._samplers:
            self._samplers[key] = self._made(version)
            scrambles(self._samplers[key], began.get("seeds"))
        return self._samplers[key]

    def _made(self, version: str) -> BaseSampler:
        with _quiet():
            if self._given is not None:
                made = make_sampler(self._given)
            else:
                made = _of_text(self._environment(version).sampler, optuna.samplers)
        if made is None:
            raise InvalidSettingError(
                f"The sampler of the study {self._name!r} is archived as "
                f"{self._environment(version).sampler!r}, from which it cannot be made again. Give "
                "one that is made like it: replay(study, sampler=...)."
            )
        return made

    def _environment(self, version: str) -> Any:
        assert self._archived is not None  # noqa: S101 - or a sampler is given
        places = [p for p, entry in enumerate(self._archived.versions) if entry.id == version]
        return self._archived.environment_of(
            places[0] if places else len(self._archived.versions) - 1
        )

    def _pruner(self) -> Any:
        if self._archived is None:
            return None
        with _quiet():
            return _of_text(self._environment("").pruner, optuna.pruners)

    def _continued(self, trial: FrozenTrial) -> BaseSampler:
        """The one sampler of trials that were asked one after the other."""
        sequence = self._sequence(trial) or ""
        if sequence not in self._numbers:
            began = self._attributes[f"{STATE}:{sequence}"]
            own = fresh_copy(self._sampler(trial))
            try:
                Numbers(own, began).go({})
            except KeyError as error:
                raise InvalidSettingError(
                    f"Trial {trial.number} of the study {self._name!r} was asked by a "
                    f"{began['kind']}, and not by a {type(own).__name__}. Give one that is made "
                    "like it: replay(study, sampler=...)."
                ) from error
            self._numbers[sequence] = own
        return self._numbers[sequence]


def _n_told(trial: FrozenTrial) -> int:
    count, unfinished = asked_of(trial)["seen"]
    return count - len(unfinished)


def _shown(value: Any) -> str:
    return repr(value) if not isinstance(value, float) else format_value(value)


def _quiet() -> warnings.catch_warnings[None]:
    """Silence warnings of experimental samplers: the user has seen them before."""
    return warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning)


def _of_text(text: str, module: Any) -> Any:
    """Make the object that an archive names, such as `"TPESampler(multivariate=True)"`, or `None`.

    Only classes of Optuna are made, with numbers and words, or with others of them.
    """
    try:
        return _of_node(ast.parse(text, mode="eval").body, module)
    except (SyntaxError, ValueError, TypeError, AttributeError, ImportError):
        return None


def _of_node(node: ast.AST, module: Any) -> Any:
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)  # pyright: ignore[reportArgumentType]
    if not isinstance(node.func, ast.Name) or node.args or node.func.id not in module.__all__:
        raise ValueError(ast.unparse(node))
    options = {one.arg: _of_node(one.value, module) for one in node.keywords if one.arg}
    most = options.pop("max_trials", None)
    return with_max_trials(getattr(module, node.func.id)(**options), most)
