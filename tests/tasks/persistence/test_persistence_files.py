"""Saving and loading: handlers, files, numbers, and what can be wrong with them."""

from __future__ import annotations

import gzip
import json
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from filesystems import s3_filesystem, s3_options

from prefect_optuna.blocks import ArtifactFileSystem, PrefectOptunaError, StorageUnavailableError
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.persistence import (
    AlreadyExistsError,
    ArrowHandler,
    AutoIncFieldNotResolvedError,
    CorruptPersistenceError,
    FileHandler,
    GzipHandler,
    InvalidPersistenceClassError,
    MissingKeyError,
    PathNotFoundError,
    PersistenceHandler,
    PersistenceIsDirectoryError,
    PersistenceValidationError,
    PickleHandler,
    PickleRefusedError,
    SchemaChangedError,
    SkippedFileWarning,
    UndeclaredAttributeWarning,
    UnsetFieldError,
    UnsupportedValueError,
    WrongPersistenceClassError,
    ZstdHandler,
    as_dict,
    autoinc_field,
    ensure_persistence_class,
    field,
    load,
    missing,
    persistence_class,
    save,
)


@persistence_class
class Spectrum:
    animal: str = field(validator=True, filename=True)
    date: str = field(validator=True, filename=True)
    run: int = autoinc_field()
    power: np.ndarray
    channels: list[int]


@persistence_class
class Session:
    animal: str = field(validator=True, filename=True)
    place: str = field(validator=True, default="field")
    notes: Any


def spectrum(animal: str = "lynx", date: str = "2026-01-02", run: Any = None) -> Spectrum:
    return Spectrum(animal, date, run, power=np.arange(5.0), channels=[1, 2])


