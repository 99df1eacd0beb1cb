"""The block that keeps artifacts: results, archives, pictures."""

from __future__ import annotations

import asyncio
import builtins
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Self
from urllib.parse import urlsplit

from fsspec.core import split_protocol
from fsspec.utils import glob_translate
from prefect.filesystems import WritableFileSystem
from prefect.logging import get_logger
from prefect.types import SecretDict
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import from_json, to_json

from prefect_optuna.blocks._secrets import (
    clean_cause,
    has_credentials,
    scheme_of,
    secrets_in,
    without_secrets,
)
from prefect_optuna.blocks.patience import patient_store
from prefect_optuna.blocks.settings import LOGO_URL, invalid_setting, page
from prefect_optuna.blocks.stores import REMOTE, ArtifactInfo, ArtifactStore, open_store
from prefect_optuna.blocks.stores.protocol import TEMPORARY_PREFIX, checked_path
from prefect_optuna.blocks.texts import card
from prefect_optuna.errors import (
    AlreadyExistsError,
    ArtifactLoadError,
    InvalidSettingError,
    PathNotFoundError,
    PrefectOptunaError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
)

# A file that becomes an artifact when it is closed.


class ArtifactWriter(io.BufferedRandom):
    """Collects a write on this machine; closing it makes the artifact, all of it at once.

    A `with` block that fails, `discard`, and being forgotten make none. An upload that fails can
    so begin anew, and nothing of an artifact has to fit into memory.
    """

    def __init__(self, folder: str, publish: Callable[[str], None]) -> None:
        self._file = f"{folder}{os.sep}{TEMPORARY_PREFIX}{os.urandom(12).hex()}"
        self._publish = publish
        super().__init__(io.FileIO(self._file, "x+"))

    def close(self) -> None:
        """Make the artifact."""
        if self.closed:
            return
        try:
            super().close()  # what is in the buffer goes to the disk, which may be full
            self._publish(self._file)
        finally:
            self._remove()

    def discard(self) -> None:
        """Forget what has been written; no artifact is made."""
        if not self.closed:
            self.raw.close()
            with suppress(ValueError):  # "raw stream has been closed", about what is in the buffer
                super().close()
        self._remove()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        self.discard()

    def _remove(self) -> None:
        with suppress(OSError):
            os.unlink(self._file)  # noqa: PTH108 - may run when the interpreter ends


# Checks of what Prefect may read as the result of a run, where artifacts are kept.
#
# A result's record names the serializer that Prefect reads it with: pickle, any module, any
# class. So whoever can write where results are kept has code run by whoever asks the server for
# one. What is accepted here can only be data: a file of a persistence class, which begins as
# Arrow does, or a record of plain JSON. It is handed on as it has been understood, and not as it
# was found.


_ARROW = b"ARROW1"
_DECODERS = (None, "prefect.serializers.prefect_json_object_decoder")
_OTHERS = ("expiration", "prefect_version", "storage_block_id")


def checked_result(content: bytes, place: str) -> bytes:
    """Return what Prefect may read."""
    if content.startswith(_ARROW):
        return content
    try:
        record: Any = from_json(content)  # as Prefect reads it
        if "metadata" not in record:  # of a record whose result is kept elsewhere
            return to_json(_metadata(record, record["storage_key"]))
        metadata, result = record["metadata"], record["result"]
        json.loads(result, object_hook=_plain)
        anew = _metadata(metadata, metadata.get("storage_key"))
        return to_json({"metadata": anew, "result": str(result)})
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ArtifactLoadError(
            f"Expected the result of a run in {place} as plain JSON, which Prefect writes with "
            'result_serializer="json", or as a file of a persistence class, and found something '
            f"that may run code when it is read ({type(error).__name__}). It has not been read. If "
            "everybody who can write there is trusted, set allow_pickle=True in the block."
        ) from None


