"""A sampler that can be asked again: from what it knew then, and with the same random numbers.

Whoever asks for a trial notes which trials it had seen (`Seen`), and the sampler learns from those
alone, by the places that they would have in a study that nobody has interrupted: of a trial that
was lost and asked again there is the repetition. What a sampler writes to the study while it is
asked for a trial is kept in that trial, for a lost one may have to be asked again.

One after the other, trials draw from one sequence of random numbers, as Optuna has it; how far it
has come is kept in each trial that is told. Trials that may be asked side by side have a sampler
each, whose random numbers follow from a seed of their own.
"""

from __future__ import annotations

import base64
import copy
import ctypes
import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
from optuna.pruners import _filter_study  # pyright: ignore[reportPrivateUsage]
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.search_space import IntersectionSearchSpace
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace  # pyright: ignore[reportPrivateUsage]
from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger

from prefect_optuna.blocks.study_summary import LOST, is_lost
from prefect_optuna.tasks.archive.record.trial_records import MARK
from prefect_optuna.tasks.seeding import first_number, trial_seed

_logger = get_logger("sampling")

STATE = "prefect_optuna:sampler"
"""The system attribute of a trial that says how far its sampler had come when it was told: the id
of a sequence, and the place in it. That of a study, with the id added, says where it begins.

A place of plain generators follows the id without brackets: `[id, name, blocks, words, ...]`. In
memory, nested lists and mappings would be a sixth of a small trial."""

_KEPT = "prefect_optuna:kept:"  # before the name of what a sampler has written to the study
_MAX_TRIALS = "prefect_optuna_max_trials"
_NONE: dict[str, float] = {}  # the constraints of most trials
_GP = ("_gprs_cache_list", "_constraints_gprs_cache_list")
_KERNEL = ("inverse_squared_lengthscales", "kernel_scale", "noise_var")
_WORDS = 624  # in the state of a Mersenne Twister, which makes that many at once
_MOST_BLOCKS = 20_000
"""A sampler that draws more at once has been seeded anew, and begins another sequence."""
_LONGEST = 2_000_000  # blocks of a sequence, a billion numbers; a longer one is begun anew
_PHILOX = 4  # numbers that a Philox makes at once

# What reading a sampler's record raises that no sampler has written.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)

Seen = list[Any]
"""A note of what there was when a trial was asked: the number of trials, but for waiting ones;
and of each that was not finished, how many parameters it had, and whether it had told others what
it would take."""


class Places:
    """The trials of a study as a sampler sees them, and their places: lost ones have none.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: 0.0, n_trials=2)
        >>> [trial.number for trial in Places().seen(study.trials)[0]]
        [0, 1]
    """

    def __init__(self) -> None:
        self._known = 0
        self.settled: int = 0  # that many of the known trials do not change any more
        self._repeats: list[int] = []
        self._trials: list[FrozenTrial] = []  # finished, and all before them as well
        self._kept: dict[str, tuple[int, Any]] = {}

    def of(self, trial: FrozenTrial) -> int:
        """The place of a trial, which is that of the lost one that it repeats."""
        first = first_number(trial)
        return first - bisect_left(self._repeats, first)

    @property
    def next(self) -> int:
        """The place of the next trial, if nobody else makes one."""
        return self._known - len(self._repeats)

    @property
    def known(self) -> int:
        """Number of trials that there were when they were looked at last."""
        return self._known

    def seen(
        self, trials: Sequence[FrozenTrial]
    ) -> tuple[Sequence[FrozenTrial], dict[str, Any], Seen]:
        """Return the trials there are, in place, what samplers keep with them, and a note of it."""
        for trial in trials[self._known :]:
            if "retry_history" in trial.system_attrs:
                self._repeats.append(trial.number)
        self._known = len(trials)
        if self._repeats:  # they come between others, which somebody may be looking at
            self._trials = self._trials.copy()
        while self.settled < len(trials) and trials[self.settled].state.is_finished():
            self._add(_Ended(trials[self.settled]), self._trials, self._kept)
            self.settled += 1
        there: Sequence[FrozenTrial]
        if self._repeats:
            there = more = self._trials.copy()
        else:
            more: list[FrozenTrial] = []
            there = _Grown(self._trials, more)
        kept = self._kept.copy()
        end, unfinished = self.settled, dict[str, Sequence[int]]()
        for trial in trials[self.settled :]:
            if trial.state == TrialState.WAITING:
                continue
            end = trial.number + 1
            if not trial.state.is_finished():
                shared = any("relative_params" in name for name in trial.system_attrs)
                unfinished[str(trial.number)] = [len(trial.params), int(shared)]
                trial = _begun(trial, len(trial.params), shared=shared)
            self._add(trial, more, kept)
        waiting = {
            str(trial.number): [-1, 0]
            for trial in trials[self.settled : end]
            if trial.state == TrialState.WAITING
        }
        attributes = {name: value for name, (_, value) in kept.items()}
        return there, attributes, [end, {**unfinished, **waiting}]

    def _add(
        self, trial: FrozenTrial, to: list[FrozenTrial], kept: dict[str, tuple[int, Any]]
    ) -> None:
        if is_lost(trial):
            return
        if self._repeats and (place := self.of(trial)) != trial.number:
            trial = _numbered(trial, place)
        if not to or to[-1].number < trial.number:
            to.append(trial)
        else:
            insort(to, trial, key=lambda one: one.number)
        for name, value in trial.system_attrs.items() if trial.state.is_finished() else ():
            if name.startswith(_KEPT):
                name = name.removeprefix(_KEPT)
                kept[name] = max(
                    kept.get(name, (-1, None)), (trial.number, value), key=lambda one: one[0]
                )


