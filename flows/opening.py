"""Preparations for the first trial of any study: arguments, a rehearsal, the study itself."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run as current_flow_run

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.blocks.artifacts.pages import code, data_uri, escape
from prefect_optuna.blocks.study_storage import study_uuid
from prefect_optuna.errors import InvalidProblemError, InvalidSettingError
from prefect_optuna.flows.events import StudyEvents, StudyWatch
from prefect_optuna.flows.gallery import BestPicture
from prefect_optuna.flows.plots import BLUE, figure_png, new_figure, style
from prefect_optuna.flows.problem_source import ARCHIVE, find_problem, say_version
from prefect_optuna.flows.report import report_key
from prefect_optuna.flows.study import (
    FlowStudy,
    Pruner,
    Sampler,
    continued_seed,
    make_pruner,
    make_sampler,
    pruner_name,
    sampler_name,
)
from prefect_optuna.flows.study_run import suggest_params
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.archive import OptunaArchive
from prefect_optuna.tasks.archive.code.capture import encode_scope
from prefect_optuna.tasks.machine import Resources, ResourcesGiven, threads_of
from prefect_optuna.tasks.problem import Problem, as_directions
from prefect_optuna.tasks.reevaluation.verdicts import select_trials
from prefect_optuna.tasks.scope.scope import check_types
from prefect_optuna.tasks.seeding import study_seed
from prefect_optuna.tasks.trial import TrialScope

# Studies in a row: each run is one of its own, and begins with the best of the last one.


WARM = "prefect_optuna:warm_start"
"""The user attribute of a trial that was asked since it was among the best of another study."""

_SHOWN = 30


@dataclass(frozen=True)
class StudySeries:
    """The studies of a schedule: `fit-20261130-040000` and those before it.

    Attributes:
        base: what they are called without the time.
        name: the study of this run.
    """

    base: str
    name: str

    @classmethod
    def of_run(cls, base: str | None, warm_start: int) -> StudySeries:
        """The series that this flow run goes on with."""
        base = cls.checked(base, warm_start)
        at = current_flow_run.scheduled_start_time
        return cls(base, f"{base}-{datetime.fromtimestamp(at.timestamp(), UTC):%Y%m%d-%H%M%S}")

    @staticmethod
    def checked(base: str | None, warm_start: int) -> str:
        """Refuse what makes no series, also before a server is started."""
        if not base:
            raise InvalidSettingError(
                "`warm_start` makes studies in a row, called after `study_name` and the time: give "
                "its name."
            )
        if warm_start < 0:
            raise InvalidSettingError(
                "`warm_start` is how many of the best trials of the last study are asked first, 0 "
                f"or more; found {warm_start}."
            )
        return base

    def before(self, block: StudyStorage) -> list[str]:
        """The studies before this one, the first one first."""
        mine = re.compile(re.escape(self.base) + r"-\d{8}-\d{6}")
        names = set(block.study_names())
        later = sorted(name for name in names if mine.fullmatch(name) and name < self.name)
        return [self.base, *later] if self.base in names else later

    def warm(self, study: optuna.Study, block: StudyStorage, count: int) -> str | None:
        """Have the parameters of the best trials of the last study be asked first.

        Returns:
            That study; `None` where there is none with a complete trial, or they are there already.
        """
        if not count or study.get_trials(deepcopy=False):
            return None
        for name in reversed(self.before(block)):
            last = block.load_study(name)
            best = select_trials(last, f"best:{count}") if _complete(last) else []
            if not best:
                continue
            for trial in best:
                study.enqueue_trial(trial.params, user_attrs={WARM: f"{name}:{trial.number}"})
            return name
        return None

    def publish(self, block: StudyStorage) -> None:
        """Show all of them in Prefect's UI, as one page that is renewed."""
        names = [*self.before(block), self.name][-_SHOWN:]
        studies = [block.load_study(name) for name in names]
        create_markdown_artifact(
            render_series(self.base, studies),
            key="series-" + report_key(self.base).removeprefix("study-"),
            description=escape(f"Studies of {self.base!r}: {len(names)}"),
        )


def render_series(base: str, studies: Sequence[optuna.Study]) -> str:
    """Studies in a row as Markdown: the best value of each, the last one first."""
    bests = [_best(study) for study in studies]
    lines = [f"# Studies of {code(base)}", ""]
    if len(studies[-1].directions) == 1 and any(best is not None for best in bests):
        lines += [f"![best values]({data_uri(_plot(studies, bests))})", ""]
    lines += ["| study | trials | best | from the last one |", "|---|---:|---:|---:|"]
    for study, best in zip(reversed(studies), reversed(bests), strict=True):
        trials = study.get_trials(deepcopy=False)
        value = "" if best is None else ", ".join(format_value(v) for v in best.values or ())
        warm = sum(WARM in trial.user_attrs for trial in trials)
        lines.append(f"| {code(study.study_name)} | {len(trials)} | {value} | {warm or ''} |")
    return "\n".join(lines)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _best(study: optuna.Study) -> FrozenTrial | None:
    best = select_trials(study, "best:1") if _complete(study) else []
    return best[0] if best else None


