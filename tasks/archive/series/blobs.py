"""Blobs, files named after the digest of what is in them, and packs of many of them.

Studies of one code share them. A study's folder lists the blobs that it needs, in files below
`needs/`, so that what nobody needs any more can be told, and removed beside whoever writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import zipfile
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from threading import Lock, Thread
from typing import IO, Self
from weakref import WeakValueDictionary

from optuna import Study
from optuna.trial import FrozenTrial
from prefect.logging import get_logger

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.blocks.artifacts.records import ContentStore
from prefect_optuna.blocks.stores import REMOTE
from prefect_optuna.errors import PathNotFoundError

# Packs: the files of many trials in one ZIP file each.
#
# A pack lies in `studies/<uuid>/packs/`. Its entries are not compressed, and are called as the
# files were below the study's folder: any unzip takes them out. A pack never changes. A file is
# looked for in the packs that are known, then in its own place, then in packs that are new.


LARGE = 1 << 20
"""Largest size of a file in a pack, in bytes; the place of a larger one costs least."""

_BESIDE = 1 << 19  # bytes that take longer to hash than a thread to start
_FILES = 256  # of a pack
_REMEMBERED = 1 << 26  # bytes that were written to another machine
_SMALL = 1 << 18  # bytes; a larger file does not wait for others on its way to another machine
_TOGETHER = 1 << 22  # bytes of those that are written together
_WRITTEN_IN = 10.0  # seconds, after which a file that waits for others is written by itself
_KEPT = 4096  # packs whose contents are remembered: those of a million files
_AT_ONCE = 8  # packs that are opened
_LOCAL_HEADER = 30  # bytes, before the entry's name and its extra field

_Entries = Mapping[str, tuple[int, int]]
_entries: dict[str, _Entries] = {}
_entries_lock = Lock()
_Small = dict[str, set[tuple[str, str]]]  # packs, and path and SHA-256 of what is in no larger one
_packers: WeakValueDictionary[str, Packer] = WeakValueDictionary()  # by the study's folder
_known: dict[str, dict[str, str]] = {}  # the packs of a folder, when last listed, and their places


def file_references(trials: Iterable[FrozenTrial], at_most: float = math.inf) -> dict[str, str]:
    """The paths of the files that attributes of trials refer to, with their SHA-256.

    Args:
        trials: whose they are.
        at_most: the size in bytes of the largest one that is wanted.
    """
    references: dict[str, str] = {}
    for trial in trials:
        for value in trial.user_attrs.values():
            if isinstance(value, Mapping) and isinstance(value.get("sha256"), str):
                path, size = value.get("path"), value.get("bytes", 0)
                if isinstance(path, str) and not (isinstance(size, int) and size > at_most):
                    references[path] = value["sha256"]
    return references


def packed(artifacts: ArtifactFileSystem, path: str, digest: str) -> bytes | None:
    """The content of a file from the packs of its study; `None` if none of them has it."""
    if (content := _in_known_packs(artifacts, path, digest)) is not None:
        return content
    packs = _packs(artifacts, _parts(path)[0])
    _open_several(artifacts, packs)
    return _in_known_packs(artifacts, path, digest)


def _open_several(artifacts: ArtifactFileSystem, packs: Iterable[str]) -> None:
    """Read what is in new packs of another machine, several at a time: each takes round trips."""
    if artifacts.url.partition("://")[0] not in REMOTE:
        return
    places = ((pack, artifacts.location(pack)) for pack in packs)
    new = [(pack, place) for pack, place in places if place not in _entries][:_KEPT]
    if len(new) < 2:
        return
    with ThreadPoolExecutor(min(_AT_ONCE, len(new))) as threads:
        for opened in [threads.submit(_entries_of, artifacts, *one) for one in new]:
            with contextlib.suppress(PathNotFoundError, ArchiveError):  # said when it is needed
                opened.result()


def _packs(artifacts: ArtifactFileSystem, folder: str) -> list[str]:
    """List the packs of a study."""
    packs = {pack: artifacts.location(pack) for pack in artifacts.ls(f"{folder}/packs")}
    _known[artifacts.location(folder)] = packs
    return list(packs)


def _in_known_packs(
    artifacts: ArtifactFileSystem, path: str, digest: str, *, opened: bool = False
) -> bytes | None:
    """Look for a file in the packs that are known, or in those whose entries are."""
    folder, name = _parts(path)
    for pack, place in _known.get(artifacts.location(folder), {}).items():
        if opened and place not in _entries:
            continue
        with contextlib.suppress(PathNotFoundError):  # removed since
            if (entry := _entries_of(artifacts, pack, place).get(name)) is not None:
                with artifacts.open(pack) as file:
                    content = _read(file, *entry)
                if hashlib.sha256(content).hexdigest() == digest:
                    return content
    return None


def from_whole_packs(
    artifacts: ArtifactFileSystem, files: Mapping[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Read those of many files that are in packs, if they are much of what the packs hold.

    Args:
        artifacts: where they are.
        files: the SHA-256 of each, by path. What is damaged is left out.
    """
    if len(files) < _FILES / 2:
        return
    for folder in {_parts(path)[0] for path in files}:
        packs = _packs(artifacts, folder)
        if len(files) < len(packs) * _FILES / 4:
            continue
        for pack in packs:
            with contextlib.suppress(PathNotFoundError, ArchiveError):
                file = BytesIO(artifacts.read_path(pack))
                entries = _entries_of(artifacts, pack, artifacts.location(pack), file)
                for name, entry in entries.items():
                    if (digest := files.get(path := f"{folder}/{name}")) is not None:
                        content = _read(file, *entry)
                        if hashlib.sha256(content).hexdigest() == digest:
                            yield path, content


