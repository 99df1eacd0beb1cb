"""What was computed is kept: on the disk of its machine until its storage is back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from filesystems import s3_filesystem
from optuna.trial import TrialState
from prefect.settings import get_current_settings
from pydantic import SecretStr
from redis_servers import RedisServer
from servers import Cable, wait_until

from prefect_optuna.blocks import (
    JournalStudyStorage,
    RedisStudyStorage,
    StorageUnavailableError,
    as_artifact_filesystem,
)
from prefect_optuna.deployments.cli import main
from prefect_optuna.flows import Problem, optimize
from prefect_optuna.flows.session import Session, history_of, is_lost
from prefect_optuna.flows.spool import Spool, SpooledTrial, TrialKeeper
from prefect_optuna.tasks import ArchivedStudy
from prefect_optuna.tasks.archive import read_result
from prefect_optuna.tasks.archive.series.results import EncodedResult
from prefect_optuna.tasks.trial import Outcome

pytestmark = [
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set"),
]
_SERVER = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_SPOOL", str(tmp_path / "spool"))
    return Spool()


def counted() -> Counter[str]:
    log = Path("run.txt")
    return Counter(log.read_text(encoding="utf-8").split() if log.exists() else ())


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["series"][0])


def run(params: dict[str, Any]) -> dict[str, Any]:
    with Path("run.txt").open("a", encoding="utf-8") as log:
        print(params["number"], file=log)
    Path(f"pid-{params['number']}").write_text(str(os.getpid()), encoding="utf-8")
    while Path(f"hold-{params['number']}").exists():
        time.sleep(0.02)
    return {"series": [params["x"]] * 600}  # too many for an attribute


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


@contextmanager
def meanwhile(actions: Mapping[int, Callable[[], object]]) -> Generator[None]:
    """Do something while a trial runs, for each of some trials."""
    for number in actions:
        Path(f"hold-{number}").touch()
    failures: list[BaseException] = []

    def act() -> None:
        for number, action in actions.items():
            try:
                wait_until(lambda n=number: counted()[str(n)], what=f"trial {number}")
                action()
            except BaseException as error:  # noqa: BLE001 - it is raised below
                failures.append(error)
            Path(f"hold-{number}").unlink()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


# A whole study


PROGRAM = """
    import sys, time
    from pathlib import Path
    from prefect_optuna.blocks import RedisStudyStorage
    from prefect_optuna.flows import Problem, optimize

    def suggest(trial):
        return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}

    def run(params):
        with Path("run.txt").open("a", encoding="utf-8") as log:
            print(params["number"], file=log)
        if params["number"] == 2 and Path("cut").exists():
            while Path("cut").read_text() != "cut":
                time.sleep(0.02)
        return {"series": [params["x"]] * 600}  # too many for an attribute

    def evaluate(result):
        return float(result["series"][0])

    if __name__ == "__main__":
        optimize(
            Problem(suggest=suggest, run=run, evaluate=evaluate), study_name="s", n_trials=5,
            storage=RedisStudyStorage(url=sys.argv[1], retry_limit=0.2),
        )
