"""Errors of other libraries, as the `OSError` that they mean, and whether to try again.

The clients of object stores and SFTP raise errors of their own. They are told by their names and
HTTP status, since importing a client to name its errors costs more than using it.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from prefect_optuna.errors import InvalidSettingError, PrefectOptunaError

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