def compact(artifacts: ArtifactFileSystem, files: Mapping[str, str]) -> int:
    """Put those files of trials that are still in their own places into packs, and join small ones.

    Args:
        artifacts: where they are.
        files: the SHA-256 of each, by path.

    Returns:
        How many files are in packs now that were not.
    """
    count = 0
    for folder in {_parts(path)[0] for path in files}:
        there = [*artifacts.glob(f"{folder}/trials/*"), *artifacts.glob(f"{folder}/series/**")]
        mine = {path: files[path] for path in there if path in files}
        count += len(pack_files(artifacts, mine))
        _join(artifacts, folder, files)
    return count


def _join(artifacts: ArtifactFileSystem, folder: str, files: Mapping[str, str]) -> None:
    """Join small packs that a killed process has left, if all that is in them is wanted."""
    known, small = _Contents(), _Small()
    packs = _packs(artifacts, folder)
    _open_several(artifacts, packs)
    for pack in packs:
        with contextlib.suppress(PathNotFoundError, ArchiveError):
            entries = _entries_of(artifacts, pack, artifacts.location(pack))
            if len(entries) > _FILES // 4:
                continue
            file = BytesIO(artifacts.read_path(pack))
            held = {f"{folder}/{name}": _read(file, *entry) for name, entry in entries.items()}
            digests = {path: hashlib.sha256(content).hexdigest() for path, content in held.items()}
            if all(files.get(path) == digest for path, digest in digests.items()):
                small[pack] = {*digests.items()}
                for path, content in held.items():
                    known.add(path, content)
    if len(small) > 1:
        _pack_small(artifacts, dict(itertools.chain(*small.values())), known, small)


def _pack_small(
    artifacts: ArtifactFileSystem, files: Mapping[str, str], known: _Contents, small: _Small
) -> None:
    """Put files into packs, and remove those small packs of which nothing is left."""
    done = pack_files(artifacts, files, known, small)
    for left in [*small.values()]:
        left -= done
    empty = [pack for pack, left in [*small.items()] if not left]
    artifacts.rm_files(empty)
    for pack in empty:
        del small[pack]


def pack_files(
    artifacts: ArtifactFileSystem,
    files: Mapping[str, str],
    known: _Contents | None = None,
    small: _Small | None = None,
) -> set[tuple[str, str]]:
    """Put files of a study into packs, and remove them from their own places.

    Whatever it is interrupted by, each file is in its place or in a pack, or in both. What is
    damaged stays where it is.

    Args:
        artifacts: where they are.
        files: the SHA-256 of each, by path.
        known: contents that need not be read.
        small: packs that others are to take the place of.

    Returns:
        The path and the SHA-256 of those that are in other packs now, and were not.
    """
    done: set[tuple[str, str]] = set()
    paths = sorted(files)
    for first in range(0, len(paths), _FILES):
        some = paths[first : first + _FILES]
        contents = {} if known is None else known.taken(some)
        some = [path for path in some if path not in contents]
        try:
            contents.update(artifacts.read_many(some))
        except PathNotFoundError:  # another process packs them, too
            there = [path for path in some if artifacts.exists(path)]
            contents.update(artifacts.read_many(there))
        whole = {
            path: content
            for path, content in contents.items()
            if hashlib.sha256(content).hexdigest() == files[path]
        }
        done |= {(path, files[path]) for path in _pack(artifacts, whole, small or {})}
    return done


