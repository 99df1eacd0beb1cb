"""The study of a flow: samplers by name, an end by callbacks, its status and its result."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from prefect_optuna.blocks import InvalidSettingError, StudyStorage, as_study_storage
from prefect_optuna.blocks.codec.untrusted import ForbiddenNameError, Stored, loads
from prefect_optuna.blocks.patience import PatientStorage
from prefect_optuna.blocks.study_summary import StudySummary, best_first
from prefect_optuna.blocks.texts import card, visible_line
from prefect_optuna.errors import DamagedStorageError, NoCompleteTrialError, PickleRefusedError
from prefect_optuna.tasks.persistence import field, persistence_class
from prefect_optuna.tasks.sampling import with_max_trials

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.record.manifest import Version
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

# The state of CMA-ES between trials, restored without running what is in it.
#
# Optuna's `CmaEsSampler` keeps its optimizer in system attributes of trials, as a pickle that it
# loads again: whoever can write to the study's storage, or has sent the study, would have code
# run.


_CLASSES = ("CMA", "SepCMA", "CMAwM")


def without_pickles(sampler: BaseSampler) -> BaseSampler:
    """Have a sampler, and those that it asks, restore its state by this module."""
    samplers = [sampler]
    for seen in samplers:  # and those that are found on the way
        parts = [part for part in vars(seen).values() if isinstance(part, BaseSampler)]
        samplers.extend(part for part in parts if not any(part is known for known in samplers))
        if isinstance(seen, CmaEsSampler):
            # Of the object, so that it holds for subclasses, and travels with a pickled sampler.
            prefix = seen._attr_key_optimizer  # pyright: ignore[reportPrivateUsage]
            vars(seen)["_restore_optimizer"] = functools.partial(_restored, prefix)
    return sampler


def _restored(prefix: str, completed_trials: Sequence[FrozenTrial]) -> Any:
    """Return the last trial's optimizer, in place of `CmaEsSampler._restore_optimizer`."""
    for trial in reversed(completed_trials):
        parts = {k: v for k, v in trial.system_attrs.items() if k.startswith(prefix)}
        if parts:
            return _optimizer(prefix, trial.number, parts)
    return None


def _optimizer(prefix: str, number: int, parts: dict[str, str]) -> Any:
    try:
        text = "".join(parts[f"{prefix}:{place}"] for place in range(len(parts)))
        return _made(loads(bytes.fromhex(text), "cmaes", _CLASSES, arrays=True))
    except ForbiddenNameError as error:
        raise PickleRefusedError(
            f"Expected the state of CMA-ES in the system attributes {prefix!r} of trial {number}, "
            f"and found a pickle that asks for {error}. Nothing of it was run. Somebody has "
            "tampered with the study: take a copy by copy_study, which leaves such state behind, "
            "or another sampler."
        ) from None
    except Exception as error:  # a broken pickle raises whatever it comes upon
        raise DamagedStorageError(
            f"Expected the state of CMA-ES in the system attributes {prefix!r} of trial {number}, "
            f"and it is damaged ({type(error).__name__}). Take a copy by copy_study, which leaves "
            "such state behind, or another sampler."
        ) from error


def _made(stored: Any) -> Any:
    """An optimizer of the library, from its attributes."""
    import cmaes

    if type(stored) is not Stored:
        raise TypeError("no optimizer")
    cls: Any = getattr(cmaes, stored.kind)
    optimizer = cls.__new__(cls)
    state = {
        name: _made(value) if type(value) is Stored else value
        for name, value in stored.fields.items()
    }
    if hasattr(optimizer, "__setstate__"):
        optimizer.__setstate__(state)
    else:
        vars(optimizer).update(state)
    return optimizer


_SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "brute-force": "BruteForceSampler",
}
_PRUNERS = {
    "median": "MedianPruner",
    "hyperband": "HyperbandPruner",
    "percentile": "PercentilePruner",
    "successive-halving": "SuccessiveHalvingPruner",
    "threshold": "ThresholdPruner",
    "wilcoxon": "WilcoxonPruner",
    "none": "NopPruner",
}


def sampler_name(value: Any) -> Any:
    """The name of a sampler as it is here: whatever its case, and by the name of its class.

    Example:
        >>> sampler_name("TPE"), sampler_name("CmaEsSampler"), sampler_name(None)
        ('tpe', 'cmaes', None)
    """
    return _known("sampler", _SAMPLERS, value)