def _plot(studies: Sequence[optuna.Study], bests: Sequence[FrozenTrial | None]) -> bytes:
    figure = new_figure(2.4)
    axes = figure.add_subplot()
    style(axes)
    times: list[Any] = []
    values: list[float] = []
    for study, best in zip(studies, bests, strict=True):
        started = [t.datetime_start for t in study.get_trials(deepcopy=False) if t.datetime_start]
        if best is not None and best.values and started:
            times.append(min(started))
            values.append(best.values[0])
    axes.plot(times, values, "o-", color=BLUE)
    axes.set_ylabel("best value")
    axes.tick_params(axis="x", labelrotation=20)
    return figure_png(figure)


_OF_PREFECT = {"return_state", "wait_for"}


def checked_arguments(known: Set[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `optimize` or `distribute`, checked before a server is asked or started."""
    for name in arguments.keys() - known - _OF_PREFECT:
        near = difflib.get_close_matches(name, known, n=1)
        hint = (
            f"; did you mean `{near[0]}`?" if near else f". There is: {', '.join(sorted(known))}."
        )
        raise InvalidSettingError(f"There is no argument `{name}`{hint}")
    checked = checked_names(arguments)
    numbers: dict[str, Any] = {
        "n_trials": 100,
        "timeout": None,
        "n_jobs": 1,
        "retries": 0,
        "seed": None,
    }
    numbers |= {name: value for name, value in checked.items() if name in numbers}
    # A number as text is one for pydantic, which has not seen it yet.
    if all(value is None or isinstance(value, (int, float)) for value in numbers.values()):
        check_settings(**numbers)
    if checked.get("problem", ARCHIVE) != ARCHIVE:
        Problem.of(checked["problem"], directions=checked.get("directions"))
    Resources.of(checked.get("resources"))
    if isinstance(warm_start := checked.get("warm_start"), int):
        StudySeries.checked(checked.get("study_name"), warm_start)
    if isinstance(scope := checked.get("scope"), Mapping):
        check_types(scope)  # pyright: ignore[reportUnknownArgumentType]
    return checked


def checked_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with samplers, pruners and directions as `optimize` calls them."""
    checked = dict(arguments)
    for key, of_it, kind, make in (
        ("sampler", sampler_name, Sampler, make_sampler),
        ("pruner", pruner_name, Pruner, make_pruner),
    ):
        value = checked.get(key)
        if isinstance(value, Mapping) and value.keys() <= {"name", "options"}:  # pyright: ignore[reportUnknownVariableType]
            make(kind(**{**value, "name": of_it(value.get("name", kind().name))}))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportArgumentType]
        elif isinstance(value, (str, kind)):
            checked[key] = of_it(value)
            make(value)  # pyright: ignore[reportArgumentType]
    directions = one_of_the_two(checked.pop("direction", None), checked.get("directions"))
    if directions is not None:
        checked["directions"] = as_directions(directions)
    return checked


def one_of_the_two(direction: Any, directions: Any) -> Any:
    """Optuna's `direction`, or `directions`."""
    if direction is not None and directions is not None:
        raise InvalidSettingError(
            "`direction` is for one value and `directions` for several: give one of the two; "
            f"found {direction!r} and {directions!r}."
        )
    return directions if direction is None else direction


def check_settings(
    n_trials: int | None, timeout: float | None, n_jobs: int, retries: int, seed: int | None
) -> None:
    """Refuse numbers that cannot work.

    Args:
        n_trials: how many finished trials end the study; `None` for no limit.
        timeout: seconds after which no more trials are asked; `None` for no limit.
        n_jobs: how many trials run at once; -1 for the number of processors.
        retries: how many times `run` is called again.
        seed: of the sampler.
    """
    if n_trials is not None and n_trials < 1:
        raise InvalidSettingError(
            f"`n_trials` is the number of finished trials to reach, 1 or more; found {n_trials}."
        )
    if timeout is not None and not timeout > 0:
        raise InvalidSettingError(f"`timeout` is in seconds, more than 0; found {timeout}.")
    if n_trials is None and timeout is None:
        raise InvalidSettingError("Give `n_trials`, `timeout` or both: else the study never ends.")
    if n_jobs == 0 or n_jobs < -1:
        raise InvalidSettingError(
            f"`n_jobs` is 1 or more, or -1 for the number of processors; found {n_jobs}."
        )
    if retries < 0:
        raise InvalidSettingError(f"`retries` is 0 or more, found {retries}.")
    if seed is not None and seed < 0:
        raise InvalidSettingError(f"`seed` is 0 or more, found {seed}.")


def rehearse(problem: Problem, scope: TrialScope) -> None:
    """Call `suggest` once on a study that nobody keeps: its mistakes show before any trial."""
    if problem.suggest is None:
        return
    storage = optuna.storages.InMemoryStorage()
    name = f"a rehearsal of {problem.name}"
    log = logging.getLogger(type(storage).__module__)

    def of_others(record: logging.LogRecord) -> bool:
        return name not in record.getMessage()

    log.addFilter(of_others)
    try:
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], study_name=name)
    finally:
        log.removeFilter(of_others)
    study = optuna.Study(name, storage, optuna.samplers.RandomSampler(seed=0))
    try:
        suggest_params(problem, study.ask(), scope, seed=0)  # the caller's generators stay
    except (InvalidProblemError, optuna.TrialPruned):
        raise
    except Exception as error:
        raise InvalidProblemError(f"`suggest` does not work: {error_words(error)}") from error


