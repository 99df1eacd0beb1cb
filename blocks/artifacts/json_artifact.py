"""Values of Python and NumPy as JSON that other programs read as well."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from typing import IO, Any, ClassVar, cast

import numpy as np

from prefect_optuna.blocks.artifacts.artifact import Artifact, type_name
from prefect_optuna.blocks.codec.untrusted import checked_dtype, is_padded
from prefect_optuna.blocks.codec.values import EXACT_TYPES, decode_value, encode_value
from prefect_optuna.errors import ArtifactLoadError, ArtifactLogError, PrefectOptunaError

_IDENTIFIER_KEY = re.compile(r"\['([A-Za-z_]\w*)'\]")


class JSONArtifact(Artifact):
    """Writes values as JSON, and gives them back with their types.

    What JSON has is written as it is, so the file of a plain dictionary is that dictionary. The
    rest is an object with one key that starts with `$`: `{"$tuple": [1, 2]}`. That holds for
    tuples, sets, times, bytes, complex numbers, NaN and infinities, keys that are no text, NumPy
    arrays and scalars, and more of the standard library. A dictionary that looks like such an
    object is written in another way, and comes back as itself.

    Departures from lazyscribe's, which writes tuples as lists and NaN as a token that is no JSON,
    and refuses most of NumPy.

    Example:
        >>> from prefect_optuna.blocks.artifacts import JSONArtifact, decode, encode
        >>> encode(JSONArtifact, {"span": (1, 2), "loss": float("nan")})
        b'{"span": {"$tuple": [1, 2]}, "loss": {"$float": "nan"}}'
        >>> decode(JSONArtifact, b'{"span": {"$tuple": [1, 2]}}')
        {'span': (1, 2)}
    """

    __slots__ = ()
    alias: ClassVar[str] = "json"
    suffix: ClassVar[str] = "json"
    binary: ClassVar[bool] = False

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take the types that come back exactly; whether their items do, writing shows."""
        return type(value) in EXACT_TYPES or isinstance(value, np.generic)

    @classmethod
    def write(
        cls,
        obj: Any,
        buf: IO[str],
        *,
        default: Callable[[Any], Any] | None = None,
        **writer_kwargs: Any,
    ) -> None:
        """Write a value.

        Args:
            obj: the value.
            buf: a text file.
            default: turns a value that has no exact form into one that has; it comes back as
                that one.
            **writer_kwargs: arguments of `json.dump`, such as `indent`.

        Raises:
            ArtifactLogError: something in the value cannot be written; names its place and type.
        """
        data = exact_json(obj, default)
        # As a whole first: a file that the caller has opened must not end half-written.
        buf.write(json.dumps(data, allow_nan=False, **writer_kwargs))

    @classmethod
    def read(cls, buf: IO[str], *, plain: bool = False, **reader_kwargs: Any) -> Any:
        """Read a value.

        Args:
            buf: a text file, written by this handler or by anybody else.
            plain: whether to leave objects with a `$` key as they are, in a file of somebody
                else who gives them another meaning.
            **reader_kwargs: arguments of `json.load`, such as `parse_float`.

        Returns:
            The value.

        Raises:
            ArtifactLoadError: an object with a `$` key is none that this handler writes.
        """
        data = json.load(buf, **reader_kwargs)
        return data if plain else from_exact_json(data)


def exact_json(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Turn a value into what `json.dumps` writes, with the types beside it.

    Example:
        >>> exact_json({"at": 1j, "n": [1]})
        {'at': {'$complex': [0.0, 1.0]}, 'n': [1]}
    """

    def other(inner: Any, path: str) -> Any:
        if isinstance(inner, np.ndarray):
            return _array_json(cast("np.ndarray[Any, Any]", inner), path)
        converted = inner if default is None else default(inner)
        return _refuse(inner, path) if converted is inner else encode(converted, path)

    def encode(inner: Any, path: str) -> Any:
        return encode_value(inner, other, path)

    return encode(value, "$")


def from_exact_json(data: Any) -> Any:
    """Turn what `exact_json` returned into the value again.

    Example:
        >>> from_exact_json({"at": {"$complex": [0.0, 1.0]}, "see": {"$ref": "#/x"}})
        {'at': 1j, 'see': {'$ref': '#/x'}}
    """
    try:
        return decode_value(data, _other_tag)
    except PrefectOptunaError:
        raise
    except Exception as error:
        raise ArtifactLoadError(
            "This JSON has an object with a '$' key that the artifact handler 'json' writes with "
            f"other content ({type(error).__name__}: {error}). If somebody else has written it, "
            "read it with plain=True; else it is damaged."
        ) from error


def _array_json(array: np.ndarray[Any, Any], path: str) -> Any:
    dtype = array.dtype
    if type(array) is not np.ndarray or dtype.hasobject or dtype.names is not None:
        return _refuse(array, path)
    shape = list(array.shape)
    is_text = dtype.kind == "U" and not is_padded(array.nbytes, int(np.char.str_len(array).sum()))
    if (
        dtype.kind in "biu"
        or is_text
        or (dtype.kind == "f" and dtype.itemsize <= 8 and _is_finite(array))
    ):
        return {"$array": [dtype.str, shape, array.reshape(-1).tolist()]}
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"$array_bytes": [dtype.str, shape, content]}


def _is_finite(array: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(array).all())


def _other_tag(tag: str, held: Any) -> Any:
    if tag == "$array":
        dtype, shape, values = held
        kind = checked_dtype(dtype)
        if kind.kind not in "biufU":
            raise ValueError("arrays of this type are not written as numbers or text")
        if kind.kind == "U" and is_padded(kind.itemsize * math.prod(shape), sum(map(len, values))):
            raise ValueError("its text is far shorter than its type says")
        return np.array(values, kind).reshape(shape)
    if tag == "$array_bytes":
        dtype, shape, content = held
        return np.frombuffer(base64.b64decode(content), checked_dtype(dtype)).reshape(shape).copy()
    return {tag: decode_value(held, _other_tag)}


def _refuse(value: Any, path: str) -> Any:
    where = _IDENTIFIER_KEY.sub(r".\1", path)
    kind = type_name(value)
    if isinstance(value, np.ndarray):
        kind += f" of {value.dtype}"
    raise ArtifactLogError(
        f"{where} is of type {kind}, which has no exact form in JSON. Expected numbers, text, "
        "lists, dictionaries, times, NumPy arrays and the like. Convert it, or say how with "
        "default=..., or use another artifact handler."
    )