@pytest.fixture(params=["local", "memory", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactFileSystem:
    if request.param == "local":
        return ArtifactFileSystem(url=str(tmp_path / "spectra"))
    if request.param == "memory":
        return ArtifactFileSystem(url=f"memory://{uuid4()}")
    return s3_filesystem(request.getfixturevalue("s3_server"))


def test_PS24_a_handler_saves_and_loads_on_every_filesystem(artifacts: ArtifactFileSystem) -> None:
    handler = ArrowHandler(Spectrum, artifacts)
    assert handler.persistence_class is Spectrum
    assert handler.persistence_info is ensure_persistence_class(Spectrum)
    assert handler.save_root is artifacts
    saved = spectrum()
    assert handler.save_persistence(saved) is saved
    assert saved.run == 0
    assert artifacts.ls() == ["cache-Spectrum-lynx-2026-01-02-0.arrow"]
    for found in (
        handler.load_persistence(spectrum(run=0)),
        handler.load_persistence({"animal": "lynx", "date": "2026-01-02", "run": 0}),
        handler.load_persistence("cache-Spectrum-lynx-2026-01-02-0.arrow"),
        ArrowHandler(Spectrum, artifacts, lazy=True).load_persistence(spectrum(run=0)),
    ):
        assert (found.animal, found.date, found.run, found.channels) == (
            *("lynx", "2026-01-02", 0),
            [1, 2],
        )
        np.testing.assert_array_equal(found.power, np.arange(5.0))
    with pytest.raises(FileNotFoundError, match="No Spectrum has been saved"):
        handler.load_persistence(spectrum("hare", run=0))
    with pytest.raises(TypeError, match="Expected an object of Spectrum"):
        handler.save_persistence(Session("lynx"))


def test_PS24_a_handler_validates_two_objects(tmp_path: Path) -> None:
    handler = ArrowHandler(Session, tmp_path)
    assert handler.validate(Session("lynx"), Session("lynx"))
    with pytest.raises(PersistenceValidationError, match="place"):
        handler.validate(Session("lynx"), Session("lynx", "zoo"))


def test_PS24_a_handler_of_ones_own_writes_and_reads_local_paths(
    artifacts: ArtifactFileSystem,
) -> None:
    class Text(PersistenceHandler[Session]):
        ext = ".txt"

        @property
        def persistence_class(self) -> type[Session]:
            return Session

        @property
        def save_root(self) -> ArtifactFileSystem:
            return artifacts

        def _save_persistence(self, result: Session, path: Path) -> None:
            path.write_text(result.notes, encoding="utf-8")
            if not result.notes:
                raise RuntimeError("a mistake")

        def _load_persistence(self, path: Path) -> Session:
            return Session("lynx", notes=path.read_text(encoding="utf-8"))

    handler = Text()
    handler.save_persistence(Session("lynx", notes="asleep"))
    with pytest.raises(RuntimeError, match="a mistake"):
        handler.save_persistence(Session("lynx", notes=""))
    assert artifacts.ls() == ["cache-Session-lynx.txt"]
    assert handler.load_persistence(Session("lynx")).notes == "asleep"
    with pytest.raises(TypeError, match="abstract"):
        FileHandler(Session, artifacts)


def test_PS16_file_names_have_the_extension_of_the_handler(tmp_path: Path) -> None:
    session = Session("A00")
    for handler, name in (
        (ArrowHandler(Session, tmp_path), "cache-Session-A00.arrow"),
        (ZstdHandler(Session, tmp_path), "cache-Session-A00.arrow"),
        (PickleHandler(Session, tmp_path), "cache-Session-A00.pkl"),
        (GzipHandler(Session, tmp_path), "cache-Session-A00.pkl.gz"),
        (PickleHandler(Session, tmp_path, ".pickle"), "cache-Session-A00.pickle"),
        (GzipHandler(Session, tmp_path, ext=".gz"), "cache-Session-A00.gz"),
    ):
        assert handler.filename(session) == name
        assert handler.filename(animal="A00") == name
        assert handler.filepath(session) == tmp_path / name
    assert ArrowHandler(Session, "memory://x").filepath(session) == (
        "memory://x/cache-Session-A00.arrow"
    )


def test_PS17_save_and_load_take_text_paths_and_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session("lynx", notes=[1])
    for path in (
        "example.arrow",
        Path("new", "folder", "example.arrow"),
        f"memory://{uuid4()}/a/example.arrow",
        f"memory://{uuid4()}.arrow",
        f"file://{tmp_path}/url.arrow",
    ):
        save(session, path)
        assert as_dict(load(Session, path)) == as_dict(session)
    save(session, "deep/in/it.arrow", storage="block")
    assert load(Session, tmp_path / "block/deep/in/it.arrow").notes == [1]
    with pytest.raises(IsADirectoryError, match="found the folder"):
        save(session, tmp_path / "new")
    with pytest.raises(PersistenceIsDirectoryError):
        load(Session, "new")
    with pytest.raises(PathNotFoundError, match=r"gone\.arrow"):
        load(Session, "gone.arrow")


def test_PS17_load_never_validates(tmp_path: Path) -> None:
    save(Session("hare", "zoo", notes=0), tmp_path / "cache-Session-lynx.arrow")
    assert load(Session, tmp_path / "cache-Session-lynx.arrow").animal == "hare"


def test_PS17_a_url_of_s3_needs_no_block(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = s3_options(s3_server)
    block = s3_filesystem(s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    save(Session("lynx", notes=None), f"{block.url}/x.arrow")
    assert load(Session, "x.arrow", storage=block).animal == "lynx"


def test_PS18_an_explicit_path_needs_a_number(tmp_path: Path) -> None:
    with pytest.raises(AutoIncFieldNotResolvedError, match=r"Spectrum\.run has no number"):
        save(spectrum(), tmp_path / "x.arrow")
    with pytest.raises(AutoIncFieldNotResolvedError):
        ArrowHandler(Spectrum, tmp_path).save_persistence(spectrum(), tmp_path / "x.arrow")
    assert list(tmp_path.iterdir()) == []
    save(spectrum(run=3), tmp_path / "x.arrow")
    assert load(Spectrum, tmp_path / "x.arrow").run == 3


def test_PS19_a_pickle_is_a_plain_dictionary_and_what_is_not_declared_is_said(
    tmp_path: Path,
) -> None:
    session = Session("lynx", notes={"x": 1})
    session.riglog = "lost"
    with pytest.warns(UndeclaredAttributeWarning, match="declares no riglog") as caught:
        save(session, tmp_path / "example.pkl")
    assert caught[0].filename == __file__
    assert pickle.loads((tmp_path / "example.pkl").read_bytes()) == {
        "animal": "lynx",
        "place": "field",
        "notes": {"x": 1},
    }


def test_PS25_numbers_go_by_file_names_and_no_file_is_opened(tmp_path: Path) -> None:
    handler = ArrowHandler(Spectrum, tmp_path)
    for number in (0, 9, 10):
        (tmp_path / f"cache-Spectrum-lynx-2026-01-02-{number}.arrow").write_bytes(b"unreadable")
    for other in ("hare-2026-01-02-77", "lynx-2026-01-02-1-99", "lynx-2026-01-02-x", "lynx-2026"):
        (tmp_path / f"cache-Spectrum-{other}.arrow").write_bytes(b"")
    assert handler.save_persistence(spectrum()).run == 11
    assert handler.save_persistence(spectrum()).run == 12
    assert ArrowHandler(Spectrum, tmp_path).save_persistence(spectrum()).run == 13
    (tmp_path / "cache-Spectrum-lynx-2026-01-02-13.arrow").rename(
        tmp_path / "cache-Spectrum-lynx-2026-01-02-20.arrow"
    )
    assert handler.load_persistence(spectrum(run=20)).run == 20
    assert handler.save_persistence(spectrum()).run == 21
    assert handler.save_persistence(spectrum()).run == 22


def test_PS25_a_key_that_starts_like_another_has_numbers_of_its_own(
    artifacts: ArtifactFileSystem,
) -> None:
    @persistence_class
    class Result:
        key: str = field(validator=True, filename=True)
        b: int = autoinc_field()

    handler = ArrowHandler(Result, artifacts)
    keys = ["q", "q-1", "q-1-1", "q", "q-1", "Q", "q", "q*"]
    numbers = [handler.save_persistence(Result(key)).b for key in keys]
    assert numbers == [0, 0, 0, 1, 1, 0, 2, 0]
    assert [(r.key, r.b) for _, r in handler.load_all(Result("q"))] == [("q", n) for n in range(3)]
    assert [(r.key, r.b) for _, r in handler.load_all(Result("q-1"))] == [("q-1", 0), ("q-1", 1)]
    everything = [(r.key, r.b) for _, r in handler.load_all(Result, key=missing)]
    assert sorted(everything) == sorted(zip(keys, numbers, strict=True))


def test_PS25_a_failed_save_takes_no_number(tmp_path: Path) -> None:
    handler = ArrowHandler(Spectrum, tmp_path)
    bad = spectrum()
    bad.power = object()
    with pytest.raises(UnsupportedValueError):
        handler.save_persistence(bad)
    assert (bad.run, list(tmp_path.iterdir())) == (None, [])
    assert handler.save_persistence(spectrum()).run == 0


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]], int]:
    """The folder that processes have saved into, their numbers, and how one of them has ended."""
    root = tmp_path_factory.mktemp("processes")
    program = Path(__file__).with_name("persisted_in_processes.py")
    output = subprocess.run([sys.executable, program, root], capture_output=True, check=True)
    numbers, exit_code = json.loads(output.stdout)
    return root, numbers, exit_code


@pytest.mark.slow
def test_PS25_sixteen_processes_lose_no_object_and_overwrite_none(
    processes: tuple[Path, list[list[int]], int],
) -> None:
    root, numbers, _ = processes
    assert [len(some) for some in numbers] == [50] * 16
    assert sorted(n for some in numbers for n in some) == list(range(800))
    names = {f"cache-Count-k-{number}.arrow" for number in range(800)}
    assert {path.name for path in root.glob("cache-Count-*")} == names
    for writer, some in enumerate(numbers):
        for number in some:
            with pa.memory_map(str(root / f"cache-Count-k-{number}.arrow")) as file:
                (row,) = pa.ipc.open_file(file).read_all().to_pylist()
            assert row == {"key": "k", "run": number, "writer": writer}


def test_PS30_a_killed_save_leaves_the_old_file_whole(
    processes: tuple[Path, list[list[int]], int],
) -> None:
    root, _, exit_code = processes
    assert exit_code == -signal.SIGKILL
    (half,) = root.glob(".tmp-*")
    assert half.read_bytes() == b"half"
    content = pickle.loads((root / "cache-Dying-k.pkl").read_bytes())
    assert content == {"key": "k", "value": "good"}
    assert ArtifactFileSystem(url=str(root)).glob("cache-Dying-*") == ["cache-Dying-k.pkl"]


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_PS25_threads_lose_no_object_on_other_filesystems(
    where: str, request: pytest.FixtureRequest
) -> None:
    block = (
        ArtifactFileSystem(url=f"memory://{uuid4()}")
        if where == "memory"
        else s3_filesystem(request.getfixturevalue("s3_server"))
    )

    def work(_: int) -> list[int]:
        handler = ArrowHandler(Spectrum, block)
        return [handler.save_persistence(spectrum()).run for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        numbers = [n for some in pool.map(work, range(4)) for n in some]
    assert sorted(numbers) == list(range(20))
    assert len(block.ls()) == 20


def test_PS26_load_all_takes_values_literally_and_leaves_out_what_it_cannot_read(
    tmp_path: Path,
) -> None:
    handler = ArrowHandler(Session, tmp_path)
    for animal in ("a*b", "a?b", "a[1]b", "axb", "a1b", "lynx"):
        handler.save_persistence(Session(animal, notes=animal))
    for animal in ("a*b", "a?b", "a[1]b"):
        ((path, found),) = handler.load_all(Session(animal))
        assert found.notes == animal
        assert path == handler.filepath(found)
    (tmp_path / "cache-Session-damaged.arrow").write_bytes(b"ARROW1")
    with pytest.warns(SkippedFileWarning, match=r"cache-Session-damaged\.arrow is left out"):
        found = list(handler.load_all(animal=missing))
    assert len(found) == 6
    (tmp_path / "cache-Session-copy.arrow").write_bytes(
        (tmp_path / "cache-Session-lynx.arrow").read_bytes()
    )
    assert list(handler.load_all(Session("copy"))) == []


def test_PS27_a_pickle_is_read_if_it_is_allowed(tmp_path: Path) -> None:
    handler = PickleHandler(Session, str(tmp_path), allow_pickle=True)
    handler.save_persistence(Session("lynx", notes=1j))
    assert handler.load_persistence(Session("lynx")).notes == 1j
    path = tmp_path / "cache-Session-x.pkl"
    path.write_bytes(pickle.dumps(Session("x", notes="old style")))
    assert handler.load_persistence(path).notes == "old style"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(TypeError, match=r"not a Session for cache-Session-x.pkl : \[1\]"):
        handler.load_persistence(path)
    with pytest.raises(PickleRefusedError, match="allow_pickle=True"):
        PickleHandler(Session, tmp_path).load_persistence(Session("lynx"))
    with pytest.raises(PickleRefusedError):  # and not a warning for each of a thousand files
        list(PickleHandler(Session, tmp_path).load_all())
    with pytest.raises(PickleRefusedError):
        load(Session, path)
    path.write_bytes(b"\x80\x05junk")
    with pytest.raises(CorruptPersistenceError, match=r"cache-Session-x\.pkl"):
        load(Session, path, allow_pickle=True)


def test_PS28_a_compressed_pickle_is_read_if_it_is_allowed(tmp_path: Path) -> None:
    handler = GzipHandler(Session, tmp_path, allow_pickle=True)
    assert (handler.compression, GzipHandler(Session, tmp_path, compression=1).compression) == (
        9,
        1,
    )
    handler.save_persistence(Session("lynx", notes="x" * 10_000))
    path = handler.filepath(Session("lynx"))
    assert pickle.loads(gzip.decompress(Path(path).read_bytes()))["animal"] == "lynx"
    assert Path(path).stat().st_size < 500
    assert load(Session, path, allow_pickle=True).notes == "x" * 10_000
    with pytest.raises(PickleRefusedError):
        GzipHandler(Session, tmp_path).load_persistence(Session("lynx"))
    Path(path).write_bytes(b"junk")
    with pytest.raises(CorruptPersistenceError) as caught:
        handler.load_persistence(Session("lynx"))
    assert isinstance(caught.value.__cause__, gzip.BadGzipFile)


def test_PS29_no_value_leads_out_of_the_folder(tmp_path: Path) -> None:
    handler = ArrowHandler(Session, tmp_path / "root")
    handler.save_persistence(Session("a/b", notes=0))
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cache-Session-a%2Fb.arrow"]
    assert handler.load_persistence(Session("a/b")).animal == "a/b"
    for value in ("../up", "/abs", "a\0b", "x" * 300, "x" * 237):
        with pytest.raises(UnsupportedValueError, match="animal"):
            handler.save_persistence(Session(value, notes=0))
    handler.save_persistence(Session("x" * 235, notes=0))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_PS30_a_failing_save_leaves_the_old_file_whole(artifacts: ArtifactFileSystem) -> None:
    arrow, pickles = ArrowHandler(Session, artifacts), PickleHandler(Session, artifacts)
    for handler, bad in ((arrow, object()), (pickles, lambda: None)):
        handler.save_persistence(Session("lynx", notes="good"))
        with pytest.raises((UnsupportedValueError, AttributeError, pickle.PicklingError)):
            handler.save_persistence(Session("lynx", notes=[b"x" * 100_000, bad]))
    assert arrow.load_persistence(Session("lynx")).notes == "good"
    assert artifacts.ls() == ["cache-Session-lynx.arrow", "cache-Session-lynx.pkl"]


def test_two_keys_that_make_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    @persistence_class
    class Pair:
        a: str = field(filename=True)
        b: str = field(filename=True)

    handler = ArrowHandler(Pair, tmp_path)
    handler.save_persistence(Pair("x-y", "z"))
    handler.save_persistence(Pair("x-y", "z"))
    with pytest.raises(AlreadyExistsError, match="whose a is x-y, and one whose a is x was"):
        handler.save_persistence(Pair("x", "y-z"))
    with pytest.raises(PersistenceValidationError, match="a is x-y, and x was asked for"):
        handler.load_persistence(Pair("x", "y-z"))


def test_a_file_of_another_animal_is_refused(tmp_path: Path) -> None:
    handler = ArrowHandler(Session, tmp_path)
    handler.save_persistence(Session("hare", notes=0))
    Path(handler.filepath(animal="hare")).rename(handler.filepath(animal="lynx"))
    with pytest.raises(PersistenceValidationError, match=r"cache-Session-lynx\.arrow.*hare"):
        handler.load_persistence(Session("lynx"))
    handler.save_persistence(Session("wolf", "zoo", notes=0))
    with pytest.raises(PersistenceValidationError, match=r"place validate fail: field != zoo"):
        handler.load_persistence(Session("wolf"))


def make_class(**options: Any) -> Any:
    @persistence_class(**options)
    class Made:
        key: str = field(filename=True)
        value: int

    return Made


def make_other_class() -> Any:
    @persistence_class
    class Made:
        key: str = field(filename=True)
        value: int

    return Made


def test_two_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, other = make_class(), make_other_class()
    handler = ArrowHandler(one, tmp_path)
    handler.save_persistence(one("k", value=1))
    with pytest.raises(WrongPersistenceClassError, match=r"two classes Made.*cache-Made-k\.arrow"):
        ArrowHandler(other, tmp_path).load_persistence(other("k"))
    with pytest.raises(AlreadyExistsError, match="belongs to another class"):
        ArrowHandler(other, tmp_path).save_persistence(other("k", value=2))
    assert handler.load_persistence(one("k")).value == 1
    home = ensure_persistence_class(other).home
    moved = make_class(formerly=(home,))
    save(other("k", value=3), tmp_path / "moved.arrow")
    assert load(moved, tmp_path / "moved.arrow").value == 3


def test_a_file_of_another_class_is_refused(tmp_path: Path) -> None:
    save(Session("lynx", notes=0), tmp_path / "x.arrow")
    with pytest.raises(
        WrongPersistenceClassError, match=r"Spectrum in .*x\.arrow, found .*Session"
    ):
        load(Spectrum, tmp_path / "x.arrow")


@pytest.mark.parametrize("lazy", [False, True])
def test_a_truncated_file_is_never_an_object(tmp_path: Path, lazy: bool) -> None:
    path = tmp_path / "x.arrow"
    save(Session("lynx", notes={"power": np.arange(100.0), "label": "x"}), path)
    content = path.read_bytes()
    for size in [*range(20), *range(20, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(CorruptPersistenceError, match=r"x\.arrow"):
            load(Session, path, lazy=lazy)
    for junk in (b"ARROW1\0\0" + bytes(500), b"{}"):
        path.write_bytes(junk)
        with pytest.raises(CorruptPersistenceError, match=r"x\.arrow"):
            load(Session, path, lazy=lazy)


def test_an_arrow_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    table = pa.table({"x": [1]})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write(table)
    with pytest.raises(CorruptPersistenceError, match=r"x\.arrow"):
        load(Session, tmp_path / "x.arrow")


def test_a_missing_key_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"place": "zoo", "notes": 1}))
    with pytest.raises(MissingKeyError, match=r"field : animal, of Session in .*x\.pkl"):
        load(Session, path, allow_pickle=True)


def test_an_unset_field_is_named_with_its_file_and_nothing_is_written(tmp_path: Path) -> None:
    handler = ArrowHandler(Session, tmp_path)
    with pytest.raises(UnsetFieldError, match=r"Session\.notes is not set.*cache-Session-lynx"):
        handler.save_persistence(Session("lynx"))
    with pytest.raises(UnsetFieldError, match="animal"):
        handler.save_persistence(Session(missing, notes=0))
    unset = spectrum()
    del unset.power
    with pytest.raises(AttributeError, match=r"Spectrum\.power"):
        ArrowHandler(Spectrum, tmp_path).save_persistence(unset)
    assert list(tmp_path.iterdir()) == []
    assert unset.run is None


def test_a_filesystem_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageUnavailableError, InvalidSettingError)):
        ArrowHandler(Session, tmp_path / "file").save_persistence(Session("lynx", notes=0))
    with pytest.raises(InvalidPersistenceClassError):
        ArrowHandler(int, tmp_path)
    assert issubclass(InvalidPersistenceClassError, PrefectOptunaError)


