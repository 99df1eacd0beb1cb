"""Blobs, files named after the digest of what is in them, and packs of many of them.

Studies of one code share them. A study's folder lists the blobs that it needs, in files below
`needs/`, so that what nobody needs any more can be told, and removed beside whoever writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from threading import Lock, Thread
from typing import IO
from weakref import WeakSet, finalize

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
_REMEMBERED = 1 << 26  # bytes that were written to other machines
_KEPT = 4096  # packs whose contents are remembered: those of a million files
_AT_ONCE = 8  # packs that are opened
_LOCAL_HEADER = 30  # bytes, before the entry's name and its extra field

_Entries = Mapping[str, tuple[int, int]]
_entries: dict[str, _Entries] = {}
_entries_lock = Lock()
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
    if artifacts.url.partition("://")[0] in REMOTE:
        _open_several(artifacts, packs)
    return _in_known_packs(artifacts, path, digest)


def _open_several(artifacts: ArtifactFileSystem, packs: Iterable[str]) -> None:
    """Read what is in new packs, several at a time: each takes some round trips."""
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
    """Put those files of trials that are still in their own places into packs.

    Args:
        artifacts: where they are.
        files: the SHA-256 of each, by path.

    Returns:
        How many files are in packs now that were not.
    """
    count = 0
    for folder in {_parts(path)[0] for path in files}:
        there = [*artifacts.glob(f"{folder}/trials/*"), *artifacts.glob(f"{folder}/series/**")]
        count += pack_files(artifacts, {path: files[path] for path in there if path in files})
    return count


def pack_files(artifacts: ArtifactFileSystem, files: Mapping[str, str]) -> int:
    """Put files of a study into packs, and remove them from their own places.

    Whatever it is interrupted by, each file is in its place or in a pack, or in both. What is
    damaged stays where it is.
    """
    count, paths = 0, sorted(files)
    for first in range(0, len(paths), _FILES):
        some = paths[first : first + _FILES]
        contents = _written.taken(artifacts, some)
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
        count += _pack(artifacts, whole)
    return count


def _pack(artifacts: ArtifactFileSystem, files: Mapping[str, bytes]) -> int:
    if not files:
        return 0
    folder, _ = _parts(next(iter(files)))
    names = {
        name
        for pack in _packs(artifacts, folder)
        for name in _entries_of(artifacts, pack, artifacts.location(pack))
    }
    new = {
        path: content
        for path, content in files.items()
        if _parts(path)[1] not in names
        or packed(artifacts, path, hashlib.sha256(content).hexdigest()) is None
    }
    if new:
        target = BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for path, content in new.items():
                archive.writestr(zipfile.ZipInfo(_parts(path)[1]), content)
        digest = hashlib.sha256(target.getvalue()).hexdigest()
        pack = f"{folder}/packs/{digest[:32]}.zip"
        artifacts.create(pack, target.getvalue())
        if artifacts.sha256(pack) != digest:
            raise ArchiveError(
                f"{artifacts.location(pack)} is not what was written to it. The files that were to "
                "be in it are in their places. Look at the disk, remove the pack, and try again."
            )
    artifacts.rm_files(files)
    return len(new)


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


class _Written:
    """What a process that packs has written to other machines of late: packing reads none of it."""

    def __init__(self) -> None:
        self.packers: WeakSet[Packer] = WeakSet()
        self._contents: dict[str, bytes] = {}
        self._size = 0
        self._lock = Lock()

    def add(self, artifacts: ArtifactFileSystem, path: str, content: bytes) -> None:
        """Keep a content, in place of the oldest ones, if it is one of a pack."""
        is_remote = artifacts.url.partition("://")[0] in REMOTE
        if len(content) > LARGE or not is_remote or not self.packers:
            return
        place = artifacts.location(path)
        with self._lock:
            self._size += len(content) - len(self._contents.pop(place, b""))
            self._contents[place] = content
            while self._size > _REMEMBERED:
                self._size -= len(self._contents.pop(next(iter(self._contents))))

    def taken(self, artifacts: ArtifactFileSystem, paths: Iterable[str]) -> dict[str, bytes]:
        """Return, and forget, those contents that are known."""
        with self._lock:
            known = {path: self._contents.pop(artifacts.location(path), None) for path in paths}
            found = {path: content for path, content in known.items() if content is not None}
            self._size -= sum(map(len, found.values()))
        return found

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._contents.clear()
            self._size = 0


_written = _Written()


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
        Its path, and whether it is new.
    """
    created = artifacts.create(path, content)
    if not created and artifacts.sha256(path) != digest():
        # Another attempt of this trial, or a copy of the study that went its own way.
        path = beside_path(path, digest())
        created = artifacts.create(path, content)
    _written.add(artifacts, path, content)
    return path, created


class Packer:
    """Packs the files of a run's trials, some hundred at a time, beside the trials that follow.

    Called with the study and each trial that has ended, as Optuna's callbacks are.
    """

    def __init__(self, artifacts: ArtifactFileSystem) -> None:
        self._artifacts = artifacts
        self._files: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, "packing")
        self._last: Future[None] | None = None
        _written.packers.add(self)
        finalize(self, _written.clear)

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Take a trial that has ended."""
        self._files.update(file_references([trial], LARGE))
        if len(self._files) >= _FILES and (self._last is None or self._last.done()):
            files, self._files = self._files, {}
            self._last = self._thread.submit(self._compact, files)

    def _compact(self, files: Mapping[str, str]) -> None:
        try:
            pack_files(self._artifacts, files)
        except Exception as error:  # noqa: BLE001 - the files are whole where they are
            get_logger(__name__).warning(
                "The results of %d trials stay in files of their own: %s",
                len(files),
                error_words(error),
            )


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


def read_verified(artifacts: ArtifactFileSystem, path: str, digest: str, what: str) -> bytes:
    """Read a file of an archive whose digest is known, and raise `ArchiveError` if it differs."""
    if (content := _in_known_packs(artifacts, path, digest, opened=True)) is not None:
        return content
    try:
        return _verified(artifacts, path, digest, what, artifacts.read_path)
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
