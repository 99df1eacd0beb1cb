"""Results of tasks as files of their own, on a real Prefect server and a real S3 server."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from filesystems import s3_filesystem
from prefect import Task, flow, get_client, task
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultRecordMetadata, ResultStore
from prefect.states import State
from prefect.transactions import transaction
from prefect.utilities.importtools import load_script_as_module

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    StorageUnavailableError,
    as_artifact_filesystem,
)
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.persistence import (
    ArrowHandler,
    FileOfOthersError,
    InvalidPersistenceClassError,
    PersistenceSerializer,
    UnsetFieldError,
    UnsupportedValueError,
    as_dict,
    autoinc_field,
    field,
    persisted,
    persistence_class,
)

pytestmark = pytest.mark.usefixtures("prefect_server")


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
    value: Any


calls: list[Any] = []


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls.clear()


@pytest.fixture
def lab(s3_server: str) -> str:
    """The name of a saved block on S3."""
    name = f"lab-{uuid4().hex[:8]}"
    s3_filesystem(s3_server).save(name, _sync=True)
    return f"artifact-file-system/{name}"


def measure(animal: str, place: str = "field", value: Any = 1) -> Session:
    calls.append(animal)
    return Session(animal, place, value=value)


def made(storage: Any = "results", **options: Any) -> Task[..., Session]:
    own = {name: options.pop(name) for name in ("code", "dependencies", "lazy") if name in options}
    return task(measure, **{**persisted(Session, storage, **own), **options})


def in_flow(work: Callable[[], Any]) -> Any:
    return flow(work, name="work")()


def from_elsewhere(state: State[Any]) -> Any:
    """The result as a process finds it that knows of the state what the server knows."""
    metadata = ResultRecordMetadata.load_bytes(state.data.metadata.dump_bytes())
    storage: Any = LocalFileSystem(basepath="/")
    if metadata.storage_block_id is not None:  # without the connections that Prefect leaves open
        with get_client(sync_client=True) as client:
            document = client.read_block_document(metadata.storage_block_id)
        storage = Block._from_block_document(document)
    store = ResultStore(result_storage=storage, serializer=metadata.serializer)
    assert metadata.storage_key is not None
    return store.read(metadata.storage_key).result


def test_a_task_s_object_is_a_file_of_its_own_name_and_a_hit_in_every_process(
    lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task(**persisted(Spectrum, storage=lab))
    def analyse(animal: str, date: str) -> Spectrum:
        calls.append(animal)
        return Spectrum(animal, date, power=np.arange(1000.0), channels=[1, 2])

    @flow
    def study() -> list[Spectrum]:
        return [
            analyse("lynx", "2026-01-02"),
            analyse("lynx", "2026-01-02"),
            analyse.submit("lynx", "2026-01-02").result(),
            analyse("hare", "2026-01-02"),
        ]

    spectra = study()
    assert calls == ["lynx", "hare"]
    assert [(s.animal, s.run, s.power.sum()) for s in spectra] == [
        *[("lynx", 0, 499500.0)] * 3,
        ("hare", 0, 499500.0),
    ]
    artifacts = as_artifact_filesystem(lab)
    assert artifacts.ls() == [
        "cache-Spectrum-hare-2026-01-02-0.arrow",
        "cache-Spectrum-lynx-2026-01-02-0.arrow",
    ]
    # It opens without this project.
    table = pa.ipc.open_file(artifacts.read_path("cache-Spectrum-lynx-2026-01-02-0.arrow"))
    (row,) = table.read_all().select(["animal", "date", "run", "power"]).to_pylist()
    assert (row["animal"], row["run"], len(row["power"])) == ("lynx", 0, 1000)


@pytest.mark.slow
def test_another_process_takes_what_this_one_has_saved(lab: str) -> None:
    program = Path(__file__).with_name("lab_tasks.py")
    name = lab.partition("/")[2]
    # As a worker loads a flow's file.
    assert load_script_as_module(str(program)).again(name) == 1
    output = subprocess.run(
        [sys.executable, program, name], capture_output=True, text=True, check=True
    )
    assert output.stdout.split()[-1] == "0"
    assert len(as_artifact_filesystem(lab).ls()) == 1


def test_the_state_of_a_run_finds_its_file(lab: str) -> None:
    state: State[Session] = made(lab)("lynx", return_state=True)
    assert state.name == "Completed"
    assert as_dict(from_elsewhere(state))["animal"] == "lynx"
    assert made(lab)("lynx", return_state=True).name == "Cached"


def test_a_folder_is_a_storage_too(tmp_path: Path) -> None:
    work = made("results")
    state: State[Session] = work("lynx", return_state=True)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["cache-Session-lynx.arrow"]
    assert work("lynx").value == 1
    assert calls == ["lynx"]
    assert from_elsewhere(state).animal == "lynx"


def test_validated_parameters_that_are_in_no_name_count(tmp_path: Path) -> None:
    work = made()
    assert [work("lynx", place).place for place in ("field", "zoo", "zoo", "field")] == [
        *("field", "zoo", "zoo", "field"),
    ]
    assert calls == ["lynx"] * 3
    assert work("lynx", "field", value=5).value == 1  # is no key


def test_a_file_that_was_saved_by_hand_is_a_hit(tmp_path: Path) -> None:
    ArrowHandler(Session, "results").save_persistence(Session("lynx", value=7))
    assert made()("lynx").value == 7
    assert calls == []


def test_the_newest_object_is_the_hit_and_a_number_asks_for_one(tmp_path: Path) -> None:
    @task(**persisted(Spectrum, "results"))
    def analyse(animal: str, date: str, run: int | None = None) -> Spectrum:
        calls.append(run)
        return Spectrum(animal, date, power=np.ones(1), channels=[])

    handler = ArrowHandler(Spectrum, "results")
    for number in range(3):
        handler.save_persistence(
            Spectrum("lynx", "d", power=np.full(1, float(number)), channels=[])
        )
    assert analyse("lynx", "d").power == 2
    assert analyse("lynx", "d", 1).power == 1
    assert calls == []
    assert analyse("lynx", "d", 7).run == 7
    assert analyse.with_options(refresh_cache=True)("lynx", "d").run == 8
    assert calls == [7, None]


def test_a_file_of_another_animal_is_refused(tmp_path: Path) -> None:
    @task(**persisted(Spectrum, "results"))
    def analyse(animal: str, date: str) -> Spectrum:
        return Spectrum(animal, date, power=np.ones(1), channels=[])

    analyse("hare", "d")
    hare = tmp_path / "results/cache-Spectrum-hare-d-0.arrow"
    hare.rename(tmp_path / "results/cache-Spectrum-lynx-d-0.arrow")
    found = analyse("lynx", "d")
    assert (found.animal, found.run) == ("lynx", 1)

    made()("hare")
    (tmp_path / "results/cache-Session-hare.arrow").rename(
        tmp_path / "results/cache-Session-lynx.arrow"
    )
    with pytest.raises(FileOfOthersError, match="cache-Session-lynx"):
        made()("lynx")
    assert calls == ["hare"]


def test_a_damaged_file_is_computed_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = made()
    work("lynx")
    path = tmp_path / "results/cache-Session-lynx.arrow"
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        assert work("lynx").value == 1
    assert "cache-Session-lynx.arrow is not used again" in caplog.text
    assert calls == ["lynx", "lynx"]
    assert work("lynx").value == 1
    assert len(calls) == 2


def test_the_source_and_the_dependencies_may_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made()("lynx")
    careful = made(code=True, dependencies=("numpy",))
    careful("lynx")
    careful("lynx")
    assert len(calls) == 2
    with monkeypatch.context() as other_numpy:
        other_numpy.setattr("importlib.metadata.version", lambda name: "0.0")
        careful("lynx")
    assert len(calls) == 3
    careful("lynx")
    careful.source_code = "changed"
    careful("lynx")
    assert len(calls) == 5
    made()("lynx")
    assert len(calls) == 5


def test_an_old_file_expires(tmp_path: Path) -> None:
    work = made(cache_expiration=timedelta(hours=1))
    work("lynx")
    work("lynx")
    assert len(calls) == 1
    made(cache_expiration=timedelta(0))("lynx")
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), UnsupportedValueError), (None, InvalidPersistenceClassError)],
)
def test_what_cannot_be_saved_fails_the_run_and_is_tried_again(
    tmp_path: Path, value: Any, error: type[Exception]
) -> None:
    @task(**persisted(Session, "results"), retries=1)
    def work(animal: str) -> Session:
        calls.append(animal)
        return Session(animal, value=value) if value else None

    state = work("lynx", return_state=True)
    assert state.is_failed()
    assert len(calls) == 2
    with pytest.raises(error):
        in_flow(lambda: work("lynx"))
    assert not list(tmp_path.glob("results/*"))


def test_a_storage_that_fails_fails_the_run_before_it_computes(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises((StorageUnavailableError, OSError, ValueError)):
        made()("lynx")

    folder = tmp_path / "full"
    work = made(folder)

    def fills_the_way(animal: str) -> Session:
        folder.write_text("a file")
        return measure(animal)

    with pytest.raises((StorageUnavailableError, OSError, ValueError)):
        task(fills_the_way, **persisted(Session, folder))("lynx")
    assert work is not None


def test_an_object_of_other_keys_fails_the_run(tmp_path: Path) -> None:
    @task(**persisted(Session, "results"))
    def work(animal: str) -> Session:
        return Session("wolf", value=0)

    with pytest.raises(FileOfOthersError, match="animal is wolf, and lynx was asked for"):
        work("lynx")
    assert not list(tmp_path.glob("results/*"))


def test_a_task_without_a_key_fails_before_it_computes(tmp_path: Path) -> None:
    @task(**persisted(Session, "results"))
    def work(subject: str) -> Session:
        calls.append(subject)
        return Session(subject, value=0)

    with pytest.raises(UnsetFieldError, match="the task has no parameter 'animal'"):
        work("lynx")
    with pytest.raises(ValueError, match="leads out"):
        made()("../x")
    assert calls == []


def test_a_remote_storage_has_to_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"block\.save"):
        persisted(Session, "s3://bucket/prefix")
    with pytest.raises(InvalidSettingError):
        persisted(Session, ArtifactFileSystem(url="memory://x"))
    with pytest.raises(InvalidPersistenceClassError):
        persisted(int, "results")


def test_a_transaction_that_is_rolled_back_leaves_no_file(tmp_path: Path) -> None:
    work = made()

    def fails() -> None:
        with transaction():
            work("lynx")
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        in_flow(fails)
    assert not list(tmp_path.glob("results/*"))

    def succeeds() -> None:
        with transaction():
            work("lynx")

    in_flow(succeeds)
    assert [path.name for path in tmp_path.glob("results/*")] == ["cache-Session-lynx.arrow"]


async def _async_twice(work: Any) -> list[Session]:
    return [await work("lynx"), await work("lynx")]


def test_async_tasks_do_the_same(tmp_path: Path) -> None:
    import asyncio

    @task(**persisted(Session, "results", lazy=True))
    async def work(animal: str) -> Session:
        calls.append(animal)
        return Session(animal, value=np.arange(3))

    first, second = asyncio.run(_async_twice(work))
    assert first.value.tolist() == second.value.tolist() == [0, 1, 2]
    assert calls == ["lynx"]


def test_tasks_inside_keep_their_results_as_ever(tmp_path: Path) -> None:
    @task(persist_result=True, result_storage=tmp_path / "plain", result_storage_key="inner")
    def inner() -> int:
        return 5

    @task(**persisted(Session, "results"))
    def outer(animal: str) -> Session:
        return Session(animal, value=inner())

    assert outer("lynx").value == 5
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["inner"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["cache-Session-lynx.arrow"]


def test_a_flow_may_return_an_object(tmp_path: Path) -> None:
    storage = ArtifactFileSystem(url=str(tmp_path / "flows"))
    storage.save(f"flows-{uuid4().hex[:8]}", _sync=True)

    @flow(persist_result=True, result_storage=storage, result_serializer=PersistenceSerializer())
    def study() -> Session:
        return Session("lynx", value=np.arange(3))

    state = study(return_state=True)
    (path,) = storage.ls()
    assert storage.read_path(path).startswith(b"ARROW1")
    assert from_elsewhere(state).value.tolist() == [0, 1, 2]
