"""A machine that is about to go: trials hear of it, save what they have, and are asked again."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from prefect.settings import get_current_settings
from servers import wait_until

from prefect_optuna.blocks import JournalStudyStorage
from prefect_optuna.flows.session import is_lost
from prefect_optuna.tasks.trial import Stopping

HEAD = """
    import sys, time
    from pathlib import Path
    from prefect_optuna.flows import Problem, optimize
    from prefect_optuna.tasks import TrialStopped

    def note(text):
        with Path("run.txt").open("a", encoding="utf-8") as log:
            print(text, file=log)

    def suggest(trial):
        return {"x": trial.suggest_float("x", 0, 1)}

    def looking(params, stopping, trial):
        begins = trial.user_attrs.get("epoch", 0)
        note(f"{trial.number} from {begins}")
        for epoch in range(begins, begins + (100_000 if trial.number == 1 else 3)):
            if stopping:
                trial.set_user_attr("epoch", epoch)
                raise TrialStopped
            time.sleep(0.01)
        return params["x"]

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        begins = trial.user_attrs.get("epoch", 0)
        note(f"{trial.number} from {begins}")
        for epoch in range(begins, begins + (100_000 if trial.number == 1 else 3)):
            if trial.should_stop():
                trial.set_user_attr("epoch", epoch)
                raise TrialStopped
            time.sleep(0.01)
        return x

    def deaf(params, stopping, trial):
        note(f"{trial.number} from 0")
        time.sleep(600 if trial.number == 1 else 0.01)
        return params["x"]

    def heedless(params, trial):
        return deaf(params, None, trial)

"""
MAIN = """
    if __name__ == "__main__":
        optimize({what}, study_name="s", n_trials=3, storage="journal:///s.journal", {options})
"""


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("what", "options", "saves"),
    [
        pytest.param("Problem(suggest=suggest, run=looking)", "", True, marks=pytest.mark.slow),
        pytest.param("objective", "n_jobs=2", True, marks=pytest.mark.slow),
        pytest.param("objective", 'task_runner="processes"', True, marks=pytest.mark.heavy),
        pytest.param("Problem(suggest=suggest, run=deaf)", "", False, marks=pytest.mark.slow),
        pytest.param("Problem(suggest=suggest, run=heedless)", "", False, marks=pytest.mark.heavy),
    ],
    ids=["names it", "asks the trial", "in processes", "does not heed it", "does not look"],
)
def test_sigterm_hands_trials_back_with_what_they_have_saved(
    what: str, options: str, saves: bool, tmp_path: Path
) -> None:
    script = tmp_path / "study.py"
    main = MAIN.format(what=what, options=options)
    script.write_text(textwrap.dedent(HEAD) + textwrap.dedent(main), encoding="utf-8")
    api = str(get_current_settings().api.url)
    variables = {"PREFECT_API_URL": api, "PREFECT_INTEGRATIONS_OPTUNA_GRACE": "3"}
    command, environment = [sys.executable, str(script)], {**os.environ, **variables}
    program = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        log = tmp_path / "run.txt"
        wait_until(
            lambda: log.exists() and "1 from 0" in log.read_text(encoding="utf-8"),
            what="the second trial",
            timeout=120,
        )
        time.sleep(0.3)
        program.terminate()
        assert program.wait(60) != 0
    finally:
        program.kill()
        program.wait()
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    trials = storage.load_study("s").trials
    (left,) = [t for t in trials if is_lost(t) and t.number == 1]
    waiting = [t for t in trials if t.state == TrialState.WAITING]
    again = next(t for t in waiting if t.system_attrs["failed_trial"] == 1)
    assert again.system_attrs["fixed_params"] == left.params
    assert again.user_attrs.get("epoch", 0) > 0 if saves else "epoch" not in again.user_attrs
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    trials = storage.load_study("s").trials
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 3
    assert all(is_lost(t) for t in trials if t.state == TrialState.FAIL)
    begins = again.user_attrs.get("epoch", 0)
    assert f"{again.number} from {begins}" in log.read_text(encoding="utf-8")


def test_processes_of_this_machine_hear_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "some.stop"
    parent = Stopping(file)
    child = Stopping(file)
    assert not parent.is_asked
    assert not child
    assert parent.is_asked
    parent.set()
    assert child
    parent.close()
    assert list(tmp_path.iterdir()) == []