def pruner_name(value: Any) -> Any:
    """The name of a pruner as it is here, likewise.

    Example:
        >>> pruner_name("medain")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: ... did you mean 'median'?
    """
    return _known("pruner", _PRUNERS, value)


def _known(kind: str, classes: Mapping[str, str], value: Any) -> Any:
    if not isinstance(value, str):
        return value

    def bare(name: str) -> str:
        return "".join(filter(str.isalnum, name.lower())).removesuffix(kind)

    names = {bare(word): name for name, its_class in classes.items() for word in (its_class, name)}
    if (known := names.get(bare(value))) is not None:
        return known
    near = difflib.get_close_matches(bare(value), names, n=1)
    hint = f"; did you mean {names[near[0]]!r}?" if near else "."
    raise InvalidSettingError(
        f"`{kind}` is one of {', '.join(classes)}, or an Optuna {kind}; found {value!r}{hint}"
    )


SamplerName = Annotated[
    Literal["tpe", "random", "cmaes", "gp", "qmc", "nsgaii", "nsgaiii", "brute-force"],
    BeforeValidator(sampler_name),
]
PrunerName = Annotated[
    Literal[
        "median", "hyperband", "percentile", "successive-halving", "threshold", "wilcoxon", "none"
    ],
    BeforeValidator(pruner_name),
]


class Sampler(BaseModel):
    """A sampler of Optuna, by name, with its options."""

    name: SamplerName = Field(default="tpe", description="Which of Optuna's samplers.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            "Its arguments, such as {'n_startup_trials': 20}; for tpe and gp, 'max_trials' is how "
            "many of the newest trials it learns from, all by default."
        ),
    )


class Pruner(BaseModel):
    """A pruner of Optuna, by name, with its options."""

    name: PrunerName = Field(default="median", description="Which of Optuna's pruners.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Its arguments, such as {'n_warmup_steps': 5}."
    )


class FlowStudy(optuna.Study):
    """A study whose loop is a flow: `study.stop()` works in callbacks and objectives."""

    _stop = threading.Event()  # replaced by each study's own
    later_seed: int | None = None
    """The seed of the sampler if it does not go on where it was when the last trial was told."""

    @classmethod
    def open(
        cls,
        study_name: str,
        storage: BaseStorage,
        sampler: optuna.samplers.BaseSampler | Sampler | str | None,
        pruner: optuna.pruners.BasePruner | Pruner | str | None,
        *,
        seed: int | None = None,
    ) -> FlowStudy:
        """The study of that name, which exists."""
        if not isinstance(storage, PatientStorage):
            storage = PatientStorage(storage)
        study = cls(study_name, storage, make_sampler(sampler, seed), make_pruner(pruner))
        if sampler is None and seed is not None:
            default: Any = type(study.sampler)
            study.sampler = default(seed=seed)
        study.sampler = without_pickles(study.sampler)
        study._stop = threading.Event()
        return study

    @property
    def storage(self) -> PatientStorage:
        """The storage of the study; calls wait for it while it is away."""
        return cast("PatientStorage", self._storage)

    def trials_view(self) -> Sequence[FrozenTrial]:
        """The trials, read-only, for those who look at a few of many."""
        return self.storage.trials_view(self._study_id)

    def for_one_trial(self) -> FlowStudy:
        """The same study, for a trial that may sample in another thread.

        For each thread, a study object keeps the trials that its sampler learns from, and renews
        them at `ask` only. A trial that suggests elsewhere would learn from what that thread saw
        first. A copy of the study starts without them, and so sees all that was told before.
        """
        return copy.copy(self)

    @property
    def stopped(self) -> bool:
        """True once somebody has called `stop`."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask no more trials; those that run are finished."""
        self._stop.set()


def on_a_copy(
    callback: Callable[[optuna.Study, FrozenTrial], None],
) -> Callable[[optuna.Study, FrozenTrial], None]:
    """Have a callback get a trial of its own, as Optuna does: it may change it."""
    return lambda study, trial: callback(study, copy.deepcopy(trial))


