"""An archived trial that runs again is a real trial of a real study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna import optimize, reevaluate
from prefect_optuna.tasks import Environment, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.reevaluation.replay import Past, Replay
from prefect_optuna.tasks.reevaluation.rerun import ArchivedTrial, RerunRequest, rerun
from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation, Uploads, compare, uploads_of


def quadratic(trial: optuna.Trial) -> float:
    """What people do with their study in the middle of a trial."""
    x = trial.suggest_float("x", -10, 10)
    done = trial.study.get_trials(states=[TrialState.COMPLETE])
    best = trial.study.best_value if done else float("inf")
    trial.study.set_user_attr("last", trial.number)
    trial.set_user_attr("seen", [one.number for one in trial.study.trials])
    value = (x - 2) ** 2
    return value if value < best else value + best


def study_of(objective: Any, n_trials: int, **options: Any) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=3)
    study = optuna.create_study(study_name="past", sampler=sampler, **options)
    study.set_user_attr("unit", "mm")
    study.optimize(objective, n_trials=n_trials)
    return study


def again(replay: Replay, trial: FrozenTrial) -> optuna.Trial:
    pruned_at = len(trial.intermediate_values) if trial.state == TrialState.PRUNED else None
    started = trial.datetime_start
    return replay.trial(trial.number, trial.params, pruned_at=pruned_at, started=started)


def test_a_trial_sees_its_study_as_it_was_when_it_began() -> None:
    study = study_of(quadratic, 6)
    past = Past.of(study, Capture.of(Problem(objective=quadratic)))
    replay = Replay(Past.from_json(past.to_json()), ["minimize"])
    for trial in reversed(study.trials):  # in no order, and one leaves nothing to another
        live = again(replay, trial)
        assert (live.study.study_name, live.number) == ("past", trial.number)
        assert live.study.user_attrs == {"unit": "mm", "last": 5}
        assert quadratic(live) == trial.value
        assert live.user_attrs["seen"] == list(range(trial.number + 1))
        assert live.storage.get_n_trials(0) == trial.number + 1


def test_trials_that_were_under_way_have_no_value_yet() -> None:
    study = optuna.create_study()
    first, second = study.ask(), study.ask()
    study.tell(first, first.suggest_float("x", 0, 1))
    study.tell(second, second.suggest_float("x", 0, 1))
    replay = Replay(Past(trials=study.trials), ["minimize"])
    live = again(replay, study.trials[1])
    assert [(one.state.name, one.values) for one in live.study.trials] == [("RUNNING", None)] * 2
    with pytest.raises(ValueError, match="No trials are completed"):
        _ = live.study.best_value


def test_trials_are_taken_along_only_where_the_code_mentions_its_study() -> None:
    study = study_of(quadratic, 2)
    assert len(Past.of(study, Capture.of(Problem(objective=quadratic))).trials) == 2
    assert Past.of(study, Capture.of(Problem(objective=descend))).trials == ()


def descend(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    for step in range(10):
        trial.report(x + step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x


def test_pruning_is_repeated_where_it_was_decided() -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    study = study_of(descend, 8, pruner=pruner)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    replay = Replay(Past(), ["minimize"])
    for trial in study.trials:
        live = again(replay, trial)
        if trial.state == TrialState.PRUNED:
            with pytest.raises(optuna.TrialPruned):
                descend(live)
        else:
            assert descend(live) == trial.value
        found = live.storage.get_trial(trial.number).intermediate_values
        assert found == trial.intermediate_values


@pytest.mark.parametrize("order", [(5, 2, 9, 1), (9, 1, 2, 5)])
def test_pruning_is_repeated_whatever_the_order_of_the_steps(order: tuple[int, ...]) -> None:
    reported: list[int] = []

    def descend(trial: optuna.Trial) -> float:
        for step in order:
            reported.append(step)
            trial.report(0.0, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.0

    trial = Replay(Past(), ["minimize"]).trial(0, {}, pruned_at=3)
    with pytest.raises(optuna.TrialPruned):
        descend(trial)
    assert reported == list(order[:3])


def of_what_it_has(trial: optuna.Trial) -> float:
    """Return in place of being pruned, as Optuna's example of `WilcoxonPruner`; or end later."""
    values: list[float] = []
    for step in (3, 0, 2, 1):
        values.append(trial.suggest_float("x", 0, 1) + step)
        trial.report(values[-1], step)
        if trial.should_prune():
            if trial.number == 1:
                break
            values.append(10.0)
    if len(values) > 4:
        raise optuna.TrialPruned
    return sum(values)


