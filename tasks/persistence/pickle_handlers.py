"""Pickles, as `neuralib` writes them. Reading one may run any code, and has to be allowed."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from prefect_optuna.errors import (
    CorruptPersistenceError,
    PickleRefusedError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.conversion import as_dict
from prefect_optuna.tasks.persistence.handler import FileHandler
from prefect_optuna.tasks.persistence.places import Storage
from prefect_optuna.tasks.persistence.reading import object_of_values

T = TypeVar("T")


class PickleHandler(FileHandler[T]):
    """Keeps objects as pickles of plain dictionaries; the format of `neuralib`.

    A pickle can run any code when it is read. Take `ArrowHandler`, unless there are such files
    already, or the values are objects that nothing else holds.

    Args:
        data_cls: the class of the objects.
        save_root: the folder, as `ArrowHandler` takes it.
        ext: the extension of the files.
        allow_pickle: whether files may be read: `True` if only people whom you trust could have
            written them.

    Raises:
        InvalidPersistenceClassError: `data_cls` is no persistence class.

    Example:
        >>> from prefect_optuna.tasks.persistence import PickleHandler, field, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        ...     when: complex
        >>> handler = PickleHandler(Session, "memory://docs-pickle", allow_pickle=True)
        >>> handler.save_persistence(Session("lynx", when=2j))
        Session{animal=lynx}
        >>> handler.load_persistence(Session("lynx")).when
        2j
    """

    ext = ".pkl"

    def __init__(
        self,
        data_cls: type[T],
        save_root: Storage,
        ext: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(data_cls, save_root, ext)
        self.allow_pickle: bool = allow_pickle

    def _save_persistence(self, result: T, path: Path) -> None:
        with self._open(path, "wb") as file:
            pickle.dump(as_dict(result), file, protocol=5)

    def _load_persistence(self, path: Path) -> T:
        info = self.persistence_info
        if not self.allow_pickle:
            raise PickleRefusedError(
                f"{path} is a pickle, and reading it may run any code. If only people whom you "
                f"trust could have written it, say {type(self).__name__}(..., allow_pickle=True). "
                "ArrowHandler needs no trust."
            )
        try:
            with self._open(path, "rb") as file:
                data = pickle.load(file)  # noqa: S301 - the user has said so
        except (FileNotFoundError, IsADirectoryError):
            raise
        except Exception as error:
            raise CorruptPersistenceError(
                f"Expected the pickle of an object of {info.cls_name}, found something else, or "
                f"only a part of it, in {path}: {type(error).__name__}: {error}."
            ) from error
        if isinstance(data, info.cls):
            return data
        if not isinstance(data, Mapping):
            raise WrongPersistenceClassError(
                f"not a {info.cls_name} for {path.name} : {data!r:.80}. Expected a pickled "
                f"dictionary or object, found a {type(data).__name__} in {path}."
            )
        values: dict[str, Any] = dict(data)
        return object_of_values(info, values, str(path))

    def _open(self, path: Path, mode: str) -> BinaryIO:
        return path.open(mode)  # pyright: ignore[reportReturnType]


class GzipHandler(PickleHandler[T]):
    """Keeps objects as compressed pickles; the format of `neuralib`.

    `ZstdHandler` is many times faster, as small, and needs no trust.

    Args:
        data_cls: the class of the objects.
        save_root: the folder, as `ArrowHandler` takes it.
        ext: the extension of the files.
        compression: from 0 to 9.
        allow_pickle: whether files may be read, as for `PickleHandler`.

    Raises:
        InvalidPersistenceClassError: `data_cls` is no persistence class.

    Example:
        >>> from prefect_optuna.tasks.persistence import GzipHandler, field, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        >>> GzipHandler(Session, "memory://docs-gzip").filename(animal="lynx")
        'cache-Session-lynx.pkl.gz'
    """

    ext = ".pkl.gz"

    def __init__(
        self,
        data_cls: type[T],
        save_root: Storage,
        ext: str | None = None,
        compression: int = 9,
        *,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(data_cls, save_root, ext, allow_pickle=allow_pickle)
        self.compression: int = compression

    def _open(self, path: Path, mode: str) -> BinaryIO:
        return gzip.open(path, mode, compresslevel=self.compression)  # pyright: ignore[reportReturnType]
