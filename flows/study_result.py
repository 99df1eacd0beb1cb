"""The result of a study, and its status on the way there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import optuna
from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from prefect_optuna.blocks import StudyStorage, as_study_storage
from prefect_optuna.blocks.study_summary import StudySummary
from prefect_optuna.blocks.texts import card, visible_line
from prefect_optuna.errors import NoCompleteTrialError
from prefect_optuna.tasks.persistence import field, persistence_class

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.record.manifest import Version
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

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
