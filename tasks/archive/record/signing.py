"""Signatures: who wrote a part of an archive can be told, and that it has not changed since.

A signature is an HMAC-SHA256 of JSON that says what is signed, of which archive, and what it holds.
It names its key by an id that gives nothing of the key away. Keys stay in the process that signs:
they are in no repr, no pickle and no file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from typing import Any

from pydantic import SecretStr

from prefect_optuna.blocks import ArchiveError, InvalidSettingError, StorageUnavailableError
from prefect_optuna.blocks.settings import OptunaSettings

MIN_KEY_LENGTH = 16
"""The minimum length of a key, in characters; 32 from `secrets.token_hex(16)` are a good one."""

KEY_VARIABLES = (
    "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY",
    "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY_BLOCK",
)
"""The environment variables that hold keys, or say where they are."""


_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
_LEVELS = 30
_PLAIN = frozenset({str, float, int, bool, type(None)})


def _sorts_as_it_is(content: Any) -> bool:
    """Tell whether all keys are ASCII text, not looking into what is nested deeply."""
    level = [content]
    for _ in range(_LEVELS):
        inside: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if not "".join(item).isascii():  # a TypeError, where one is no text
                    return False
                inside += item.values()
            elif kind is list or kind is tuple:
                inside += item
            elif kind not in _PLAIN:
                return False
        if not inside:
            return True
        level = inside
    return False


def canonical(content: Any) -> bytes:
    """One form of JSON for one content, whichever storage it has been through."""
    try:
        with suppress(TypeError):
            if _sorts_as_it_is(content):
                return _SORTED.encode(content).encode("ascii")
        # JSON makes text of a key that is a number, and sorts before it does.
        content = json.loads(json.dumps(content))
        return _SORTED.encode(content).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"Only what is JSON can be signed: {error}. Keep attributes of studies and trials to "
            "numbers, text, lists and mappings."
        ) from None


class SigningKeys:
    """The keys of an archive: the first one signs, and all of them verify.

    Example:
        >>> from prefect_optuna.tasks.archive.record.signing import SigningKeys
        >>> keys = SigningKeys("correct horse battery staple")
        >>> keys
        SigningKeys(85588aed)
        >>> signature = keys.sign("version", "0b8f", {"first_trial": 0})
        >>> keys.problem("version", "0b8f", {"first_trial": 0}, signature)
        ''
        >>> keys.problem("version", "0b8f", {"first_trial": 1}, signature)
        'has been changed after it was signed'
    """

    def __init__(self, key: SecretStr | str) -> None:
        text = key.get_secret_value() if isinstance(key, SecretStr) else key
        keys = [word.strip().encode() for word in text.split(",") if word.strip()]
        if not keys or min(map(len, keys)) < MIN_KEY_LENGTH:
            raise InvalidSettingError(
                f"A key for signing archives has {MIN_KEY_LENGTH} characters or more, and a comma "
                f"ends it; found one of {min(map(len, keys), default=0)}. Make one with: "
                'python -c "import secrets; print(secrets.token_hex(16))"'
            )
        self._keys = {_key_id(secret): secret for secret in keys}

    @classmethod
    def configured(cls, key: SecretStr | str | None = None) -> SigningKeys | None:
        """The keys that were given, or else those of the settings; `None` without any."""
        if key is not None:
            return cls(key)
        settings = OptunaSettings.here()
        if settings.archive_key is not None:
            return cls(settings.archive_key)
        if settings.archive_key_block is not None:
            return cls(_from_block(settings.archive_key_block))
        return None

    @property
    def id(self) -> str:
        """The id of the key that signs: eight hexadecimal digits."""
        return next(iter(self._keys))

    def sign(self, what: str, uuid: str, content: Any) -> dict[str, str]:
        """Sign a part of an archive."""
        return {"key": self.id, "hmac": _hmac(self._keys[self.id], what, uuid, content)}

    def problem(self, what: str, uuid: str, content: Any, signature: Any) -> str:
        """Say why a signature does not hold, as the rest of a sentence; empty if it holds."""
        if signature is None:
            return "is not signed"
        try:
            key_id, digest = str(signature["key"]), str(signature["hmac"])
        except (KeyError, TypeError):
            return "has something in place of a signature"
        if key_id not in self._keys:
            return f"is signed with the key {key_id!r}, and the keys here are {self!r}"
        expected = _hmac(self._keys[key_id], what, uuid, content)
        if hmac.compare_digest(expected.encode(), digest.encode()):
            return ""
        return "has been changed after it was signed"

    def __repr__(self) -> str:
        return f"SigningKeys({', '.join(self._keys)})"

    def __reduce__(self) -> Any:
        raise TypeError(
            "A key for signing archives is not sent to other processes. Sign where it is "
            "configured."
        )


def _key_id(key: bytes) -> str:
    return hmac.new(key, b"prefect-optuna key id", hashlib.sha256).hexdigest()[:8]


def _hmac(key: bytes, what: str, uuid: str, content: Any) -> str:
    message = canonical({"signs": f"prefect-optuna/{what}", "uuid": uuid, "content": content})
    return hmac.digest(key, message, "sha256").hex()


def _from_block(name: str) -> str:
    from prefect.blocks.system import Secret

    name = name.removeprefix("secret/")
    try:
        block: Any = Secret.load(name, _sync=True)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise StorageUnavailableError(
            f"The key for signing archives could not be loaded: {error} `prefect block ls` lists "
            f"the saved blocks; {KEY_VARIABLES[0]} takes the key itself."
        ) from error
    value = block.get()
    if not isinstance(value, str):
        raise InvalidSettingError(
            f"The block secret/{name} has to hold the key as text, found {type(value).__name__}."
        )
    return value
