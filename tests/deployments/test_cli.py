"""`prefect-optuna`, called as `main` calls it, on real studies and a real server."""

from __future__ import annotations

import io
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import optuna
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings
from prefect.states import Cancelled
from servers import free_port

import prefect_optuna.deployments.cli as application
from prefect_optuna.blocks import as_study_storage, log_metric
from prefect_optuna.blocks.redis_storage import study_check
from prefect_optuna.blocks.redis_storage.study_copy import StudyCopy
from prefect_optuna.deployments import make_process_pool
from prefect_optuna.deployments.cli import main, output
from prefect_optuna.flows import Problem, optimize, report_flow
from prefect_optuna.tasks import ArchivedStudy, auto_param

COMMANDS = sorted(name for name in application.app if not name.startswith("-"))


@auto_param
def simulate(x: float, gain: float = 1.0) -> float:
    return gain * (x - 2) ** 2


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -5, 5), "other": trial.suggest_float("other", 0, 1)}


def run(params: dict[str, float]) -> float:
    return simulate(params["x"])


def curve(params: dict[str, float]) -> dict[str, list[float]]:
    return {"curve": [run(params)] * 3}


@pytest.fixture(scope="module")
def folder(prefect_server: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a person has it who has optimized something there."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        optimize(Problem(suggest=suggest, run=run), study_name="parabola", n_trials=12, seed=1)
        storage = as_study_storage(None)
        study = storage.create_study("by-hand", directions=["minimize", "maximize"])
        study.optimize(lambda t: (t.suggest_float("x", 0, 1), t.params["x"]), n_trials=3)
        pruned = storage.create_study("states")
        pruned.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.PRUNED, intermediate_values={0: 0.5}
            )
        )
        pruned.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
        pruned.add_trial(optuna.trial.create_trial(value=float("inf")))
        ArchivedStudy.load("parabola").export("kept.zip")
    make_process_pool("cli-tests")
    return folder


