"""What one trial has to itself: how it is written, what a machine has, and who has taken it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np  # whose BLAS is what threadpoolctl sees
import pytest
from filelock import FileLock
from threadpoolctl import threadpool_info

from prefect_optuna.blocks import InvalidSettingError
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code.restore import restore_problem
from prefect_optuna.tasks.machine import (
    DEVICES,
    THREAD_VARIABLES,
    Machine,
    Resources,
    Share,
    jobs_here,
    require_room,
    share_of_trial,
)


@pytest.fixture(autouse=True)
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, on which nobody has taken anything."""
    monkeypatch.setenv(DEVICES, "3,5")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_CLAIMS", str(tmp_path / "claims"))


def test_they_are_written_as_a_mapping_or_as_text_and_mean_the_same() -> None:
    given = Resources.of({"cpus": 2, "memory": "4 GiB", "gpus": 1})
    written = Resources.of("cpus=2,memory=4GiB,gpus=1")
    assert given is not None
    assert written is not None
    assert (written.cpus, written.memory_bytes, written.gpus) == (2, 4 << 30, 1)
    assert str(given) == str(written) == "2 CPUs, 4.0 GiB of memory and 1 GPU"
    assert Resources.of(given.as_json()) == given
    assert Resources.of(None) is None


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"cpu": 2}, "there is no 'cpu'"),
        ({"cpus": "many"}, "cpus: "),
        ({"cpus": 0}, "greater than 0"),
        ({"cpus": float("nan")}, "cpus: "),
        ({"memory": "4 bananas"}, "memory: "),
        ({"memory": 0}, "more than nothing"),
        ({"gpus": 1.5}, "whole GPUs"),
        ({"gpus": -1}, "gpus: "),
        ("cpus", "NAME=VALUE"),
        ("", "NAME=VALUE"),
        ([2], ""),
    ],
)
def test_what_cannot_be_read_is_said_with_an_example(given: object, found: str) -> None:
    with pytest.raises(InvalidSettingError, match="`resources` are what one trial has") as caught:
        Resources.of(given)  # pyright: ignore[reportArgumentType]
    assert found in str(caught.value)


def test_a_problem_keeps_its_resources_in_the_archive_and_is_the_same_code_without() -> None:
    def parabola(trial: object) -> float:
        return 1.0

    plain = Capture.of(Problem(objective=parabola))
    assert "resources" not in plain.document
    captured = Capture.of(Problem(objective=parabola, resources="cpus=2"))
    restored = restore_problem(captured)
    assert restored.resources == Resources(cpus=2)
    assert restore_problem(plain).resources is None


def test_more_than_a_machine_has_is_an_error_that_says_what_it_has() -> None:
    machine = Machine(4, 8 << 30, {"0": 1.0})
    with pytest.raises(
        InvalidSettingError,
        match=r"wants 8 CPUs, and this machine has 4 CPUs, 8\.0 GiB of memory and 1 GPU",
    ):
        require_room(Resources(cpus=8), machine=machine)
    with pytest.raises(InvalidSettingError, match=r"room for 1. Give `n_jobs=1`"):
        require_room(Resources(memory="5 GiB"), 2, machine)
    with pytest.raises(InvalidSettingError, match=r"and no GPU.*CUDA_VISIBLE_DEVICES names"):
        require_room(Resources(gpus=1), machine=Machine(4, 8 << 30, {}))
    require_room(Resources(cpus=2, memory="4 GiB", gpus=0.5), 2, machine)


def test_minus_one_job_is_as_many_as_there_is_room_for() -> None:
    assert jobs_here(-1, Resources(gpus=1)) == 2
    assert jobs_here(-1, Resources(gpus=0.5)) == 4
    assert jobs_here(-1, Resources(cpus=10_000)) == 1  # of which the machine has none: said later
    assert jobs_here(-1, None) == os.cpu_count()
    assert jobs_here(3, Resources(gpus=1)) == 3