def _metadata(found: dict[str, Any], key: Any) -> dict[str, Any]:
    """Rebuild the metadata from text alone; raise unless the serializer reads only JSON.

    Prefect hands what is no record of its own to the serializer of whoever reads: it begins with
    a key of ours, which is no pickle in anybody's reading, and has no dictionary of a stranger's.
    """
    serializer = found["serializer"]
    # Its options name modules, and what they shall do.
    if (
        serializer["type"] != "json"
        or serializer.get("jsonlib", "json") != "json"
        or serializer.get("object_decoder") not in _DECODERS
        or serializer.get("loads_kwargs")
    ):
        raise ValueError("another serializer")
    others = {name: str(found[name]) for name in _OTHERS if found.get(name) is not None}
    decoder = {name: None for name in ("object_decoder",) if serializer.get(name, "") is None}
    return {
        "storage_key": None if key is None else str(key),
        "serializer": {"type": "json", **decoder},
        **others,
    }


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Raise where Prefect would import and call a class; Python's own errors may come back."""
    if "__class__" in found:
        raise ValueError("an object")
    if "__exc_type__" in found:
        module, _, name = str(found["__exc_type__"]).partition(".")
        kind = vars(builtins).get(name)
        if module != "builtins" or not isinstance(kind, type) or not issubclass(kind, Exception):
            raise ValueError("an error of somebody's")
    return found


_LOCAL = ("file", "local")
_LOGIN = re.compile(r"(?![A-Za-z]:)[^/\\:]*:.*@", re.DOTALL)  # and no drive of Windows
_WITHOUT_COLON = re.compile(rf"({'|'.join([*REMOTE, *_LOCAL, 'memory'])})//", re.IGNORECASE)
_MAGIC = re.compile(r"[*?\[]")
_WRONG_KIND = (IsADirectoryError, NotADirectoryError, FileExistsError)
_UPLOADS = "optuna"  # the directory of what Optuna's own upload_artifact stores


