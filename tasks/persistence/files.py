"""`save` and `load`: one object, one file, wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from prefect_optuna.errors import CorruptPersistenceError
from prefect_optuna.tasks.persistence.arrow_handler import ArrowHandler
from prefect_optuna.tasks.persistence.container import MAGIC
from prefect_optuna.tasks.persistence.handler import FileHandler
from prefect_optuna.tasks.persistence.info import ensure_persistence_class
from prefect_optuna.tasks.persistence.pickle_handlers import GzipHandler, PickleHandler
from prefect_optuna.tasks.persistence.places import Storage, explained, placed

T = TypeVar("T")

_GZIP = b"\x1f\x8b"
_PICKLE = b"\x80"


def save(data: Any, path: str | Path, *, storage: Storage | None = None) -> None:
    """Save an object in a file, in place of what was there.

    The file is an Arrow file, which runs no code when it is read; or a pickle, if that is what
    its name ends in: `.pkl`, `.pickle` or `.pkl.gz`.

    Args:
        data: an object of a persistence class.
        path: where to: a path or a URL; with a storage, a path in it. Folders are made.
        storage: an `ArtifactFileSystem`, a folder, a URL, or a saved block's `"slug/name"`.

    Raises:
        InvalidPersistenceClassError: this is no such object.
        AutoIncFieldNotResolvedError: the field that counts has no number.
        UnsetFieldError: a field is not set; names it.
        UnsupportedValueError: an Arrow file cannot hold a value; names the field.
        PersistenceIsDirectoryError: the path is a folder.
        StorageUnavailableError: the filesystem failed.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, load, persistence_class, save
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        >>> save(Session("lynx"), "example.arrow")
        >>> load(Session, "example.arrow")
        Session{animal=lynx}
    """
    info = ensure_persistence_class(data)
    artifacts, name = placed(path, storage)
    handler: FileHandler[Any] = _by_name(name)(info.cls, artifacts)
    handler.save_as(data, artifacts, name)


def load(
    data_cls: type[T],
    path: str | Path,
    *,
    storage: Storage | None = None,
    lazy: bool = False,
    allow_pickle: bool = False,
) -> T:
    """Load an object of a file. What kind of file it is, its content says.

    No field is validated, for there is nothing to compare with; the class has to be the same.

    Args:
        data_cls: the class of the object.
        path: where it is: a path or a URL; with a storage, a path in it.
        storage: an `ArtifactFileSystem`, a folder, a URL, or a saved block's `"slug/name"`.
        lazy: read arrays and tables when they are asked for; of a remote file, only their part.
        allow_pickle: whether the file may be a pickle, which runs any code: `True` if only people
            whom you trust could have written it.

    Returns:
        The object.

    Raises:
        PersistenceNotFoundError: there is no such file.
        PersistenceIsDirectoryError: the path is a folder.
        CorruptPersistenceError: the file is cut off, or something else.
        WrongPersistenceClassError: it holds an object of another class.
        SchemaChangedError: it was written by another version of the class.
        MissingKeyError: a field is missing.
        PickleRefusedError: it is a pickle, and nobody has allowed it.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.persistence import field, load, persistence_class, save
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     power: np.ndarray
        >>> save(Spectrum("lynx", power=np.array([0.5, 0.25])), "memory://docs-load/x.arrow")
        >>> load(Spectrum, "memory://docs-load/x.arrow").power
        array([0.5 , 0.25])
    """
    info = ensure_persistence_class(data_cls)
    artifacts, name = placed(path, storage)
    with explained(artifacts, name, info.cls_name), artifacts.open(name) as file:
        start = file.read(len(MAGIC))
    handler: FileHandler[T]
    if start.startswith(_GZIP):
        handler = GzipHandler(info.cls, artifacts, allow_pickle=allow_pickle)
    elif start.startswith(_PICKLE):
        handler = PickleHandler(info.cls, artifacts, allow_pickle=allow_pickle)
    elif start == MAGIC:
        handler = ArrowHandler(info.cls, artifacts, lazy=lazy)
    else:
        raise CorruptPersistenceError(
            f"Expected a saved object of {info.cls_name}, found something else, or nothing, in "
            f"{artifacts.location(name)}: it starts with {start!r}."
        )
    return handler.load_from(artifacts, name)


def _by_name(name: str) -> type[FileHandler[Any]]:
    if name.endswith(".pkl.gz"):
        return GzipHandler
    return PickleHandler if name.endswith((".pkl", ".pickle")) else ArrowHandler
