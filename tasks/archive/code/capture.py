"""A problem's functions, with everything they need to run where their script is unknown."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks._secrets import SecretVariables, secret_paths
from prefect_optuna.blocks.codec.values import encode_value
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks.archive.code.inspection import functions_in
from prefect_optuna.tasks.archive.code.reach import Reach
from prefect_optuna.tasks.archive.code.refusals import secret_by_name, secret_value, unknown_value
from prefect_optuna.tasks.resources import Resources

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.record.environment import Environment
    from prefect_optuna.tasks.problem import Problem

CAPTURE_FORMAT = 1
CAPTURE_KIND = "prefect-optuna/capture"

# The head of an array of numbers, in which is no text; bytes may be some.
_NUMBERS = re.compile(rb"\x93NUMPY[^{]{4,6}\{'descr': '[<>|=](?:[fcmMb]|[iu][248])")
_PARTS = ("suggest", "run", "evaluate", "objective", "plot")


@dataclass(frozen=True)
class Capture:
    """A problem as data: its functions' source, and all that they refer to.

    Attributes:
        document: JSON: the entry points, the captured symbols in the order in which they are
            restored, the context, the axes and the directions.
        blobs: arrays and tables by the SHA-256 digest of their bytes.
        axes: the axes of the problem, as they were given.
        folder: the folder that the problem's source lies in, if there is one.
        origin: what it was captured in, where it comes out of an archive or with a deployment.

    Example:
        >>> from prefect_optuna.tasks import Problem
        >>> from prefect_optuna.tasks.archive import Capture
        >>> problem = Problem.of("prefect_optuna.flows.examples.lynx_hare:problem")
        >>> sorted(Capture.of(problem).document["entrypoints"])
        ['evaluate', 'plot', 'run', 'suggest']
    """

    document: dict[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    origin: Environment | None = None

    @classmethod
    def of(cls, problem: Problem, *, allow_pickle: bool = False) -> Capture:
        """Capture a problem's functions, context and axes. None of them is called.

        Args:
            problem: what to capture.
            allow_pickle: whether objects that have no exact form otherwise are pickled. They come
                back with the same versions of Python and of their packages only.

        Raises:
            CaptureError: something cannot be captured, or is the value of an environment variable
                whose name says that it is secret; the message lists everything, and says for
                each what to do.
        """
        functions = {part: f for part in _PARTS if (f := getattr(problem, part)) is not None}
        reach = Reach(own=map(_globals_of, functions.values()), allow_pickle=allow_pickle)
        entrypoints = {part: reach.value(f, f"`{part}`") for part, f in functions.items()}
        context = {
            key: reach.value(value, f"context[{key!r}]") for key, value in problem.context.items()
        }
        axes = {
            name: reach.value(values, f"axes[{name!r}]") for name, values in problem.axes.items()
        }
        reach.finish()
        if reach.refusals:
            listed = "\n".join(f"  - {refusal}" for refusal in reach.refusals)
            raise CaptureError(
                f"The problem {problem.name!r} cannot be archived, and so could not be run again "
                f"from its study alone:\n{listed}"
            )
        document: dict[str, Any] = {
            "format": CAPTURE_FORMAT,
            "kind": CAPTURE_KIND,
            "entrypoints": entrypoints,
            "symbols": reach.symbols,
            "context": context,
            "axes": axes,
            "directions": list(problem.directions),
            "distributions": dict(sorted(reach.distributions.items())),
            "blobs": {digest: len(content) for digest, content in sorted(reach.blobs.items())},
        }
        if reach.pickled:
            document["pickled"] = reach.pickled
        if resources := Resources.of(problem.resources):
            document["resources"] = resources.as_json()
        lines = _secrets_in(document, reach.blobs)
        lines += [secret_by_name(path) for path in secret_paths(dict(problem.context), "context")]
        if lines:
            listed = "\n".join(f"  - {line}" for line in lines)
            raise CaptureError(
                f"The problem {problem.name!r} is not archived, for everybody who reads the "
                f"archive would read secrets of this machine:\n{listed}"
            )
        return cls(document, reach.blobs, problem.axes, _folder(functions.values()))

    @cached_property
    def content(self) -> bytes:
        """The document as bytes, the same for the same problem."""
        return json.dumps(self.document, indent=1).encode("ascii")

    @cached_property
    def code_version(self) -> str:
        """The SHA-256 digest of the content: it differs when any part of the problem does."""
        return hashlib.sha256(self.content).hexdigest()


def document_of(content: bytes, what: str) -> dict[str, Any]:
    """Read the document of a capture, whose digest has been verified."""
    document = json.loads(content)
    if document.get("kind") != CAPTURE_KIND:
        raise ArchiveError(
            f"The archive is damaged: {what} is no captured problem. Bring the study's manifest "
            "back from a copy."
        )
    if document["format"] > CAPTURE_FORMAT:
        raise ArchiveError(
            f"The archive holds {what} in the format {document['format']}, and this version reads "
            f"up to {CAPTURE_FORMAT}: pip install --upgrade prefect-optuna."
        )
    return document


def encode_scope(scope: Mapping[str, Any]) -> Any:
    """Turn the scope of a flow into tagged JSON."""

    def refuse(value: Any, path: str) -> Any:
        raise CaptureError(unknown_value(value, path))

    encoded = encode_value(dict(scope), refuse, "scope")
    if name := SecretVariables.here().name_in(encoded):
        raise CaptureError(secret_value("The scope", name))
    if paths := list(secret_paths(scope, "scope")):
        raise CaptureError("\n".join(map(secret_by_name, paths)))
    return encoded


def _secrets_in(document: Mapping[str, Any], blobs: Mapping[str, bytes]) -> list[str]:
    """List what holds the value of a secret environment variable, a line for each."""
    secrets = SecretVariables.here()
    in_blobs = {
        digest: name
        for digest, content in blobs.items()
        if not _NUMBERS.match(content) and (name := secrets.name_in(content))
    }
    parts = {
        **{f"`{part}`": value for part, value in document["entrypoints"].items()},
        **{f"{symbol['module']}.{symbol['name']}": symbol for symbol in document["symbols"]},
        **{f"context[{key!r}]": value for key, value in document["context"].items()},
        **{f"axes[{name!r}]": value for name, value in document["axes"].items()},
    }
    lines: list[str] = []
    for path, value in parts.items():
        name = secrets.name_in(value)
        if not name and in_blobs:
            text = json.dumps(value)
            name = next((name for digest, name in in_blobs.items() if digest in text), None)
        if in_path := secrets.name_in(path):
            name, path = in_path, "a name"
        if name:
            lines.append(secret_value(path, name))
    return lines


def _globals_of(function: Any) -> dict[str, Any]:
    """The globals of the module that defines a problem's function, if it defines it."""
    inner = inspect.unwrap(function)
    if isinstance(inner, FunctionType) and "<locals>" not in inner.__qualname__:
        return inner.__globals__
    return {}


def _folder(functions: Iterable[Any]) -> Path | None:
    for function in functions:
        for inner in functions_in(function):
            file = inner.__globals__.get("__file__")
            if file and Path(file).is_file():
                return Path(file).resolve().parent
    return None
