"""The block that keeps artifacts: results, archives, pictures."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal

import fsspec
from fsspec.core import split_protocol
from fsspec.utils import glob_translate
from prefect.filesystems import WritableFileSystem
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator
from typing_extensions import Self

from prefect_optuna.blocks._artifact_paths import TEMPORARY_PREFIX, checked_path
from prefect_optuna.blocks._artifact_stores import ArtifactStore, FsspecStore, LocalStore
from prefect_optuna.blocks._metadata import DOCUMENTATION_URL, LOGO_URL
from prefect_optuna.blocks.errors import (
    ArtifactNotFoundError,
    ArtifactPathError,
    PrefectOptunaError,
    StorageUnavailableError,
)

__all__ = ["ArtifactFileSystem"]

_LOCAL = ("file", "local")
_MAGIC = re.compile(r"[*?\[]")
_WRONG_KIND = (IsADirectoryError, NotADirectoryError, FileExistsError)


class ArtifactFileSystem(WritableFileSystem):
    """Keeps artifacts below one root, on a local disk or in memory.

    Paths are relative to the root, have `/` between their names, and never lead out of it. A
    write is seen whole or not at all, also if the process is killed; it is not forced to the
    disk, so a power cut may lose the last seconds. A saved block can be a flow's or a task's
    `result_storage`.

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
    _documentation_url = DOCUMENTATION_URL
    _logo_url = LOGO_URL

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    if TYPE_CHECKING:
        _opened: ArtifactStore = PrivateAttr()

    url: str = Field(
        description=(
            "The root: a local path, file:///absolute/path or memory://name. A relative path is "
            "made absolute at once, so that a saved block means the same folder everywhere."
        )
    )
    options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description=(
            "Options for the fsspec filesystem of the URL, such as credentials; a local folder "
            "takes none."
        ),
    )

    @field_validator("url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        protocol, path = split_protocol(url)
        if protocol == "memory":
            name = path.strip("/")
            return f"memory://{checked_path(name) if name else ''}"
        if protocol is not None and protocol not in _LOCAL:
            raise ValueError(
                f"expected a local path, file:// or memory://, and found {protocol}://, which is "
                "not supported yet."
            )
        if not path or "\0" in path:
            raise ValueError("expected the path of a folder, and found none.")
        return str(Path(path).expanduser().absolute())

    @model_validator(mode="after")
    def _no_options_for_a_folder(self) -> Self:
        if self.options.get_secret_value() and split_protocol(self.url)[0] is None:
            raise ValueError("a local folder takes no options. Remove them, or correct the url.")
        return self

    @property
    def _store(self) -> ArtifactStore:
        store = getattr(self, "_opened", None)
        if store is None:
            store = self._opened = self._open()
        return store

    def _open(self) -> ArtifactStore:
        protocol, _ = split_protocol(self.url)
        if protocol is None:
            return LocalStore(self.url)
        filesystem, root = fsspec.url_to_fs(self.url, **self.options.get_secret_value())
        return FsspecStore(filesystem, root, self.url)

    def read_path(self, path: str, *, _sync: bool | None = None) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read an artifact.

        Args:
            path: its path, relative to the root.

        Returns:
            All of its bytes.

        Raises:
            ArtifactNotFoundError: nothing is there.
            ArtifactPathError: the path is malformed, leads out of the root, or is a directory.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs")
            >>> artifacts.write_path("a/note.txt", b"hello")
            >>> artifacts.read_path("a/note.txt")
            b'hello'
        """
        with self._explained(path, "read"):
            return self._store.read(checked_path(path))

    def write_path(self, path: str, content: bytes, *, _sync: bool | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write an artifact, in place of what was there.

        Directories are made as needed. Readers see the old content or the new, never a part.

        Args:
            path: its path, relative to the root.
            content: all of its bytes.

        Raises:
            ArtifactPathError: the path is malformed, leads out of the root, is a directory, or
                goes through a file.
            StorageUnavailableError: the filesystem failed, for example because it is full.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").write_path("b", b"hello")
        """
        with self._explained(path, "write"):
            self._store.write(checked_path(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """Write an artifact if nothing is there, whoever else tries it at the same time.

        Args:
            path: its path, relative to the root.
            content: all of its bytes.

        Returns:
            Whether this call made it. One of many concurrent calls gets `True`.

        Raises:
            ArtifactPathError: the path is malformed, leads out of the root, or goes through a
                file.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs-create")
            >>> artifacts.create("claim", b"mine"), artifacts.create("claim", b"mine too")
            (True, False)
        """
        with self._explained(path, "write"):
            return self._store.create(checked_path(path), content)

    def open(self, path: str, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Open an artifact for reading, as a binary file.

        Args:
            path: its path, relative to the root.
            mode: `"rb"`. To write, use `write_path`, which is atomic.

        Returns:
            A seekable file; close it, or use it in a `with` statement.

        Raises:
            ArtifactNotFoundError: nothing is there.
            ArtifactPathError: the path is malformed, leads out of the root, or is a directory.
            ValueError: another mode.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> artifacts = ArtifactFileSystem(url="memory://docs")
            >>> artifacts.write_path("c", b"hello")
            >>> with artifacts.open("c") as file:
            ...     file.read(2)
            b'he'
        """
        if mode != "rb":
            raise ValueError(f"mode must be 'rb', not {mode!r}. To write, use write_path.")
        with self._explained(path, "read"):
            return self._store.open(checked_path(path))

    def exists(self, path: str) -> bool:
        """Say whether an artifact, which is a file and no directory, is at the path.

        Raises:
            ArtifactPathError: the path is malformed or leads out of the root.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").exists("nothing/here")
            False
        """
        with self._explained(path, "read"):
            return self._store.is_file(checked_path(path))

    def ls(self, path: str = "") -> list[str]:
        """List a directory.

        Args:
            path: the directory, relative to the root; empty for the root.

        Returns:
            The paths of its files and directories, sorted and relative to the root, so that they
            can be passed back; of a file, its own path; of what is not there, nothing.

        Raises:
            ArtifactPathError: the path is malformed or leads out of the root.
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
            ArtifactPathError: the pattern is malformed or leads out of the root.
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
            raise ArtifactPathError(f"{pattern!r} is no pattern: {error}.") from None
        with self._explained(pattern, "list"):
            start = "/".join(names[:fixed])
            return sorted(path for path in self._store.walk(start) if matches(path))

    def rm(self, path: str, recursive: bool = False) -> None:
        """Remove an artifact, or a directory with everything in it.

        Args:
            path: its path, relative to the root. The root itself cannot be removed.
            recursive: also remove a directory.

        Raises:
            ArtifactNotFoundError: nothing is there.
            ArtifactPathError: the path is malformed, leads out of the root, or is a directory
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

    def copy(self, source: str, target: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Copy an artifact, in place of what was at the target.

        Args:
            source: the path of the artifact, relative to the root.
            target: the path of the copy, relative to the root.

        Raises:
            ArtifactNotFoundError: nothing is at the source.
            ArtifactPathError: a path is malformed, leads out of the root, or is a directory.
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
        with self._explained(target, "write"):
            self._store.copy(checked_path(source), checked_path(target))

    def sha256(self, path: str) -> str:
        """Return the SHA-256 digest of an artifact, as 64 hexadecimal digits.

        Raises:
            ArtifactNotFoundError: nothing is there.
            ArtifactPathError: the path is malformed, leads out of the root, or is a directory.
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

    def location(self, path: str = "") -> str:
        """Say where an artifact, or the root, is: an absolute path or a URL, without secrets.

        Raises:
            ArtifactPathError: the path is malformed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").location("trials/3")
            'memory://docs/trials/3'
        """
        return self._store.location(checked_path(path) if path else "")

    def check(self) -> None:
        """Make sure that artifacts can be written here, by writing a probe and removing it.

        Raises:
            StorageUnavailableError: they cannot; says why, and what to do.

        Example:
            >>> from prefect_optuna.blocks import ArtifactFileSystem
            >>> ArtifactFileSystem(url="memory://docs").check()
        """
        probe = f"{TEMPORARY_PREFIX}probe-{os.urandom(12).hex()}"
        try:
            self._store.create(probe, b"probe")
            self._store.rm(probe, False)
        except OSError as error:
            raise self._unavailable("written", error) from error

    @contextmanager
    def _explained(self, path: str, action: str) -> Generator[None]:
        try:
            yield
        except PrefectOptunaError:
            raise
        except FileNotFoundError:
            raise self._not_found(path) from None
        except _WRONG_KIND as error:
            if isinstance(error, NotADirectoryError) and action in ("read", "remove"):
                raise self._not_found(path) from None
            root = self.location()
            if split_protocol(self.url)[0] is None and not Path(root).is_dir():
                raise self._unavailable(f"used to {action} {path!r}", error) from error
            raise ArtifactPathError(
                f"Cannot {action} the artifact {path!r} in {root}: {_reason(error)}. Expected a "
                "file there, and directories on the way to it. For a whole directory, use ls, "
                "glob or rm(recursive=True)."
            ) from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise ArtifactPathError(
                    f"{path!r} is no artifact path in {self.location()}: {_reason(error)}. "
                    "Use a shorter one."
                ) from error
            raise self._unavailable(f"used to {action} {path!r}", error) from error

    def _not_found(self, path: str) -> ArtifactNotFoundError:
        return ArtifactNotFoundError(
            f"There is no artifact {path!r} in {self.location()}. ls() and glob() list what is."
        )

    def _unavailable(self, action: str, error: OSError) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"The artifact filesystem {self.location()} cannot be {action}: {_reason(error)}. "
            "Expected a folder that this user may write to, with space left, on a filesystem "
            "that has hard links. Correct its permissions, or name another one."
        )


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
