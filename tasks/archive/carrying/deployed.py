"""A captured problem as one piece of text, for the way from whoever deploys it to its archive.

The text comes from Prefect's server, where others may write. So its length and its signature are
looked at before anything is decoded, what it unpacks to is bounded, and each part has to have the
digest that it is named by. Nothing of it is executed here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks._secrets import has_secret_urls
from prefect_optuna.errors import ArchiveSignatureError, CaptureError
from prefect_optuna.tasks.archive.code.capture import Capture, document_of
from prefect_optuna.tasks.archive.record.environment import Environment
from prefect_optuna.tasks.archive.record.signing import SigningKeys

MAX_PACKED = 512 * 1024
"""Maximum number of bytes of a packed problem that travels with a deployment."""

_MAX_UNPACKED = 64 << 20
_KIND = "prefect-optuna/deployed"
_FORMAT = 1


def pack_problem(capture: Capture, environment: Environment) -> str:
    """Write a captured problem down as one text.

    Returns:
        Base64. `len(text) * 3 // 4` is how many bytes it takes.
    """
    if has_secret_urls(capture.content.decode("ascii")):
        raise CaptureError(
            "The problem's code or context holds a URL with a password or a token, and whoever may "
            "read the deployment would read it. Read it from an environment variable of the "
            "workers inside of the function, os.environ[...], or load a saved block there."
        )
    content = {
        "kind": _KIND,
        "format": _FORMAT,
        "capture": capture.content.decode("ascii"),
        "environment": _without_files(environment).to_json(),
        "blobs": {
            digest: base64.b64encode(blob).decode("ascii") for digest, blob in capture.blobs.items()
        },
    }
    packed = zlib.compress(json.dumps(content, sort_keys=True).encode("ascii"), 9)
    return base64.b64encode(packed).decode("ascii")


def sign(text: str, keys: SigningKeys | None) -> dict[str, str] | None:
    """The signature of a packed problem; `None` without a key."""
    return None if keys is None else keys.sign("deployed", "", _digest(text))


def require_signature(
    text: str, signature: Mapping[str, Any] | None, keys: SigningKeys | None
) -> bool:
    """Check that a packed problem is signed, if a key is configured here; False without one."""
    if keys is None:
        return False
    if problem := keys.problem("deployed", "", _digest(text), signature):
        raise ArchiveSignatureError(
            "The problem that came with the deployment does not run, trusted or not, because a key "
            f"for signing is configured here, and it {problem}. Deploy it again where that key is "
            "configured: PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY, or its ..._KEY_BLOCK."
        )
    return True


def digest_of(environment: Environment) -> str:
    """Return the digest by which a deployment names the environment that its workers install."""
    content = json.dumps(_without_files(environment).to_json(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def block_name(code_version: str, install: bool | str) -> str:
    """Return the name of a deployed problem's block on Prefect's server."""
    return f"{code_version}-{install[:16]}" if isinstance(install, str) else code_version


def unpack_problem(text: str, code_version: str, install: bool | str = False) -> Capture:
    """Read a packed problem, and verify that it is the one that was deployed.

    With the digest of an environment, that is verified, too.
    """
    try:
        content = json.loads(_inflated(text))
        assert content["kind"] == _KIND  # noqa: S101 - caught below
        if content["format"] > _FORMAT:
            raise ArchiveError(
                f"The deployment has brought a problem of the format {content['format']}, and "
                f"this version reads up to {_FORMAT}: pip install --upgrade prefect-optuna."
            )
        code = content["capture"].encode("ascii")
        blobs = {
            str(digest): base64.b64decode(blob, validate=True)
            for digest, blob in content["blobs"].items()
        }
        digests = {digest: hashlib.sha256(blob).hexdigest() for digest, blob in blobs.items()}
        if hashlib.sha256(code).hexdigest() != code_version or any(
            digest != own for digest, own in digests.items()
        ):
            raise _changed(code_version)
        document = document_of(code, "the problem that came with the deployment")
        if set(document["blobs"]) != blobs.keys():
            raise _changed(code_version)
        # A file that nobody has would make the archive of the study one that misses it.
        origin = _without_files(Environment.from_json(content["environment"]))
        if isinstance(install, str) and digest_of(origin) != install:
            raise _changed(code_version)
    except ArchiveError:
        raise
    except (*_MALFORMED, RecursionError) as error:
        raise _changed(code_version) from error
    return Capture(document, blobs, origin=origin)


_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, zlib.error)


def _without_files(environment: Environment) -> Environment:
    git = environment.git and replace(environment.git, diff="")
    return replace(environment, git=git, script_source="")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _inflated(text: str) -> bytes:
    if len(text) > 4 * MAX_PACKED:  # it may have been written with another limit than this one
        raise ArchiveError(
            f"The deployment has brought {len(text)} characters of a problem, and "
            f"{4 * MAX_PACKED} are the most. Somebody has changed it; deploy it again."
        )
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    inflater = zlib.decompressobj()
    content = inflater.decompress(packed, _MAX_UNPACKED)
    if not inflater.eof:
        raise ValueError("it is cut short, or unpacks to more than it may")
    return content


def _changed(code_version: str) -> ArchiveError:
    return ArchiveError(
        "The problem that came with the deployment is damaged, or somebody has changed it: it is "
        f"not the code {code_version[:12]} that the deployment names, or not with the packages "
        "that it names. Nothing of it has run. Deploy it again."
    )
