"""Writers, readers and `gc` at the same time, and a filesystem that fails in the middle."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prefect_optuna.blocks import ArtifactFileSystem, StorageUnavailableError, VersionNotFoundError
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository
from prefect_optuna.errors import CorruptArtifactError


def test_LZ35_threads_that_log_to_one_name_all_win(tmp_path: Path) -> None:
    shared = ArtifactRepository(tmp_path)

    def log(thread: int) -> list[int]:
        own = shared if thread % 2 else ArtifactRepository(tmp_path)
        return [own.log("a", [thread, n]).version for n in range(10)]

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for own in pool.map(log, range(8)) for number in own]
    assert sorted(numbers) == list(range(80))
    versions = ArtifactRepository(tmp_path).versions("a")
    assert [one.version for one in versions] == list(range(80))
    times = [one.created_at for one in versions]
    assert sorted(set(times)) == times
    logged = [tuple(shared.load("a", version=number)) for number in range(80)]
    assert sorted(logged) == [(thread, n) for thread in range(8) for n in range(10)]
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if ".tmp" in name]


@pytest.mark.slow
def test_LZ23_LZ35_processes_that_log_to_one_name_all_win_beside_gc(tmp_path: Path) -> None:
    script = """
import os, sys
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository
repository = ArtifactRepository(sys.argv[1])
children = []
for process in range(4):
    if not (child := os.fork()):
        for n in range(15):
            repository.log("a", [process, n])
            # Content that comes and goes.
            repository.expire("b", repository.log("b", n % 3).version)
            repository.log("c", n % 3)
        os._exit(0)
    children.append(child)
failed = 0
while children:
    repository.gc(dry_run=False)
    ended, status = os.waitpid(-1, os.WNOHANG)
    if ended:
        children.remove(ended)
        failed |= status
sys.exit(bool(failed))
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    repository = ArtifactRepository(tmp_path)
    for name in "abc":
        assert [one.version for one in repository.versions(name)] == list(range(60))
    logged = [tuple(repository.load("a", version=number)) for number in range(60)]
    for process in range(4):
        # Each process's own versions are in its order.
        assert [n for one, n in logged if one == process] == list(range(15))
    assert sorted(repository.load("c", version=number) for number in range(60)) == (
        [0] * 20 + [1] * 20 + [2] * 20
    )
    assert not repository.verify().problems


Step = Callable[[], None]


