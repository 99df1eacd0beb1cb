"""What people have run by a schedule: trials again with old and new packages, studies in a row."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.client.orchestration import get_client
from wheels_under_test import install_here, only_these_wheels, record_only

from prefect_optuna.blocks import ArchiveError, InvalidSettingError, as_study_storage
from prefect_optuna.errors import DriftError, EnvironmentUnavailableError
from prefect_optuna.flows import optimize, reevaluate
from prefect_optuna.flows.opening import WARM, checked_arguments
from prefect_optuna.tasks import ArchivedStudy
from prefect_optuna.tasks.environments import newest_version

pytestmark = [pytest.mark.usefixtures("prefect_server")]


def times_tiny(trial: optuna.Trial) -> float:
    import tiny  # pyright: ignore[reportMissingImports]

    return trial.suggest_float("x", 1, 2) * tiny.VALUE


def parabola(trial: optuna.Trial) -> float:
    return (trial.suggest_float("x", -5, 5) - 2) ** 2


def page(key: str) -> Any:
    """The latest artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.request("GET", "/artifacts/{key}/latest", path_params={"key": key})
    return found.json()["data"]


@pytest.mark.slow
def test_trials_run_again_with_todays_packages_with_the_recorded_and_with_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wheels = only_these_wheels(tmp_path, monkeypatch)
    newest = wheels / "tiny-2.0-py3-none-any.whl"
    install_here(wheels, "tiny", "1.0", monkeypatch)
    record_only(monkeypatch, tiny="1.0")
    optimize(times_tiny, study_name="nightly", n_trials=3, seed=1)
    install_here(wheels, "tiny", "2.0", monkeypatch)
    kept = newest.read_bytes()
    newest.unlink()

    with pytest.raises(DriftError):
        reevaluate("nightly", trials="best:2", trusted=True, environment="both", fail_on_drift=True)
    here, recorded = ArchivedStudy.load("nightly").reevaluations()
    assert (here.environment, here.headline) == ("here", "0 of 2 reproduced")
    assert (recorded.environment, recorded.headline) == ("recorded", "2 of 2 reproduced")
    assert here.flow_run_id == recorded.flow_run_id
    shown = page("reevaluation-nightly")
    assert "![drift](data:image/png;base64," in shown
    assert "| today's | ⚠️ 0 of 2 |" in shown
    assert "| recorded | ✅ 2 of 2 |" in shown

    (wheels / "tiny-1.4-py3-none-any.whl").unlink()
    assert newest_version("tiny", "3.11.7") == "1.0"
    assert reevaluate("nightly", trusted=True, when="tiny") is None
    newest.write_bytes(kept)
    again = reevaluate("nightly", trusted=True, when="tiny")
    assert again.upgraded == {"tiny": "2.0"}
    assert again.trials[0].values[0] == 2 * again.trials[0].archived
    assert "| tiny 2.0 | ⚠️ 0 of 1 |" in page("reevaluation-nightly")
    assert reevaluate("nightly", trusted=True, when="tiny") is None
    assert len(ArchivedStudy.load("nightly").reevaluations()) == 3

    with pytest.raises(InvalidSettingError, match=r"'tinny' was not. Did you mean 'tiny'"):
        reevaluate("nightly", trusted=True, when="tinny")
    with pytest.raises(InvalidSettingError, match="leave out `environment`"):
        reevaluate("nightly", trusted=True, when="tiny", environment="both")
    with pytest.raises(EnvironmentUnavailableError, match="Which version of nothing-of-the-kind"):
        newest_version("nothing-of-the-kind", "3.11.7")


LACKS = r"lacks tiny 1\.0, which \S*test_schedules\.py imports"


