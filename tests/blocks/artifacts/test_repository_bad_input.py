"""Each bad input has an error of its own, and leaves the repository as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from prefect_optuna.blocks import (
    ArtifactError,
    ArtifactFileSystem,
    ArtifactLoadError,
    ArtifactLogError,
    InvalidVersionError,
    PrefectOptunaError,
    ReadOnlyError,
    StorageUnavailableError,
    VersionNotFoundError,
)
from prefect_optuna.blocks.artifacts import JSONArtifact, TextArtifact
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository
from prefect_optuna.errors import CorruptArtifactError, InvalidSettingError, UnknownHandlerError


@pytest.fixture
def repository(tmp_path: Path) -> ArtifactRepository:
    repository = ArtifactRepository(tmp_path)
    repository.log("a", [1, 2, 3])
    return repository


def record_of(repository: ArtifactRepository, number: int = 0) -> Path:
    return Path(repository.location, "versions", "a", f"{number:08d}.json")


def content_of(repository: ArtifactRepository) -> Path:
    return Path(repository.filesystem.location(repository.versions("a")[0].path))


def change_record(repository: ArtifactRepository, **fields: Any) -> ArtifactRepository:
    """The repository, opened by somebody who finds another record."""
    path = record_of(repository)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return ArtifactRepository(repository.location)


def test_LZ34_errors_are_of_one_family_and_each_a_builtin() -> None:
    for error, builtin in (
        (ReadOnlyError, PermissionError),
        (ArtifactLogError, ValueError),
        (ArtifactLoadError, ValueError),
        (VersionNotFoundError, LookupError),
        (InvalidVersionError, ValueError),
    ):
        assert issubclass(error, ArtifactError)
        assert issubclass(error, PrefectOptunaError)
        assert issubclass(error, builtin)


class Unregistered(JSONArtifact):
    alias = "json"


@pytest.mark.parametrize(
    ("name", "value", "handler", "kwargs", "error", "message"),
    [
        ("a", 1, "jsn", {}, UnknownHandlerError, "'jsn'; did you mean 'json'"),
        ("a", 1, Unregistered, {}, UnknownHandlerError, "Unregistered is not .* 'json'"),
        ("a", open, None, {}, UnknownHandlerError, "builtin"),
        ("a", {"x": [0, open]}, "json", {}, ArtifactLogError, r"\$\.x\[1\]"),
        ("a", {1, 2}, "text", {}, ArtifactLogError, "set"),
        ("a", 1, "json", {"no_such": 1}, ArtifactLogError, "no_such"),
        ("a", object(), "pickle", {}, ArtifactLogError, "allow_pickle"),
        ("../x", 1, None, {}, InvalidSettingError, r"'\.\.'"),
        ("x/../../y", 1, None, {}, InvalidSettingError, r"'\.\.'"),
        ("/x", 1, None, {}, InvalidSettingError, "absolute"),
        ("C:/x", 1, None, {}, InvalidSettingError, "absolute"),
        ("a\\b", 1, None, {}, InvalidSettingError, "backslash"),
        ("a\0", 1, None, {}, InvalidSettingError, "NUL"),
        ("", 1, None, {}, InvalidSettingError, "empty"),
        ("x/" * 130 + "x", 1, None, {}, InvalidSettingError, "261 bytes"),
        ("\ud800", 1, None, {}, InvalidSettingError, "UTF-8"),
        (5, 1, None, {}, InvalidSettingError, "string"),
    ],
)
def test_what_cannot_be_logged_changes_nothing(
    repository: ArtifactRepository,
    name: Any,
    value: Any,
    handler: Any,
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    before = repository.filesystem.glob("**")
    with pytest.raises(error, match=message):
        repository.log(name, value, handler, **kwargs)
    assert repository.filesystem.glob("**") == before
    assert name == "a" or name not in repository


def test_a_prefix_stays_below_the_root(tmp_path: Path) -> None:
    for prefix in ("..", "/x", "a//b", "a/../.."):
        with pytest.raises(InvalidSettingError):
            ArtifactRepository(tmp_path, prefix)
    with pytest.raises(InvalidSettingError):
        ArtifactRepository(5)  # type: ignore[arg-type]


def test_a_handler_that_is_no_longer_there_is_named(repository: ArtifactRepository) -> None:
    with pytest.raises(UnknownHandlerError, match="'onnx'"):
        change_record(repository, handler="onnx").load("a")


def test_LZ16_another_environment_is_refused_unless_that_is_switched_off() -> None:
    repository = ArtifactRepository(f"memory://{uuid4()}")
    repository.log("p", {1}, "pickle", allow_pickle=True)
    [path] = repository.filesystem.glob("versions/p/*")
    record = json.loads(repository.filesystem.read_path(path))
    assert record["environment"]["python_version"]
    record["environment"]["python_version"] = "2.7"
    repository.filesystem.write_path(path, json.dumps(record).encode())
    other = ArtifactRepository(repository.filesystem)
    with pytest.raises(ArtifactLoadError, match=r'"2\.7".*"3\.\d+".*validate=False') as caught:
        other.load("p", allow_pickle=True)
    assert isinstance(caught.value, ArtifactLoadError)
    assert other.load("p", validate=False, allow_pickle=True) == {1}
    assert repository.load("p", allow_pickle=True) == {1}


@pytest.mark.parametrize("damaged", [b"", b"[1, 2,", b"[1, 2, 4]"])
def test_damaged_content_is_recognized_and_mended_by_logging_it_again(
    repository: ArtifactRepository, damaged: bytes
) -> None:
    path = content_of(repository)
    path.write_bytes(damaged)
    for act in (repository.load, lambda name: repository.diff(name, 0)):
        with pytest.raises(CorruptArtifactError) as caught:
            act("a")
        message = str(caught.value)
        assert str(path) in message
        assert path.stem in message
        assert f"found {len(damaged)} bytes" in message
        assert isinstance(caught.value, OSError)
    report = repository.verify()
    assert report.ok == 0
    assert "damaged" in report.problems[0].problem
    with pytest.raises(CorruptArtifactError):
        repository.promote("a", ArtifactRepository(f"memory://{uuid4()}"))
    assert repository.log("a", [1, 2, 3]).version == 1
    assert repository.load("a", version=0) == [1, 2, 3]
    assert repository.verify().ok == 2


def test_missing_content_is_an_error_that_says_which(repository: ArtifactRepository) -> None:
    path = content_of(repository)
    path.unlink()
    with pytest.raises(CorruptArtifactError, match=r"is missing: expected .* version 0 of 'a'"):
        repository.load("a")
    assert "missing" in repository.verify().problems[0].problem


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_record_that_is_cut_off_is_recognized(repository: ArtifactRepository, cut: int) -> None:
    path = record_of(repository)
    path.write_bytes(path.read_bytes()[:cut])
    other = ArtifactRepository(repository.location)
    for act in (other.load, other.versions, other.metadata, other.expire):
        with pytest.raises(CorruptArtifactError, match="damaged or cut off") as caught:
            act("a")
        assert str(path) in str(caught.value)
    assert [one.version for one in other.verify().problems] == [0]
    # What it needs is not known, so nothing is removed.
    with pytest.raises(CorruptArtifactError):
        other.gc(dry_run=False)
    assert len(repository.filesystem.glob("objects/*/*")) == 1
    # The next version can be logged all the same.
    assert other.log("a", "new").version == 1
    assert other.load("a") == "new"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sha256": "../../../etc/passwd"}, "sha256"),
        ({"suffix": "/../../x"}, "suffix"),
        ({"suffix": "json\n"}, "suffix"),
        ({"created_at": "2025-01-20T13:23:30"}, "created_at"),
        ({"version": 1}, "version 1 of 'a', which belongs elsewhere"),
        ({"name": "b"}, "of 'b', which belongs elsewhere"),
        ({"name": "../a"}, r"'\.\./a', which belongs elsewhere"),
        ({"format": 2}, "format 2.*pip install --upgrade"),
    ],
)
def test_a_record_that_was_tampered_with_leads_nowhere_else(
    repository: ArtifactRepository, fields: dict[str, Any], message: str
) -> None:
    other = change_record(repository, **fields)
    with pytest.raises(CorruptArtifactError, match=message):
        other.load("a")
    [problem] = other.verify().problems
    assert problem.version == 0


def test_a_damaged_mark_is_recognized(repository: ArtifactRepository) -> None:
    repository.expire("a")
    mark = Path(repository.location, "marks", "a", "00000000.0000.json")
    mark.write_text('{"at":"', encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match="delete it and set the expiry again"):
        repository.load("a")
    assert "expiry" in repository.verify().problems[0].problem
    mark.unlink()
    assert repository.load("a") == [1, 2, 3]


def test_a_missing_record_is_reported(repository: ArtifactRepository) -> None:
    for number in range(3):
        repository.log("a", number)
    record_of(repository, 2).unlink()
    [problem] = ArtifactRepository(repository.location).verify().problems
    assert (problem.name, problem.version, problem.problem) == ("a", 2, "the record is missing")


@pytest.mark.parametrize("hint", ["", "{}", "[]", '{"version": 99}', '{"version": "1"}'])
def test_a_wrong_hint_costs_time_and_nothing_else(
    repository: ArtifactRepository, hint: str
) -> None:
    for number in range(40):
        repository.log("a", number)
    repository.filesystem.write_path("marks/a/newest.json", hint.encode())
    assert ArtifactRepository(repository.location).load("a") == 39
    assert ArtifactRepository(repository.location).log("a", 0).version == 41


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    repository = ArtifactRepository(ArtifactFileSystem(url=str(tmp_path / "file")))
    with pytest.raises(StorageUnavailableError):
        repository.log("a", 1)
    assert (tmp_path / "file").read_text() == ""


def test_a_reader_s_arguments_that_do_not_fit_are_an_error(repository: ArtifactRepository) -> None:
    with pytest.raises(ArtifactLoadError, match="Version 0 of 'a' cannot be loaded"):
        repository.load("a", no_such=1)
    repository.log("t", "text", TextArtifact)
    assert repository.load("t") == "text"


def test_LZ31_what_is_binary_has_no_diff(repository: ArtifactRepository) -> None:
    for value in ({1}, {2}):
        repository.log("p", value, "pickle", allow_pickle=True)
    with pytest.raises(ArtifactLoadError, match="'pickle', whose files are binary"):
        repository.diff("p", 0, 1)
    repository.log("p", "text")
    with pytest.raises(ValueError, match="Version 1 of 'p'"):
        repository.diff("p", 1, 2)


def test_a_writer_passes_a_damaged_record_that_somebody_else_has_made(
    repository: ArtifactRepository,
) -> None:
    assert ArtifactRepository(repository.location).log("a", "other").version == 1
    record_of(repository, 1).write_text("{")
    assert [repository.log("a", number).version for number in range(2)] == [2, 3]
    assert repository.load("a") == 1
