"""Failures of a Redis server, or on the way to it, as errors for people."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable

import redis.exceptions as redis_errors

from prefect_optuna.blocks._secrets import without_secrets
from prefect_optuna.blocks.errors import (
    DamagedStorageError,
    PrefectOptunaError,
    StoragePermissionError,
    StorageUnavailableError,
)

_FINAL = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
_PASSING = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.MasterDownError,
    redis_errors.SlotNotCoveredError,
    OSError,
)
_PASSING_WORDS = ("BUSY ", "LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN")
# What is forbidden inside a script, in the words of Redis 6.2 and 7.
_FORBIDDEN_WORDS = ("NOPERM", "executing the script can't", "ACL failure in script")
_LOGIN_WORDS = (
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "invalid username-password",
    "without any password",
)


def is_passing(error: Exception) -> bool:
    """Tell whether the next attempt may succeed: a connection was lost, or a server is starting.

    Example:
        >>> import redis
        >>> from prefect_optuna.blocks.redis_storage.failures import is_passing
        >>> is_passing(redis.TimeoutError()), is_passing(redis.AuthenticationError())
        (True, False)
    """
    if isinstance(error, _FINAL) or _is_about_a_certificate(error):
        return False
    return isinstance(error, _PASSING) or _text(error).startswith(_PASSING_WORDS)


def translated(
    error: Exception, where: str, waited: float = 0.0, secrets: Iterable[str] = ()
) -> PrefectOptunaError:
    """Say in the project's own errors what has gone wrong.

    Args:
        error: of redis-py.
        where: the server and the namespace, without any password.
        waited: for how many seconds it has been tried.
        secrets: what the server may have repeated and the message may not.

    Example:
        >>> import redis
        >>> from prefect_optuna.blocks.redis_storage.failures import translated
        >>> print(translated(redis.AuthenticationError("WRONGPASS"), "redis://lab:6379/0"))
        redis://lab:6379/0 does not let this user in: WRONGPASS. Correct the username and the ...
    """
    text = without_secrets(_text(error), secrets)
    tried = f" It was tried again for {waited:.1f} s." if waited >= 0.1 else ""
    forbidden = isinstance(error, redis_errors.NoPermissionError)
    if forbidden or any(word in text for word in _FORBIDDEN_WORDS):
        return StoragePermissionError(
            f"{where} does not let this user do that: {text}. Give the user the rules that "
            "`acl_rules(namespace)` lists."
        )
    if isinstance(error, _FINAL) or any(word in text for word in _LOGIN_WORDS):
        return StoragePermissionError(
            f"{where} does not let this user in: {text}. Correct the username and the password."
        )
    if isinstance(error, redis_errors.ReadOnlyError) or text.startswith("READONLY"):
        return StoragePermissionError(
            f"{where} is a read-only replica. Give the address of the primary, or of a Sentinel "
            f"that knows it (redis+sentinel://host:26379/service/0).{tried}"
        )
    if text.startswith("MISCONF"):
        return StoragePermissionError(
            f"{where} takes no writes, because it cannot save to its disk: {text} Make room on "
            "the disk of the server."
        )
    if isinstance(error, redis_errors.OutOfMemoryError) or "OOM" in text[:60]:
        return StorageUnavailableError(
            f"{where} has no memory left (maxmemory). Nothing was written. Give the server more "
            "memory, or delete studies."
        )
    if "unknown command" in text or "Unknown Redis command" in text:
        return StorageUnavailableError(
            f"{where} lacks a command that RedisStorage needs: {text}. It needs Redis 6.2 or "
            "later, or Valkey, with scripting (EVALSHA) allowed."
        )
    if "value is not an integer" in text:
        return DamagedStorageError(
            f"{where} has a counter that is no number: {text}. Somebody has changed it. Run "
            "`check` on the storage, and restore a backup."
        )
    if "WRONGTYPE" in text:
        return DamagedStorageError(
            f"{where} has a key of another type than RedisStorage has made: {text}. Somebody has "
            "changed it. Run `check` on the storage, and restore a backup."
        )
    if _is_about_a_certificate(error):
        return StorageUnavailableError(
            f"{where} shows a TLS certificate that is not trusted: {text}. Name its authority "
            "with ?ssl_ca_certs=/path/ca.pem in the URL."
        )
    if isinstance(error, redis_errors.BusyLoadingError) or text.startswith("LOADING"):
        return StorageUnavailableError(
            f"{where} is still loading its data.{tried} Try again when it is done."
        )
    if is_passing(error):
        return StorageUnavailableError(
            f"{where} cannot be reached: {text or type(error).__name__}.{tried} Is the server "
            "running, and are host and port right?"
        )
    return StorageUnavailableError(f"{where} has refused: {text or type(error).__name__}.")


def _text(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    # Before Redis 7, what a command in a script has answered stands at the end.
    inside = re.search(r"@user_script: ?\d+: -([A-Z]+ .*)", text)
    return inside[1] if inside else text


def _is_about_a_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
