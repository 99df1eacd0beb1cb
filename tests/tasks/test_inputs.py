"""The files that trials read are noted, kept where somebody asks, and named where they differ."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import multiprocessing
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import ResultWriter
from prefect_optuna.tasks.archive.series.blobs import write_blobs
from prefect_optuna.tasks.inputs import (
    InputFile,
    archived_inputs,
    as_bytes,
    files_read,
    flush_inputs,
    inputs_now,
    note_inputs,
    read_inputs,
)
from prefect_optuna.tasks.reevaluation.rerun import RerunRequest, rerun
from prefect_optuna.tasks.reevaluation.why import likely_cause
from prefect_optuna.tasks.trial import Assignment, TrialRunner

VERSION = "0123456789abcdef"


def writer_in(tmp_path: Path, keep: int = 0) -> ResultWriter:
    artifacts = ArtifactFileSystem(url=str(tmp_path / "artifacts"))
    return ResultWriter(artifacts, "0b8f", version=VERSION, keep_inputs=keep)


def noted(writer: ResultWriter) -> list[InputFile]:
    flush_inputs()
    return read_inputs(writer.artifacts, writer.uuid, VERSION)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def total(trial: Any) -> float:
    """Reads its data, and what it has written itself."""
    scratch = Path("scratch.txt")
    scratch.write_text("1", encoding="utf-8")
    lines = Path("data/pelts.csv").read_text(encoding="utf-8").split()
    x = 0.0 if trial is None else trial.suggest_float("x", 0, 1)
    return x + float(scratch.read_text(encoding="utf-8")) * sum(map(float, lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "project"
    (place / "data").mkdir(parents=True)
    (place / "data" / "pelts.csv").write_text("1\n2\n")
    monkeypatch.chdir(place)
    return place.resolve()


def test_what_a_trial_reads_is_noted_once_and_what_it_writes_is_not(
    folder: Path, tmp_path: Path
) -> None:
    writer = writer_in(tmp_path)
    runner = TrialRunner(Problem(objective=total), writer)
    for number in range(3):
        assert runner(Assignment(number)).values == (3.0,)
    path = folder / "data" / "pelts.csv"
    assert noted(writer) == [InputFile(str(path), "data/pelts.csv", 4, digest("1\n2\n"))]
    assert len(writer.artifacts.glob("studies/0b8f/inputs/*")) == 1
    path.write_text("1\n2\n3\n")
    runner(Assignment(3))
    assert [one.bytes for one in noted(writer)] == [4, 6] or len(noted(writer)) == 2


def test_files_are_kept_up_to_the_size_that_was_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_PASSWORD", "correct horse")
    texts = {"a.txt": "x" * 600, "b.txt": "y" * 600, "c.txt": "z" * 300, "d.txt": "correct horse"}
    writer = writer_in(tmp_path, keep=1000)
    for name, text in texts.items():
        (folder / name).write_text(text)
        note_inputs(writer, {str(folder / name): name})
    (folder / ".env").write_text("LAB_PASSWORD=correct horse")
    note_inputs(writer, {str(folder / ".env"): ".env"})
    found = {one.relative: one.kept for one in noted(writer)}
    assert found == {"a.txt": True, "b.txt": False, "c.txt": True, "d.txt": False}
    some = [one for one in noted(writer) if one.kept]
    assert archived_inputs(writer.artifacts, some) == {
        n: texts[n].encode() for n in ("a.txt", "c.txt")
    }
    with pytest.raises(
        ArchiveError, match=r"does not have b\.txt \(600 B\), d\.txt .*keep_inputs="
    ):
        archived_inputs(writer.artifacts, noted(writer))


def note_and_vanish(writer: ResultWriter, path: str) -> None:
    note_inputs(writer, {path: path})
    os._exit(0)


@pytest.mark.slow
def test_a_process_of_a_pool_that_ends_at_once_has_noted_its_files(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "data" / "pelts.csv"
    path.write_bytes(b"1" * 10_000_000)
    writer = writer_in(tmp_path)
    spawning = multiprocessing.get_context("spawn")
    process = spawning.Process(target=note_and_vanish, args=(writer, str(path)))
    process.start()
    process.join()
    assert [one.bytes for one in noted(writer)] == [10_000_000]


def test_no_file_leaves_the_folder_that_it_is_put_into(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    write_blobs(writer.artifacts, "studies/0b8f", [b"x"])
    x = digest("x")
    files = [InputFile(name, name, 1, x, True) for name in ("data/a.txt", "data/b.txt")]
    assert archived_inputs(writer.artifacts, files) == {"data/a.txt": b"x", "data/b.txt": b"x"}
    for name in (
        "../outside.txt", "/etc/outside.txt", ".", "a/./b", "a//b", "data", "data/a.txt/c",
        "a\0b", "a\nb", "\ud800", "x" * 300,
    ):  # fmt: skip
        with pytest.raises(ArchiveError, match="outside of its folder"):
            archived_inputs(writer.artifacts, [*files, InputFile(name, name, 1, x, True)])


@pytest.mark.parametrize(
    "note",
    [
        "[" * 5000,
        "[]",
        '{"path": "a"}',
        '{"path": {}, "relative": "a", "bytes": 1, "sha256": "0", "kept": true}',
        '{"path": "a", "relative": "a", "bytes": "many", "sha256": "0", "kept": true}',
    ],
)
def test_a_note_of_something_else_is_damage(note: str, tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    writer.artifacts.create(f"studies/0b8f/inputs/{VERSION}-{'0' * 16}.json", note.encode())
    with pytest.raises(ArchiveError, match="is no note on a file"):
        read_inputs(writer.artifacts, "0b8f")


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    [now] = inputs_now([asdict(InputFile("/x", "pipe", 0, digest("")))], str(folder))
    assert (now.now, now.same) == (None, False)


def test_no_credentials_are_noted_or_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("API_TOKEN", "hunter2-4f1d")
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\n"
    files = {
        "home/.aws/credentials": "aws_secret_access_key = x",
        "home/.netrc": "password x",
        "home/.cache/torch/mnist.pt": "1",
        "home/.work/study/traps.csv": "1",
        "home/pelts.csv": "1",
        "project/.env": "x",
        "project/hunter2-4f1d.csv": "1",
        "project/token.txt": "hunter2-4f1d",
        "project/id": key,
        "project/lab.ini": "[db]\nuser = me\npassword = hunter3x\n",
        "project/kube.yaml": "users:\n- user:\n    token: eyJhbGciOiJSUzI1NiIsImtpZCI6\n",
        "project/client_secret_12.json": "{}",
        "project/hosts": "machine lab.example login me password hunter3",
        "project/sources.csv": "url\nhttps://oauth2:hunter3x@lab.example/a.csv\n",
        "project/tokenizer.json": '{"eos_token": "<|end|>", "max_tokens": 512000}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    writer = writer_in(tmp_path, keep=1000)
    note_inputs(writer, {str(tmp_path / name): str(tmp_path / name) for name in files})
    found = {str(Path(one.path).relative_to(tmp_path)): one.kept for one in noted(writer)}
    assert found == {
        "home/.cache/torch/mnist.pt": True,
        "home/pelts.csv": True,
        "project/token.txt": False,
        "project/id": False,
        "project/lab.ini": False,
        "project/kube.yaml": False,
        "project/client_secret_12.json": False,
        "project/hosts": False,
        "project/sources.csv": False,
        "project/tokenizer.json": True,
    }
    # A study that lies below a hidden folder has its data there.
    monkeypatch.chdir(tmp_path / "home/.work/study")
    below = str(tmp_path / "home/.work/study/traps.csv")
    note_inputs(writer, {below: "traps.csv"})
    assert below in {one.path for one in noted(writer)}


def test_a_file_is_looked_for_where_the_code_would_find_it(folder: Path) -> None:
    path = folder / "data" / "pelts.csv"
    then = InputFile("/elsewhere/data/pelts.csv", "data/pelts.csv", 4, digest("1\n2\n"))
    [now] = inputs_now([asdict(then)], str(folder))
    assert now.same
    assert now.path == str(path)
    path.write_text("1\n3\n")
    [now] = inputs_now([asdict(then)], str(folder))
    assert str(now) == "data/pelts.csv is another one: 4 B then, the same size now"
    path.write_text("1" * 1_300_000)
    [now] = inputs_now([asdict(replace(then, bytes=1_200_000))], str(folder))
    assert str(now) == "data/pelts.csv is another one: 1.2 MB then, 1.3 MB now"
    path.unlink()
    [now] = inputs_now([asdict(then)], str(folder))
    there = "data/pelts.csv is not there: 4 B then, read from /elsewhere/data/pelts.csv"
    assert str(now) == there


def test_a_file_that_the_code_names_with_its_full_path_stays_where_it_is(
    folder: Path, tmp_path: Path
) -> None:
    """A folder of its own would not change what the code reads."""
    path = folder / "data" / "pelts.csv"
    writer = writer_in(tmp_path, keep=1000)
    note_inputs(writer, {str(path): str(path)})
    [one] = noted(writer)
    assert (one.name, one.relative, one.kept) == (str(path), "", True)
    assert archived_inputs(writer.artifacts, [one]) == {}
    [now] = inputs_now([asdict(one)], str(tmp_path))
    assert (now.path, now.same) == (str(path), True)


@pytest.mark.parametrize(("given", "size"), [("200 MB", 200_000_000), (5, 5), (None, 0), ("0", 0)])
def test_sizes_are_written_as_people_write_them(given: Any, size: int) -> None:
    assert as_bytes(given) == size


def test_no_size_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="'200 MB'; found 'much'"):
        as_bytes("much")


@pytest.mark.slow
def test_a_trial_runs_again_on_the_files_that_it_had(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the archive of a study, which is exported with them; and a drift names the file."""
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="pelts", storage=storage)
    archive = OptunaArchive(study, artifacts=tmp_path / "artifacts")
    archive.save_problem(Problem(objective=total))
    runner = TrialRunner(Problem(objective=total), replace(archive.writer(), keep_inputs=1000))
    trial = study.ask()
    outcome = runner(Assignment(0, {}, trial))
    assert outcome.values is not None
    study.tell(trial, outcome.values[0])
    flush_inputs()
    archived = ArchivedStudy.load("pelts", storage=storage, artifacts=tmp_path / "artifacts")
    archived.export(tmp_path / "pelts.study.zip")
    elsewhere: Any = {"storage": f"sqlite:///{tmp_path}/copy.db", "artifacts": tmp_path / "copy"}
    archived = ArchivedStudy.import_(tmp_path / "pelts.study.zip", **elsewhere)
    assert [one.name for one in archived.inputs()] == ["data/pelts.csv"]
    monkeypatch.chdir(tmp_path)
    trials = archived.study.trials

    [request] = RerunRequest.of(archived, trials, inputs="archived")
    answer = rerun(request)
    assert answer.reruns[0].values == (outcome.values,)
    assert [one.same for one in answer.inputs] == [True]
    assert not (tmp_path / "scratch.txt").exists()

    [request] = RerunRequest.of(archived, trials)
    answer = rerun(request)
    assert answer.reruns[0].error.startswith("failed: FileNotFoundError")
    cause = likely_cause(trials[0], answer.reruns[0], request, answer)
    # What other tests have loaded may have had other threads.
    assert cause.startswith("data: data/pelts.csv is not there: 4 B then")


def test_a_module_is_data_where_it_is_read_and_not_where_it_is_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("settings_read.py").write_text("GAIN = 2\n", encoding="utf-8")
    Path("settings_imported.py").write_text("GAIN = 2\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    with files_read() as read:
        Path("settings_read.py").read_text(encoding="utf-8")
        module = importlib.import_module("settings_imported")
        inspect.getsource(module)
    assert [Path(path).name for path in read] == ["settings_read.py"]
