"""The files that trials read: noted with size and SHA-256, once for each version of the archive.

A thread of its own hashes them, so that no trial waits. With `keep_inputs` their content goes into
the archive as well, and a trial can be run again on the data that it had.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import multiprocessing
import os
import queue
import site
import sys
import sysconfig
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks._secrets import SecretVariables, holds_credentials
from prefect_optuna.errors import ArchiveError, InvalidSettingError
from prefect_optuna.tasks.archive.series.blobs import read_blob, write_blobs

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.series.results import ResultWriter


_MAX_HASHED = 10_000_000_000  # bytes
_MAX_SEEN = 100_000
_FLUSH_SECONDS = 60.0
_POOL_SECONDS = 5.0
_DATA_FOLDERS = {".cache", ".keras", ".local"}  # of a home, where libraries put what they fetch
_LONGEST = 255  # bytes of the name of a file
_MAX_FILES = 100
_CODE = (".pyc", ".so", ".pyd", ".journal")
# They read modules to import them, and for tracebacks; whoever else reads one takes it for data.
_READ_MODULES = {
    "importlib._bootstrap_external", "_frozen_importlib_external", "linecache", "tokenize",
    "_pytest.assertion.rewrite",
}  # fmt: skip
_STUDIES = f"{os.sep}.prefect-optuna{os.sep}"

_listening: list[dict[str, str]] = []
_hooked = False


@dataclass(frozen=True)
class InputFile:
    """A file that trials have read.

    Attributes:
        path: where it was.
        relative: that, from the folder that the study ran in; empty where the code has named it
            with its full path, or it lay elsewhere.
        bytes: its size.
        sha256: of its content; empty where it was too large, or changed while it was read.
        kept: whether the archive has its content.

    Example:
        >>> from prefect_optuna.tasks.inputs import InputFile
        >>> InputFile("/lab/data.csv", "data.csv", 1_200_000, "", False).name
        'data.csv'
    """

    path: str
    relative: str
    bytes: int
    sha256: str
    kept: bool = False

    @property
    def name(self) -> str:
        """The name for people: the relative path where there is one."""
        return self.relative or self.path


@dataclass(frozen=True)
class InputNow:
    """The present state of a file that trials have read.

    Attributes:
        name: of the file.
        path: where it would be now.
        then: the sizes that it had.
        now: its size; `None` where there is none.
        same: whether its content is one that it had.
        was: where it was read when it was archived; empty where that is its name.
    """

    name: str
    path: str
    then: Sequence[int]
    now: int | None
    same: bool
    was: str = ""

    def __str__(self) -> str:
        then = " or ".join(map(_size, self.then))
        if self.now is None:
            place = f", read from {self.was}" if self.was else ""
            return f"{self.name} is not there: {then} then{place}"
        now = "the same size now" if list(self.then) == [self.now] else f"{_size(self.now)} now"
        return f"{self.name} is another one: {then} then, {now}"


def as_bytes(size: str | int | None) -> int:
    """Parse a size, such as `"200 MB"`, into a number of bytes; `None` is 0."""
    try:
        return 0 if size is None else int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        raise InvalidSettingError(
            f"`keep_inputs` is a size, such as '200 MB'; found {size!r}."
        ) from None


# -- while trials run -----------------------------------------------------------------------------


class _Notes:
    """Hashes and writes down, in a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._seen: set[tuple[Any, ...]] = set()
        self._queue: queue.Queue[tuple[ResultWriter, str, str]] = queue.Queue()
        self._kept: dict[str, int] = {}
        threading.Thread(target=self._work, name="prefect-optuna-inputs", daemon=True).start()

    def put(self, writer: ResultWriter, paths: Mapping[str, str]) -> bool:
        """Note what is not noted yet; whether there was any."""
        is_new = False
        folder = os.getcwd()  # noqa: PTH109 - of where the study runs
        for path, given in paths.items():
            try:
                stat = os.stat(path)  # noqa: PTH116 - as cheap as it can be
            except OSError:
                continue
            key = (writer.uuid, writer.version, path, stat.st_size, stat.st_mtime_ns)
            if key not in self._seen and len(self._seen) < _MAX_SEEN:
                self._seen.add(key)
                is_new = True
                self._queue.put((writer, path, "" if os.path.isabs(given) else folder))  # noqa: PTH117

        return is_new

    def flush(self, seconds: float) -> None:
        with self._queue.all_tasks_done:
            self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, seconds)

    def _work(self) -> None:
        while True:
            writer, path, folder = self._queue.get()
            try:
                self._note(writer, path, folder)
            except Exception:  # noqa: BLE001, S110 - a file is gone, the archive away: a note less
                pass
            finally:
                self._queue.task_done()

    def _note(self, writer: ResultWriter, path: str, folder: str) -> None:
        place = Path(path)
        before = place.stat()
        if writer.uuid not in self._kept:
            known = read_inputs(writer.artifacts, writer.uuid)
            sizes = {file.sha256: file.bytes for file in known if file.kept}
            self._kept[writer.uuid] = sum(sizes.values())
        room = writer.keep_inputs - self._kept[writer.uuid]
        content = place.read_bytes() if 0 < before.st_size <= room else None
        secrets = SecretVariables.here()
        if secrets.name_in(path):
            return  # everybody who reads the archive would read it
        if content is not None and (
            holds_credentials(place.name, content) or secrets.name_in(content)
        ):
            content = None
        digest = ""
        if content is not None:
            digest = hashlib.sha256(content).hexdigest()
        elif before.st_size <= _MAX_HASHED:
            with place.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = place.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            digest, content = "", None  # who knows what the trial has read
        study = f"studies/{writer.uuid}"
        if content is not None:
            write_blobs(writer.artifacts, study, [content])
            self._kept[writer.uuid] += len(content)
        relative = ""
        if folder and place.is_relative_to(folder):
            relative = place.relative_to(folder).as_posix()
        note = InputFile(path, relative, before.st_size, digest, content is not None)
        text = json.dumps(asdict(note), indent=1, sort_keys=True).encode("ascii")
        name = f"{writer.version}-{hashlib.sha256(text).hexdigest()[:16]}"
        writer.artifacts.create(f"{study}/inputs/{name}.json", text)


