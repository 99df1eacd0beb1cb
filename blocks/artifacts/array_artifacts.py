"""NumPy arrays as NumPy's own files, without pickle."""

from __future__ import annotations

import os
import zipfile
from typing import IO, Any, ClassVar, TypeGuard

import numpy as np

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.blocks.codec.untrusted import open_zip, read_npy
from prefect_optuna.errors import ArtifactLogError


class NPYArtifact(Artifact):
    """Writes one array as an NPY file, with its type and shape.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.artifacts import NPYArtifact, decode, encode
        >>> decode(NPYArtifact, encode(NPYArtifact, np.eye(2)))
        array([[1., 0.],
               [0., 1.]])
    """

    __slots__ = ()
    alias: ClassVar[str] = "npy"
    suffix: ClassVar[str] = "npy"
    binary: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take plain arrays."""
        return type(value) is np.ndarray

    @classmethod
    def write(cls, obj: Any, buf: IO[bytes], **writer_kwargs: Any) -> None:
        """Write an array.

        Args:
            obj: a plain array of numbers, text, times or records.
            buf: a binary file.
            **writer_kwargs: there are none.

        Raises:
            ArtifactLogError: it is something else, or holds Python objects.
        """
        refuse_options(writer_kwargs)
        _write_array(obj, buf, "$")

    @classmethod
    def read(cls, buf: IO[bytes], **reader_kwargs: Any) -> np.ndarray[Any, Any]:
        """Read an array.

        Args:
            buf: a binary file.
            **reader_kwargs: there are none.

        Returns:
            The array; it is new and can be written to.
        """
        refuse_options(reader_kwargs)
        return read_npy(buf, _size(buf))


class NPZArtifact(Artifact):
    """Writes a dictionary of arrays as an NPZ file. The default for a dictionary of arrays only.

    Unlike `numpy.savez`, equal arrays give equal bytes whenever they are written, and any text
    is a key.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.artifacts import NPZArtifact, decode, encode
        >>> decode(NPZArtifact, encode(NPZArtifact, {"hare": np.arange(3)}, compressed=True))
        {'hare': array([0, 1, 2])}
    """

    __slots__ = ()
    alias: ClassVar[str] = "npz"
    suffix: ClassVar[str] = "npz"
    binary: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take dictionaries of plain arrays; an empty one is JSON's."""
        return _is_arrays(value) and bool(value)

    @classmethod
    def write(
        cls, obj: Any, buf: IO[bytes], *, compressed: bool = False, **writer_kwargs: Any
    ) -> None:
        """Write arrays.

        Args:
            obj: a dictionary of text to plain arrays.
            buf: a binary file.
            compressed: whether to compress them.
            **writer_kwargs: there are no others.

        Raises:
            ArtifactLogError: it is something else, or an array holds Python objects.
        """
        refuse_options(writer_kwargs)
        if not _is_arrays(obj):
            raise ArtifactLogError(
                "The artifact handler 'npz' expects a dictionary of text to NumPy arrays, and "
                f"found {type_name(obj)}" + _first_other(obj) + ". Use np.asarray(...), or the "
                "handler 'json', which keeps arrays among other values."
            )
        method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(buf, "w", method) as archive:
            for key, array in obj.items():
                if "\0" in key:
                    raise ArtifactLogError(f"The key {key!r} has a NUL, which NPZ cannot keep.")
                # The date, the system and so the bytes are the same everywhere and always.
                entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.compress_type = 3, method
                with archive.open(entry, "w", force_zip64=True) as file:
                    _write_array(array, file, f"$[{key!r}]")

    @classmethod
    def read(cls, buf: IO[bytes], **reader_kwargs: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Read arrays.

        Args:
            buf: a binary file, also one of `numpy.savez`.
            **reader_kwargs: there are none.

        Returns:
            All of them, in the order in which they were written.
        """
        refuse_options(reader_kwargs)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        with open_zip(buf, _size(buf)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    arrays[entry.filename.removesuffix(".npy")] = read_npy(file, entry.file_size)
                    file.read()  # to the end, where the checksum is compared
        return arrays


def _size(file: IO[bytes]) -> int:
    """Return the number of bytes from the current position to the end."""
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    return size


def _is_arrays(value: Any) -> TypeGuard[dict[str, np.ndarray[Any, Any]]]:
    return type(value) is dict and all(
        type(array) is np.ndarray and type(key) is str for key, array in value.items()
    )


def _first_other(value: Any) -> str:
    if type(value) is not dict:
        return ""
    for key, item in value.items():
        if type(key) is not str:
            return f" with the key {key!r}"
        if type(item) is not np.ndarray:
            return f" with {type_name(item)} at {key!r}"
    return ""


def _write_array(array: Any, file: IO[bytes], path: str) -> None:
    if type(array) is not np.ndarray:
        raise ArtifactLogError(
            f"{path} is of type {type_name(array)}, and the artifact handlers 'npy' and 'npz' "
            "write plain NumPy arrays. Use np.asarray(...), for a masked array .filled(...)."
        )
    if array.dtype.hasobject:
        raise ArtifactLogError(
            f"{path} is an array of Python objects, which NumPy could only pickle. Give it a "
            "type: array.astype(float), or use the artifact handler 'json' for a list."
        )
    np.lib.format.write_array(file, array, allow_pickle=False)