def test_two_shares_have_different_gpus_and_a_third_waits_until_one_is_given_back() -> None:
    first, second, third = (Share(Resources(gpus=1), what=f"study {n}") for n in range(3))
    assert first.take()
    assert second.take()
    assert {*first.devices, *second.devices} == {"3", "5"}
    said: list[str] = []
    assert not third.take(said.append, goes_on=lambda: False)
    assert "Waiting for 1 GPU" in said[0]
    assert f"process {os.getpid()} (study 0) 1 GPU" in said[0]
    second.release()
    assert third.take()
    assert third.devices == second.devices
    for share in (first, third):
        share.release()


def test_parts_of_a_gpu_are_shared_on_purpose_and_whole_ones_stay_whole() -> None:
    halves = [Share(Resources(gpus=0.5)) for _ in range(2)]
    assert all(share.take() for share in halves)
    assert halves[0].devices == halves[1].devices
    whole = Share(Resources(gpus=1))
    assert whole.take()
    assert whole.devices != halves[0].devices
    assert not Share(Resources(gpus=0.5)).take(goes_on=lambda: False)
    for share in (*halves, whole):
        share.release()


def test_a_process_that_is_killed_gives_back_what_it_had() -> None:
    program = (
        "import sys\n"
        "from prefect_optuna.tasks.machine import Share\n"
        "from prefect_optuna.tasks.machine import Resources\n"
        "share = Share(Resources(gpus=2))\n"
        "share.take()\n"
        "print('taken', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        share = Share(Resources(gpus=1))
        assert not share.take(goes_on=lambda: False)
        other.kill()
        other.wait()
    assert share.take(goes_on=lambda: False)
    share.release()


def test_trials_take_as_many_threads_as_they_have_processors_and_see_their_gpus_only() -> None:
    before = {name: os.environ.get(name) for name in (*THREAD_VARIABLES, DEVICES)}
    assert np.linalg.norm([3.0, 4.0]) == 5.0
    needs = Resources(cpus=1, gpus=1)
    with Share(needs).taken() as share, share.own(), share_of_trial(needs):
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert os.environ[DEVICES] in ("3", "5")
        assert {one["num_threads"] for one in threadpool_info()} == {1}
    assert {name: os.environ.get(name) for name in before} == before
    with share_of_trial(Resources(cpus=1)):
        assert os.environ[DEVICES] == ""
    with share_of_trial(Resources(gpus=2)):
        assert sorted(os.environ[DEVICES].split(",")) == ["3", "5"]  # the last one first
    with share_of_trial(None):
        assert os.environ[DEVICES] == "3,5"


def test_threads_of_one_process_would_share_a_gpu_and_that_is_said() -> None:
    with pytest.raises(InvalidSettingError, match="task_runner='processes'"):
        Share(Resources(gpus=1), jobs=2)
    assert Share(Resources(gpus=0.5), jobs=2).needs.gpus == 0.5


def test_what_is_visible_is_counted_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(Machine.here().gpus) == ["3", "5"]
    monkeypatch.setenv(DEVICES, "0,-1,1")
    assert list(Machine.here().gpus) == ["0"]
    monkeypatch.setenv(DEVICES, "")
    assert list(Machine.here().gpus) == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 100_000, '{"gpus": []}', '{"gpus": {"3": "1"}}', '{"gpus": {"3": NaN}}'],
    ids=["empty", "list", "nothing", "deep", "gpus", "text", "nan"],
)
def test_what_is_no_claim_is_none_and_no_error(tmp_path: Path, content: str) -> None:
    with Share(Resources(gpus=1)).taken():  # makes the folder
        held = FileLock(tmp_path / "claims" / "strange.lock")
        with held:
            (tmp_path / "claims" / "strange.json").write_text(content, encoding="utf-8")
            with Share(Resources(gpus=1)).taken() as other:
                assert other.devices


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such permissions")
def test_a_folder_in_which_others_may_write_is_used_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_INTEGRATIONS_OPTUNA_CLAIMS")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Share(Resources(cpus=1)).taken():
        pass
    folder = tmp_path / f"prefect-optuna-{os.getuid()}" / "claims"
    folder.chmod(0o777)
    with pytest.raises(InvalidSettingError, match="not its user's alone"):
        Share(Resources(cpus=1)).take()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_CLAIMS", str(folder))
    with Share(Resources(cpus=1)).taken():
        pass
