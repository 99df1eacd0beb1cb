"""Checks of what Prefect may read as the result of a run, where artifacts are kept.

A result's record names the serializer that Prefect reads it with: pickle, any module, any class.
So whoever can write where results are kept has code run by whoever asks the server for one. What
is accepted here can only be data: a file of a persistence class, which begins as Arrow does, or a
record of plain JSON. It is handed on as it has been understood, and not as it was found.
"""

from __future__ import annotations

import builtins
import json
from typing import Any

from pydantic_core import from_json, to_json

from prefect_optuna.errors import ArtifactLoadError

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
