"""Options that compute once, the validators, and what type checkers see."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.tasks.persistence import (
    AlreadyExistsError,
    ArrowHandler,
    ETLConcatable,
    InvalidPersistenceClassError,
    PersistenceConcatError,
    PersistenceOptions,
    PersistenceValidationError,
    PickleHandler,
    WrongPersistenceClassError,
    as_dict,
    attributes_validate,
    autoinc_field,
    create_date_validate,
    field,
    get_options_and_cache,
    missing,
    persistence_class,
    validate_concat_etl_persistence,
)


@persistence_class
class Example:
    animal: str = field(validator=True, filename=True)
    session: str = field(validator=True)
    data: int


@persistence_class
class Counted:
    a: str = field(validator=True, filename=True)
    b: int = autoinc_field()
    data: int


@persistence_class
class Plane:
    exp_date: str = field(filename=True)
    animal: str = field(filename=True)
    plane_index: int = field(filename=True)
    rate: Any


class Options(PersistenceOptions[Example]):
    animal: str = "A00"
    session = "s"
    computed: list[str]

    def __init__(self) -> None:
        self.computed = []
        self.accepts: Any = lambda result: True

    def empty_cache(self) -> Example:
        return Example(self.animal, self.session)

    def compute_cache(self, result: Example) -> Example:
        self.computed.append(f"{result.animal}/{result.session}")
        result.data = len(self.computed)
        return result

    def validate_cache(self, result_path: Path | str, result: Example) -> bool:
        assert str(result_path).endswith(f"cache-Example-{result.animal}.arrow")
        return self.accepts(result)


class CountedOptions(PersistenceOptions[Counted]):
    def empty_cache(self) -> Counted:
        return Counted("q")

    def compute_cache(self, result: Counted) -> Counted:
        result.data = 1
        return result


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_PS33_the_class_comes_from_the_generic_and_the_flag_is_off_by_default() -> None:
    class Heir(Options):
        pass

    class NoClass(PersistenceOptions):
        empty_cache = compute_cache = None

    assert Options().persistence_class is Heir().persistence_class is Example
    assert Options().invalid_cache is False
    with pytest.raises(TypeError, match="abstract"):
        PersistenceOptions()
    with pytest.raises(InvalidPersistenceClassError, match="unable to retrieve cache class T"):
        _ = NoClass().persistence_class
    parser = argparse.ArgumentParser()
    Options.add_arguments(parser)
    assert "Persistence options" in parser.format_help()
    options = Options()
    parser.parse_args(["--invalid-cache"], namespace=options)
    assert options.invalid_cache is True


def test_PS34_a_hit_is_loaded_and_a_miss_is_computed_and_saved(tmp_path: Path) -> None:
    options = Options()
    with pytest.raises(FileNotFoundError, match="no such file has been saved"):
        options.load_cache(error_when_missing=True)
    assert options.load_cache().data == 1
    assert (tmp_path / "cache-Example-A00.arrow").exists()
    assert options.load_cache().data == 1
    assert options.load_cache(Example("A01", "s"), dest=tmp_path / "other").data == 2
    assert options.load_cache(animal="A01", dest="other").data == 2
    options.invalid_cache = True
    assert options.load_cache().data == 3
    assert options.computed == ["A00/s", "A01/s", "A00/s"]


@pytest.mark.parametrize("content", [b"", b"junk", b"ARROW1\0\0" + b"\0" * 99])
def test_PS34_a_damaged_file_is_computed_anew(tmp_path: Path, content: bytes) -> None:
    options = Options()
    (tmp_path / "cache-Example-A00.arrow").write_bytes(content)
    assert options.load_cache().data == 1
    assert Options().load_cache().data == 1
    assert options.computed == ["A00/s"]


def test_PS34_damaged_pickles_too(tmp_path: Path) -> None:
    class Pickles(Options):
        def persistence_handler(self, dest: Any = None) -> PickleHandler[Example]:
            return PickleHandler(Example, tmp_path, allow_pickle=True)

        def validate_cache(self, result_path: Path | str, result: Example) -> bool:
            return True

    for content in (b"", b"\x80\x05junk"):
        (tmp_path / "cache-Example-A00.pkl").write_bytes(content)
        options = Pickles()
        options.load_cache()
        options.load_cache()
        assert len(options.computed) == 1


def test_PS34_the_file_of_another_class_is_in_the_way(tmp_path: Path) -> None:
    @persistence_class(name="Example")
    class Another:
        animal: str = field(filename=True)

    ArrowHandler(Another, tmp_path).save_persistence(Another("A00"))
    options = Options()
    with pytest.raises(WrongPersistenceClassError):
        options.load_cache()
    assert options.computed == []


def test_PS35_what_is_computed_is_what_was_asked_for() -> None:
    options = Options()
    options.load_cache(Example("A00", "one"))
    other = options.load_cache(Example("A00", "OTHER"))
    assert (other.session, other.data) == ("OTHER", 2)
    assert options.computed == ["A00/one", "A00/OTHER"]
    with pytest.raises(PersistenceValidationError, match="session"):
        options.load_cache(Example("A00", "one"), error_when_missing=True)


def test_PS36_with_numbers_the_newest_is_a_hit_and_a_number_asks_for_one(tmp_path: Path) -> None:
    options = CountedOptions()
    with pytest.raises(FileNotFoundError):
        options.load_cache(error_when_missing=True)
    assert options.load_cache().b == 0
    assert options.load_cache().b == 0
    handler = ArrowHandler(Counted, tmp_path)
    assert handler.save_persistence(Counted("q", data=5)).b == 1
    assert (options.load_cache().b, options.load_cache().data) == (1, 5)
    assert options.load_cache(b=0).data == 1
    options.invalid_cache = True
    assert options.load_cache().b == 2


def test_PS37_caches_are_found_saved_and_validated(tmp_path: Path) -> None:
    options = Options()
    for animal in ("A00", "A01"):
        options.save_cache(Example(animal, "s", data=1))
    with pytest.raises(FileExistsError, match=r"A00\.arrow exists"):
        options.save_cache(Example("A00", "s", data=2), force=False)
    options.save_cache(Example("A02", "s", data=2), tmp_path, force=False)
    assert issubclass(AlreadyExistsError, PrefectOptunaError)
    everything = Example(missing, missing)
    assert [one.animal for one in options.find_cache(everything)] == ["A00", "A01", "A02"]
    options.accepts = lambda result: result.animal != "A01"
    found = options.find_cache(everything, tmp_path, validator=True)
    assert [one.animal for one in found] == ["A00", "A02"]
    assert options.load_cache(animal="A01").data == 1
    assert options.computed == ["A01/s"]

    def refuses(result: Example) -> bool:
        raise KeyError("x")

    options.accepts = refuses
    options.load_cache()
    assert len(options.computed) == 2


def test_PS37_options_take_the_values_of_other_options() -> None:
    class Apply:
        animal = "A07"
        other = 1

    found = get_options_and_cache(Options, Apply())
    assert as_dict(found) == {"animal": "A07", "session": "s", "data": 1}
    with pytest.raises(FileNotFoundError):
        get_options_and_cache(Options, Apply(), error_when_missing=True, invalid_cache=True)


def test_PS38_a_time_is_compared_with_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.touch()
    noon = datetime(2026, 1, 2, 12)  # noqa: DTZ001
    os.utime(path, (noon.timestamp(), noon.timestamp()))
    for same_time in (noon, noon.timestamp(), path):
        assert create_date_validate(same_time, path)
        assert create_date_validate(path, same_time)
    assert create_date_validate(path, (2026, 1, 2))
    assert create_date_validate(path, date(2026, 1, 2))
    assert not create_date_validate(path, noon + timedelta(seconds=1))
    with caplog.at_level(logging.WARNING):
        assert not create_date_validate(date(2026, 1, 2), path)
        assert not create_date_validate(tmp_path / "gone", path)
        assert not create_date_validate(path, tmp_path / "gone", verbose=False)
    assert "created before 2026-01-02 12:00:00" in caplog.text
    assert caplog.text.count("gone") == 1
    with pytest.raises(TypeError, match="found str"):
        create_date_validate("2026-01-02", path)


def test_PS38_attributes_are_set_or_excluded() -> None:
    assert not attributes_validate(Example("A", "s"))
    assert attributes_validate(Example("A", "s"), "data")
    assert attributes_validate(Example("A", "s", data=1))


def test_PS38_planes_of_one_experiment_can_be_concatenated() -> None:
    class Concat(ETLConcatable[Plane]):
        def concat_etl(self, data: list[Plane]) -> Plane:
            validate_concat_etl_persistence(data, ("rate",))
            return data[0]

    def plane(index: Any, day: str = "d", animal: str = "A", rate: Any = 30.0) -> Plane:
        return Plane(day, animal, index, rate=rate)

    assert Concat().concat_etl([plane(0), plane(1)]).plane_index == 0
    validate_concat_etl_persistence(
        [plane(0, rate=np.ones(3)), plane(1, rate=np.ones(3))], ("rate",)
    )
    for other, name in (
        (plane(1, day="e"), "exp_date"),
        (plane(1, animal="B"), "animal"),
        (plane(1, rate=np.ones(3)), "rate"),
    ):
        with pytest.raises(PersistenceConcatError, match=name):
            Concat().concat_etl([plane(0), other])
    with pytest.raises(RuntimeError, match="different dataset"):
        validate_concat_etl_persistence([Example("A", "s")])
    with pytest.raises(RuntimeError):
        validate_concat_etl_persistence([])
    with pytest.raises(TypeError, match="plane_index"):
        validate_concat_etl_persistence([plane("0")])
    bare = plane(0)
    del bare.plane_index
    with pytest.raises(AttributeError, match="plane index"):
        validate_concat_etl_persistence([plane(0), bare])


@pytest.mark.slow
def test_PS39_importing_is_light_until_something_is_saved(tmp_path: Path) -> None:
    script = """
import sys
import prefect, prefect.blocks.abstract, optuna
before = set(sys.modules)
import prefect_optuna.tasks.persistence as p
@p.persistence_class
class C:
    key: str = p.field(filename=True)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(p.filename(C("k")), sorted(new & {"pandas", "pyarrow", "polars", "matplotlib", "scipy"}))
p.save(C("k"), "x.arrow")
print("pyarrow" in sys.modules, "pandas" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    assert output.stdout.splitlines() == ["cache-C-k []", "True False"]
