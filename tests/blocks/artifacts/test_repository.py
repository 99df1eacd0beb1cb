"""What is logged under a name is found again, every version of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from matplotlib.figure import Figure

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    ArtifactLogError,
    InvalidSettingError,
    InvalidVersionError,
    ReadOnlyError,
    VersionNotFoundError,
)
from prefect_optuna.blocks.artifacts import MarkdownArtifact
from prefect_optuna.blocks.artifacts.records import directory_of
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository
from prefect_optuna.errors import OutputOnlyWarning

TICK = timedelta(microseconds=1)


@pytest.fixture(params=["local", "memory"])
def filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactFileSystem:
    root = str(tmp_path) if request.param == "local" else f"memory://{uuid4()}"
    return ArtifactFileSystem(url=root)


@pytest.fixture(params=["the same object", "opened anew"])
def reopened(
    request: pytest.FixtureRequest, filesystem: ArtifactFileSystem
) -> Callable[[ArtifactRepository], ArtifactRepository]:
    if request.param == "the same object":
        return lambda repository: repository
    return lambda repository: ArtifactRepository(filesystem, repository.prefix)


@pytest.fixture
def repository(filesystem: ArtifactFileSystem) -> ArtifactRepository:
    return ArtifactRepository(filesystem, "studies/lynx [1]")


Reopened = Callable[[ArtifactRepository], ArtifactRepository]


def test_LZ27_versions_count_from_0_for_each_name(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    for number in range(20):
        assert repository.log("a", {"n": number}).version == number
    assert repository.log("b", [1.5, np.float32(2)]).version == 0
    other = reopened(repository)
    assert [one.version for one in other.versions("a")] == list(range(20))
    assert [other.load("a", version=number)["n"] for number in range(20)] == list(range(20))
    assert other.load("a") == {"n": 19}
    assert other.log("a", {"n": 20}).version == 20
    assert repository.load("a") == {"n": 20}
    assert other.names() == ["a", "b"]
    assert "a" in other
    assert "c" not in other
    assert 3 not in other


def test_LZ27_an_unknown_mode_is_refused(filesystem: ArtifactFileSystem) -> None:
    with pytest.raises(InvalidSettingError, match=r"'w'.*'w\+'.*found 'a'"):
        ArtifactRepository(filesystem, mode="a")  # type: ignore[arg-type]


def test_LZ27_mode_r_reads_and_changes_nothing(repository: ArtifactRepository) -> None:
    repository.log("a", 1)
    reader = ArtifactRepository(repository.filesystem, repository.prefix, mode="r")
    assert reader.load("a") == 1
    assert reader.gc().versions == ()
    before = repository.filesystem.glob("**")
    for act in (
        lambda: reader.log("a", 2),
        lambda: reader.expire("a"),
        lambda: repository.promote("a", reader),
        lambda: reader.gc(dry_run=False),
    ):
        with pytest.raises(ReadOnlyError, match=r"reading only.*'w\+'"):
            act()
    assert repository.filesystem.glob("**") == before


def test_LZ27_mode_w_expects_an_empty_place_and_overwrites_nothing(
    filesystem: ArtifactFileSystem,
) -> None:
    new = ArtifactRepository(filesystem, "x", mode="w")
    new.log("a", 1)
    with pytest.raises(InvalidSettingError, match="empty"):
        ArtifactRepository(filesystem, "x", mode="w")
    assert ArtifactRepository(filesystem, "x").load("a") == 1
    assert pickle.loads(pickle.dumps(new)).load("a") == 1


def test_a_repository_takes_whatever_names_a_filesystem(tmp_path: Path) -> None:
    ArtifactRepository(tmp_path / "r").log("a", 1)
    assert ArtifactRepository(str(tmp_path), "r").load("a") == 1
    assert ArtifactRepository(f"file://{tmp_path}/r").load("a") == 1
    assert repr(ArtifactRepository("memory://x", "y")) == (
        "ArtifactRepository('memory://x/y', mode='w+')"
    )


def test_LZ15_LZ20_LZ28_what_is_logged_at_once_under_like_names_does_not_collide(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    names = [
        "a b",
        "a-b",
        "A-B",
        "a_b",
        "a/b",
        "ä b",
        "a b ",
        "con",
        "a.",
        "x" * 255,
        "é",
        "e\u0301",
    ]
    for number, name in enumerate(names):
        repository.log(name, [number, 0])
        repository.log(name, [number, 1])
    other = reopened(repository)
    assert other.names() == sorted(names)
    for number, name in enumerate(names):
        assert [other.load(name, version=one) for one in (0, 1)] == [[number, 0], [number, 1]]
    assert len({directory_of(name).lower() for name in names}) == len(names)
    # Readable for people, whatever the filesystem takes for equal.
    assert directory_of("best-model_1.0") == "best-model_1.0"
    assert directory_of("Best model").startswith("best-model~")


def test_LZ20_identical_content_is_stored_once(repository: ArtifactRepository) -> None:
    first, second = repository.log("a", {"x": 1}), repository.log("b", {"x": 1})
    repository.log("a", {"x": 2})
    assert first.path == second.path
    assert len(repository.filesystem.glob("**/objects/*/*")) == 2


def test_LZ21_a_file_name_chooses_no_place(repository: ArtifactRepository) -> None:
    for fname in ("../../esc.json", "/esc.json", "a/b.json", "..", "a\0b"):
        with pytest.raises(InvalidSettingError):
            repository.log("a", 1, fname=fname)
    assert repository.filesystem.glob("**") == []
    version = repository.log("My limits", 1, fname="limits.json")
    assert version.fname == "limits.json"
    assert Path(version.path).name == f"{version.sha256}.json"
    default = repository.log("My limits", 2)
    assert default.fname == f"my-limits-{default.created_at:%Y%m%d%H%M%S}.json"


def test_LZ16_LZ17_what_is_for_people_only_warns_when_logged_and_when_loaded(
    repository: ArtifactRepository,
) -> None:
    with pytest.warns(OutputOnlyWarning, match="logged as 'png' is for people") as caught:
        repository.log("fit", Figure((1, 1)), "png")
    assert caught[0].filename == __file__
    with pytest.warns(OutputOnlyWarning, match="'fit' is loaded as it was written for people"):
        assert repository.load("fit").startswith(b"\x89PNG")
    # Where warnings are errors, nothing has been logged.
    with pytest.raises(OutputOnlyWarning):
        repository.log("other", Figure((1, 1)), "png")
    assert repository.names() == ["fit"]


def test_LZ29_a_version_is_found_by_its_number_or_its_time(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    logged = [repository.log("a", number) for number in range(40)]
    times = [one.created_at for one in logged]
    assert sorted(set(times)) == times
    other = reopened(repository)
    zone = timezone(timedelta(hours=5, minutes=30))
    for number in (0, 1, 15, 16, 17, 38, 39):
        time = times[number]
        for version in (
            number,
            np.int64(number),
            time,
            time.astimezone(zone),
            time.replace(tzinfo=None),
            time.isoformat(),
            time.isoformat().replace("+00:00", "Z"),
            time.replace(tzinfo=None).isoformat(" "),
        ):
            assert other.load("a", version=version) == number
        assert other.load("a", asof=time) == number
        assert other.load("a", asof=time.isoformat()) == number
        if number:
            assert other.load("a", asof=time - TICK) == number - 1
    assert other.load("a", asof=times[-1] + timedelta(days=1)) == 39
    assert other.load("a") == 39


def test_LZ29_text_without_a_fraction_means_that_second(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    created_at = repository.log("a", "first").created_at
    second = created_at.strftime("%Y-%m-%dT%H:%M:%S")
    other = reopened(repository)
    assert other.load("a", version=second) == "first"
    assert other.load("a", asof=second) == "first"
    # Made in the same second, by a clock that stands still.
    promoted = ArtifactRepository(f"memory://{uuid4()}")
    repository.promote("a", promoted)
    if promoted.log("a", "second").created_at.strftime("%Y-%m-%dT%H:%M:%S") == second:
        with pytest.raises(VersionNotFoundError, match=r"2 versions of 'a'.*versions 0 to 1"):
            promoted.load("a", version=second)


def test_LZ29_what_is_not_there_is_an_error_that_says_what_is(
    repository: ArtifactRepository,
) -> None:
    first = repository.log("model", 1)
    last = repository.log("model", 2)
    before = first.created_at - TICK
    for kwargs, message in (
        ({"version": 2}, "no version 2 of 'model', only versions 0 to 1"),
        ({"version": -1}, "no version -1"),
        ({"version": 10**30}, "no version 1000"),
        ({"version": before}, "made at .*versions 0 to 1, made from .* to .*asof"),
        ({"version": last.created_at + TICK}, "No version of 'model' was made at"),
        ({"version": "2001-01-01"}, "No version of 'model' was made at 2001-01-01"),
        ({"asof": before}, "no version of 'model' yet; the first, 0, was made at"),
    ):
        with pytest.raises(VersionNotFoundError, match=message):
            repository.load("model", **kwargs)
    for act in (repository.load, repository.versions, repository.expire, repository.metadata):
        with pytest.raises(VersionNotFoundError, match=r"no artifact 'modell'.*mean 'model'"):
            act("modell")


def test_LZ29_what_is_no_version_is_refused(repository: ArtifactRepository) -> None:
    created_at = repository.log("a", 1).created_at
    for kwargs in (
        {"version": "latest"},
        {"version": 1.0},
        {"version": True},
        {"version": "2025-13-01T00:00:00"},
        {"version": [0]},
        {"asof": 0},
        {"asof": "yesterday"},
        {"version": 0, "asof": created_at},
        {"asof": "0001-01-01T00:00:00+10:00"},
    ):
        with pytest.raises(InvalidVersionError) as caught:
            repository.load("a", **kwargs)
        assert isinstance(caught.value, ValueError)
        assert "xpected" in str(caught.value)


def test_LZ30_an_expired_version_is_not_the_newest(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    logged = [repository.log("a", number) for number in range(30)]
    for number in range(5, 30):
        expired = repository.expire("a", number)
        assert expired.expiry is not None
        assert expired.expiry > logged[-1].created_at
    other = reopened(repository)
    assert other.load("a") == 4
    assert other.load("a", version=29) == 29
    # As of a time before the expiry it was not expired yet.
    assert other.load("a", asof=logged[29].created_at) == 29
    assert [one.version for one in other.versions("a") if one.expiry is None] == [0, 1, 2, 3, 4]


def test_LZ30_an_expiry_is_a_time_of_any_form(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    made = repository.log("a", 0).created_at
    hour = timedelta(hours=1)
    assert repository.expire("a", expiry=made + hour).expiry == made + hour
    assert reopened(repository).load("a") == 0
    with pytest.raises(VersionNotFoundError, match="expired"):
        reopened(repository).load("a", asof=made + hour)
    assert reopened(repository).load("a", asof=made + hour - TICK) == 0
    text = "2031-01-20T13:23:30"
    assert repository.expire("a", expiry=text).expiry == datetime(
        2031, 1, 20, 13, 23, 30, tzinfo=UTC
    )
    naive = datetime(2031, 1, 20, 13, 23, 30)  # noqa: DTZ001
    assert repository.expire("a", 0, expiry=naive).expiry == naive.replace(tzinfo=UTC)
    for wrong in (5, "soon", [made]):
        with pytest.raises(InvalidVersionError, match="no time"):
            repository.expire("a", expiry=wrong)  # type: ignore[arg-type]
    assert reopened(repository).load("a") == 0


def test_LZ30_if_all_are_expired_that_is_said(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    for number in range(12):
        repository.log("a", number)
        repository.expire("a")
    with pytest.raises(VersionNotFoundError, match=r"All versions of 'a' are expired.*0 to 11"):
        reopened(repository).load("a")
    assert repository.load("a", version=11) == 11
    repository.expire("a", version=3, expiry=datetime.now(UTC) + timedelta(days=1))
    assert reopened(repository).load("a") == 3


def test_LZ31_metadata_says_what_is_known(
    repository: ArtifactRepository, reopened: Reopened
) -> None:
    version = repository.log("a b", {1, 2}, "pickle", allow_pickle=True)
    repository.expire("a b", expiry="2031-01-20")
    metadata = reopened(repository).metadata("a b", 0)
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["name"] == "a b"
    assert metadata["version"] == 0
    assert metadata["handler"] == "pickle"
    assert metadata["fname"] == version.fname
    assert metadata["created_at"] == version.created_at.isoformat()
    assert metadata["expiry"] == "2031-01-20T00:00:00+00:00"
    assert metadata["sha256"] == repository.filesystem.sha256(metadata["path"])
    assert metadata["size"] == len(repository.filesystem.read_path(metadata["path"]))
    assert metadata["python_version"] == version.environment["python_version"]
    assert not version.dirty


def test_LZ31_diff_compares_two_texts(repository: ArtifactRepository) -> None:
    repository.log("notes", "one\ntwo\nthree\n", MarkdownArtifact)
    repository.log("notes", "one\n2\nthree\n", "markdown")
    repository.log("notes", "one\n2\nthree\nfour", "text")
    lines = repository.diff("notes", 0, 1).splitlines()
    assert lines[0].startswith("--- notes (version 0)")
    assert lines[1].startswith("+++ notes (version 1)")
    assert lines[2:] == ["@@ -1,3 +1,3 @@", " one", "-two", "+2", " three"]
    assert repository.diff("notes", 1, 0).splitlines()[3:] == [" one", "-2", "+two", " three"]
    assert "+four" in repository.diff("notes", 0).splitlines()
    assert repository.diff("notes", 1, 1) == ""


def test_LZ31_a_filter_is_a_view_of_chosen_versions(repository: ArtifactRepository) -> None:
    times = [repository.log("a", number).created_at for number in range(4)]
    repository.log("b", "b0")
    for pairs in ([("a", 1), ("b", 0)], (("a", times[1]), ("b", 0)), {"a": 1, "b": 0}):
        view = repository.filter(pairs)
        repository.log("a", "later")
        assert view.names() == ["a", "b"]
        assert (view.load("a"), view.load("a", version=1), view.load("b")) == (1, 1, "b0")
        assert [one.version for one in view.versions("a")] == [1]
        with pytest.raises(VersionNotFoundError, match="only version 1"):
            view.load("a", version=0)
        with pytest.raises(ReadOnlyError):
            view.log("a", 9)
    for moment in (times[2], times[2].isoformat()):
        view = repository.filter(moment)
        assert view.names() == ["a"]
        assert view.load("a") == 2
        assert "b" not in view
    two = repository.filter([("a", 2), ("a", 0)])
    assert [two.load("a", version=0), two.load("a", asof=times[1]), two.load("a")] == [0, 0, 2]
    with pytest.raises(VersionNotFoundError):
        repository.filter([("a", 99)])
    for wrong in (("a", 1), [1], "then"):
        with pytest.raises(InvalidVersionError):
            repository.filter(wrong)  # type: ignore[arg-type]


def test_LZ32_a_version_is_promoted_to_another_filesystem(
    repository: ArtifactRepository, tmp_path: Path
) -> None:
    serving = ArtifactRepository(tmp_path / "serving", mode="w")
    first, second = repository.log("m", {"w": (1, 2)}), repository.log("m", {"w": (3, 4)})
    promoted = repository.promote("m", serving, version=0)
    assert (promoted.version, promoted.created_at) == (0, first.created_at)
    assert promoted.promoted_from == f"version 0 in {repository.location}"
    assert repository.promote("m", serving).version == 1
    again = ArtifactRepository(tmp_path / "serving")
    assert again.versions("m")[1].promoted_from == f"version 1 in {repository.location}"
    assert [again.load("m", version=one) for one in (0, 1)] == [{"w": (1, 2)}, {"w": (3, 4)}]
    assert again.load("m", asof=second.created_at - TICK) == {"w": (1, 2)}
    assert again.verify().ok == 2


def test_LZ32_nothing_is_promoted_twice_or_over_something_newer(
    repository: ArtifactRepository, tmp_path: Path
) -> None:
    serving = ArtifactRepository(tmp_path / "serving")
    for number in range(2):
        repository.log("m", number)
    repository.promote("m", serving)
    before = serving.filesystem.glob("**")
    for version, message in ((1, "is the same"), (None, "is the same"), (0, "is not older")):
        for target in (serving, ArtifactRepository(tmp_path / "serving")):
            with pytest.raises(ArtifactLogError, match=message):
                repository.promote("m", target, version=version)
    repository.log("m", 1)
    with pytest.raises(ArtifactLogError, match="has the same content"):
        repository.promote("m", serving)
    with pytest.raises(ArtifactLogError):
        repository.promote("m", repository)
    assert serving.filesystem.glob("**") == before


def test_a_record_that_people_hold_cannot_spoil_another(repository: ArtifactRepository) -> None:
    version = repository.log("a", {1}, "pickle", allow_pickle=True)
    with pytest.raises(ValueError, match="frozen"):
        version.version = 7  # type: ignore[misc]
    for held in (version, repository.versions("a")[0]):
        held.environment["python_version"] = "2.7"
    assert repository.load("a", allow_pickle=True) == {1}
    assert pickle.loads(pickle.dumps(version)) == version


def test_the_newest_of_many_versions_is_found_with_a_few_requests(
    filesystem: ArtifactFileSystem,
) -> None:
    repository = ArtifactRepository(filesystem)
    for number in range(300):
        repository.log("a", number)
    calls = CountedStore.count(filesystem)
    assert ArtifactRepository(filesystem).log("a", "cold").version == 300
    assert len(calls) <= 16
    del calls[:]
    assert repository.load("a") == "cold"
    assert len(calls) <= 6
    del calls[:]
    repository.log("a", "warm")
    assert calls == ["create", "create", "is_file"]


class CountedStore:
    """The store of a filesystem, and a list of what is asked of it."""

    @classmethod
    def count(cls, filesystem: ArtifactFileSystem) -> list[str]:
        filesystem.exists("a")  # opens it
        process, store = filesystem._opened
        counted = cls()
        counted.store, counted.calls = store, []
        filesystem._opened = (process, counted)
        return counted.calls

    def __getattr__(self, name: str) -> object:
        if name != "location":  # which asks nobody
            self.calls.append(name)
        return getattr(self.store, name)