def _pack(
    artifacts: ArtifactFileSystem,
    files: Mapping[str, bytes],
    small: _Small,
) -> Iterable[str]:
    if not files:
        return ()
    folder, _ = _parts(next(iter(files)))
    names = {
        name
        for pack in _packs(artifacts, folder)
        if pack not in small
        for name in _entries_of(artifacts, pack, artifacts.location(pack))
    }
    new = {
        path: content
        for path, content in files.items()
        if _parts(path)[1] not in names
        or packed(artifacts, path, hashlib.sha256(content).hexdigest()) is None
    }
    if new:
        pack, content, digest = _as_pack(folder, new)
        if pack in small:  # it is itself what another was to take the place of
            return ()
        artifacts.create(pack, content)
        if artifacts.sha256(pack) != digest:
            raise ArchiveError(
                f"{artifacts.location(pack)} is not what was written to it. The files that were to "
                "be in it are where they were. Look at the disk, remove the pack, and try again."
            )
    together = {path for held in [*small.values()] for path, _ in held}
    artifacts.rm_files(path for path in files if path not in together)
    return new


def _as_pack(folder: str, files: Mapping[str, bytes]) -> tuple[str, bytes, str]:
    """Return the path, the content and the SHA-256 of a pack."""
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(_parts(path)[1]), content)
    digest = hashlib.sha256(target.getvalue()).hexdigest()
    return f"{folder}/packs/{digest[:32]}.zip", target.getvalue(), digest


def _parts(path: str) -> tuple[str, str]:
    """The study's folder, and the rest of a path."""
    studies, _, rest = path.partition("/")
    uuid, _, name = rest.partition("/")
    return f"{studies}/{uuid}", name


def _entries_of(
    artifacts: ArtifactFileSystem, pack: str, place: str, read: BytesIO | None = None
) -> _Entries:
    """Return where each entry of a pack begins, and its size."""
    if (found := _entries.get(place)) is None:
        try:
            opened = artifacts.open(pack) if read is None else contextlib.nullcontext(read)
            with opened as file, zipfile.ZipFile(file) as archive:
                size = file.seek(0, os.SEEK_END)
                stored = [
                    entry
                    for entry in archive.infolist()
                    if entry.compress_type == zipfile.ZIP_STORED
                    and 0 <= entry.header_offset <= size - entry.file_size
                ]
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ArchiveError(
                f"The archive is damaged: {place} is no pack of results: {error_words(error)}. "
                "Bring it back from a copy."
            ) from None
        found = {info.filename: (info.header_offset, info.file_size) for info in stored}
        with _entries_lock:
            while len(_entries) >= _KEPT:
                _entries.pop(next(iter(_entries)))
            _entries[place] = found
    return found