def old(version: int, migrate: Any = None, **fields: Any) -> Any:
    """The class as it was, or is: of one name and one place, with these fields."""
    namespace = {"__qualname__": "Track", "__module__": __name__, "__annotations__": {}}
    for name, (kind, value) in fields.items():
        namespace["__annotations__"][name] = kind
        if value is not None:
            namespace[name] = value
    return persistence_class(version=version, migrate=migrate)(type("Track", (), namespace))


def test_a_file_of_an_older_class_is_migrated(tmp_path: Path) -> None:
    first = old(1, key=("str", field(filename=True)), metres=("float", None))
    save(first("k", metres=1500.0), tmp_path / "x.arrow")
    save(first("k", metres=1500.0), tmp_path / "x.pkl")
    seen: list[int] = []

    def migrate(values: dict[str, Any], version: int) -> dict[str, Any]:
        seen.append(version)
        return {"key": values["key"], "kilometres": values["metres"] / 1000}

    fields = {"key": ("str", field(filename=True)), "kilometres": ("float", None)}
    second = old(2, migrate, **fields)
    assert load(second, tmp_path / "x.arrow").kilometres == 1.5
    assert load(second, tmp_path / "x.pkl", allow_pickle=True).kilometres == 1.5
    assert seen == [1, 0]
    save(second("k", kilometres=2.0), tmp_path / "y.arrow")
    assert load(second, tmp_path / "y.arrow").kilometres == 2.0
    with pytest.raises(SchemaChangedError, match="version 2 of Track, and this is version 1"):
        load(first, tmp_path / "y.arrow")
    fields = {"key": ("str", field(filename=True)), "kilometres": ("float", None)}
    with pytest.raises(SchemaChangedError, match=r"returned no kilometres for .*x\.arrow"):
        load(old(2, lambda values, version: values, **fields), tmp_path / "x.arrow")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ("str", field(filename=True))}, "metres is gone"),
        (
            {"key": ("str", field(filename=True)), "metres": ("float", None), "n": ("int", None)},
            "n is new",
        ),
        ({"key": ("str", field(filename=True)), "metres": ("str", None)}, "was float and is str"),
    ],
)
def test_a_changed_schema_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    first = old(1, key=("str", field(filename=True)), metres=("float", None))
    save(first("k", metres=1.0), tmp_path / "x.arrow")
    with pytest.raises(SchemaChangedError, match=message):
        load(old(1, **change), tmp_path / "x.arrow")
    change = {
        name: (kind, field(filename=True) if value else None)
        for name, (kind, value) in change.items()
    }
    with pytest.raises(SchemaChangedError, match=r"version 1 of Track.*version 2.*migrate="):
        load(old(2, **change), tmp_path / "x.arrow")


def test_a_new_field_with_a_default_needs_no_migration(tmp_path: Path) -> None:
    first = old(1, key=("str", field(filename=True)), metres=("float", None))
    save(first("k", metres=1.0), tmp_path / "x.arrow")
    second = old(
        1,
        key=("str", field(filename=True)),
        metres=("float", None),
        place=("str", field(default="zoo")),
        n=("int", 3),
    )
    assert as_dict(load(second, tmp_path / "x.arrow")) == {
        "key": "k",
        "metres": 1.0,
        "place": "zoo",
        "n": 3,
    }


@pytest.fixture(autouse=True)
def _no_file_is_left_open() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