class _Ended(FrozenTrial):
    """A trial that does not change any more, and whose constraints are looked up once.

    For each trial, TPE asks all those before it for them.
    """

    __slots__ = ("_constraints",)

    def __init__(self, trial: FrozenTrial) -> None:
        object.__setattr__(self, "__dict__", vars(trial))  # one for both
        self._constraints = trial.constraints or _NONE

    @property
    def constraints(self) -> dict[str, float]:
        """Those of the trial, for one who does not change them."""
        return self._constraints


class _Grown(Sequence[FrozenTrial]):
    """The trials that a list had when this was made, which only grows, and more: not copied."""

    def __init__(self, trials: list[FrozenTrial], more: list[FrozenTrial]) -> None:
        self._trials, self._more = trials, more
        self._count = len(trials)

    def __len__(self) -> int:
        return self._count + len(self._more)

    def __getitem__(self, place: Any) -> Any:
        count = self._count
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            first = self._trials[start : min(stop, count)]
            return first + self._more[max(start - count, 0) : max(stop - count, 0)]
        place = range(len(self))[place]
        return self._trials[place] if place < count else self._more[place - count]


class _Recent(Sequence[FrozenTrial]):
    """The trials of a study, of which only the last are read."""

    def __init__(self, storage: Any, study_id: int, first: int) -> None:
        self._first = first
        numbers = range(first, storage.get_n_trials(study_id))
        ids = (storage.get_trial_id_from_study_id_trial_number(study_id, n) for n in numbers)
        self._last: list[FrozenTrial] = [storage.get_trial(trial_id) for trial_id in ids]

    def __len__(self) -> int:
        return self._first + len(self._last)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return self._last[max(start - self._first, 0) : max(stop - self._first, 0)]
        return self._last[place - self._first]


def as_of(trials: Sequence[FrozenTrial], seen: Seen, *, since: int = 0) -> list[FrozenTrial]:
    """The trials of a study as they were when this was noted; those before `since` as they are.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        >>> [len(trial.params) for trial in as_of(study.trials, [2, {"1": [0, 0]}])]
        [1, 0]
    """
    count: int = seen[0]
    unfinished: Mapping[str, Sequence[int]] = seen[1]
    then: list[FrozenTrial] = list(trials[:since])
    for trial in trials[since:count]:
        if (was := unfinished.get(str(trial.number))) is not None:
            n_params, shared = was
            trial = _begun(trial, n_params, shared=bool(shared))
        then.append(trial)
    return then