"""


@pytest.mark.slow
@_SERVER
def test_a_program_that_dies_in_an_outage_leaves_what_it_computed(
    tmp_path: Path, spool: Spool
) -> None:
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    (cut := tmp_path / "cut").write_text("", encoding="utf-8")
    api = str(get_current_settings().api.url)
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        command = [sys.executable, str(script), server.url]
        program = subprocess.Popen(command, env={**os.environ, "PREFECT_API_URL": api})
        try:
            wait_until(lambda: counted()["2"], what="the third trial")
            server.kill()
            cut.write_text("cut", encoding="utf-8")
            wait_until(lambda: list(spool), what="a trial in the spool")
            os.kill(program.pid, signal.SIGKILL)
        finally:
            program.kill()
            program.wait()
        server.start()
        (kept,) = spool
        assert (kept.study_name, kept.trial.number) == ("s", 2)
        assert "redis://" in kept.storage
        subprocess.run(command, env={**os.environ, "PREFECT_API_URL": api}, check=True)
        assert list(spool) == []
        storage = RedisStudyStorage(url=SecretStr(server.url))
        trials = storage.load_study("s").trials
        assert [t.state for t in trials] == [TrialState.COMPLETE] * 5  # none was lost
        assert trials[2].values == kept.trial.values
        assert trials[2].params == kept.trial.params
        assert counted() == Counter("01234")  # each was run once
        archived = ArchivedStudy.load("s", storage=storage)
        assert archived.result(2) == {"series": [trials[2].params["x"]] * 600}


@pytest.mark.slow
@_SERVER
def test_a_result_that_could_not_be_archived_is_archived_by_the_next_run(
    s3_server: str, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_PATIENCE", "1")
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._SECONDS", 0.5)
    s3_filesystem(s3_server)  # makes the bucket
    with Cable(int(s3_server.rpartition(":")[2])) as cable:
        options = {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
        url = f"http://127.0.0.1:{cable.port}"
        artifacts = s3_filesystem(url, "spooled", config_kwargs=options)
        outage = cable.out()
        with pytest.raises(StorageUnavailableError), meanwhile({1: outage.__enter__}):
            optimize(PROBLEM, study_name="s", n_trials=3, artifacts=artifacts)
        (kept,) = spool
        assert kept.trial.number == 1
        assert kept.encoded is not None
        outage.__exit__(None, None, None)
        optimize(PROBLEM, study_name="s", n_trials=3, artifacts=artifacts)
        assert list(spool) == []
        assert max(counted().values()) == 1
        archived = ArchivedStudy.load("s", artifacts=artifacts)
        trials = archived.study.trials
        assert sum(t.state == TrialState.COMPLETE for t in trials) == 3
        told = next(t for t in trials if t.values == kept.trial.values)
        assert archived.result(told.number) == {"series": [told.params["x"]] * 600}
        assert archived.late_trials() == []


@_SERVER
@pytest.mark.heavy
def test_a_process_of_the_pool_that_dies_while_it_waits_leaves_what_it_computed(
    s3_server: str, spool: Spool
) -> None:
    s3_filesystem(s3_server)  # makes the bucket
    with Cable(int(s3_server.rpartition(":")[2])) as cable:
        options = {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
        url = f"http://127.0.0.1:{cable.port}"
        artifacts = s3_filesystem(url, "killed-child", config_kwargs=options)

        def kill_it() -> None:
            with cable.out():
                Path("hold-1").unlink()
                wait_until(lambda: list(spool), what="a trial in the spool")
                os.kill(int(Path("pid-1").read_text(encoding="utf-8")), signal.SIGKILL)
            Path("hold-1").touch()

        with meanwhile({1: kill_it}):
            optimize(
                PROBLEM, study_name="s", n_trials=4, artifacts=artifacts, task_runner="processes"
            )
        archived = ArchivedStudy.load("s", artifacts=artifacts)
        assert archived.result(1) == {"series": [archived.study.trials[1].params["x"]] * 600}
    assert list(spool) == []
    # The next one may have been on its way to that process already; it is asked again then.
    kept = [t for t in archived.study.trials if not is_lost(t)]
    assert [t.state for t in kept] == [TrialState.COMPLETE] * 4
    assert max(counted().values()) == 1


# A machine that was taken for dead


def _given_up(storage: JournalStudyStorage, number: int) -> optuna.Study:
    """Another machine takes the session that runs a trial for dead, and asks the trial again."""
    study = storage.load_study("s")
    assert Session(study, storage.get_storage()).give_up(number, "taken for dead") is not None
    return study


@_SERVER
def test_who_was_taken_for_dead_tells_the_trial_that_was_asked_again(tmp_path: Path) -> None:
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    with meanwhile({1: lambda: _given_up(storage, 1)}):
        optimize(PROBLEM, study_name="s", n_trials=4, storage=storage)
    trials = storage.load_study("s").trials
    assert [t.number for t in trials if is_lost(t)] == [1]
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 4
    assert len(trials) == 5
    assert counted() == Counter("0134")  # what was computed is told as trial 2, which was not run
    archived = ArchivedStudy.load("s", storage=storage)
    for trial in trials:
        if not is_lost(trial):
            assert archived.result(trial.number) == {"series": [trial.params["x"]] * 600}


def late_words(trial: optuna.Trial) -> float:
    """An objective that says more of its trial once it has computed."""
    x = run({"x": trial.suggest_float("x", 0, 1), "number": trial.number})["series"][0]
    trial.set_user_attr("words", f"of {trial.number}")
    trial.report(x, step=0)
    trial.set_constraint("c", x - 2)
    # As other packages write, by name.
    trial.storage.set_trial_system_attr(trial_id=trial._trial_id, key="theirs", value=1)
    return x + trial.suggest_float("y", 0, 0)


@_SERVER
@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_what_is_said_of_a_trial_after_it_was_taken_away_is_told_with_it(
    tmp_path: Path, runner: str
) -> None:
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    with meanwhile({1: lambda: _given_up(storage, 1)}):
        optimize(late_words, study_name="s", n_trials=3, storage=storage, task_runner=runner)
    trials = storage.load_study("s").trials
    (told,) = (t for t in trials if history_of(t) == [1])
    assert counted()["1"] == 1
    assert counted()[str(told.number)] == 0
    assert told.state == TrialState.COMPLETE
    assert told.value == told.params["x"]
    assert told.params["y"] == 0
    assert told.user_attrs["words"] == "of 1"
    assert told.intermediate_values == {0: told.value}
    assert told.constraints == {"c": told.params["x"] - 2}
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 3


@_SERVER
def test_an_attempt_that_is_told_as_the_next_one_is_not_asked_once_more(tmp_path: Path) -> None:
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    optimize(PROBLEM, study_name="s", n_trials=1, storage=storage)
    storage.load_study("s").ask().suggest_float("x", 0, 1)
    _given_up(storage, 1)
    with meanwhile({2: lambda: _given_up(storage, 2)}):
        optimize(PROBLEM, study_name="s", n_trials=2, storage=storage)
    optimize(PROBLEM, study_name="s", n_trials=3, storage=storage)
    trials = storage.load_study("s").trials
    assert [history_of(t) for t in trials] == [[], [], [1], [1, 2], []]
    assert [t.number for t in trials if is_lost(t)] == [1, 2]
    assert all(t.state.is_finished() for t in trials)


@_SERVER
@pytest.mark.parametrize("other", ["runs it", "has told it"])
def test_whoever_tells_first_wins_and_the_other_result_is_kept_beside(
    tmp_path: Path, other: str
) -> None:
    storage = JournalStudyStorage(path=tmp_path / "s.journal")

    def take_it() -> None:
        trial = _given_up(storage, 1).ask()
        trial.suggest_float("x", 0, 1)
        assert trial.number == 2
        if other == "has told it":
            storage.load_study("s").tell(trial.number, 7.0)

    with meanwhile({1: take_it}):
        optimize(PROBLEM, study_name="s", n_trials=4, storage=storage)
    archived = ArchivedStudy.load("s", storage=storage)
    trials = archived.study.trials
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 4
    late = archived.late_trials()
    if other == "runs it":
        assert trials[2].values == [trials[2].params["x"]]
        assert late == []
        assert archived.result(2) == {"series": [trials[2].params["x"]] * 600}
        return
    assert trials[2].values == [7.0]
    assert [t.number for t in late] == [1]
    assert late[0].values == [late[0].params["x"]]
    found = read_result(as_artifact_filesystem(None), late[0].user_attrs["result"])
    assert found == {"series": [late[0].params["x"]] * 600}
    assert "Late trials: 1" in archived.describe()
    again = ArchivedStudy.import_(archived.export("s.zip"), storage="memory://", artifacts="other")
    (late_too,) = again.late_trials()
    assert read_result(as_artifact_filesystem("other"), late_too.user_attrs["result"]) == found


@_SERVER
def test_what_is_told_late_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", "k" * 32)
    storage = JournalStudyStorage(path=tmp_path / "s.journal")

    with meanwhile({1: lambda: _given_up(storage, 1)}):
        optimize(PROBLEM, study_name="s", n_trials=3, storage=storage)
    archived = ArchivedStudy.load("s", storage=storage)
    assert [t.number for t in archived.study.trials if is_lost(t)] == [1]
    assert archived.signatures.holds


# The folder


def _kept(number: int = 3, uuid: str = "0b8f", content: bytes = b"") -> SpooledTrial:
    distribution = optuna.distributions.FloatDistribution(0, 1)
    trial = optuna.trial.create_trial(
        state=TrialState.RUNNING, params={"x": 0.25}, distributions={"x": distribution}
    )
    trial.number = number
    keeper = TrialKeeper("s", "journal:///s.journal", uuid, "ab" * 16)
    encoded = EncodedResult(content, {"sha256": "00"}) if content else None
    return keeper.ended(Outcome(number, "complete", values=(0.5,)), trial, encoded)


def test_only_its_user_may_look_into_the_spool_and_what_is_there_comes_back(spool: Spool) -> None:
    given = _kept(content=b"one\ntwo\n")
    path = spool.put(given).path
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    (found,) = spool
    assert found.encoded == given.encoded
    assert found.trial.params == given.trial.params
    assert found.trial.values == given.trial.values
    assert found.trial.datetime_complete == given.trial.datetime_complete
    assert [one.id for one in spool.of("0b8f")] == [found.id]
    assert spool.of("another") == []
    found.drop()
    assert list(spool) == []


def test_what_somebody_else_may_have_put_there_is_not_told(spool: Spool) -> None:
    path = spool.put(_kept(1)).path
    assert path is not None
    path.chmod(0o666)
    assert list(spool) == []
    path.chmod(0o600)
    assert len(list(spool)) == 1
    for folder in (spool.folder, spool.folder.parent):  # whoever may write there replaces it
        folder.chmod(0o777)
        assert list(spool) == []
        with pytest.raises(ValueError, match=rf"because of {re.escape(str(folder))}: chmod 700"):
            spool.put(_kept(2))
        folder.chmod(0o700)
    os.link(path, spool.folder / "hard.trial")
    (spool.folder / "soft.trial").symlink_to(path)
    assert [one.trial.number for one in spool] == [1, 1]  # the other name, and not the link


def test_the_spool_has_a_limit_and_the_trial_waits_in_memory_then(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_SPOOL_LIMIT", "2000")
    spool.put(_kept(1))
    with pytest.raises(ValueError, match="at most 2,000"):
        spool.put(_kept(2, content=b"x" * 2000))
    assert [one.trial.number for one in spool] == [1]
    assert [path.name for path in spool.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("damage", [b"", b"x", b"prefect-optuna trial 1\n00\n{}\n"])
def test_a_damaged_file_is_left_alone_and_hides_no_other(
    spool: Spool, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spool.put(_kept(1))
    damaged = spool.folder / "0-000002-0.trial"
    damaged.write_bytes(damage)
    damaged.chmod(0o600)  # as the spool's own are, whatever this user's umask is
    assert [one.trial.number for one in spool] == [1]
    assert "no whole file of the spool" in caplog.text
    assert damaged.exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"session": "abab', b'"session": 7, "other": "abab'),
        (b'"study_name": "s"', b'"study_name": ["s"]'),
        (b'"storage": "journal', b'"storage": {}, "other": "journal'),
        (b'"at": ', b'"at": 1e300, "other": '),
        (b'"number": 3', b'"number": "x"'),
        (b'"values": [0.5]', b'"values": [[0.5]]'),
    ],
)
def test_a_file_of_something_else_hides_no_other_and_is_listed_by_no_command(
    spool: Spool, before: bytes, after: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spool.put(_kept()).path
    assert path is not None
    magic, _, body = path.read_bytes().split(b"\n", 2)
    assert before in body
    body = body.replace(before, after)
    digest = hashlib.sha256(body).hexdigest().encode()
    (spool.folder / "x.trial").write_bytes(b"\n".join([magic, digest, body]))
    assert [one.trial.number for one in spool] == [3]
    assert main(["spool"]) == 0
    assert capsys.readouterr().out.count("trial 3") == 1


def test_every_byte_of_a_file_counts(spool: Spool) -> None:
    path = spool.put(_kept(content=b"series")).path
    assert path is not None
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert list(spool) == []
    path.write_bytes(content)
    assert len(list(spool)) == 1


# The command


def test_the_command_lists_sends_and_drops(
    tmp_path: Path, spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spool"]) == 0
    assert "The spool is empty." in capsys.readouterr().out
    spool.put(_kept(1))
    time.sleep(0.01)
    spool.put(_kept(2))
    assert main(["spool", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["trial"], one["values"], one["now"]) for one in listed] == [
        (1, [0.5], "waits"),
        (2, [0.5], "waits"),
    ]
    assert main(["spool"]) == 0
    assert "trial 1 of 's' in journal:///s.journal: 0.5" in capsys.readouterr().out
    assert main(["spool", "drop"]) == 1
    assert main(["spool", "drop", "nosuch"]) == 1
    assert len(list(spool)) == 2
    assert main(["spool", "send", "--storage", f"journal:///{tmp_path}/other.journal"]) == 1
    assert main(["spool", "drop", listed[0]["id"]]) == 0
    assert [one.trial.number for one in spool] == [2]
    assert main(["spool", "drop", "--all"]) == 0
    assert list(spool) == []


@_SERVER
def test_the_command_sends_to_the_study(tmp_path: Path, spool: Spool) -> None:
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    optimize(PROBLEM, study_name="s", n_trials=1, storage=storage)
    study = storage.load_study("s")
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    uuid = ArchivedStudy.load("s", storage=storage).manifest.uuid
    kept = TrialKeeper("s", storage.location, uuid, "gone").ended(
        Outcome(1, "complete", values=(0.5,)),
        trial._cached_frozen_trial,  # pyright: ignore[reportPrivateUsage]
    )
    spool.put(kept)
    assert main(["spool", "send", "--storage", f"journal:///{storage.path}"]) == 0
    assert storage.load_study("s").trials[1].values == [0.5]
    assert list(spool) == []