_notes: _Notes | None = None


def _is_hidden(path: str, folders: Sequence[str]) -> bool:
    """Tell whether a path is hidden, and so most likely holds credentials, as ~/.aws does."""
    if f"{os.sep}.env" in path:
        return True
    for folder in folders:
        if path.startswith(folder):
            first = path.removeprefix(folder).partition(os.sep)[0]
            return first.startswith(".") and first not in _DATA_FOLDERS
    return False


def note_inputs(writer: ResultWriter, paths: Mapping[str, str]) -> None:
    """Note files that a trial has read. What is noted already costs a look at the file's size."""
    global _notes
    # A study may itself lie below a hidden folder. As texts, for this is asked in every trial.
    folders = [os.path.join(one, "") for one in (os.getcwd(), os.path.expanduser("~"))]  # noqa: PTH109, PTH111, PTH118
    wanted = {path: given for path, given in paths.items() if not _is_hidden(path, folders)}
    if not wanted or not writer.version:
        return
    if _notes is None or _notes.pid != os.getpid():  # a forked process has no such thread
        _notes = _Notes()
        atexit.register(flush_inputs)
    is_new = _notes.put(writer, wanted)
    if is_new and multiprocessing.parent_process() is not None:
        _notes.flush(_POOL_SECONDS)  # a process of a pool may be ended at any time after that


def flush_inputs(seconds: float = _FLUSH_SECONDS) -> None:
    """Wait until all is noted.

    Args:
        seconds: for how long at most.
    """
    if _notes is not None and _notes.pid == os.getpid():
        _notes.flush(seconds)


@functools.cache
def _adapter() -> TypeAdapter[InputFile]:
    return TypeAdapter(InputFile)


# -- afterwards -----------------------------------------------------------------------------------


def read_inputs(
    artifacts: ArtifactFileSystem, uuid: str, version: str | None = None
) -> list[InputFile]:
    """Return the files that trials have read, by name."""
    of = "*" if version is None else f"{version}-*"
    paths = artifacts.glob(f"studies/{uuid}/inputs/{of}.json")
    files: list[InputFile] = []
    for path, content in artifacts.read_many(paths).items():
        try:
            files.append(_adapter().validate_json(content))
        except ValidationError:
            raise ArchiveError(
                f"{artifacts.location(path)} is no note on a file that trials have read. Remove "
                "it, or bring it back from a copy."
            ) from None
    return sorted(files, key=lambda one: (one.name, one.sha256))


