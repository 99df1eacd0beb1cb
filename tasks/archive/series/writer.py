"""Results of trials, written by workers and read by anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.tasks.archive.series.blobs import beside_path, read_verified
from prefect_optuna.tasks.archive.series.results import (
    decode_inline,
    decode_result,
    encode_inline,
    encode_with_spec,
)

_MAX_LISTED = 32  # series in a reference: it is an attribute of the trial, and stays small


@dataclass(frozen=True)
class EncodedResult:
    """A result as it is archived.

    Attributes:
        content: of its file; empty if the reference holds the result itself.
        reference: to it, without the path.
    """

    content: bytes
    reference: dict[str, Any]


@dataclass(frozen=True)
class ResultWriter:
    """Archives what `run` returned without the database, and picklable.

    A result that takes up to 4,096 bytes is in the reference itself, which becomes an attribute of
    the trial; a larger one, a table, and text in arrays are a file.

    Attributes:
        artifacts: where results are written.
        uuid: of the study's archive.
        axes: the coordinates of the results' series.
        version: the id of the archive's version that the trials run with, for their references.
        keep_inputs: how many bytes of the files that trials read go into the archive.

    Example:
        >>> from prefect_optuna.blocks import ArtifactFileSystem
        >>> from prefect_optuna.tasks.archive import ResultWriter, read_result
        >>> artifacts = ArtifactFileSystem(url="memory://docs-writer")
        >>> writer = ResultWriter(artifacts, uuid="0b8f")
        >>> read_result(artifacts, writer.write(3, {"loss": [0.5, 0.25]}))
        {'loss': [0.5, 0.25]}
        >>> writer.write(4, {"loss": [0.5] * 1000})["path"]
        'studies/0b8f/trials/000004.arrow'
    """

    artifacts: ArtifactFileSystem
    uuid: str
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    version: str = ""
    keep_inputs: int = 0

    def write(
        self, trial_number: int, result: Any, *, numbers: bool = False
    ) -> dict[str, Any] | None:
        """Archive what `run` returned in one trial.

        What is there is never overwritten: another result of the same trial goes beside it.

        Args:
            trial_number: the trial's number.
            result: what `run` returned.
            numbers: whether to archive plain numbers, too.

        Returns:
            A reference for the trial's user attribute `"result"`, as JSON: the `sha256`, dtype
            and shape of each of the `series`, and either the result as `inline`, or the `path` of
            its file, the number of its `bytes` and its `layout`. `None` for nothing, a number or
            a tuple of numbers: the study has those.

        Raises:
            CaptureError: the result cannot be archived; names the key and the type.
            StorageUnavailableError: the filesystem failed.
        """
        encoded = self.encode(result, numbers=numbers)
        return None if encoded is None else self.put(trial_number, encoded)

    def encode(self, result: Any, *, numbers: bool = False) -> EncodedResult | None:
        """Encode what `write` writes, for whoever writes it later with `put`.

        Args:
            result: what `run` returned.
            numbers: whether to archive plain numbers, too.

        Raises:
            CaptureError: the result cannot be archived; names the key and the type.
        """
        if result is None or (not numbers and _is_value(result)):
            return None
        content, reference = b"", encode_inline(result)
        if reference is None:
            content, spec = encode_with_spec(result, self.axes)
            series = spec["series"]
            reference = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "layout": spec["layout"],
                "series": dict(list(series.items())[:_MAX_LISTED]),
            }
            if len(series) > _MAX_LISTED:
                reference["more_series"] = len(series) - _MAX_LISTED
        if self.version:
            reference["version"] = self.version
        return EncodedResult(content, reference)

    def put(self, trial_number: int, encoded: EncodedResult) -> dict[str, Any]:
        """Write an encoded result, and return the reference as `write` does.

        Args:
            trial_number: the trial's number.
            encoded: what `encode` returned.

        Raises:
            StorageUnavailableError: the filesystem failed.
        """
        if "inline" in encoded.reference:
            return dict(encoded.reference)
        content, digest = encoded.content, encoded.reference["sha256"]
        path = f"studies/{self.uuid}/trials/{trial_number:06d}.arrow"
        if not self.artifacts.create(path, content) and self.artifacts.sha256(path) != digest:
            # Another attempt of this trial, or a copy of the study that went its own way.
            path = beside_path(path, digest)
            self.artifacts.create(path, content)
        return {"path": path, **encoded.reference}


def read_result(artifacts: ArtifactFileSystem, reference: Mapping[str, Any]) -> Any:
    """Read an archived result.

    Args:
        artifacts: where it was written.
        reference: what `ResultWriter.write` returned.

    Returns:
        What `run` had returned.

    Raises:
        ArchiveError: the file is gone, or is not what was archived.
    """
    try:
        if "inline" in reference:
            return decode_inline(reference)
        path, digest = reference["path"], reference["sha256"]
    except (KeyError, TypeError):
        raise ArchiveError(
            "Expected the reference to an archived result, with `inline` or `path`, and `sha256`; "
            f"found {reference!r}."
        ) from None
    return decode_result(read_verified(artifacts, path, digest, "the result of a trial"))


def _is_value(result: Any) -> bool:
    """Tell whether the study itself can hold a result: a number, or a tuple of numbers."""
    if type(result) is tuple:
        return len(result) > 0 and all(map(_is_number, result))
    return _is_number(result)


def _is_number(value: Any) -> bool:
    if isinstance(value, (Number, np.generic)):
        return not isinstance(value, (np.str_, np.bytes_))
    # A tensor without dimensions is a number to Optuna, too.
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "__float__")
    return is_scalar and not isinstance(value, np.ndarray)
