"""What cannot work is said for people, in every block, and what may be a secret is not quoted."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    ArtifactLogError,
    GrpcStudyStorage,
    InMemoryStudyStorage,
    InvalidSettingError,
    JournalStudyStorage,
    OptunaSettings,
    PrefectOptunaError,
    RedisStudyStorage,
    SQLStudyStorage,
    as_artifact_filesystem,
    as_study_storage,
    load_artifact,
    log_artifact,
    log_metric,
)

SECRET = "hunter2secret"
HERE = "127.0.0.1:1"  # nobody listens there

URLS = [
    f"redis://{HERE}/0?x=1",
    f"redis://{HERE}/0?{SECRET}=1",
    f"redis://{HERE}/0?socket_timeout=abc",
    f"redis://{HERE}/0?db=x",
    f"redis://{HERE}/0?ssl_cert_reqs=none",
    f"redis://{HERE}/0?retry=1",
    f"redis://{HERE}/0?password={SECRET}&x=1",
    f"redis+sentinel://{HERE}/svc/0?x=1",
    f"redis+sentinel://{HERE}",
    "redis://[::1/0",
    "redis:/h",
    f"mysql://u:{SECRET}@{HERE}/x?connect_timeout=abc",
    f"mysql://u:{SECRET}@{HERE}/x?bogus=1",
    f"oracle://u:{SECRET}@h/x",
    f"postgresql://u:{SECRET}@h:port/x",
    "sqlite://",
    "journal:///",
    "journal:////proc/none/x",
    "grpc://h",
    "grpc://h:0",
    "grpc://h:99999",
    f"grpc://{SECRET}@h/x",
    f"http://u:{SECRET}@h",
    "",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_cannot_work_is_an_error_of_ours(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrefectOptunaError) as caught:
        as_study_storage(url).get_storage()
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


BLOCKS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (RedisStudyStorage, {}, "url: Field required"),
    (RedisStudyStorage, {"url": 5}, "url: .* valid string"),
    (RedisStudyStorage, {"url": "redis://h", "password": 5}, "password: .* string"),
    (RedisStudyStorage, {"url": "redis://h", "timeout": -1}, "timeout: .* greater than 0"),
    (RedisStudyStorage, {"url": "redis://h", "write_mode": SECRET}, "write_mode: .*'buffered'"),
    (RedisStudyStorage, {"url": "redis://h", "namespace": ""}, "namespace"),
    (RedisStudyStorage, {"url": f"http://u:{SECRET}@h"}, "redis://"),
    (SQLStudyStorage, {"url": ""}, "SQLAlchemy URL"),
    (SQLStudyStorage, {"url": Path("x")}, "url: .* string"),
    (SQLStudyStorage, {"url": "sqlite:///x", "engine_options": [SECRET]}, "engine_options"),
    (SQLStudyStorage, {"url": "sqlite:///x", "engine_options": {5: SECRET}}, "engine_options"),
    (SQLStudyStorage, {"url": "sqlite:///x", "timeout": 0}, "timeout"),
    (SQLStudyStorage, {"url": "sqlite:///x", "heartbeat_interval": "a"}, "heartbeat_interval"),
    (JournalStudyStorage, {}, "path: Field required"),
    (JournalStudyStorage, {"path": 5}, "path"),
    (JournalStudyStorage, {"path": "a\0b"}, "NUL"),
    (JournalStudyStorage, {"path": "~nobody-of-this-name/x"}, "after ~"),
    (JournalStudyStorage, {"path": "a", "lock": "x"}, "lock: .*'os'"),
    (InMemoryStudyStorage, {"name": 5}, "name"),
    (GrpcStudyStorage, {"host": ""}, "host"),
    (GrpcStudyStorage, {"host": f"u:{SECRET}@h"}, "nothing else"),
    (GrpcStudyStorage, {"host": "http://h"}, "nothing else"),
    (GrpcStudyStorage, {"host": "h:1"}, "without its port"),
    (GrpcStudyStorage, {"port": 0}, "port"),
    (GrpcStudyStorage, {"port": "x"}, "port"),
    (GrpcStudyStorage, {"timeout": float("nan")}, "timeout"),
    (ArtifactFileSystem, {"url": "ftp://h/x"}, "found ftp://"),
    (ArtifactFileSystem, {"url": f"http://u:{SECRET}@h"}, "found http://"),
    (ArtifactFileSystem, {"url": f"s3://k:{SECRET}@b/x"}, "no password"),
    (ArtifactFileSystem, {"url": f"s3://b?x={SECRET}"}, "no password"),
    (ArtifactFileSystem, {"url": "s3:/b"}, "two slashes"),
    (ArtifactFileSystem, {"url": "S3://"}, "name of a bucket"),
    (ArtifactFileSystem, {"url": "sftp://h"}, "absolute path"),
    (ArtifactFileSystem, {"url": "sftp://h:x/y"}, "no valid URL"),
    (ArtifactFileSystem, {"url": ""}, "found none"),
    (ArtifactFileSystem, {"url": 5}, "url: .* string"),
    (ArtifactFileSystem, {"url": "~nobody-of-this-name/x"}, "after ~"),
    (ArtifactFileSystem, {"url": "/x", "options": {"a": SECRET}}, "takes no options"),
    (ArtifactFileSystem, {"url": "s3://b", "options": SECRET}, "options: .* dictionary"),
    (ArtifactFileSystem, {"url": "s3://b", "options": {5: SECRET}}, "options"),
]


@pytest.mark.parametrize(("block", "settings", "said"), BLOCKS)
def test_settings_that_cannot_work_are_an_error_of_ours(
    block: Callable[..., Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSettingError, match=said) as caught:
        block(**settings)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://b", {"bogus": SECRET}),
        ("s3://b", {"endpoint_url": 5}),
        ("s3://b", {"config_kwargs": {"bogus": SECRET}}),
        ("s3://b", {"client_kwargs": {"bogus": SECRET}}),
        ("s3://b", {"key": 5, "secret": SECRET}),
        (f"sftp://{HERE}/x", {"bogus": SECRET}),
    ],
)
def test_options_that_a_client_does_not_take_are_an_error_of_ours(
    url: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSettingError, match="Correct the options") as caught:
        ArtifactFileSystem(url=url, options=options).check()
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


@pytest.mark.parametrize("url", ["S3://bucket/x", "Memory://x", "GS://bucket"])
def test_a_protocol_may_be_in_capitals(url: str) -> None:
    protocol, _, rest = url.partition("://")
    assert as_artifact_filesystem(url).location() == f"{protocol.lower()}://{rest}"


def test_a_redis_scheme_may_be_in_capitals() -> None:
    assert as_study_storage("REDIS://h:1/0").location == "redis://h:1/0"


@pytest.mark.parametrize("call", [log_artifact, log_metric])
def test_a_name_in_place_of_a_trial_is_said(call: Callable[..., Any]) -> None:
    with pytest.raises(ArtifactLogError, match=r"expected a trial first.*found str"):
        call("a name", "value", 1)
    with pytest.raises(ArtifactLogError, match=r"found dict"):
        load_artifact({}, "a name")  # type: ignore[arg-type]


def test_a_setting_of_the_environment_that_cannot_work_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_PATIENCE", "hunter2")
    with pytest.raises(InvalidSettingError, match=r"patience: .*valid number") as refused:
        OptunaSettings()
    assert "hunter2" not in str(refused.value)


def test_the_password_of_a_dashboard_is_in_no_link() -> None:
    settings = OptunaSettings(dashboard_url="http://me:hunter2@lab:8080/optuna")
    assert settings.dashboard_url == "http://lab:8080/optuna"