@dataclass(frozen=True)
class OpenStudy:
    """A study with its problem in its archive, before the first trial of this run."""

    problem: Problem
    scope: TrialScope
    block: StudyStorage
    study: FlowStudy
    archive: OptunaArchive
    watch: StudyWatch
    earlier: int
    """Number of trials from runs before."""
    trials_seed: int | None
    resources: Resources | None
    series: StudySeries | None = None


def begin(
    problem: Problem | Callable[..., Any] | str,
    logger: logging.Logger | logging.LoggerAdapter[Any],
    *,
    study_name: str | None,
    n_trials: int | None,
    storage: Any,
    artifacts: ArtifactFileSystem | str | Path | None,
    sampler: BaseSampler | Sampler | str | None,
    pruner: BasePruner | Pruner | str | None,
    seed: int | None,
    seed_trials: bool,
    directions: Any,
    direction: Any,
    scope: Mapping[str, Any] | None,
    version: str | None,
    trusted: bool,
    install: bool | str,
    resources: ResourcesGiven | None = None,
    warm_start: int | None = None,
    where: str = "",
) -> OpenStudy:
    """Check the problem, open its study and archive it: what `optimize` and `distribute` share.

    What is wrong shows before there is a study.
    """
    source = find_problem(
        problem,
        directions=one_of_the_two(direction, directions),
        study_name=study_name,
        version=version,
        trusted=trusted,
        install=install,
        storage=storage,
        artifacts=artifacts,
    )
    trial_scope = TrialScope(scope, handed_out=source.problem.names_scope)
    trial_scope.check()
    rehearse(source.problem, trial_scope)
    capture = source.capture()
    encode_scope(trial_scope.values)
    block = as_study_storage(storage)
    filesystem = as_artifact_filesystem(artifacts)
    filesystem.check()
    name = study_name or f"{source.problem.name}-{current_flow_run.name}"
    series = None
    if warm_start is not None:
        series = StudySeries.of_run(study_name, warm_start)
        name = series.name
    study = open_study(block, name, source.problem, sampler, pruner, seed)
    archive = OptunaArchive(study, artifacts=filesystem)
    trials_seed = seed_of_trials(study, seed) if seed_trials else None
    needs = Resources.of(resources) or Resources.of(source.problem.resources)
    # What is written down of the libraries' threads is what trials have.
    with threads_of(needs):
        archive.save_problem(capture, scope=trial_scope.values, seed=seed, trials_seed=trials_seed)
    if series and warm_start and (last := series.warm(study, block, warm_start)):
        logger.info("The first trials have the parameters of the best ones of %r.", last)
    before = study.get_trials(deepcopy=False)
    watch = StudyWatch(
        study,
        source.problem,
        archive,
        n_trials,
        block,
        BestPicture(source.problem, filesystem, trial_scope),
        StudyEvents(study_uuid(study), source.problem.directions, before=before),
    )
    logger.info("Study %r in %s, archived in %s%s.", name, block.location, archive.location, where)
    say_version(logger, archive, source)
    for note in archive.notes:
        logger.warning(note)
    return OpenStudy(
        source.problem,
        trial_scope,
        block,
        study,
        archive,
        watch,
        len(before),
        trials_seed,
        needs,
        series,
    )


def open_study(
    block: StudyStorage,
    name: str,
    problem: Problem,
    sampler: BaseSampler | Sampler | str | None,
    pruner: BasePruner | Pruner | str | None,
    seed: int | None,
) -> FlowStudy:
    """Create the study, or go on with it."""
    make_sampler(sampler, seed)  # before anything is created: an option may be wrong
    made_pruner = make_pruner(pruner)
    plain = block.create_study(name, directions=list(problem.directions), load_if_exists=True)
    study = FlowStudy.open(name, block.get_storage(), sampler, made_pruner, seed=seed)
    if not isinstance(sampler, BaseSampler) and (n := len(plain.get_trials(deepcopy=False))):
        study.later_seed = continued_seed(seed, n)
    return study


def seed_of_trials(study: optuna.Study, seed: int | None) -> int:
    """Return the seed from which the seeds of a study's trials come."""
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    return study_seed(storage, storage.get_study_id_from_name(study.study_name), seed)