class ArtifactFileSystem(WritableFileSystem):
    """Keeps artifacts below one root: on a local disk, in memory, in S3 and its like, or by SFTP.

    Paths are relative to the root, have `/` between their names, and never lead out of it. A
    write is seen whole or not at all, also if the process is killed or the network fails. On a
    local disk it is not forced to the disk, so a power cut may lose the last seconds. Remote
    filesystems are asked again, with jitter, when they fail for a moment, and only then.

    A saved block can be a flow's or a task's `result_storage`: what Prefect reads there is plain
    JSON (`result_serializer="json"`) or an object of a persistence class. A block is an Optuna
    artifact store, too: `optuna.artifacts.upload_artifact(artifact_store=block, ...)`.

    S3, Google Cloud Storage, Azure and SFTP need the extra `s3`, `gcs`, `azure` or `sftp`.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import ArtifactFileSystem

        artifacts = ArtifactFileSystem.load("BLOCK_NAME")
        artifacts.write_path("trials/3/note.txt", b"converged")
        ```
    """

    # A slot, because pydantic copies, compares and pickles its private attributes.
    __slots__ = ("_opened",)

    _block_type_name = "Artifact File System"
    _block_type_slug = "artifact-file-system"
    _documentation_url = page("howto/filesystems")
    _logo_url = LOGO_URL

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    if not TYPE_CHECKING:  # checkers know the fields

        def __init__(self, *args: Any, **settings: Any) -> None:
            try:
                super().__init__(*args, **settings)
            except ValidationError as error:
                raise invalid_setting(f"The block {type(self).__name__}", error) from None

    if TYPE_CHECKING:
        _opened: tuple[int, ArtifactStore] = PrivateAttr()

    url: str = Field(
        description=(
            "The root: a local path, memory://name, s3://bucket/prefix, gs://bucket/prefix, "
            "abfs://container/prefix or sftp://user@host/absolute/path. A relative path is made "
            "absolute at once, so that a saved block means the same folder everywhere."
        )
    )
    options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description=(
            "Options for the fsspec filesystem of the URL, such as key, secret and endpoint_url "
            "for S3; without them, its client looks where it always does, such as in AWS_* "
            "variables. A local folder takes none."
        ),
    )

    allow_pickle: bool = Field(
        default=False,
        description=(
            "Whether Prefect may read results here by pickle, its default serializer, or by any "
            "other that may run code: then whoever can write here has code run by those who read."
        ),
    )

    @field_validator("url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        name, separator, rest = url.partition("://")
        url = f"{name.lower()}{separator}{rest}" if separator else url
        protocol, path = split_protocol(url)
        if protocol == "memory":
            name = path.strip("/")
            return f"memory://{checked_path(name) if name else ''}"
        if protocol in REMOTE:
            return _checked_remote(url)
        scheme = scheme_of(url)
        if protocol is not None and protocol not in _LOCAL:
            given = f"{scheme}://" if scheme == protocol else "something else"
            raise ValueError(
                f"expected a local path, file://, memory://, s3://, gs://, abfs:// or sftp://, "
                f"and found {given}, which is not supported. Write one of these."
            )
        if not path or "\0" in path:
            raise ValueError("expected the path of a folder, and found none.")
        if _LOGIN.match(url if protocol is None else rest):
            raise ValueError(
                "expected a local path or a URL with :// in it, and found what may be a user and a "
                "password. A folder of such a name is ./ and its name."
            )
        if protocol is None and (missing := _WITHOUT_COLON.match(url)):
            raise ValueError(
                f"expected a colon before the slashes: {missing[1].lower()}://. A folder of such a "
                "name is ./ and its name."
            )
        slip = scheme in {*REMOTE, *_LOCAL, "memory"} or re.match(r"\w{2,}:/", url)
        if protocol is None and scheme and slip:
            # Or a typo would make a folder called `s3:`, or of a key's name.
            raise ValueError(
                f"expected two slashes after the colon: {scheme}://. A folder whose name begins "
                f"with {scheme}: is ./{scheme}:"
            )
        try:
            return str(Path(path).expanduser().absolute())
        except RuntimeError:
            raise ValueError(
                "expected the name of a user of this machine after ~, or just ~/, and there is "
                "none of that name. Write the whole path."
            ) from None

    @model_validator(mode="after")
    def _no_options_for_a_folder(self) -> Self:
        if self.options.get_secret_value() and split_protocol(self.url)[0] is None:
            raise ValueError("a local folder takes no options. Remove them, or correct the url.")
        return self

    @property
    def _store(self) -> ArtifactStore:
        process, store = getattr(self, "_opened", (None, None))
        # A forked process needs connections of its own.
        if store is None or process != os.getpid():
            store = open_store(self.url, self.options.get_secret_value())
            self._opened = (os.getpid(), store)
        return patient_store(store)

    def read_path(self, path: str, *, _sync: bool | None = None) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read an artifact.

        Args:
            path: its path, relative to the root.

        Returns:
            All of its bytes.

        Raises:
            PathNotFoundError: nothing is there.
            InvalidSettingError: the path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs")
            >>> artifacts.write_path("a/note.txt", b"hello")
            >>> artifacts.read_path("a/note.txt")
            b'hello'
        """
        with self._explained(path, "read"):
            content = self._store.read(checked_path(path))
        # Prefect's result stores, and nobody else, say whether it is to be synchronous.
        if _sync is None or self.allow_pickle:
            return content
        return checked_result(content, self.location(path))

    async def aread_path(self, path: str) -> bytes:
        """Read a result, as Prefect's result stores do.

        Args:
            path: its path, relative to the root.

        Raises:
            ArtifactLoadError: it is more than plain data, and `allow_pickle` is false.
            PrefectOptunaError: as `read_path`.
        """
        return await asyncio.to_thread(self.read_path, path, _sync=True)

    def write_path(self, path: str, content: bytes, *, _sync: bool | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write an artifact, in place of what was there.

        Directories are made as needed. Readers see the old content or the new, never a part.

        Args:
            path: its path, relative to the root.
            content: all of its bytes.

        Raises:
            InvalidSettingError: the path is malformed, leads out of the root, is a directory, or
                goes through a file.
            StorageUnavailableError: the filesystem failed, for example because it is full.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").write_path("b", b"hello")
        """
        with self._explained(path, "write"):
            self._store.write(checked_path(path), content)
        if _sync is not None and not self.allow_pickle:
            self._warn_of_pickle(path, content)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """Write a result, as Prefect's result stores do.

        Args:
            path: its path, relative to the root.
            content: all of its bytes.

        Raises:
            PrefectOptunaError: as `write_path`.
        """
        await asyncio.to_thread(self.write_path, path, content, _sync=True)

    def _warn_of_pickle(self, path: str, content: bytes) -> None:
        try:
            checked_result(content, self.location(path))
        except ArtifactLoadError:
            get_logger(__name__).warning(
                "The result in %s is kept, but will not be read again: it was not written as "
                'plain JSON. Give the flow or task result_serializer="json", or, if everybody who '
                "can write there is trusted, set allow_pickle=True in the block.",
                self.location(path),
            )

    def create(self, path: str, content: bytes) -> bool:
        """Write an artifact if nothing is there, whoever else tries it at the same time.

        Args:
            path: its path, relative to the root.
            content: all of its bytes.

        Returns:
            Whether this call made it. One of many concurrent calls gets `True`.

        Raises:
            InvalidSettingError: the path is malformed, leads out of the root, or goes through a
                file.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-create")
            >>> artifacts.create("claim", b"mine"), artifacts.create("claim", b"mine too")
            (True, False)
        """
        with self._explained(path, "write"):
            return self._store.create(checked_path(path), content, _token())

    def open(self, path: str, mode: Literal["rb", "wb", "xb"] = "rb") -> BinaryIO:
        """Open an artifact as a binary file, which need not fit into memory.

        A file that is open for writing is collected on this machine, and becomes the artifact
        when it is closed: all of it, or nothing if its `with` block fails.

        Args:
            path: its path, relative to the root.
            mode: `"rb"` to read, `"wb"` to write or replace, `"xb"` to write what is not there.

        Returns:
            A seekable file; use it in a `with` statement.

        Raises:
            PathNotFoundError: to be read, and nothing is there.
            AlreadyExistsError: `"xb"`, and something is there; if somebody else has made it
                meanwhile, closing the file raises it.
            InvalidSettingError: the path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.
            ValueError: another mode.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs")
            >>> with artifacts.open("c", "wb") as file:
            ...     _ = file.write(b"hello")
            >>> with artifacts.open("c") as file:
            ...     file.read(2)
            b'he'
        """
        if mode == "rb":
            with self._explained(path, "read"):
                return self._store.open(checked_path(path))
        if mode not in ("wb", "xb"):
            raise ValueError(f"mode must be 'rb', 'wb' or 'xb', not {mode!r}.")
        token = _token() if mode == "xb" else None
        with self._explained(path, "write"):
            if token and self._store.is_file(checked_path(path)):
                raise self._exists(path)
            folder = self._store.scratch(checked_path(path)) or tempfile.gettempdir()

            def publish(file: str) -> None:
                with self._explained(path, "write"):
                    if not self._store.put(file, path, token):
                        raise self._exists(path)

            return ArtifactWriter(folder, publish)

    def exists(self, path: str) -> bool:
        """Say whether an artifact, which is a file and no directory, is at the path.

        Raises:
            InvalidSettingError: the path is malformed or leads out of the root.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").exists("nothing/here")
            False
        """
        with self._explained(path, "read"):
            return self._store.is_file(checked_path(path))

    def info(self, path: str) -> ArtifactInfo:
        """Return an artifact's size, and when it was written.

        Raises:
            PathNotFoundError: nothing is there.
            InvalidSettingError: the path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs")
            >>> artifacts.write_path("d", b"hello")
            >>> artifacts.info("d").size
            5
        """
        with self._explained(path, "read"):
            return self._store.info(checked_path(path))

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Read several artifacts, from a remote filesystem at the same time.

        Args:
            paths: their paths, relative to the root.

        Returns:
            The bytes of each, by its path.

        Raises:
            PathNotFoundError: one is not there.
            InvalidSettingError: a path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-many")
            >>> artifacts.write_path("a", b"1")
            >>> artifacts.read_many(["a"])
            {'a': b'1'}
        """
        paths = [checked_path(path) for path in paths]
        with self._explained(paths[0] if len(paths) == 1 else "one of several", "read"):
            return self._store.read_many(paths)

    def ls(self, path: str = "") -> list[str]:
        """List a directory.

        Args:
            path: the directory, relative to the root; empty for the root.

        Returns:
            The paths of its files and directories, sorted and relative to the root, so that they
            can be passed back; of a file, its own path; of what is not there, nothing.

        Raises:
            InvalidSettingError: the path is malformed or leads out of the root.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-ls")
            >>> artifacts.write_path("trials/0/x.arrow", b"")
            >>> artifacts.ls(), artifacts.ls("trials/0")
            (['trials'], ['trials/0/x.arrow'])
        """
        with self._explained(path, "list"):
            return sorted(self._store.ls(checked_path(path) if path else ""))

    def glob(self, pattern: str) -> list[str]:
        """List the artifacts whose path matches a pattern.

        Args:
            pattern: a path, in which `*`, `?` and `[abc]` stand for characters of one name, and
                a name `**` for any number of directories.

        Returns:
            The paths of the files, without directories, sorted and relative to the root.

        Raises:
            InvalidSettingError: the pattern is malformed or leads out of the root.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-glob")
            >>> artifacts.write_path("trials/0/x.arrow", b"")
            >>> artifacts.glob("trials/*/x.arrow"), artifacts.glob("**/*.png")
            (['trials/0/x.arrow'], [])
        """
        names = checked_path(pattern).split("/")
        fixed = next((i for i, name in enumerate(names) if _MAGIC.search(name)), len(names))
        try:
            matches = re.compile(glob_translate(pattern)).match
        except ValueError as error:
            raise InvalidSettingError(f"{pattern!r} is no pattern: {error}.") from None
        with self._explained(pattern, "list"):
            start = "/".join(names[:fixed])
            return sorted(path for path in self._store.walk(start) if matches(path))

    def rm(self, path: str, recursive: bool = False) -> None:
        """Remove an artifact, or a directory with everything in it.

        Args:
            path: its path, relative to the root. The root itself cannot be removed.
            recursive: also remove a directory.

        Raises:
            PathNotFoundError: nothing is there.
            InvalidSettingError: the path is malformed, leads out of the root, or is a directory
                and `recursive` is false.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-rm")
            >>> artifacts.write_path("trials/0/x.arrow", b"")
            >>> artifacts.rm("trials", recursive=True)
            >>> artifacts.glob("**")
            []
        """
        with self._explained(path, "remove"):
            self._store.rm(checked_path(path), recursive)

    def rm_files(self, paths: Iterable[str]) -> None:
        """Remove several artifacts, from a remote filesystem at the same time.

        Args:
            paths: their paths, relative to the root. One that is not there is no error.

        Raises:
            InvalidSettingError: a path is malformed, leads out of the root, or is a directory,
                where the filesystem has directories.
            StorageUnavailableError: the filesystem failed. Some may have been removed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-rm-files")
            >>> artifacts.write_path("a", b"")
            >>> artifacts.rm_files(["a", "b"])
            >>> artifacts.ls()
            []
        """
        # Text is a sequence of letters, and so of other names.
        paths = [checked_path(path) for path in ([paths] if isinstance(paths, str) else paths)]
        with self._explained("one of several", "remove"):
            self._store.rm_files(paths)

    def copy(self, source: str, target: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Copy an artifact, in place of what was at the target.

        Args:
            source: the path of the artifact, relative to the root.
            target: the path of the copy, relative to the root.

        Raises:
            PathNotFoundError: nothing is at the source.
            InvalidSettingError: a path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-copy")
            >>> artifacts.write_path("a", b"hello")
            >>> artifacts.copy("a", "b")
            >>> artifacts.read_path("b")
            b'hello'
        """
        if not self.exists(source):
            raise self._not_found(source)
        if source == target:
            return
        with self._explained(target, "write"):
            self._store.copy(checked_path(source), checked_path(target))

    def sha256(self, path: str) -> str:
        """Return the SHA-256 digest of an artifact, as 64 hexadecimal digits.

        Raises:
            PathNotFoundError: nothing is there.
            InvalidSettingError: the path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs")
            >>> artifacts.write_path("empty", b"")
            >>> artifacts.sha256("empty")[:12]
            'e3b0c44298fc'
        """
        digest = hashlib.sha256()
        with self.open(path) as file, self._explained(path, "read"):
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def _repr_html_(self) -> str:
        """Return the card that notebooks show."""
        return card(type(self).__name__, [("where", self.location())])

    def location(self, path: str = "") -> str:
        """Say where an artifact, or the root, is: an absolute path or a URL, without secrets.

        Raises:
            InvalidSettingError: the path is malformed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").location("trials/3")
            'memory://docs/trials/3'
        """
        return self._store.location(checked_path(path) if path else "")

    def sweep(
        self, older_than: timedelta = timedelta(hours=1), *, dry_run: bool = False
    ) -> list[str]:
        """Remove what killed writers have left behind; on object stores they leave nothing here.

        An object store may keep the parts of an upload that was cut off, and has a lifecycle
        rule of its own to remove them.

        Args:
            older_than: how old it has to be, so that no write under way is disturbed.
            dry_run: only say what would be removed.

        Returns:
            The paths, relative to the root, sorted.

        Raises:
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").sweep()
            []
        """
        limit = datetime.now(UTC) - older_than
        with self._explained("", "remove"):
            paths = [file.path for file in self._store.unfinished() if file.modified < limit]
            for path in () if dry_run else paths:
                self._store.rm(path, False)
        return sorted(paths)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open what Optuna's `upload_artifact` has stored; part of Optuna's artifact stores.

        Args:
            artifact_id: Optuna's name for it. It is the artifact `optuna/<artifact_id>`.

        Raises:
            optuna.artifacts.exceptions.ArtifactNotFound: nothing is there.
            InvalidSettingError: it is no name for an artifact.
            StorageUnavailableError: the filesystem failed.
        """
        with _optuna_s_error():
            return self.open(f"{_UPLOADS}/{artifact_id}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store what Optuna's `upload_artifact` is given; part of Optuna's artifact stores.

        Args:
            artifact_id: Optuna's name for it. It becomes the artifact `optuna/<artifact_id>`.
            content_body: a binary file.

        Raises:
            InvalidSettingError: it is no name for an artifact.
            StorageUnavailableError: the filesystem failed.
        """
        with self.open(f"{_UPLOADS}/{artifact_id}", "wb") as file:
            shutil.copyfileobj(content_body, file)

    def remove(self, artifact_id: str) -> None:
        """Remove what Optuna's `upload_artifact` has stored; part of Optuna's artifact stores.

        Args:
            artifact_id: Optuna's name for it.

        Raises:
            optuna.artifacts.exceptions.ArtifactNotFound: nothing is there.
            InvalidSettingError: it is no name for an artifact.
            StorageUnavailableError: the filesystem failed.
        """
        with _optuna_s_error():
            self.rm(f"{_UPLOADS}/{artifact_id}")

    def check(self) -> None:
        """Make sure that artifacts can be written here, by writing a probe and removing it.

        Raises:
            StorageUnavailableError: they cannot; says why, and what to do. It is a
                `StoragePermissionError` or a `StorageNotFoundError` where that is why.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").check()
        """
        probe = f"{TEMPORARY_PREFIX}probe-{_token()}"
        try:
            self._store.create(probe, b"probe", _token())
            self._store.rm(probe, False)
        except OSError as error:
            raise self._unavailable("written", error) from self._cause(error)

    @contextmanager
    def _explained(self, path: str, action: str) -> Generator[None]:
        try:
            yield
        except PrefectOptunaError:
            raise
        except FileNotFoundError as error:
            raise self._not_found(path, action, error) from None
        except _WRONG_KIND as error:
            if isinstance(error, NotADirectoryError) and action in ("read", "remove"):
                raise self._not_found(path, action, error) from None
            root = self.location()
            if split_protocol(self.url)[0] is None and not Path(root).is_dir():
                raise self._unavailable(f"used to {action} {path!r}", error) from self._cause(error)
            raise InvalidSettingError(
                f"Cannot {action} the artifact {path!r} in {root}: {self._reason(error)}. "
                "Expected a file there, and directories on the way to it. For a whole directory, "
                "use ls, glob or rm(recursive=True)."
            ) from self._cause(error)
        except OSError as error:
            cause = self._cause(error)
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidSettingError(
                    f"{path!r} is no artifact path in {self.location()}: {self._reason(error)}. "
                    "Use a shorter one."
                ) from cause
            raise self._unavailable(f"used to {action} {path!r}", error) from cause

    def _not_found(
        self, path: str, action: str = "read", error: OSError | None = None
    ) -> PrefectOptunaError:
        try:
            there = self._store.root_is_there()
        except OSError as failure:
            return self._unavailable(f"used to {action} {path!r}", failure)
        if not there:
            return StorageNotFoundError(
                f"The artifact filesystem {self.location()} is not there: "
                f"{self._reason(error) if error else 'it does not exist'}. Make the bucket or "
                "container with the tools of its provider, or correct the url."
            )
        return PathNotFoundError(
            f"There is no artifact {path!r} in {self.location()}. ls() and glob() list what is."
        )

    def _exists(self, path: str) -> AlreadyExistsError:
        return AlreadyExistsError(
            f"There is an artifact {path!r} in {self.location()} already, and mode 'xb' replaces "
            "nothing. Take another path, or mode 'wb'."
        )

    def _unavailable(self, action: str, error: OSError) -> StorageUnavailableError:
        where, reason = self.location(), self._reason(error)
        start = f"The artifact filesystem {where} cannot be {action}: {reason}. "
        if isinstance(error, FileNotFoundError) and not self._is_folder:
            return StorageNotFoundError(
                f"{start}Make the bucket or container with the tools of its provider, or correct "
                "the url."
            )
        kind = StorageUnavailableError
        if isinstance(error, PermissionError):
            kind = StoragePermissionError
        if not self._is_folder:
            return kind(
                f"{start}Expected a server that answers, and credentials that may read, write, "
                "list and delete there. Correct the options of the block, or the network, and "
                "try again: nothing has been left half written."
            )
        return kind(
            f"{start}Expected a folder that this user may write to, with space left, on a "
            "filesystem that has hard links. Correct its permissions, or name another one."
        )

    def _reason(self, error: OSError) -> str:
        text = error.strerror or str(error) or type(error).__name__
        return text if self._is_folder else without_secrets(text, self._secrets())

    def _cause(self, error: OSError) -> BaseException | None:
        return error if self._is_folder else clean_cause(error, self._secrets())

    def _secrets(self) -> set[str]:
        options = self.options.get_secret_value()
        # Nobody knows which options a client has: no text is shown, other than what URLs may show.
        texts = {text for text in secrets_in(options, secret=True) if len(text) > 5}
        return secrets_in(options) | {text for text in texts if "://" not in text}

    @property
    def _is_folder(self) -> bool:
        return split_protocol(self.url)[0] is None


def _checked_remote(url: str) -> str:
    """A remote root without a slash at its end, and without anything secret."""
    try:
        parts = urlsplit(url)
        host = parts.netloc
        _ = parts.port if REMOTE[parts.scheme] == "sftp" else None
    except ValueError:
        # Its text may quote a password that was taken for a port.
        raise ValueError(
            "this is no valid URL. Expected one such as s3://bucket/prefix or "
            "sftp://user@host:22/path."
        ) from None
    if has_credentials(url):
        raise ValueError(
            "the URL of an artifact filesystem has no password, query or fragment. Put what is "
            "secret into the options."
        )
    if not host:
        what = "host" if REMOTE[parts.scheme] == "sftp" else "bucket or container"
        raise ValueError(f"expected the name of a {what} after {parts.scheme}://.")
    path = parts.path.strip("/")
    if path:
        checked_path(path)
    elif REMOTE[parts.scheme] == "sftp":
        raise ValueError("expected an absolute path after the host, such as sftp://host/data.")
    return f"{parts.scheme}://{host}{'/' if path else ''}{path}"


def _token() -> str:
    return os.urandom(12).hex()


@contextmanager
def _optuna_s_error() -> Generator[None]:
    try:
        yield
    except PathNotFoundError as error:
        from optuna.artifacts.exceptions import ArtifactNotFound

        raise ArtifactNotFound(str(error)) from error