@pytest.fixture
def without_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of a package that was there then, and is not now; uv can have it."""
    monkeypatch.chdir(tmp_path)
    wheels = only_these_wheels(tmp_path, monkeypatch)
    with monkeypatch.context() as there:
        install_here(wheels, "tiny", "1.0", there)
        record_only(there, tiny="1.0")
        optimize(times_tiny, study_name="nightly", n_trials=3, seed=1)
    monkeypatch.delitem(sys.modules, "tiny")


@pytest.mark.usefixtures("without_tiny")
def test_where_a_package_is_not_there_it_is_said_that_the_recorded_one_may_be_had() -> None:
    says = rf"{LACKS}\. No trial was begun\. environment='recorded'"
    with pytest.raises(ArchiveError, match=says):
        reevaluate("nightly", trusted=True)


@pytest.mark.slow
@pytest.mark.usefixtures("without_tiny")
def test_where_a_package_is_not_there_trials_run_with_the_recorded_one_alone() -> None:
    again = reevaluate("nightly", trials="best:2", trusted=True, environment="both")
    assert (again.environment, again.headline) == ("recorded", "2 of 2 reproduced")
    assert re.search(LACKS, again.notes[0])
    assert again.notes[0].endswith("they ran with the recorded packages, and not with today's")
    assert len(ArchivedStudy.load("nightly").reevaluations()) == 1
    assert re.search(LACKS, page("reevaluation-nightly").replace("\\", ""))


@pytest.mark.parametrize("package", ["-r /etc/passwd", "a\n--index-url http://127.0.0.1:1", "/etc"])
def test_a_package_s_name_is_no_option_of_uv_and_no_folder(package: str) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="no name of a package"):
        newest_version(package, "3.11.7")


def test_a_row_of_studies_needs_a_name_and_says_so_before_a_server_is_started() -> None:
    known = {"study_name", "warm_start"}
    with pytest.raises(InvalidSettingError, match="give its name"):
        checked_arguments(known, {"warm_start": 3})
    with pytest.raises(InvalidSettingError, match="0 or more; found -1"):
        checked_arguments(known, {"warm_start": -1, "study_name": "weekly"})


@pytest.mark.slow
def test_each_study_of_a_row_begins_with_the_best_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = as_study_storage()
    first = optimize(parabola, study_name="weekly", n_trials=8, warm_start=2, seed=1)
    assert first.study_name.startswith("weekly-2")
    with monkeypatch.context() as patch:
        # A second later.
        name = first.study_name[:-6] + f"{int(first.study_name[-6:]) + 1:06}"
        patch.setattr("prefect_optuna.flows.opening.StudySeries.of_run", _series(name))
        second = optimize(parabola, study_name="weekly", n_trials=4, warm_start=2, seed=2)
        optimize(parabola, study_name="weekly", n_trials=5, warm_start=2, seed=2)  # goes on
    trials = storage.load_study(second.study_name).trials
    best = sorted(storage.load_study(first.study_name).trials, key=lambda t: t.value or 0)[:2]
    assert [t.params for t in trials[:2]] == [t.params for t in best]
    assert [t.user_attrs.get(WARM) for t in trials] == [
        *(f"{first.study_name}:{one.number}" for one in best),
        *[None] * 3,
    ]
    assert second.best_value <= first.best_value
    shown = page("series-weekly")
    assert "![best values](data:image/png;base64," in shown
    assert shown.index(second.study_name) < shown.index(first.study_name)
    assert sorted(storage.study_names()) == [first.study_name, second.study_name]


def _series(name: str) -> Any:
    from prefect_optuna.flows.opening import StudySeries

    def of_run(base: str, _: int) -> StudySeries:
        return StudySeries(base, name)

    return of_run


def test_a_row_has_a_name_and_a_count() -> None:
    with pytest.raises(InvalidSettingError, match="give its name"):
        optimize(parabola, n_trials=1, warm_start=1, storage="memory://", artifacts="memory://row")
    with pytest.raises(InvalidSettingError, match="0 or more; found -1"):
        optimize(
            parabola,
            study_name="row",
            n_trials=1,
            warm_start=-1,
            storage="memory://",
            artifacts="memory://row",
        )