@pytest.fixture
def call(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in that directory: exit code, standard output, standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*tokens: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(tokens)
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        return code, output.out, output.err

    return call


def test_studies_are_listed_with_their_best_value_and_the_latest_first(call: Any) -> None:
    code, out, _ = call("studies")
    assert code == 0
    heading, _, *rows = out.splitlines()
    assert heading.split() == [
        "study",
        "trials",
        "best",
        "value",
        "best",
        "trial",
        "direction",
        "last",
        "trial",
    ]
    by_name = {row.split()[0]: row for row in rows}
    assert {"states", "by-hand", "parabola"} <= set(by_name)
    assert "3 Pareto-best" in by_name["by-hand"]
    study = as_study_storage(None).load_study("parabola")
    assert f"{study.best_value:.5g}" in by_name["parabola"]


@pytest.mark.slow
def test_a_large_study_on_redis_is_looked_at_without_its_trials(
    redis_server: str,
    prefect_server: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Any,
) -> None:
    storage = redis_server.removesuffix("/0") + "/9"  # a database that nobody else uses
    where = ["--storage", storage, "--artifacts", str(tmp_path / "archive")]
    places: dict[str, Any] = {"storage": storage, "artifacts": tmp_path / "archive"}
    optimize(
        Problem(suggest=suggest, run=curve, evaluate=lambda result: result["curve"][0]),
        study_name="large",
        n_trials=130,
        seed=1,
        **places,
    )
    best = as_study_storage(storage).load_study("large").best_trial
    read: list[int] = []

    def noted(self: StudyCopy, record: bytes) -> optuna.trial.FrozenTrial:
        read.append(1)
        return read_record(self, record)

    def refuse(*_: Any) -> bool:
        raise AssertionError("all trials are read")

    read_record = StudyCopy.read_record
    monkeypatch.setattr(StudyCopy, "read_record", noted)
    monkeypatch.setattr(StudyCopy, "load", refuse)
    monkeypatch.setattr(report_flow, "MOST_LOOKED_AT", 20)
    monkeypatch.setattr(study_check, "_GROUP", 2)

    code, out, _ = call("studies", *where, "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["finished"], row["best_trial"], row["state"]) == (130, best.number, "completed")
    code, out, _ = call("show", "large", *where, "--json")
    document = json.loads(out)
    assert (document["best_value"], document["states"]["complete"]) == (best.value, 130)
    assert document["archived"] is True
    code, out, err = call("trials", "large", *where)
    assert len(out.splitlines()) == 2 + 20
    assert "The first 20 of 130" in err
    page = tmp_path / "large.html"
    code, out, err = call("report", "large", *where, "--output", str(page))
    assert (code, err) == (0, "")
    text = page.read_text()
    assert "130 trials (130 complete)" in text
    assert re.search(r"of 1\d\d of the 130 trials: the best, and others", text)
    assert len(read) < 1000
    code, out, err = call("report", "large", *where)
    assert (code, err) == (0, "")


def test_show_says_the_answer_first_and_lists_the_best_trials(call: Any) -> None:
    code, out, _ = call("show", "parabola")
    assert code == 0
    study = as_study_storage(None).load_study("parabola")
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[0] == "parabola minimize, completed"
    assert lines[1].split() == [
        "best", "value", f"{study.best_value:.5g}", "in", "trial", str(study.best_trial.number),
    ]  # fmt: skip
    assert "12 complete" in out
    assert "Best trials" in out
    assert "TPESampler(), MedianPruner()" in out


def test_trials_come_best_first_with_the_values_in_one_right_edge(call: Any) -> None:
    code, out, err = call("trials", "parabola", "--limit", "5")
    assert code == 0
    heading, _, *rows = out.splitlines()
    edge = heading.index("value") + len("value")
    values = [float(row[:edge].split()[1]) for row in rows[:5]]
    assert values == sorted(values)
    assert all(row[edge - 1].isdigit() and row[edge] == " " for row in rows[:5])
    assert "The first 5 of 12" in err


def test_trials_say_how_each_ended(call: Any) -> None:
    _, out, _ = call("trials", "states")
    rows = {int(row.split()[0]): row.split()[1:] for row in out.splitlines()[2:]}
    assert rows[2][:1] == ["∞"]
    assert (rows[0][0], rows[0][-1]) == ("(0.5)", "pruned")
    assert rows[1][-1] == "failed"


def test_a_narrow_terminal_has_fewer_parameters_and_no_broken_line(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "42")
    _, narrow, _ = call("trials", "parabola", "--limit", "3")
    assert max(map(len, narrow.splitlines())) <= 42
    assert "other" not in narrow
    assert "1 more parameters" in narrow
    monkeypatch.setenv("COLUMNS", "160")
    _, wide, _ = call("trials", "parabola", "--limit", "3")
    assert "other" in wide
    assert "more parameters" not in wide


JSON = [
    ("studies",),
    ("show", "parabola"),
    ("show", "states"),
    ("trials", "parabola"),
    ("trials", "states"),
    ("report", "parabola"),
    ("report", "parabola", "--output", "report.md"),
    ("reevaluate", "parabola", "--trusted"),
    ("export", "parabola", "copy.zip"),
    ("gc",),
    ("deploy-report", "parabola"),
    ("deploy-gc", "--cron", "0 4 * * 0"),
    ("deploy-reevaluation", "parabola", "--best", "5", "--trusted"),
]


@pytest.mark.parametrize(
    "tokens",
    [pytest.param(one, marks=pytest.mark.slow) if "reevaluate" in one else one for one in JSON],
    ids=" ".join,
)
def test_json_is_one_document_on_standard_output(call: Any, tokens: tuple[str, ...]) -> None:
    pool = ["--pool", "cli-tests"] if tokens[0].startswith("deploy") else []
    code, out, _ = call(*tokens, *pool, "--json")
    assert code == 0

    def no_constants(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(out, parse_constant=no_constants)


def test_json_has_all_trials_in_full(call: Any) -> None:
    _, out, _ = call("trials", "parabola", "--json")
    study = as_study_storage(None).load_study("parabola")
    trials = json.loads(out)
    assert len(trials) == 12
    assert trials[0]["values"] == [study.best_value]
    assert trials[0]["params"] == study.best_params


def test_an_exported_study_is_imported_under_another_name(call: Any) -> None:
    assert call("export", "parabola", "carried.zip")[0] == 0
    code, out, _ = call("import", "carried.zip", "--name", "carried", "--json")
    assert code == 0
    assert json.loads(out) == {"study": "carried", "trials": 12}
    assert len(as_study_storage(None).load_study("carried").trials) == 12


def reading(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1) + len(Path("pelts.csv").read_text(encoding="utf-8"))


def test_an_export_lists_the_files_that_trials_have_read(call: Any, folder: Path) -> None:
    (folder / "pelts.csv").write_text("1 2\n", encoding="utf-8")
    optimize(reading, study_name="reads", n_trials=1)
    code, out, err = call("export", "reads", "reads.zip", "--json")
    assert code == 0
    assert json.loads(out)["inputs"] == [{"name": "pelts.csv", "bytes": 4, "kept": False}]
    assert "pelts.csv (4 bytes), not in the file" in " ".join(err.split())


def test_drift_has_an_exit_code_of_its_own_and_a_cause(call: Any) -> None:
    code, out, _ = call("reevaluate", "parabola", "--trusted", "-D", "simulate.gain=3")
    assert code == 3
    assert "drifted" in out
    assert "the scope was changed: simulate.gain='3'" in out


def test_a_file_of_parameters_goes_before_those_of_the_command_line(
    call: Any, folder: Path
) -> None:
    (folder / "study.toml").write_text("[simulate]\ngain = 5.0\nother = 1\n")
    command = ("deploy", "prefect_optuna.flows.examples.lynx_hare:problem", "--pool", "cli-tests")
    code, out, _ = call(
        *command, "--study", "scoped", "--trials", "7", "--seed", "3", "--sampler", "random",
        "-C", "study.toml", "-D", "simulate.gain=2", "--tag", "a", "--tag", "b", "--json",
    )  # fmt: skip
    assert code == 0
    stored = json.loads(out)
    assert stored["deployment"] == "optimize/scoped"
    parameters = stored["parameters"]
    assert parameters["scope"] == {"simulate.gain": "2", "simulate.other": 1}
    assert (parameters["n_trials"], parameters["seed"], parameters["sampler"]) == (7, 3, "random")
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name("optimize/scoped")
    assert there.parameters == parameters
    assert there.tags == ["a", "b", "prefect-optuna"]


@pytest.mark.slow
def test_a_reevaluation_is_deployed_to_where_the_study_is_deployed(call: Any) -> None:
    problem = "prefect_optuna.flows.examples.lynx_hare:problem"
    elsewhere = ("--storage", "sqlite:////tmp/none/study.db", "--artifacts", "/tmp/none/files")
    pool = ("--pool", "cli-tests")
    assert call("deploy", problem, "--study", "elsewhere", *elsewhere, *pool)[0] == 0
    code, out, err = call(
        "deploy-reevaluation", "elsewhere", "--cron", "0 3 * * *", *pool, "--json"
    )
    assert code == 0
    parameters = json.loads(out)["parameters"]
    assert parameters["storage"] == "sqlite:////tmp/none/study.db"
    assert parameters["artifacts"] == "/tmp/none/files"
    assert "optimize/elsewhere" in err
    assert "add --trusted" in err


@pytest.mark.slow
def test_a_run_that_no_worker_takes_says_so_and_one_that_is_cancelled_is_code_1(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_optuna.deployments.cli import views

    said = Event()

    def note(text: str) -> None:
        output.note(text)
        said.set()

    def cancel() -> None:
        assert said.wait(60)
        with get_client(sync_client=True) as client:
            [run] = [run for run in client.read_flow_runs() if run.parameters.get("n_trials") == 17]
            client.set_flow_run_state(run.id, Cancelled(), force=True)

    monkeypatch.setattr(views, "_NO_WORKER_SECONDS", 0)
    monkeypatch.setattr(views, "note", note)
    problem = "prefect_optuna.flows.examples.lynx_hare:problem"
    with ThreadPoolExecutor() as pool:
        cancelled = pool.submit(cancel)
        code, _, err = call(
            "deploy",
            problem,
            "--study",
            "nobody",
            "--trials",
            "17",
            "--pool",
            "cli-tests",
            "--watch",
        )
        cancelled.result()
    assert code == 1
    assert "prefect worker start --pool cli-tests" in err
    assert err.rstrip().endswith("Cancelled")


def test_a_trusted_deployment_is_not_replaced_with_one_that_must_fail(call: Any) -> None:
    again = ("deploy-reevaluation", "parabola", "--name", "again", "--pool", "cli-tests")
    assert call(*again, "--trusted")[0] == 0
    code, _, err = call(*again)
    assert (code, "--trusted" in err, "prefect deployment delete" in err) == (1, True, True)
    assert call(*again, "--trusted")[0] == 0


def test_trials_become_a_file_for_other_programs(call: Any, folder: Path) -> None:
    code, out, _ = call("trials", "parabola", "--csv", "t.csv", "--parquet", "t.parquet", "--json")
    assert code == 0
    assert json.loads(out) == {"paths": ["t.csv", "t.parquet"], "trials": 12}
    lines = (folder / "t.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("number,state,value,started,completed,seconds,param.x,param.other")


def test_trials_as_csv_go_on_to_the_next_program(call: Any) -> None:
    code, out, _ = call("trials", "parabola", "--csv", "-")
    assert code == 0
    header, *rows = out.split("\n")[:-1]
    assert header.startswith("number,state,value,")
    assert len(rows) == 12
    code, out, err = call("trials", "parabola", "--csv", "-", "--json")
    assert (code, out) == (1, "")
    assert "both write to standard output" in " ".join(err.split())
    assert call("trials", "parabola", "--csv", "--json")[0] == 1  # and no file of that name


def test_archived_source_is_read_before_it_is_trusted(call: Any) -> None:
    code, out, _ = call("show", "parabola", "--source")
    assert code == 0
    assert "return gain * (x - 2) ** 2" in out


@pytest.mark.slow
def test_a_study_is_deleted_with_its_archive_after_a_question(
    call: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = folder / ".prefect-optuna" / "artifacts" / "studies"
    others = set(studies.iterdir())
    optimize(Problem(suggest=suggest, run=run), study_name="doomed", n_trials=2)
    assert len(set(studies.iterdir()) - others) == 1
    code, _, err = call("delete", "doomed")
    assert (code, "--yes" in err) == (1, True)
    for reply, expected in (("n", 1), ("y", 0)):
        terminal = io.StringIO(f"{reply}\n")
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdin", terminal)
        code, _, err = call("delete", "doomed")
        assert (code, "2 trials and its archive? [y/N]" in err) == (expected, True)
    assert "doomed" not in as_study_storage(None).study_names()
    assert set(studies.iterdir()) == others
    # What a copy shares with another study stays.
    assert call("import", "kept.zip", "--name", "copy")[0] == 0
    assert call("delete", "copy", "--yes")[0] == 0
    assert call("reevaluate", "parabola", "--trusted")[0] == 0


def test_metrics_are_shown(call: Any) -> None:
    study = as_study_storage(None).create_study("measured")
    trial = study.ask()
    log_metric(trial, "rmse", 0.125)
    study.tell(trial, 1.0)
    assert "rmse=0.125" in call("show", "measured")[1]
    assert "rmse" in call("trials", "measured")[1]


MISTAKES = [
    (("deploy-reevaluation", "parabole", "--pool", "cli-tests"), "Did you mean 'parabola'?"),
    (("stop", "parabola"), "Nobody runs parabola"),
    (("pause", "parabole"), "Did you mean 'parabola'?"),
    (("delete", "parabole", "--yes"), "Did you mean 'parabola'?"),
    (
        (
            "deploy",
            "prefect_optuna.flows.examples.lynx_hare:problem",
            "--study",
            "s",
            "--sampler",
            "tpee",
        ),
        "did you mean 'tpe'",
    ),
    (("show", "parabole"), "Did you mean 'parabola'?"),
    (("trials", "parabola", "--which", "bets:3"), '"best:K", "pareto"'),
    (("trials", "parabola", "--which", "99"), "has no trial 99"),
    (("reevaluate", "parabola"), "--trusted"),
    (("reevaluate", "parabola", "--best", "0"), "1 or more"),
    (("reevaluate", "parabola", "--trusted", "-D", "gain"), "gain"),
    (("reevaluate", "parabola", "--trusted", "-C", "none.toml"), "no file of parameters"),
    (("reevaluate", "states", "--trusted"), "has no archive"),
    (
        (
            "reevaluate",
            "parabola",
            "--trusted",
            "--environment-variable",
            "prefect_integrations_optuna_archive_key",
        ),
        "could sign anything",
    ),
    (("export", "states"), "has no archive"),
    (("import", "nothing.zip"), "nothing.zip"),
    (("import", "kept.zip"), "--name NAME"),
    (("studies", "--storage", "redi://x"), "Expected one of"),
    (("studies", "--storage", "sql-study-storage/nobody"), "prefect block ls"),
    (("gc", "--storage", "memory://"), "in memory"),
    (("deploy", "nowhere:problem", "--study", "s"), "Cannot import 'nowhere'"),
    (("deploy-worker", "--pool", "nowhere"), "prefect-optuna make-pool nowhere"),
    (("deploy-report", "s", "--pool", "cli-tests", "--cron", "daily at 3"), "five fields"),
    (("deploy-report", "s", "--storage", "postgresql://u:hunter2@h/d"), "save"),
    (("report", "parabola", "--output", "no/such/folder/x.md"), "no/such/folder"),
]


@pytest.mark.parametrize(("tokens", "words"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_a_sentence_and_code_1(call: Any, tokens: tuple[str, ...], words: str) -> None:
    code, out, err = call(*tokens)
    assert code == 1
    assert out == ""
    assert words.casefold() in " ".join(err.split()).casefold()
    assert "hunter2" not in err


USAGE = [
    ("sho",),
    ("show",),
    ("show", "parabola", "--colour"),
    ("trials", "parabola", "--limit", "many"),
    ("deploy", "x:y"),
]


@pytest.mark.parametrize("tokens", USAGE, ids=" ".join)
def test_a_wrong_command_line_is_code_2(call: Any, tokens: tuple[str, ...]) -> None:
    code, out, err = call(*tokens)
    assert (code, out) == (2, "")
    assert "Error" in err


def test_without_a_server_a_deployment_says_how_to_start_one(call: Any, tmp_path: Path) -> None:
    with temporary_settings({"api.url": None}):
        code, _, err = call("deploy-worker")
    assert code == 1
    assert "prefect-optuna serve" in err


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(call: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({"api.url": url}):
        for tokens in (("reevaluate", "parabola", "--trusted"), ("deploy-worker",)):
            code, _, err = call(*tokens)
            assert code == 1
            assert f"No Prefect server answers at {url}" in err


def test_the_server_of_this_directory_is_found_by_itself(
    prefect_server: Any, call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".prefect").symlink_to(prefect_server.home)
    with temporary_settings({"api.url": None}):
        code, out, _ = call("deploy-gc", "--pool", "cli-tests", "--name", "found", "--json")
    assert code == 0
    assert json.loads(out)["url"].startswith(prefect_server.url)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples_that_parse(call: Any, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    doc = application.app[command].default_command.__doc__.replace("\\\n", " ")
    examples = re.findall(r"^\s*(prefect-optuna .*)$", doc, re.M)
    assert examples
    assert f"prefect-optuna {command}" in out
    used = set()
    for example in examples:
        _, *tokens = shlex.split(example.partition(" | ")[0])
        application.app.parse_args(tokens, exit_on_error=False, print_error=False)
        used.add(tokens[0])
    assert command in used


def test_the_commands_of_the_issue_are_there() -> None:
    assert set(COMMANDS) == {
        "serve", "deploy", "deploy-worker", "deploy-reevaluation", "deploy-report", "deploy-gc",
        "studies", "show", "trials", "report", "reevaluate", "export", "import", "gc", "dashboard",
        "scale", "spool", "rerun",
        "up", "down", "status", "demo", "stop", "pause", "resume", "delete", "watch",
        "retry-failed", "make-pool",
    }  # fmt: skip


def test_the_shell_can_complete_commands_and_options() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = application.app.generate_completion(shell=shell)
        assert "deploy-reevaluation" in script
        assert "fail-on-drift" in script


def test_the_script_is_installed_under_its_name() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"prefect-optuna": "prefect_optuna.deployments.cli:main"}
