"""What the artifact filesystem asks of a store: calls, paths and errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

from prefect_optuna.errors import InvalidSettingError, PrefectOptunaError

# Errors of other libraries, as the `OSError` that they mean, and whether to try again.
#
# The clients of object stores and SFTP raise errors of their own. They are told by their names
# and HTTP status, since importing a client to name its errors costs more than using it.


_CONNECTION = {
    # botocore
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseStreamingError",
    # aiohttp
    "ClientConnectionError",
    "ClientPayloadError",
    # azure-core
    "ServiceRequestError",
    "ServiceResponseError",
    # asyncssh
    "DisconnectError",
    "SFTPConnectionLost",
    "SFTPNoConnection",
}
_PERMISSION = {
    # botocore
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    # azure-core
    "ClientAuthenticationError",
    # google-auth
    "DefaultCredentialsError",
    "RefreshError",
    # asyncssh: a password or key that the server refuses, a server that is another one
    "PermissionDenied",
    "SFTPPermissionDenied",
    "HostKeyNotVerifiable",
}
_NOT_FOUND = {"ResourceNotFoundError", "SFTPNoSuchFile", "SFTPNoSuchPath"}

_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_TRANSIENT_ERRNO = {
    errno.EAGAIN,
    errno.EBUSY,  # what s3fs makes of 409 and 503
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPIPE,
    getattr(errno, "EREMOTEIO", errno.EIO),  # what s3fs makes of 500
}


def wrong_options(url: str) -> InvalidSettingError:
    """Return the meaning of a client's own `TypeError`, which may quote a value that is secret."""
    return InvalidSettingError(
        f"The artifact filesystem {url} has options that its client does not take, or values of "
        "another kind. Expected those of fsspec's filesystem for this protocol, such as key, "
        "secret and endpoint_url for S3. Correct the options of the block."
    )


def is_transient(error: Exception) -> bool:
    """Tell whether the same call may well work in a moment."""
    return isinstance(error, (ConnectionError, TimeoutError)) or (
        isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO
    )


@contextmanager
def translated() -> Generator[None]:
    """Turn whatever a client raises into an `OSError`; mistakes of the caller stay as they are."""
    try:
        yield
    except (PrefectOptunaError, TypeError, ImportError):
        raise
    except Exception as error:
        meant = _meaning(error)
        if meant is error:
            raise
        raise meant from error


def _meaning(error: Exception) -> Exception:
    names = {cls.__name__ for cls in type(error).__mro__}
    status = _status(error)
    reason = f"{str(error) or type(error).__name__}"
    if names & _NOT_FOUND or status == 404:
        return FileNotFoundError(errno.ENOENT, reason)
    if "SFTPNotADirectory" in names:
        return NotADirectoryError(errno.ENOTDIR, reason)
    if names & _PERMISSION or status in (401, 403) or reason.startswith("Forbidden"):
        return PermissionError(errno.EACCES, reason)
    if isinstance(error, OSError) and status is None:
        return error
    if names & _CONNECTION or status in _TRANSIENT_STATUS:
        return ConnectionError(reason)
    return error if isinstance(error, OSError) else OSError(reason)


def _status(error: Exception) -> int | None:
    for name in ("status_code", "code", "status"):
        value = getattr(error, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


# Validation of artifact paths.


# Only unfinished writes have names like this, and listings leave them out.
TEMPORARY_PREFIX = ".tmp-"

_MAX_NAME = 255  # bytes, the limit of common filesystems
_MAX_PATH = 1024  # bytes, the limit of S3
_DRIVE = re.compile(r"[A-Za-z]:")


def checked_path(path: str) -> str:
    """Return the path if it names an artifact below the root, on every kind of filesystem."""
    if rule := _broken_rule(path):
        raise InvalidSettingError(
            f"{path!r} is no artifact path: {rule}. Expected names separated by '/', relative to "
            "the artifact root, such as 'trials/3/result.arrow'."
        )
    return path


def _broken_rule(path: str) -> str | None:
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return "it must be a string"
    if not path:
        return "it is empty"
    if "\0" in path:
        return "it has a NUL character"
    if "\\" in path:
        return "it has a backslash, which some systems take for '/'"
    if path.startswith("/") or _DRIVE.match(path):
        return "it is absolute"
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "it has characters that UTF-8 cannot encode"
    if length > _MAX_PATH:
        return f"it has more than {_MAX_PATH} bytes"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return f"it has the part {name!r}"
        if name.startswith(TEMPORARY_PREFIX):
            return f"names that start with {TEMPORARY_PREFIX!r} are kept for unfinished writes"
        if length > _MAX_NAME and len(name.encode()) > _MAX_NAME:
            return f"a name in it has more than {_MAX_NAME} bytes"
    return None


@dataclass(frozen=True)
class ArtifactInfo:
    """A filesystem's information about an artifact, known without reading it.

    Attributes:
        path: its path, relative to the root of its filesystem.
        size: its length in bytes.
        modified: when it was written, in UTC, by the clock of the filesystem.
    """

    path: str
    size: int
    modified: datetime


class ArtifactStore(Protocol):
    """Takes checked paths, raises `OSError`s. A write is seen whole or not at all.

    The block on top explains the errors to people. A `token` names one attempt to create an
    artifact, so that a repetition after a lost reply recognizes its own work.
    """

    def open(self, path: str) -> BinaryIO: ...

    def read(self, path: str) -> bytes: ...

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]: ...

    def write(self, path: str, content: bytes) -> None: ...

    def create(self, path: str, content: bytes, token: str) -> bool: ...

    def scratch(self, path: str) -> str | None:
        """A folder of this machine to collect a write in; `None` for the system's own."""
        ...

    def put(self, file: str, path: str, token: str | None) -> bool:
        """Turn a file of this machine into an artifact; with a token, only if there is none."""
        ...

    def copy(self, source: str, target: str) -> None: ...

    def info(self, path: str) -> ArtifactInfo: ...

    def is_file(self, path: str) -> bool: ...

    def ls(self, path: str) -> list[str]: ...

    def walk(self, path: str) -> Iterator[str]: ...

    def unfinished(self) -> Iterator[ArtifactInfo]:
        """Yield what killed writers have left behind."""
        ...

    def rm(self, path: str, recursive: bool) -> None: ...

    def rm_files(self, paths: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""
        ...

    def root_is_there(self) -> bool:
        """Tell whether the root must be made by the storage's owner: a bucket, a server."""
        ...

    def location(self, path: str) -> str: ...
