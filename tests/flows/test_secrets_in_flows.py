"""What a flow is called with, as the server and the log get to know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from pydantic import SecretStr

from prefect_optuna.blocks import CaptureError, InMemoryStudyStorage, as_study_storage
from prefect_optuna.flows import optimize

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
        ({"url": f"oracle://me:{CANARY}@host"}, "oracle:// URL of this form is no study storage"),
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