class Turns:
    """Lets actors take turns at a store, in an order that a seed decides."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._waiting: list[int] = []
        self._running = 0
        self._turn: int | None = None

    def run(self, actors: list[Callable[[Callable[[], None]], Any]]) -> list[Any]:
        """Run all to their end; each gets a function to call before each of its steps."""
        self._running, last, stay = len(actors), -1, self._random.random()

        def act(number: int) -> Any:
            try:
                return actors[number](lambda: self._wait(number))
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

        with ThreadPoolExecutor(len(actors)) as pool:
            futures = [pool.submit(act, number) for number in range(len(actors))]
            with self._changed:
                while True:
                    self._changed.wait_for(lambda: not self._running)
                    if not self._waiting:
                        break
                    # Often the same again, so that one gets far while another stands still.
                    if last not in self._waiting or self._random.random() > stay:
                        last = self._random.choice(sorted(self._waiting))
                    self._turn = last
                    self._waiting.remove(self._turn)
                    self._running += 1
                    self._changed.notify_all()
            return [future.result() for future in futures]

    def _wait(self, number: int) -> None:
        with self._changed:
            self._waiting.append(number)
            self._running -= 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == number)
            self._turn = None


class InterruptedStore:
    """A store that calls something before everything that it is asked."""

    def __init__(self, store: Any, before: Callable[[], None]) -> None:
        self._store = store
        self._before = before

    def __getattr__(self, name: str) -> Any:
        if name != "location":  # which asks nobody
            self._before()
        return getattr(self._store, name)


def interrupted(url: Path, before: Callable[[], None]) -> ArtifactRepository:
    """A repository whose filesystem calls something before everything that it is asked."""
    filesystem = ArtifactFileSystem(url=str(url))
    filesystem.exists("a")  # opens it
    process, store = filesystem._opened
    filesystem._opened = (process, InterruptedStore(store, before))
    return ArtifactRepository(filesystem)


@pytest.mark.parametrize("first_seed", [0, pytest.param(50, marks=pytest.mark.slow)])
def test_gc_beside_a_writer_loses_nothing_in_whatever_order_they_take_their_steps(
    tmp_path: Path, first_seed: int
) -> None:
    for seed in range(first_seed, first_seed + 50):
        root = tmp_path / str(seed)
        # Content that is about to be removed when it is logged again.
        ArtifactRepository(root).log("old", "x")
        ArtifactRepository(root).expire("old")
        logged: list[str] = []

        def log(step: Step, root: Path = root, logged: list[str] = logged) -> None:
            interrupted(root, step).log("new", "x")
            logged.append("x")

        def gc(step: Step, root: Path = root) -> None:
            interrupted(root, step).gc(dry_run=False)

        def read(step: Step, root: Path = root, logged: list[str] = logged) -> None:
            reader = interrupted(root, step)
            for _ in range(4):
                before = logged.copy()
                try:
                    assert reader.load("new") == "x"
                except (VersionNotFoundError, CorruptArtifactError):
                    assert not before  # it has not been logged yet

        Turns(seed).run([log, gc, gc, read])
        for _ in range(2):
            # Opened anew, and as the next run of gc leaves it.
            other = ArtifactRepository(root)
            assert other.load("new") == "x", seed
            assert not other.verify().problems, seed
            other.gc(dry_run=False)
        assert not other.filesystem.glob("trash/**"), seed


@pytest.mark.slow
def test_an_expiry_that_is_put_off_beside_gc_is_kept_or_refused(
    tmp_path: Path,
) -> None:
    for seed in range(50):
        root = tmp_path / str(seed)
        ArtifactRepository(root).log("old", "x")
        ArtifactRepository(root).expire("old")

        def gc(step: Step, root: Path = root) -> int:
            return len(interrupted(root, step).gc(dry_run=False).versions)

        def put_off(step: Step, root: Path = root) -> bool:
            try:
                interrupted(root, step).expire("old", 0, expiry="2100-01-01")
            except VersionNotFoundError:
                return False
            return True

        *removed, kept = Turns(seed).run([gc, gc, put_off])
        assert sum(removed) == (0 if kept else 1), seed
        other = ArtifactRepository(root)
        assert not other.verify().problems, seed
        if kept:
            assert other.load("old") == "x", seed
        else:
            with pytest.raises(VersionNotFoundError, match="was removed"):
                other.load("old", 0)


def prepare(root: Path) -> None:
    repository = ArtifactRepository(root)
    for number in range(16):
        repository.log("a", number)
    repository.log("old", "gone")
    repository.expire("old")


ACTS: dict[str, Callable[[ArtifactRepository], Any]] = {
    "log": lambda repository: repository.log("a", 16),
    "log what is there": lambda repository: repository.log("a", 15),
    "log a new name": lambda repository: repository.log("b", 16),
    "expire": lambda repository: repository.expire("a", 3),
    "gc": lambda repository: repository.gc(dry_run=False),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    "comes_back",
    [
        pytest.param(False, id="gone", marks=pytest.mark.slow),
        pytest.param(True, id="gone for a moment"),
    ],
)
def test_a_filesystem_that_fails_in_the_middle_leaves_all_or_nothing(
    tmp_path: Path, act: str, comes_back: bool
) -> None:
    prepare(tmp_path / "prepared")
    for failing in range(1000):
        root, steps = tmp_path / str(failing), 0
        shutil.copytree(tmp_path / "prepared", root)

        def fail(failing: int = failing) -> None:
            nonlocal steps
            steps += 1
            if steps == failing + 1 or (steps > failing and not comes_back):
                raise ConnectionResetError("the network is gone")

        before = contents(ArtifactRepository(root))
        try:
            ACTS[act](interrupted(root, fail))
            done = True
        except StorageUnavailableError:
            done = False
        after = ArtifactRepository(root)
        assert not after.verify().problems
        logged = done and act.startswith("log")
        assert contents(after) == before + logged * [16 if act != "log what is there" else 15]
        after.gc(dry_run=False)
        assert not after.verify().problems
        assert len(after.filesystem.glob("objects/*/*")) == len(
            {
                one.path
                for name in after.names()
                for one in after.versions(name)
                if one.removed_at is None
            }
        )
        if steps <= failing:
            break  # there was no such step any more
    assert failing > 3
    assert done


def contents(repository: ArtifactRepository) -> list[Any]:
    return [
        repository.load(name, one.version)
        for name in repository.names()
        if name != "old"
        for one in repository.versions(name)
    ]