def make_sampler(
    sampler: optuna.samplers.BaseSampler | Sampler | str | None, seed: int | None = None
) -> optuna.samplers.BaseSampler | None:
    """The sampler that was asked for.

    Example:
        >>> type(make_sampler("random", seed=1)).__name__
        'RandomSampler'
    """
    if sampler is None or isinstance(sampler, optuna.samplers.BaseSampler):
        return sampler
    name, options = (
        (sampler.name, sampler.options) if isinstance(sampler, Sampler) else (sampler, {})
    )
    seeded = {} if seed is None else {"seed": seed}
    its_class = _SAMPLERS[sampler_name(name)]
    return _make(optuna.samplers, its_class, {**seeded, **options})


def make_pruner(
    pruner: optuna.pruners.BasePruner | Pruner | str | None,
) -> optuna.pruners.BasePruner | None:
    """The pruner that was asked for; `None` leaves the choice to Optuna.

    Example:
        >>> type(make_pruner("hyperband")).__name__
        'HyperbandPruner'
    """
    if pruner is None or isinstance(pruner, optuna.pruners.BasePruner):
        return pruner
    name, options = (pruner.name, pruner.options) if isinstance(pruner, Pruner) else (pruner, {})
    return _make(optuna.pruners, _PRUNERS[pruner_name(name)], options)


def _make(module: Any, its_class: str, options: Mapping[str, Any]) -> Any:
    try:
        own = dict(options)
        most = own.pop("max_trials", None)
        return with_max_trials(getattr(module, its_class)(**own), most)
    except (TypeError, ValueError, ImportError) as error:
        raise InvalidSettingError(
            f"Optuna's {its_class} cannot be made with {dict(options)}: {error}"
        ) from error


def continued_seed(seed: int | None, n_existing: int) -> int | None:
    """The seed for a study that has so many trials already.

    A study that goes on does not start the sequence of random numbers again, or a random search
    would repeat itself.

    Example:
        >>> continued_seed(1, 0), continued_seed(1, 20) != 1
        (1, True)
    """
    if seed is None or n_existing == 0:
        return seed
    import numpy as np

    return int(np.random.SeedSequence([seed, n_existing]).generate_state(1)[0])


# The status of a study, as its report and its events see it.


StudyState = Literal["running", "paused", "completed", "interrupted", "failed", "stopped"]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a report."""

    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    left_out: bool = False


@dataclass(frozen=True)
class StudyStatus:
    """The status of a study, of which its report is made.

    Attributes:
        trials: all of its trials, or some of them, where it is too large.
        summary: the summary of all, where there is one; else it is made of the trials.
        user_attrs: those of the study.
    """

    study_name: str
    directions: tuple[str, ...]
    trials: Sequence[FrozenTrial]
    n_trials: int | None
    state: StudyState
    elapsed: float
    storage: str
    artifacts: str
    best_figure: bytes | None = None
    ensemble: bytes | None = None
    notes: tuple[str, ...] = ()
    version: str = ""
    lost: int = 0
    gallery: Gallery | None = None
    study_id: int | None = None
    summary: StudySummary | None = None
    versions: Sequence[Version] = ()
    reevaluations: Sequence[Reevaluation] = ()
    user_attrs: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def best(self) -> Sequence[FrozenTrial]:
        """The complete, feasible trials, the best one first, as a summary has them."""
        return self.summary.best if self.summary else best_first(self.trials, self.directions)


class BestTrial(BaseModel):
    """One of the best trials of a study."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    number: int = Field(description="The trial's number in the study.")
    values: tuple[float, ...] = Field(description="Its values, one for each direction.")
    params: dict[str, Any] = Field(description="Its parameters.")
    constraints: dict[str, float] = Field(
        default_factory=dict, description="Its constraints, each zero or less."
    )


