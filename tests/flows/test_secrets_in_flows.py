"""What a flow is called with, as the server and the log get to know it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from pydantic import SecretStr

from prefect_optuna.blocks import InMemoryStudyStorage, as_study_storage
from prefect_optuna.errors import CaptureError
from prefect_optuna.flows import optimize
from prefect_optuna.tasks.archive.code.capture import encode_scope

CANARY = "hunter2-canary"


@pytest.mark.parametrize(
    "parameters",
    [
        {"storage": f"postgresql://me:{CANARY}@host/db"},
        {"storage": f"postgresql://me:/{CANARY}@host/db"},
        {"storage": f"postgresql://me:#{CANARY}@host/db"},
        {"storage": f"postgresql://host/db?password={CANARY}"},
        {"storage": f"postgresql:/me:{CANARY}@host/db"},
        {"storage": {"url": f"postgresql://me:{CANARY}@host/db"}},
        {"storage": as_study_storage(f"redis://me:{CANARY}@host/0")},
        {"storage": [f"redis://me:{CANARY}@host", f"unix:///run/redis.sock?password={CANARY}"]},
        {"artifacts": f"s3://key:{CANARY}@bucket"},
        {"artifacts": {"url": "s3://bucket", "options": {"secret": CANARY}}},
        {"scope": {"api_token": CANARY, "hidden": SecretStr(CANARY)}},
        {"scope": {"nested": [f"https://oauth2:{CANARY}@host/x"]}},
    ],
)
def test_the_server_is_told_no_secret_that_a_flow_is_called_with(
    parameters: dict[str, Any],
) -> None:
    assert CANARY not in str(optimize.serialize_parameters(parameters))


def test_the_server_is_told_no_value_of_a_secret_environment_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAB_API_TOKEN", CANARY)
    told = optimize.serialize_parameters({"scope": {"header": f"Bearer {CANARY}"}})
    assert told == {"scope": {"header": "the value of LAB_API_TOKEN"}}


def test_wrong_parameters_are_refused_without_being_logged_or_quoted(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://me:{CANARY}@host"
    wrong = {"problem": "a:b", "storage": url, "n_jobs": CANARY}
    with pytest.raises(ParameterTypeError) as caught:
        optimize.validate_parameters(wrong)
    seen = capfd.readouterr()
    assert "n_jobs" in str(caught.value)
    assert CANARY not in str(caught.value) + caplog.text + seen.out + seen.err


@pytest.mark.usefixtures("prefect_server")
def test_a_scope_with_a_secret_leaves_neither_a_study_nor_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_API_TOKEN", CANARY)
    storage = InMemoryStudyStorage(name=tmp_path.name)
    with pytest.raises(CaptureError) as error:
        optimize(
            lambda trial: trial.suggest_float("x", 0, 1),
            n_trials=1,
            scope={"client": {"header": f"Bearer {CANARY}"}},
            storage=storage,
            artifacts=tmp_path / "artifacts",
        )
    assert "LAB_API_TOKEN" in str(error.value)
    assert CANARY not in str(error.value)
    assert storage.study_names() == []
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        (
            {"url": f"oracle://me:{CANARY}@host"},
            "oracle:// URL is not valid: a URL of this form is no",
        ),
        ({"url": f"postgresql:/me:{CANARY}@host"}, "no study storage"),
        ({"password": CANARY}, "expected the fields of a storage block"),
        ({}, "expected the fields of a storage block"),
    ],
)
def test_a_mapping_that_is_no_storage_is_refused_in_words(
    storage: dict[str, str], why: str
) -> None:
    with pytest.raises(ParameterTypeError, match=why) as caught:
        optimize.validate_parameters({"problem": "a:b", "storage": storage})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("storage", "kind"),
    [
        ({"url": "redis://host"}, "RedisStudyStorage"),
        ({"url": f"postgresql://me:{CANARY}@host", "timeout": 3}, "SQLStudyStorage"),
        ({"path": "studies.journal"}, "JournalStudyStorage"),
        ({"name": "lab"}, "InMemoryStudyStorage"),
    ],
)
def test_a_mapping_is_the_storage_whose_fields_it_has(storage: dict[str, Any], kind: str) -> None:
    valid = optimize.validate_parameters({"problem": "a:b", "storage": storage})
    assert type(valid["storage"]).__name__ == kind


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db.password",
        "db_passwd",
        "dbPassword",
        "API_KEY",
        "apiKey",
        "client.secret",
        "access_token",
        "aws-secret-access-key",
        "credentials",
        "private_key",
        "connection_string",
    ],
)
def test_a_scope_whose_name_says_that_it_is_secret_is_refused(name: str) -> None:
    for scope in ({name: CANARY}, {"client": [{name: CANARY}]}, {name: CANARY.encode()}):
        with pytest.raises(CaptureError, match="is a secret, as its name") as error:
            encode_scope(scope)
        assert CANARY not in str(error.value)
        assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    "scope",
    [
        {"tokenizer": "bert-base-uncased", "max_tokens": 512, "token": 7, "pad_token": "<pad>"},
        {"keyboard": "qwerty-uk", "sort_key": "loss-of-all", "key": "validation-loss"},
        {"author": "somebody@example.org", "passes": "first-second", "secretary": "somebody"},
        {"password": "", "url": "https://example.org/data?page=3", "api_key": None},
    ],
)
def test_a_scope_that_only_sounds_like_it_is_kept(scope: dict[str, Any]) -> None:
    assert encode_scope(scope)


@pytest.mark.parametrize("login", ["me:{}@", "me:/{}@", "me:#{}@", "oauth2:{}@", ":{}@"])
@pytest.mark.parametrize("slashes", ["/", "//", "///"])
def test_a_scope_with_a_url_with_a_password_is_refused(login: str, slashes: str) -> None:
    url = f"postgresql:{slashes}{login.format(CANARY)}host/db"
    with pytest.raises(CaptureError, match=r"scope\['db'\]\[0\]") as error:
        encode_scope({"db": [url]})
    assert CANARY not in str(error.value)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("settings", [{}, {"n_jobs": 2}, {"catch": ValueError}])
def test_whoever_calls_a_flow_gets_the_error_itself_and_the_study_keeps_it_without_secrets(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_API_TOKEN", CANARY)
    storage = InMemoryStudyStorage(name=f"{tmp_path}")

    def objective(trial: Any) -> float:
        token = os.environ["LAB_API_TOKEN"]
        raise ValueError("no redis://me:" + token + "@host/0 for " + token) from KeyError("cause")

    def call() -> None:
        artifacts = tmp_path / "artifacts"
        optimize(
            objective, study_name="s", n_trials=1, storage=storage, artifacts=artifacts, **settings
        )

    if "catch" in settings:
        call()
    else:
        with pytest.raises(ValueError, match=CANARY) as caught:
            call()
        assert isinstance(caught.value.__cause__, KeyError)
    said = storage.load_study("s").trials[0].user_attrs["error"]
    assert said.startswith("ValueError: no redis://host/0 for *** (")