def _read(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    header = file.read(_LOCAL_HEADER)
    skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    file.seek(start + _LOCAL_HEADER + skipped)
    return file.read(size)


class _Contents:
    """What was written to another machine of late: packing reads none of it."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._size = 0
        self._lock = Lock()

    def add(self, path: str, content: bytes) -> None:
        """Keep a content, in place of the oldest ones."""
        with self._lock:
            self._size += len(content) - len(self._contents.pop(path, b""))
            self._contents[path] = content
            while self._size > _REMEMBERED:
                self._size -= len(self._contents.pop(next(iter(self._contents))))

    def taken(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return, and forget, those contents that are known."""
        with self._lock:
            known = {path: self._contents.pop(path, None) for path in paths}
            found = {path: content for path, content in known.items() if content is not None}
            self._size -= sum(map(len, found.values()))
        return found


def write_file(
    artifacts: ArtifactFileSystem, path: str, content: bytes, digest: Callable[[], str]
) -> tuple[str, bool]:
    """Write a file of a trial, beside what another attempt of it has written.

    Args:
        artifacts: where to.
        path: of the file.
        content: of the file.
        digest: returns its SHA-256, which another core may still be finding.

    Returns:
        Its path, and whether it is new and has its own place.
    """
    packer = _packers.get(artifacts.location(_parts(path)[0])) if len(content) <= LARGE else None
    if packer is not None and (how := packer.write(path, content)):
        return path, how == "alone"
    created = artifacts.create(path, content)
    if not created and artifacts.sha256(path) != digest():
        # Another attempt of this trial, or a copy of the study that went its own way.
        path = beside_path(path, digest())
        created = artifacts.create(path, content)
    if packer is not None:
        packer.remember(path, content)
    return path, created


class Packer:
    """Packs the files of a run's trials, some hundred at a time, beside the trials that follow.

    Called with the study and each trial that has ended, as Optuna's callbacks are. On another
    machine a request costs more than what it carries: small files that are ready while one is
    under way are written together, as a small pack, and small packs become large ones later.

    Args:
        artifacts: where the files are.
        folder: of the study.
    """

    def __init__(self, artifacts: ArtifactFileSystem, folder: str) -> None:
        self._artifacts, self._folder = artifacts, folder
        self._files: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, "packing")
        self._last: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "writing")
        self._ready: deque[_Ready] = deque()
        self._contents = _Contents()
        self._small = _Small()
        if artifacts.url.partition("://")[0] in REMOTE:
            _packers[artifacts.location(folder)] = self

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Take a trial that has ended."""
        self._files.update(file_references([trial], LARGE))
        if len(self._files) >= _FILES and (self._last is None or self._last.done()):
            self._pack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if len(self._small) > 1 and error is None:
            self._pack()
        self._thread.shutdown(wait=error is None)  # nobody who interrupts waits for a network

    def _pack(self) -> None:
        files, self._files = self._files, {}
        self._last = self._thread.submit(self._compact, files)

    def _compact(self, files: Mapping[str, str]) -> None:
        try:
            _pack_small(self._artifacts, files, self._contents, self._small)
        except Exception as error:  # noqa: BLE001 - the files are whole where they are
            get_logger(__name__).warning(
                "The results of %d trials stay in files of their own, or in small packs: %s",
                len(files),
                error_words(error),
            )

    def write(self, path: str, content: bytes) -> str:
        """Write a file `alone` or `together` with others; nothing if its trial has to write it.

        That is what is large, what is there already, and what could not be written in a while: an
        outage is for the trial's own patience, which puts it into the spool.
        """
        if len(content) > _SMALL:
            return ""
        ready = _Ready(path, content)
        self._ready.append(ready)
        self._writer.submit(self._write_ready)
        try:
            return ready.written.result(_WRITTEN_IN)
        except Exception:  # noqa: BLE001 - whatever it is, the trial finds it, too
            return ""

    def remember(self, path: str, content: bytes) -> None:
        """Remember what was just written: packing does not read it."""
        self._contents.add(path, content)

    def _write_ready(self) -> None:
        """Write all that is ready, but for a file of which another content is ready, too."""
        taken: dict[str, _Ready] = {}
        size = 0
        while self._ready and size < _TOGETHER:
            ready = self._ready.popleft()
            if ready.path in taken:
                ready.written.set_result("")
                continue
            taken[ready.path] = ready
            size += len(ready.content)
        try:
            written = self._write(taken)
        except BaseException as error:  # noqa: BLE001 - each trial says it
            for ready in taken.values():
                ready.written.set_exception(error)
        else:
            for ready in taken.values():
                ready.written.set_result(written)

    def _write(self, ready: Mapping[str, _Ready]) -> str:
        contents = {path: each.content for path, each in ready.items()}
        if len(contents) > 1:
            self._write_together(contents)
        elif not all(self._artifacts.create(*item) for item in contents.items()):
            return ""
        for path, content in contents.items():
            self._contents.add(path, content)
        return "together" if len(contents) > 1 else "alone"

    def _write_together(self, contents: Mapping[str, bytes]) -> None:
        pack, zipped, _ = _as_pack(self._folder, contents)
        # Before it is there, or who packs would take it for a large one.
        self._small[pack] = {
            (path, hashlib.sha256(content).hexdigest()) for path, content in contents.items()
        }
        try:
            self._artifacts.create(pack, zipped)
        except BaseException:
            del self._small[pack]
            raise


@dataclass(frozen=True, eq=False)
class _Ready:
    """A file that is ready to be written, and whether it is."""

    path: str
    content: bytes
    written: Future[str] = field(default_factory=Future)


class Digest:
    """The SHA-256 of a content; another core finds that of a large one while it is written."""

    def __init__(self, content: bytes) -> None:
        self._hash = hashlib.sha256()
        self._thread: Thread | None = None
        if len(content) < _BESIDE:
            self._hash.update(content)
        else:
            self._thread = Thread(target=self._hash.update, args=(content,))
            self._thread.start()

    def hex(self) -> str:
        """Return it as text, once it is found."""
        if self._thread is not None:
            self._thread.join()
        return self._hash.hexdigest()


def blob_path(digest: str) -> str:
    """Return the path of the blob of that digest, relative to the root of the artifacts."""
    return f"blobs/{digest[:2]}/{digest}"


def blob_store(artifacts: ArtifactFileSystem) -> ContentStore:
    """All blobs, as files that are named after their content."""
    return ContentStore(artifacts, "", "blobs", "blobs-trash")


def write_blobs(artifacts: ArtifactFileSystem, folder: str, contents: Iterable[bytes]) -> None:
    """Store contents, each once however often it is written, and say which study needs them."""
    blobs = {hashlib.sha256(content).hexdigest(): content for content in contents}
    _put(artifacts, blobs)
    needs = json.dumps(sorted(blobs)).encode()
    artifacts.create(f"{folder}/needs/{hashlib.sha256(needs).hexdigest()[:32]}.json", needs)
    # One may have been removed as unneeded, before anybody could know that it is needed.
    _put(artifacts, blobs)


def _put(artifacts: ArtifactFileSystem, blobs: Mapping[str, bytes]) -> None:
    for digest, content in blobs.items():
        if not artifacts.exists(blob_path(digest)):
            artifacts.create(blob_path(digest), content)


def needed_blobs(artifacts: ArtifactFileSystem, folder: str) -> set[str]:
    """The digests of the blobs that the study of a folder needs."""
    needed: set[str] = set()
    for path, content in artifacts.read_many(artifacts.ls(f"{folder}/needs")).items():
        try:
            needed |= set(json.loads(content))
        except (ValueError, TypeError):
            raise ArchiveError(
                f"{artifacts.location(path)} is damaged: expected a list of SHA-256 digests. "
                "Bring it back from a copy."
            ) from None
    return needed


def needed_paths(artifacts: ArtifactFileSystem, gone: Container[str] = ()) -> set[str]:
    """List the paths of blobs that any study needs, except those whose folders are `gone`."""
    return {
        blob_path(digest)
        for folder in artifacts.ls("studies")
        if folder not in gone
        for digest in needed_blobs(artifacts, folder)
    }


def read_blob(artifacts: ArtifactFileSystem, digest: str, what: str) -> bytes:
    """Read and verify a blob."""
    return _verified(artifacts, blob_path(digest), digest, what, blob_store(artifacts).content)


def read_verified(
    artifacts: ArtifactFileSystem,
    path: str,
    digest: str,
    what: str,
    read: Callable[[str], bytes] | None = None,
) -> bytes:
    """Read a file of an archive whose digest is known, and raise `ArchiveError` if it differs."""
    if (content := _in_known_packs(artifacts, path, digest, opened=True)) is not None:
        return content
    try:
        return _verified(artifacts, path, digest, what, read or artifacts.read_path)
    except ArchiveError:
        if (content := packed(artifacts, path, digest)) is not None:
            return content
        # Two copies of one study share a folder; what the second one has goes beside the first.
        beside = beside_path(path, digest)
        if not artifacts.exists(beside):
            raise
        return _verified(artifacts, beside, digest, what, artifacts.read_path)


def beside_path(path: str, digest: str) -> str:
    """Return the path of a file whose place other content has: `000003-<16 digits>.arrow`.

    Example:
        >>> from prefect_optuna.tasks.archive.series.blobs import beside_path
        >>> beside_path("trials/000003.arrow", "e3b0c44298fc1c149afbf4c8996fb924")
        'trials/000003-e3b0c44298fc1c14.arrow'
    """
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}-{digest[:16]}{dot}{suffix}" if dot else f"{path}-{digest[:16]}"


def _verified(
    artifacts: ArtifactFileSystem,
    path: str,
    digest: str,
    what: str,
    read: Callable[[str], bytes],
) -> bytes:
    place = artifacts.location(path)
    try:
        content = read(path)
    except PathNotFoundError:
        raise ArchiveError(
            f"The archive is incomplete: {what} is missing. Expected the file {place}. "
            "Bring it back, or name the artifacts that the study was archived to: artifacts=..."
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise ArchiveError(
            f"The archive is damaged: {what} in {place} is not what was archived. Expected the "
            f"SHA-256 digest {digest}, found {actual} ({len(content)} bytes). Bring the file back "
            "from a copy; nothing of it has been used."
        )
    return content