@persistence_class
class StudyResult(BaseModel):
    """The result of a study, as `optimize` returns it.

    Counts and best trials are of the whole study, earlier runs included.

    Example:
        >>> from prefect_optuna.flows import StudyResult
        >>> result = StudyResult(
        ...     study_name="demo",
        ...     directions=("minimize",),
        ...     best_trials=[{"number": 3, "values": (0.5,), "params": {"x": 2.0}}],
        ...     n_trials=10,
        ...     states={"complete": 9, "failed": 1},
        ...     storage="memory://",
        ...     artifacts="memory://",
        ... )
        >>> result.best_value
        0.5
        >>> result
        StudyResult of 'demo': best value 0.5 in trial 3 of 10
          parameters  x=2.0
          trials      9 complete, 1 failed
          study       memory://
          archive     memory://

        It is a persistence class: `save` keeps it in a file, `load` brings it back.

        >>> from prefect_optuna.tasks import load, save
        >>> _ = save(result, "memory://docs-result/demo.arrow")
        >>> load(StudyResult, "memory://docs-result/demo.arrow") == result
        True
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    study_name: Annotated[str, field(validator=True, filename=True)] = Field(
        description="The name under which the study goes on, or is loaded."
    )
    directions: tuple[str, ...] = Field(description="`minimize` or `maximize` for each value.")
    best_trials: list[BestTrial] = Field(
        description="The best trial; with several directions, all that are Pareto-best."
    )
    n_trials: int = Field(
        description="How many trials are finished. Those lost to a crash do not count, "
        "their repetitions do."
    )
    states: dict[str, int] = Field(
        description="How many trials are `complete`, `pruned`, `failed`, and `lost`."
    )
    storage: str = Field(description="Where the study is.")
    artifacts: str = Field(description="Where its archive is.")
    version: str | None = Field(
        default=None, description="Which version of its code ran last, and the code's digest."
    )
    picture: str | None = Field(default=None, description="Where the best trial's picture is.")

    flow_run_id: str | None = Field(default=None, description="The flow run that ended it.")
    n_task_runs: int = Field(default=0, description="How many task runs its trials shared.")

    _block: StudyStorage | None = PrivateAttr(default=None)

    @property
    def best_trial(self) -> BestTrial:
        """The best trial.

        Raises:
            NoCompleteTrialError: no trial is complete and feasible, or the study has several
                directions and so has `best_trials`.
        """
        if not self.best_trials:
            raise NoCompleteTrialError(
                f"No trial of study {self.study_name!r} is complete"
                f"{' and meets its constraints' if self.states.get('complete') else ''} "
                f"({_counts(self.states) or 'there are none'})."
            )
        if len(self.directions) > 1:
            raise NoCompleteTrialError(
                f"Study {self.study_name!r} has {len(self.directions)} directions, and so a set "
                "of best trials: use `best_trials` or `best_values`."
            )
        return self.best_trials[0]

    @property
    def best_value(self) -> float:
        """The value of the best trial; raises `NoCompleteTrialError` as `best_trial` does."""
        return self.best_trial.values[0]

    @property
    def best_values(self) -> list[tuple[float, ...]]:
        """The values of each of the best trials."""
        return [trial.values for trial in self.best_trials]

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters of the best trial; raises `NoCompleteTrialError` as `best_trial` does."""
        return self.best_trial.params

    def load_study(self) -> optuna.Study:
        """The Optuna study itself, with every trial."""
        return (self._block or as_study_storage(self.storage)).load_study(self.study_name)

    def kept_in(self, block: StudyStorage) -> StudyResult:
        """Let `load_study` use this block, which may know a password that `storage` does not."""
        self._block = block
        return self

    def __repr__(self) -> str:
        return f"StudyResult of {self.study_name!r}: {self._headline()}\n" + "\n".join(
            f"  {name:<11} {visible_line(text)}" for name, text in self._rows()
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the card that notebooks show."""
        return card(
            f"{self.study_name}: {self._headline()}", self._rows(), picture=self._local_picture()
        )

    def _local_picture(self) -> bytes | None:
        """The picture of the best trial, where it is a file of this machine."""
        try:
            path = Path(self.picture or "")
            return path.read_bytes() if path.is_file() else None
        except OSError:
            return None

    def _headline(self) -> str:
        if not self.best_trials:
            return f"no {'feasible' if self.states.get('complete') else 'complete'} trial"
        if len(self.directions) > 1:
            return f"{len(self.best_trials)} Pareto-best trials of {self.n_trials}"
        best = self.best_trials[0]
        return f"best value {best.values[0]:.6g} in trial {best.number} of {self.n_trials}"

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        if len(self.directions) == 1 and self.best_trials:
            best = self.best_trials[0]
            for name, values in ("parameters", best.params), ("constraints", best.constraints):
                if values or name == "parameters":
                    rows.append((name, ", ".join(f"{k}={_short(v)}" for k, v in values.items())))
        rows.append(("trials", _counts(self.states) or "none"))
        rows.append(("study", self.storage))
        rows.append(("archive", self.artifacts))
        if self.version:
            rows.append(("version", self.version))
        if self.picture:
            rows.append(("picture", self.picture))
        return rows


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items() if count)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) and value != round(value, 4) else repr(value)