def _begun(trial: FrozenTrial, n_params: int, *, shared: bool) -> FrozenTrial:
    """Return a trial as it was with its first `n_params` parameters; negative while it waited."""
    names = list(trial.params)[: max(n_params, 0)]
    begun = copy.copy(trial)
    begun.state = TrialState.WAITING if n_params < 0 else TrialState.RUNNING
    begun.values = None
    begun.datetime_complete = None
    begun.params = {name: trial.params[name] for name in names}
    begun.distributions = {name: trial.distributions[name] for name in names}
    begun.intermediate_values = {}
    begun.system_attrs = {
        name: value
        for name, value in trial.system_attrs.items()
        if name != LOST and (shared or "relative_params" not in name)
    }
    return begun


def _numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    if trial.number == number:
        return trial
    placed = copy.copy(trial)
    placed.number = number
    return placed


class _SeenStorage:
    """A study's storage as a sampler sees it while it is asked for one trial."""

    def __init__(self, storage: Any, trials: Sequence[FrozenTrial], kept: dict[str, Any]) -> None:
        self.storage = storage
        self._trials = trials
        self._given = kept
        self.current: Any = None
        self.written: dict[str, Any] = {}

    # Most samplers ask for none of it, and all trials are many.
    @cached_property
    def _ids(self) -> dict[int, int]:
        return {trial.number: trial._trial_id for trial in self._trials[:]}  # pyright: ignore[reportPrivateUsage]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {trial_id: number for number, trial_id in self._ids.items()}

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return {
            name: [self._ids[place] for place in value["places"]]
            if isinstance(value, dict) and "places" in value
            else value
            for name, value in self._given.items()
        }

    def __getattr__(self, name: str) -> Any:
        if name == "storage":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self.storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[FrozenTrial]:
        place = bisect_left(self._trials, self.current.number, key=lambda one: one.number)
        trials = [*self._trials[:place], self.current, *self._trials[place:]]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        attributes = self.storage.get_study_system_attrs(study_id)
        return {**attributes, **self._kept, **self.written}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.written[key] = value
        if isinstance(value, list):
            ids = cast("list[Any]", value)
            if all(isinstance(place, int) and place in self._places for place in ids):
                # A genetic algorithm's parents, which have other ids in a copy of the study.
                value = {"places": [self._places[place] for place in ids]}
        self.storage.set_trial_system_attr(self.current._trial_id, f"{_KEPT}{key}", value)


class AskedSampler(BaseSampler):
    """A sampler for one trial. It learns from what was there when that trial was asked.

    Args:
        sampler: the study's own; a trial with a seed has a copy of it.
        seen: what was there.
        place: of the trial.
        seed: of the trial's own random numbers; `None` where it goes on with the sampler's.
    """

    def __init__(
        self, sampler: BaseSampler, seen: Seen, place: int, seed: int | None = None
    ) -> None:
        self._sampler = sampler
        self._seen = seen
        self._place = place
        self._seed = seed
        self.again: Mapping[str, Any] = {}
        """Attributes of the trial that this one repeats: it is drawn, and then taken from here."""
        self._view: Any = None

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class of the chosen sampler, so that checks by type find it."""
        return type(self._sampler)

    def __reduce__(self) -> tuple[Any, ...]:
        return AskedSampler, (self._sampler, self._seen, self._place, self._seed)

    def look(
        self, study: optuna.Study, trials: Sequence[FrozenTrial], kept: dict[str, Any]
    ) -> None:
        """Have the sampler see these trials of a study, which are in place."""
        own = self._sampler
        if self._seed is not None:
            own = seeded_copy(own, self._seed)
        if (most := max_trials_of(own)) is not None:
            trials = trials[-most:]
        self._view = copy.copy(study)
        self._view._storage = _SeenStorage(self._view._storage, trials, kept)
        self._view.sampler = own

    def reseed_rng(self) -> None:
        """Begin again, perhaps in another process: the trial's own numbers stay the same."""
        self._view = None

    def publish(self) -> None:
        """Tell what the sampler has written to the study to those who use Optuna alone."""
        seen, study_id = self._view._storage, self._view._study_id
        for key, value in seen.written.items():
            seen.storage.set_study_system_attr(study_id, key, value)

    def _as_seen(self, study: Any, trial: FrozenTrial) -> tuple[Any, Any, FrozenTrial]:
        if self._view is None:
            study = getattr(study, "_study", study)  # of a bracket, which is determined again below
            there, kept, _ = Places().seen(as_of(study.get_trials(deepcopy=False), self._seen))
            self.look(study, there, kept)
        placed, view = _numbered(trial, self._place), cast("Any", self._view)
        view._storage.current = placed
        return view.sampler, _filter_study(view, placed), placed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Forward to the sampler, as it saw the study then."""
        sampler, *seen = self._as_seen(study, trial)
        sampler.before_trial(*seen)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """Forward to the sampler, as it saw the study then."""
        sampler, *seen = self._as_seen(study, trial)
        return sampler.infer_relative_search_space(*seen)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        """Forward to the sampler, as it saw the study then."""
        sampler, *seen = self._as_seen(study, trial)
        drawn = sampler.sample_relative(*seen, search_space)
        return {name: self.again.get(name, value) for name, value in drawn.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Forward to the sampler, as it saw the study then."""
        sampler, *seen = self._as_seen(study, trial)
        drawn = sampler.sample_independent(*seen, param_name, param_distribution)
        return self.again.get(param_name, drawn)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any
    ) -> None:
        """Forward to the sampler, as it saw the study then."""
        if self._seed is not None:  # others have been told meanwhile, which may be the end of it
            self._sampler.after_trial(study, trial, state, values)
            return
        sampler, *seen = self._as_seen(study, trial)
        sampler.after_trial(*seen, state, values)


