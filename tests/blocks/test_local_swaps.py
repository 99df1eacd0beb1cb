"""A local writer swaps a folder for a link while the artifact filesystem is at work in it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.stores.local import shared_part
from prefect_optuna.errors import PrefectOptunaError

SECONDS = 0.7


@contextmanager
def swapping(folder: Path, target: Path) -> Generator[None]:
    """Let the name of a folder be the folder and a link in turn, as fast as it goes."""
    link, aside, over = folder.with_name("link"), folder.with_name("aside"), threading.Event()

    def swap() -> None:
        while not over.is_set():
            link.symlink_to(target)
            folder.rename(aside)
            with suppress(OSError):  # while the name is nobody's, a writer may take it
                link.rename(folder)
            link.unlink(missing_ok=True)
            while aside.exists():
                if folder.is_symlink():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    aside.rename(folder)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until(found: Callable[[], bool]) -> bool:
    """Whether something is found in the time that there is."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with suppress(PrefectOptunaError, OSError):
            if found():
                return True
    return False


@pytest.mark.parametrize("act", ["read", "open", "info", "list", "walk", "copy"])
def test_a_folder_that_becomes_a_link_shows_nothing_from_outside(tmp_path: Path, act: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "b").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    for folder, content in ((outside, "secret"), (root / "a", "ours")):
        (folder / "b" / "file").write_text(content)
    (outside / "b" / "secret").touch()
    artifacts = ArtifactFileSystem(url=str(root))

    def opened() -> bytes:
        with artifacts.open("a/b/file") as file:
            return file.read()

    def copied() -> bytes:
        artifacts.copy("a/b/file", "copy")
        return artifacts.read_path("copy")

    seen = {
        "read": lambda: artifacts.read_path("a/b/file") == b"secret",
        "open": lambda: opened() == b"secret",
        "info": lambda: artifacts.info("a/b/file").size == len("secret"),
        "list": lambda: "a/b/secret" in artifacts.ls("a/b"),
        "walk": lambda: "a/b/secret" in artifacts.glob("a/**"),
        "copy": lambda: copied() == b"secret",
    }[act]
    with swapping(root / "a", outside):
        assert not until(seen)


@pytest.mark.parametrize("act", ["write", "create", "put", "rm", "rmtree"])
def test_a_folder_that_becomes_a_link_lets_nothing_out(tmp_path: Path, act: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "b" / "c").mkdir(parents=True)
    (outside / "b" / "theirs").write_text("theirs")
    (outside / "b" / "c" / "theirs").write_text("theirs")
    (root / "a" / "b" / "c").mkdir(parents=True)
    artifacts = ArtifactFileSystem(url=str(root))
    before = sorted(path.name for path in outside.rglob("*"))

    def put() -> None:
        with artifacts.open("a/b/new", "wb") as file:
            file.write(b"ours")

    call: Callable[[], object] = {
        "write": lambda: artifacts.write_path("a/b/new", b"ours"),
        "create": lambda: artifacts.create(f"a/b/{os.urandom(4).hex()}", b"ours"),
        "put": put,
        "rm": lambda: artifacts.rm("a/b/theirs"),
        "rmtree": lambda: artifacts.rm("a/b/c", recursive=True),
    }[act]

    def left() -> bool:
        with suppress(PrefectOptunaError, OSError):
            call()
        return sorted(path.name for path in outside.rglob("*")) != before

    with swapping(root / "a", outside):
        assert not until(left)


def test_links_within_the_root_may_lead_through_one_another(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real" / "deep").mkdir(parents=True)
    (root / "one").symlink_to("real")
    (root / "real" / "two").symlink_to("deep")
    (root / "loop").symlink_to("loop")
    artifacts = ArtifactFileSystem(url=str(root))
    artifacts.write_path("one/two/file", b"ours")
    assert artifacts.read_path("real/deep/file") == b"ours"
    assert not artifacts.exists("loop/file")
    artifacts.rm("one/two/file")
    assert artifacts.ls("real/deep") == []


def test_a_folder_is_a_users_own_where_nobody_else_could_replace_it(tmp_path: Path) -> None:
    home, inner = tmp_path / "home", tmp_path / "home" / "inner"
    inner.mkdir(parents=True)
    for folder in (home, inner):
        folder.chmod(0o700)
    assert shared_part(inner) is None
    assert shared_part(home / "inner" / ".." / "inner") is None
    home.chmod(0o1777)  # as /tmp
    assert shared_part(inner) is None
    assert shared_part(home) == home
    home.chmod(0o777)
    assert shared_part(inner) == home
    (tmp_path / "link").symlink_to(inner)
    assert shared_part(tmp_path / "link") == home
    home.chmod(0o700)
    assert shared_part(tmp_path / "link") is None
    # A link that somebody else could have put there, though what it names is this user's alone.
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(inner)
    (tmp_path / "open").chmod(0o777)
    assert shared_part(tmp_path / "open" / "link") == tmp_path / "open"
    (tmp_path / "round").symlink_to("round")
    assert shared_part(tmp_path / "round") == tmp_path / "round"


def test_a_folder_of_a_group_is_its_users_own_if_that_is_the_only_one_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grp
    import pwd

    home, inner = tmp_path / "home", tmp_path / "home" / "inner"
    inner.mkdir(mode=0o700, parents=True)
    home.chmod(0o775)
    found = os.stat_result([*home.stat()[:5], 4321, *home.stat()[6:10]])
    name = pwd.getpwuid(os.getuid()).pw_name
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: found if path == home else lstat(path))
    for group, members, shared in [
        (name, [], None),
        (name, [name], None),
        (name, [name, "eve"], home),
        ("lab", [], home),
    ]:
        entry = grp.struct_group((group, "x", 4321, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, entry=entry: entry)
        assert shared_part(inner) == shared


def test_a_folder_of_somebody_else_is_nobodys_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, inner = tmp_path / "home", tmp_path / "home" / "inner"
    inner.mkdir(mode=0o700, parents=True)
    home.chmod(0o755)
    found = os.stat_result([*home.stat()[:4], 4321, *home.stat()[5:10]])
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: found if path == home else lstat(path))
    assert shared_part(inner) == home