def archived_inputs(artifacts: ArtifactFileSystem, files: Sequence[InputFile]) -> dict[str, bytes]:
    """The content of the files that lay in the study's folder, by their relative paths."""
    kept = {file.relative: file for file in files if file.kept and file.relative}
    missing = {file.name: file for file in files if file.relative not in kept and file.relative}
    if missing:
        listed = ", ".join(f"{file.name} ({_size(file.bytes)})" for file in missing.values())
        raise ArchiveError(
            f"The archive does not have {listed}, which trials have read. Run them where the files "
            "are, with inputs='here'; optimize(..., keep_inputs='200 MB') keeps them, unless they "
            "look like credentials."
        )
    content: dict[str, bytes] = {}
    for relative, file in kept.items():
        if not _is_inside(relative) or any(map(kept.__contains__, _parents(relative))):
            raise ArchiveError(f"The archive has a file for {relative!r}, outside of its folder.")
        content[relative] = read_blob(artifacts, file.sha256, f"the file {relative}")
    return content


def _is_inside(relative: str) -> bool:
    """Tell whether a path is the name of a file in a folder, wherever the archive comes from."""
    parts = relative.split("/")
    special = {*"\\:"} if sys.platform == "win32" else set[str]()
    return not {"", ".", ".."} & {*parts} and all(
        part.isprintable()
        and not special & {*part}
        and len(part.encode("utf-8", "replace")) <= _LONGEST
        for part in parts
    )


def _parents(relative: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(relative).parents]


def inputs_now(files: Sequence[Mapping[str, Any]], folder: str) -> list[InputNow]:
    """Look at the files that trials have read, where code that runs in a folder would find them."""
    by_name: dict[str, list[InputFile]] = {}
    for data in files:
        read = InputFile(**data)
        by_name.setdefault(read.name, []).append(read)
    inputs: list[InputNow] = []
    for name, ones in by_name.items():
        path = Path(folder, ones[0].relative) if ones[0].relative else Path(ones[0].path)
        then = sorted({read.bytes for read in ones})
        try:
            now = path.stat().st_size if path.is_file() else None  # a pipe would keep us waiting
            same = now in then
            digests = {read.sha256 for read in ones if read.bytes == now and read.sha256}
            if same and digests:
                with path.open("rb") as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() in digests
        except OSError:
            now, same = None, False
        was = ones[0].path if ones[0].relative else ""
        inputs.append(InputNow(name, os.path.abspath(path), then, now, same, was))  # noqa: PTH100
    return inputs


def _size(count: int) -> str:
    return ByteSize(count).human_readable(decimal=True, separator=" ")


@contextmanager
def files_read() -> Generator[dict[str, str]]:
    """Record the files that Python opens for reading while this is in force.

    Left out are modules that are imported, Python's own files, those of installed packages, and
    the system's; what is written meanwhile, too; and where studies are kept.
    Libraries that open files in C without telling Python (HDF5, Arrow) are not seen.

    Example:
        >>> import pathlib, tempfile
        >>> from prefect_optuna.tasks.inputs import files_read
        >>> path = pathlib.Path(tempfile.mkdtemp()).resolve() / "pelts.csv"
        >>> _ = path.write_text("1845,19.58")
        >>> with files_read() as read:
        ...     _ = path.read_text()
        >>> list(read) == [str(path)]
        True
    """
    global _hooked
    if not _hooked:  # Python has no way to take such a hook away
        sys.addaudithook(_take_down)
        _hooked = True
    read: dict[str, str] = {}
    _listening.append(read)
    try:
        yield read
    finally:
        # By identity: two that are empty are equal.
        _listening[:] = [other for other in _listening if other is not read]
        for path, given in [*read.items()]:
            if not given or not os.path.isfile(path):  # noqa: PTH113 - quicker than a `Path`
                del read[path]


def _take_down(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _listening:
        return
    given, _, flags = arguments
    if not isinstance(given, str) or not given:
        return
    path = os.path.abspath(given)  # noqa: PTH100 - of a string, as cheap as it can be
    if path.endswith(_CODE) or path.startswith(_not_data()) or _STUDIES in path:
        return
    if path.endswith(".py"):
        opener = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        if opener.f_globals.get("__name__") in _READ_MODULES:
            return
    is_written = flags & (os.O_WRONLY | os.O_RDWR)
    for read in _listening:
        if is_written:
            read[path] = ""
        elif len(read) < _MAX_FILES:
            read.setdefault(path, given)


@functools.cache
def _not_data() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths["stdlib"], paths["purelib"], paths["platlib"], site.getusersitepackages()]
    folders += [str(Path.home() / ".prefect"), os.environ.get("PREFECT_HOME", sys.prefix)]
    folders += [sys.prefix, str(Path.home() / ".cache"), "/proc", "/sys", "/dev", "/etc"]
    return tuple(folder + os.sep for folder in {*folders, *map(os.path.realpath, folders)})