def with_max_trials(sampler: BaseSampler, most: int | None) -> BaseSampler:
    """Have a sampler learn from the newest trials alone; `None` for all.

    Example:
        >>> import optuna
        >>> max_trials_of(with_max_trials(optuna.samplers.TPESampler(), 1000))
        1000
    """
    if most is None:
        return sampler
    learns = isinstance(sampler, (TPESampler, GPSampler))
    if not learns or type(most) is not int or most < 1:
        raise ValueError(
            "expected a number of trials, 1 or more, as `max_trials`, for the samplers 'tpe' and "
            "'gp', whose cost grows with them"
        )
    vars(sampler)[_MAX_TRIALS] = most
    return sampler


def max_trials_of(sampler: object) -> int | None:
    """The number of newest trials that a sampler learns from, if not from all."""
    return getattr(sampler, "__dict__", {}).get(_MAX_TRIALS)


# -- random numbers -------------------------------------------------------------------------------


def _parts(sampler: BaseSampler) -> Iterator[tuple[str, Any]]:
    """Yield a sampler's parts with names: its own samplers, strategies and generators."""
    pending: list[tuple[str, Any]] = [("", sampler)]
    known: set[int] = set()
    while pending:
        path, part = pending.pop(0)
        if id(part) in known:
            continue
        known.add(id(part))
        yield path, part
        if isinstance(part, (np.random.RandomState, np.random.Generator)):
            continue
        for name, value in getattr(part, "__dict__", {}).items():
            of_optuna = type(value).__module__.startswith("optuna.samplers")
            generators = (np.random.RandomState, np.random.Generator)
            if of_optuna or isinstance(value, (BaseSampler, *generators)):
                pending.append((f"{path}.{name}".lstrip("."), value))


def _fix(sampler: BaseSampler) -> dict[str, np.random.RandomState | np.random.Generator]:
    """The generators of a sampler, by name; those that it would make later are there from now."""
    for _, part in _parts(sampler):
        if isinstance(part, LazyRandomState):
            part.rng  # noqa: B018 - made when it is looked at
    kinds = (np.random.RandomState, np.random.Generator)
    return {path: part for path, part in _parts(sampler) if isinstance(part, kinds)}


def _unused(sampler: BaseSampler) -> dict[int, Any]:
    """Return a memo for `deepcopy` that resets what a sampler knows of trials."""
    memo: dict[int, Any] = {}
    for _, part in _parts(sampler):
        for value in getattr(part, "__dict__", {}).values():
            if isinstance(value, (IntersectionSearchSpace, _GroupDecomposedSearchSpace)):
                # What it knows of trials may be more than the copy is to see.
                memo[id(value)] = type(value)(value._include_pruned)  # pyright: ignore[reportPrivateUsage]
    return memo


def fresh_copy(sampler: BaseSampler) -> BaseSampler:
    """A copy of a sampler that has seen no trials yet.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.sampling import fresh_copy
        >>> type(fresh_copy(optuna.samplers.TPESampler())).__name__
        'TPESampler'
    """
    return copy.deepcopy(sampler, _unused(sampler))


