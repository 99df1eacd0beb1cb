"""Any Python object as a pickle, for those who ask for it."""

from __future__ import annotations

import functools
import importlib.metadata
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

from prefect_optuna.blocks.artifacts.artifact import Artifact
from prefect_optuna.errors import ArtifactLoadError, ArtifactLogError

_PROTOCOL = 5  # of every supported Python: the bytes must not depend on which one writes


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(slots=True)
class PickleArtifact(Artifact):
    """Writes any object that pickle takes, if that is asked for with `allow_pickle=True`.

    Reading a pickle runs the code that is in it, so reading has to be asked for as well, and
    should be for files from people you trust. Another Python version than the one that wrote it
    is a mismatch.

    Attributes:
        python_version: the minor version of Python, such as "3.11".

    Example:
        >>> from prefect_optuna.blocks.artifacts import PickleArtifact, decode, encode
        >>> content = encode(PickleArtifact, Ellipsis, allow_pickle=True)
        >>> decode(PickleArtifact, content, allow_pickle=True)
        Ellipsis
    """

    alias: ClassVar[str] = "pickle"
    suffix: ClassVar[str] = "pkl"
    binary: ClassVar[bool] = True

    python_version: str = field(default_factory=_python_version)

    @classmethod
    def write(
        cls, obj: Any, buf: IO[bytes], *, allow_pickle: bool = False, **writer_kwargs: Any
    ) -> None:
        """Write an object.

        Args:
            obj: the object.
            buf: a binary file.
            allow_pickle: has to be true.
            **writer_kwargs: arguments of `pickle.dump`.

        Raises:
            ArtifactLogError: pickling was not asked for, or the object cannot be pickled.
        """
        _check_write(cls, allow_pickle)
        options: dict[str, Any] = {"protocol": _PROTOCOL, **writer_kwargs}
        pickle.dump(obj, buf, **options)

    @classmethod
    def read(cls, buf: IO[bytes], *, allow_pickle: bool = False, **reader_kwargs: Any) -> Any:
        """Read an object, which runs the code in the file.

        Args:
            buf: a binary file.
            allow_pickle: has to be true.
            **reader_kwargs: arguments of `pickle.load`.

        Returns:
            The object.

        Raises:
            ArtifactLoadError: unpickling was not asked for.
        """
        _check_read(cls, allow_pickle)
        return pickle.load(buf, **reader_kwargs)  # noqa: S301 - asked for

    def reread_kwargs(self) -> dict[str, Any]:
        """Allowed where the object itself has been pickled and is unpickled."""
        return {"allow_pickle": True}


@functools.cache
def _version_of(package: str) -> str | None:
    """The version of an installed package, by its import name and without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package, ())
        return importlib.metadata.version(sorted(names)[0]) if names else None


@dataclass(slots=True)
class JoblibArtifact(Artifact):
    """Writes any object with joblib, if that is asked for with `allow_pickle=True`.

    For objects with large arrays, such as fitted models. Its files are pickles, with all that
    `PickleArtifact` says. The package of the object's class is recorded with its version; another
    version of it, of joblib or of Python is a mismatch.

    Attributes:
        python_version: the minor version of Python, such as "3.11".
        joblib_version: the version of joblib, `None` where it is not installed.
        package: the top-level package of the object's class, such as "sklearn".
        package_version: the version of that package, `None` where it belongs to none.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.artifacts import JoblibArtifact
        >>> JoblibArtifact.construct("weights", np.zeros(3)).package
        'numpy'
    """

    alias: ClassVar[str] = "joblib"
    suffix: ClassVar[str] = "joblib"
    binary: ClassVar[bool] = True

    python_version: str = field(default_factory=_python_version)
    joblib_version: str | None = field(default_factory=lambda: _version_of("joblib"))
    package: str | None = None
    package_version: str | None = None

    def __post_init__(self) -> None:
        if self.package is None and self.value is not None:
            self.package = type(self.value).__module__.partition(".")[0]
        if self.package is not None and self.package_version is None:
            self.package_version = _version_of(self.package)

    @classmethod
    def write(
        cls, obj: Any, buf: IO[bytes], *, allow_pickle: bool = False, **writer_kwargs: Any
    ) -> None:
        """Write an object.

        Args:
            obj: the object.
            buf: a binary file.
            allow_pickle: has to be true.
            **writer_kwargs: arguments of `joblib.dump`, such as `compress`.

        Raises:
            ArtifactLogError: pickling was not asked for, or the object cannot be pickled.
        """
        _check_write(cls, allow_pickle)
        import joblib

        joblib.dump(obj, buf, **{"protocol": _PROTOCOL, **writer_kwargs})

    @classmethod
    def read(cls, buf: IO[bytes], *, allow_pickle: bool = False, **reader_kwargs: Any) -> Any:
        """Read an object, which runs the code in the file.

        Args:
            buf: a binary file.
            allow_pickle: has to be true.
            **reader_kwargs: arguments of `joblib.load`.

        Returns:
            The object.

        Raises:
            ArtifactLoadError: unpickling was not asked for.
        """
        _check_read(cls, allow_pickle)
        import joblib

        return joblib.load(buf, **reader_kwargs)

    @classmethod
    def current_environment(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The versions here and now, that of the recorded package among them."""
        return cls.construct("artifact", package=recorded.get("package")).environment()

    def reread_kwargs(self) -> dict[str, Any]:
        """Allowed where the object itself has been pickled and is unpickled."""
        return {"allow_pickle": True}


def _check_write(handler: type[Artifact], allow_pickle: bool) -> None:
    if allow_pickle is not True:
        raise ArtifactLogError(
            f"The artifact handler {handler.alias!r} writes pickles, which run code when they are "
            "read. Pass allow_pickle=True if that is meant, or use a handler without pickle, such "
            "as 'json', 'npz' or 'parquet'."
        )


def _check_read(handler: type[Artifact], allow_pickle: bool) -> None:
    if allow_pickle is not True:
        raise ArtifactLoadError(
            f"The artifact handler {handler.alias!r} reads pickles, and reading one runs the code "
            "in it. Pass allow_pickle=True if you trust who has written it."
        )