class AfterTwo(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number > 0 and len(trial.intermediate_values) == 2


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.slow
def test_a_trial_that_went_on_when_it_was_told_to_end_is_told_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = optimize(of_what_it_has, study_name="told", n_trials=3, pruner=AfterTwo())
    told = [trial.user_attrs.get("told_to_prune") for trial in result.load_study().trials]
    assert told == [None, [2], [2]]
    again = reevaluate("told", trials="all", trusted=True, rtol=0.0)
    assert [trial.verdict for trial in again.trials] == ["reproduced"] * 3


def test_a_trial_that_runs_again_is_not_to_stop() -> None:
    study = study_of(lambda trial: trial.suggest_float("x", 0, 1), 1)
    live: Any = again(Replay(Past("past", {}, ()), ["minimize"]), study.trials[0])
    assert not live.should_stop()


def test_a_parameter_that_the_trial_did_not_have_is_named() -> None:
    live = Replay(Past(), ["minimize"]).trial(7, {"x": 0.5})
    assert live.suggest_float("x", 0, 1) == 0.5
    with pytest.raises(ValueError, match=r"has no parameter 'y'; it has: x\."):
        live.suggest_float("y", 0, 1)


def save(trial: optuna.Trial) -> float:
    """Upload two files, of which one says how many times this has run; prune early."""
    import os

    x = trial.suggest_float("x", 0, 1)
    if x > 0.9:
        raise optuna.TrialPruned
    folder = Path(os.environ["SAVED"])
    count = folder / "count"
    count.write_text(f"{count.read_text() if count.exists() else ''}+", encoding="utf-8")
    model = folder / "model.txt"
    model.write_text(f"{x}", encoding="utf-8")
    for path in (count, model):
        name = upload_artifact(
            artifact_store=FileSystemArtifactStore(folder / "store"),
            file_path=str(path),
            study_or_trial=trial,
        )
        trial.set_user_attr(path.name, name)
    trial.set_constraint("mass", x - 0.5)
    return x


@pytest.mark.slow
def test_uploads_are_compared_and_leave_the_store_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a trial that was pruned before it reported anything is reproduced by being pruned."""
    monkeypatch.setenv("SAVED", str(tmp_path))
    (tmp_path / "store").mkdir()
    study = optuna.create_study()
    for x in (0.25, 0.95):
        study.enqueue_trial({"x": x})
    study.optimize(save, n_trials=2)
    stored = {path.name for path in (tmp_path / "store").iterdir()}
    assert len(uploads_of(study.trials[0].system_attrs)) == len(stored) == 2

    request = RerunRequest(
        Capture.of(Problem(objective=save)),
        Environment.capture(),
        [ArchivedTrial.of(trial) for trial in study.trials],
        environment_variables=["SAVED"],
    )
    answer = rerun(request)

    assert {path.name for path in (tmp_path / "store").iterdir()} == stored
    compared = [
        compare(trial, one, [0.0], [0.0])
        for trial, one in zip(study.trials, answer.reruns, strict=True)
    ]
    assert [one.verdict for one in compared] == ["reproduced", "reproduced"]
    assert compared[0].uploads == {"count": "other", "model.txt": "same"}
    assert compared[0].new_constraints == [{"mass": -0.25}]
    assert not answer.reruns[0].unseeded  # the name of an upload is no result
    shown = str(Reevaluation(study_name="saved", trials=compared, rtol=0.0, atol=0.0))
    assert "it uploads another count" in shown
    assert "trial 1: reproduced, archived no value, now no value" in shown


def test_what_a_trial_has_uploaded_it_can_fetch(tmp_path: Path) -> None:
    path, copy = tmp_path / "model.txt", tmp_path / "copy.txt"
    path.write_text("0.5")
    (tmp_path / "scratch").mkdir()
    trial = optuna.create_study().ask()
    uploads = Uploads(tmp_path / "scratch")
    store = FileSystemArtifactStore(tmp_path / "not there")
    with uploads.in_place():
        name = optuna.artifacts.upload_artifact(
            artifact_store=store, file_path=str(path), study_or_trial=trial
        )
        optuna.artifacts.download_artifact(
            artifact_store=store, artifact_id=name, file_path=str(copy)
        )
    assert copy.read_text() == "0.5"
    assert uploads.verdicts == {"model.txt": "unknown"}
    assert optuna.artifacts.upload_artifact is upload_artifact