def seeded_copy(sampler: BaseSampler, seed: int) -> BaseSampler:
    """A copy of a sampler whose random numbers follow from a seed alone.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.sampling import seeded_copy
        >>> copies = [seeded_copy(optuna.samplers.RandomSampler(), 7) for _ in range(2)]
        >>> [one._rng.rng.rand() for one in copies]
        [0.07630828937395717, 0.07630828937395717]
    """
    memo = _unused(sampler)
    for generator in _fix(sampler).values():
        if isinstance(generator, np.random.RandomState):
            memo[id(generator)] = np.random.RandomState(seed)
        else:
            kind = type(generator.bit_generator)
            memo[id(generator)] = np.random.Generator(kind(seed))
    copied = copy.deepcopy(sampler, memo)
    for _, part in _parts(copied):
        if isinstance(part, GPSampler):
            vars(part).update(dict.fromkeys(_GP))
        elif isinstance(part, QMCSampler):
            vars(part)["_find_sample_id"] = _place_as_id
    return copied


def _place_as_id(study: Any, search_space: Any) -> int:
    """The place of a trial in Optuna's sequence, where several could have read the same count."""
    return study._storage.current.number


def scrambles(sampler: BaseSampler, seeds: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the seeds of a sampler's scrambled sequences by its parts, set first if given.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.sampling import scrambles
        >>> scrambles(optuna.samplers.RandomSampler())
        {}
    """
    seeds_of: dict[str, int] = {}
    for path, part in _parts(sampler):
        if isinstance(part, QMCSampler) and vars(part).get("_scramble"):
            own: Any = vars(part)["_seed"]
            seed: Any = (seeds or {}).get(path, own)
            vars(part)["_seed"] = seeds_of[path] = int(seed)
    return seeds_of


def seed_of_generators(sampler: BaseSampler) -> int:
    """Derive a seed from the generators of a sampler: from the seeds of those that have one."""
    digest = hashlib.sha256()
    for generator in _fix(sampler).values():
        if isinstance(generator, np.random.RandomState):
            state: Any = generator.get_state(legacy=False)
            digest.update(state["state"]["key"].tobytes())
        else:
            digest.update(repr(generator.bit_generator.state).encode())
    return int.from_bytes(digest.digest()[:4])


class _Twister:
    """The progress of a Mersenne Twister since it began, counted in blocks of words."""

    def __init__(self, generator: np.random.RandomState, began: Any = None) -> None:
        self.generator = generator
        self.began: Any = began or generator.get_state(legacy=False)
        self.first: list[Any] = [0, *_drawn_of(self.began)]
        self._words = _words_of(generator._bit_generator)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        self._at(0, self.first)

    def _at(self, blocks: int, place: list[Any]) -> None:
        self._counter = np.random.MT19937()
        self._counter.state = {"bit_generator": "MT19937", "state": self.began["state"]}
        if type(blocks) is not int or not 0 <= blocks <= _LONGEST:
            raise ValueError("a sampler has not drawn so many numbers")
        for done in range(0, blocks, _MOST_BLOCKS):  # in parts: signals wait for each
            more = min(blocks - done, _MOST_BLOCKS)
            self._counter.random_raw(_WORDS * more, output=False)
        self._blocks, self._counted, self._place = blocks, _words_of(self._counter), place

    def place(self) -> list[Any] | None:
        """Blocks, words of the last one, and the normal number that is left over, if one is."""
        blocks, words, *left = self._place
        now = self._words[:_WORDS].tobytes()
        for more in range(_MOST_BLOCKS):
            if self._counted[:_WORDS].tobytes() == now:
                self._blocks += more
                if left or (blocks, words) != (self._blocks, int(self._words[_WORDS])):
                    own = _left_over(self.generator)
                    self._place = [self._blocks, int(self._words[_WORDS]), *own]
                return self._place
            self._counter.random_raw(_WORDS, output=False)
        return None

    def go(self, place: list[Any]) -> None:
        """Come to a place."""
        blocks, words, *left = place
        self._at(blocks, place)
        self.generator.set_state(_state(self._counted[:_WORDS].copy(), words, left))


def _words_of(bit_generator: Any) -> np.ndarray[Any, Any]:
    """The words of a Mersenne Twister, and how many were drawn: where they are, not a copy."""
    there = (ctypes.c_uint32 * (_WORDS + 1)).from_address(bit_generator.ctypes.state_address)
    return np.frombuffer(memoryview(there), dtype=np.uint32)


class _NoWords:
    """Stands in for a Mersenne Twister whose words, which take NumPy long, are not asked for."""

    state = property(lambda self: {"bit_generator": "MT19937"})


def _left_over(generator: Any) -> list[float]:
    """Return the normal number that is left over, if one is: only the whole state has it."""
    own, generator._bit_generator = generator._bit_generator, _NoWords()
    try:
        state = generator.get_state(legacy=False)
    finally:
        generator._bit_generator = own
    return [state["gauss"]] if state["has_gauss"] else []


class Numbers:
    """The random numbers of a sampler from where they began, and what else it keeps in memory."""

    def __init__(self, sampler: BaseSampler, began: Mapping[str, Any] | None = None) -> None:
        self._sampler = sampler
        self._twisters: dict[str, _Twister] = {}
        self._others: dict[str, np.random.Generator] = {}
        self._gaussian = [one for one in _parts(sampler) if isinstance(one[1], GPSampler)]
        scrambles(sampler, began["seeds"] if began else {})
        for path, generator in _fix(sampler).items():
            if isinstance(generator, np.random.RandomState):
                state = began and _as_state(began["generators"][path])
                self._twisters[path] = _Twister(generator, state)
            else:
                self._others[path] = generator

    def began(self) -> dict[str, Any]:
        """Return the states in which they began, as JSON."""
        return {
            "kind": type(self._sampler).__qualname__,
            "generators": {path: _as_json(own.began) for path, own in self._twisters.items()},
            "seeds": scrambles(self._sampler),
        }

    def place(self) -> dict[str, Any] | None:
        """Return their progress, as JSON; `None` if they do not go on from where they began."""
        places: dict[str, Any] = {}
        for path, twister in self._twisters.items():
            place = twister.place()
            if place is None:
                return None
            if place != twister.first:
                places[path] = place
        for path, other in self._others.items():
            places[path] = _plain(other.bit_generator.state)
        for path, part in self._gaussian:
            kernels = {name: _kernels(vars(part).get(name)) for name in _GP}
            places[f"{path}:kernels"] = {k: v for k, v in kernels.items() if v is not None}
        return places

    def go(self, place: Mapping[str, Any]) -> None:
        """Come to a place, as if what lies between had been drawn."""
        for path, twister in self._twisters.items():
            twister.go(place.get(path, twister.first))
        for path, other in self._others.items():
            if path in place:
                other.bit_generator.state = _checked(place[path])
        for path, part in self._gaussian:
            kernels = place.get(f"{path}:kernels", {})
            vars(part).update({name: _as_kernels(kernels.get(name)) for name in _GP})


def _as_json(state: Mapping[str, Any]) -> list[Any]:
    key = np.asarray(state["state"]["key"], dtype="<u4").tobytes()
    return [base64.b64encode(key).decode("ascii"), *_drawn_of(state)]


def _drawn_of(state: Mapping[str, Any]) -> list[Any]:
    """Return the words drawn of a block, and the normal number that is left over, if one is."""
    left = [state["gauss"]] if state["has_gauss"] else []
    return [int(state["state"]["pos"]), *left]


def _as_state(stored: Sequence[Any]) -> dict[str, Any]:
    key, words, *left = stored
    words_of_key = np.frombuffer(base64.b64decode(key), dtype="<u4").astype(np.uint32)
    return _state(words_of_key, words, left)


def _state(key: Any, words: int, left: Sequence[float]) -> dict[str, Any]:
    if len(key) != _WORDS or len(left) > 1:
        raise ValueError("it is no state of a Mersenne Twister")
    state = {
        "bit_generator": "MT19937",
        "state": {"key": key, "pos": words},
        "has_gauss": len(left),
        "gauss": left[0] if left else 0.0,
    }
    return _checked(state)


def _checked(state: Any) -> Any:
    """A generator's state whose next number is in it: NumPy would read whatever lies beyond."""
    for place, most in ((state["state"].get("pos"), _WORDS), (state.get("buffer_pos"), _PHILOX)):
        if place is not None and (type(place) is not int or not 0 <= place <= most):
            raise ValueError("it is no state of a generator")
    return state


def _plain(state: Any) -> Any:
    """A state of one of NumPy's other generators as JSON."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in cast("dict[str, Any]", state).items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state


def _kernels(cached: Any) -> list[list[Any]] | None:
    """Return what a Gaussian process begins its next fit with."""
    if cached is None:
        return None
    return [[getattr(kernel, name).detach().tolist() for name in _KERNEL] for kernel in cached]


def _as_kernels(stored: Any) -> list[Any] | None:
    if stored is None:
        return None
    import torch  # pyright: ignore[reportMissingImports]

    def tensor(number: Any) -> Any:
        return torch.tensor(number, dtype=torch.float64)

    return [SimpleNamespace(**dict(zip(_KERNEL, map(tensor, one), strict=True))) for one in stored]


def _last_state(
    trials: Sequence[FrozenTrial], there: Sequence[FrozenTrial], attributes: Mapping[str, Any]
) -> list[Any] | None:
    """Return the sampler's progress when the last trial was told, if it is known."""
    for trial in reversed(there):
        if trial.state.is_finished():
            if (state := trial.system_attrs.get(STATE)) is not None:
                return _with_brackets(state)
            if is_asked(trial) and "seed" not in asked_of(trial):
                return None  # it was told by a process that did not know it
    for trial in trials:  # none was told, but one may have been asked
        of = trial.system_attrs[MARK]["id"] if is_asked(trial) else None
        if "generators" in attributes.get(f"{STATE}:{of}", {}):
            return [of, {}]
    return None


def is_asked(trial: FrozenTrial) -> bool:
    """Tell whether a trial says what its sampler had seen."""
    mark = trial.system_attrs.get(MARK)
    return isinstance(mark, dict) and "asked" in mark


def asked_of(trial: FrozenTrial) -> dict[str, Any]:
    """The way a trial was asked: what its sampler had seen, its place, and its own seed if any.

    A number is short for a trial of that place, asked when all before it were told.
    """
    asked: Any = trial.system_attrs[MARK]["asked"]
    return {"seen": [asked, {}], "place": asked} if type(asked) is int else asked


def _without_brackets(sequence: str, place: Mapping[str, Any]) -> list[Any]:
    if not place or any(type(own) is not list for own in place.values()):
        return [sequence, place]
    return [sequence, *(one for name, own in place.items() for one in (name, *own))]


def _with_brackets(state: list[Any]) -> list[Any]:
    if len(state) < 2 or type(state[1]) is not str:
        return state
    place: dict[str, list[Any]] = {}
    name = ""
    for one in state[1:]:
        if type(one) is str:
            place[name := one] = []
        else:
            place[name].append(one)
    return [state[0], place]


class Asks:
    """The way in which one run of a study asks its sampler.

    Args:
        sampler: the study's.
        alone: whether it is asked for one trial after the other, each when the last was told.
    """

    def __init__(self, sampler: BaseSampler, *, alone: bool = False) -> None:
        self._sampler = sampler
        self._places = Places()
        self._numbers: Numbers | None = None
        self._alone = alone
        self._sequence = ""
        self._began: dict[str, Any] = {}
        self._place: dict[str, Any] = {}
        self._seed = 0 if alone else seed_of_generators(sampler)

    @property
    def next_place(self) -> int:
        """The place of the next trial, if nobody else makes one."""
        return self._places.next

    def place(self, trial: FrozenTrial) -> int:
        """The place of a trial."""
        return self._places.of(trial)

    def trials_of(self, storage: Any, study_id: int) -> Sequence[FrozenTrial]:
        """Return the trials that `ask` needs; asked one after the other, that is a trial or two."""
        if not self._alone:
            return storage.get_all_trials(study_id, deepcopy=False)
        return _Recent(storage, study_id, self._places.settled)

    def open(
        self, storage: Any, study_id: int, name: str, later_seed: int | None, *, others: bool
    ) -> None:
        """Go on where the study's sampler was when its last trial was told, or begin.

        Args:
            storage: the study's.
            study_id: its id there.
            name: of the sequence, if another one begins.
            later_seed: of that, if the study has trials.
            others: whether other runs ask as well: the sequence is theirs.
        """
        if not self._alone:
            if later_seed is not None:
                self._seed = later_seed
            if seeds := scrambles(self._sampler):
                storage.set_study_system_attr(study_id, f"{STATE}:{name}", {"seeds": seeds})
            return
        trials = storage.get_all_trials(study_id, deepcopy=False)
        attributes = storage.get_study_system_attrs(study_id)
        there, _, _ = self._places.seen(trials)
        is_same = False
        if not others:
            try:
                is_same = self._goes_on(trials, there, attributes)
            except MALFORMED as error:
                _logger.warning(
                    "What the study notes of its sampler is damaged (%s): the sampler begins "
                    "another sequence of random numbers.",
                    type(error).__name__,
                )
        if self._numbers is not None:
            return
        if later_seed is not None and there and not is_same:
            for generator in _fix(self._sampler).values():
                if isinstance(generator, np.random.RandomState):
                    generator.seed(later_seed)
        self._begin(storage, study_id, name)

    def _goes_on(
        self,
        trials: Sequence[FrozenTrial],
        there: Sequence[FrozenTrial],
        attributes: Mapping[str, Any],
    ) -> bool:
        """Go on with the last sequence, if it can be; whether the sampler is where that ended."""
        last = _last_state(trials, there, attributes)
        if last is None or (began := attributes.get(f"{STATE}:{last[0]}")) is None:
            return False
        fresh = [part for _, part in _parts(self._sampler) if isinstance(part, LazyRandomState)]
        unseeded = any(part._rng is None for part in fresh)  # pyright: ignore[reportPrivateUsage]
        now = Numbers(self._sampler).began()
        if now["kind"] != began["kind"] or now["generators"].keys() != began["generators"].keys():
            return False
        numbers = Numbers(self._sampler, began)
        if not unseeded and now["generators"] != began["generators"]:
            return numbers.place() == last[1]  # the very sampler that has been asked before
        numbers.go(last[1])
        self._numbers, self._sequence, self._began, self._place = numbers, last[0], began, last[1]
        return True

    def _begin(self, storage: Any, study_id: int, name: str) -> None:
        self._numbers = Numbers(self._sampler)
        self._sequence, self._began, self._place = name, self._numbers.began(), {}
        storage.set_study_system_attr(study_id, f"{STATE}:{name}", self._began)

    def ask(
        self, study: optuna.Study, trials: Sequence[FrozenTrial], trial: FrozenTrial | None = None
    ) -> dict[str, Any] | int:
        """Give a study the sampler for one trial; what that trial is to note (see `asked_of`).

        Args:
            study: of that trial alone.
            trials: what is there.
            trial: the trial, if it is there, too.
        """
        there, kept, seen = self._places.seen(trials)
        place = self.next_place if trial is None else self.place(trial)
        seed = None if self._alone else trial_seed(self._seed, "sampler", place)
        sampler = AskedSampler(study.sampler, seen, place, seed)
        sampler.look(study, there, kept)
        study.sampler = sampler
        if seed is None:
            return place if seen == [place, {}] else {"seen": seen, "place": place}
        return {"seen": seen, "place": place, "seed": seed}

    def told(self) -> list[Any] | None:
        """Return the sampler's progress, for the trial that is about to be told."""
        if self._numbers is None:
            return None
        place = self._numbers.place()
        if place is None:
            self._numbers = None  # it has been seeded again
            return None
        self._place = place
        return _without_brackets(self._sequence, place)

    def rewind(self) -> None:
        """Have the sampler where it was when the last trial was told."""
        if self._numbers is not None:
            self._numbers.go(self._place)

    def again(self, trial: optuna.Trial, first: FrozenTrial) -> None:
        """Draw the parameters of a trial that was lost once more: the next goes on from there.

        Args:
            trial: the one that repeats it.
            first: it.
        """
        if self._alone:
            self.rewind()
            vars(trial.study.sampler)["again"] = vars(trial)["_fixed_params"]
            vars(trial)["_fixed_params"] = first.system_attrs.get("fixed_params", {})
