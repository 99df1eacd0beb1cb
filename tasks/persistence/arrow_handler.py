"""The handlers to take: Arrow files, which run no code when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar, cast

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.errors import (
    ArtifactNotFoundError,
    CorruptPersistenceError,
    PersistenceExistsError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.container import Container, write_container
from prefect_optuna.tasks.persistence.conversion import as_dict
from prefect_optuna.tasks.persistence.handler import FileHandler
from prefect_optuna.tasks.persistence.places import Storage, explained, is_folder
from prefect_optuna.tasks.persistence.reading import check_class, header_of, object_of

T = TypeVar("T")


class ArrowHandler(FileHandler[T]):
    """Keeps objects as Arrow files, which any reader of Arrow opens, and reading runs no code.

    They hold plain data, NumPy arrays, and tables of pandas, polars and Arrow, nested or not.
    Arrays of a local file are views of its memory: nothing is read before it is looked at, and
    writing to them does not change the file.

    Args:
        data_cls: the class of the objects.
        save_root: the folder: a path, a URL such as `s3://bucket/spectra` or `memory://name`, an
            `ArtifactFileSystem`, or the saved block `"artifact-file-system/name"`.
        ext: the extension of the files.
        lazy: read arrays and tables when they are asked for; of a remote file, only their part.

    Raises:
        InvalidPersistenceClassError: `data_cls` is no persistence class.

    Example:
        >>> from prefect_optuna.tasks.persistence import ArrowHandler, field, persistence_class
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     power: list[float]
        >>> handler = ArrowHandler(Spectrum, "spectra")
        >>> handler.save_persistence(Spectrum("lynx", power=[0.5, 0.25]))
        Spectrum{animal=lynx}
        >>> handler.filepath(animal="lynx").name
        'cache-Spectrum-lynx.arrow'
        >>> handler.load_persistence(Spectrum("lynx")).power
        [0.5, 0.25]
    """

    ext = ".arrow"
    compression: ClassVar[str | None] = None

    def __init__(
        self,
        data_cls: type[T],
        save_root: Storage,
        ext: str | None = None,
        *,
        lazy: bool = False,
        header: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_cls, save_root, ext)
        self.lazy: bool = lazy
        self.level: int | None = None
        self._header = header or {}

    def _save_persistence(self, result: T, path: Path) -> None:
        # The file is there, and empty. To truncate it would make ext4 write it out at once.
        with path.open("r+b") as file:
            self._write_to(file, result, path.name)

    def _write_to(self, file: BinaryIO, result: T, where: str) -> None:
        info = self.persistence_info
        write_container(
            file,
            as_dict(result),
            {**header_of(info), **self._header},
            compression=self.compression,
            level=self.level,
            where=f"{info.cls_name}.",
        )

    def _load_persistence(self, path: Path) -> T:
        return self._object(Container(path, str(path)))

    def load_from(self, artifacts: ArtifactFileSystem, name: str) -> T:
        """Load an object of a file of any name, in any artifact filesystem.

        Args:
            artifacts: where it is.
            name: its path there.
        """
        if not self.lazy or is_folder(artifacts):
            return super().load_from(artifacts, name)
        with explained(artifacts, name, self.persistence_info.cls_name):
            return self._object(Container(artifacts.open(name), artifacts.location(name)))

    def _load_bytes(self, content: bytes, where: str) -> T:
        return self._object(Container(content, where))

    def _object(self, container: Container) -> T:
        return object_of(self.persistence_info, container, lazy=self.lazy)

    def _check_replaceable(self, result: T, name: str) -> None:
        info = self.persistence_info
        where = self.artifacts.location(name)
        try:
            container = self.opened(name)
            check_class(info, container.header, where)
            for key in info.fields:
                if key.filename is False or key.field_name not in container.names():
                    continue
                held, own = container.value(key.field_name), getattr(result, key.field_name)
                if info.part(key, held) != info.part(key, own):
                    raise PersistenceExistsError(
                        f"{where} holds an object whose {key.field_name} is {held}, and one whose "
                        f"{key.field_name} is {own} was to be saved under the same name. Nothing "
                        "has been replaced. Take another filename_field_splitter or folder."
                    )
        except WrongPersistenceClassError as error:
            raise PersistenceExistsError(
                f"{where} belongs to another class, and nothing has been replaced: {error}"
            ) from error
        except (ArtifactNotFoundError, CorruptPersistenceError):
            return  # there is nothing to lose

    def accepted(self, container: Container, name: str, asked: Any) -> T:
        """The object of an open file, if it holds what its name says and what is asked for.

        Args:
            container: the file.
            name: its name.
            asked: an object, or a mapping of names to values.

        Raises:
            FileOfOthersError: it holds other keys.
            PersistenceValidationError: a validated field differs.
        """
        return self._accepted(self._object(container), name, asked)

    def opened(self, name: str) -> Container:
        """The file of an object, open, with its header read and nothing else.

        Args:
            name: its name in the folder.

        Raises:
            ArtifactNotFoundError: it is not there.
            CorruptPersistenceError: it is cut off, or something else.
        """
        where = self.artifacts.location(name)
        file = self.artifacts.open(name)
        if not is_folder(self.artifacts):
            return Container(file, where)
        with file:
            return Container(Path(cast("Any", file).name), where)


class ZstdHandler(ArrowHandler[T]):
    """Keeps objects as compressed Arrow files: smaller, and slower to write and read.

    It reads what `ArrowHandler` has written, and the other way round.

    Args:
        data_cls: the class of the objects.
        save_root: the folder, as `ArrowHandler` takes it.
        ext: the extension of the files.
        compression: the level of zstd, up to 22. The default, -1, takes three quarters of the
            time of 3 on rounded measurements, for the same size; values that repeat become
            smaller with 3.
        lazy: read arrays and tables when they are asked for.

    Raises:
        InvalidPersistenceClassError: `data_cls` is no persistence class.

    Example:
        >>> from prefect_optuna.tasks.persistence import ZstdHandler, field, persistence_class
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     power: list[float]
        >>> handler = ZstdHandler(Spectrum, "memory://docs-zstd")
        >>> handler.save_persistence(Spectrum("lynx", power=[0.5] * 1000))
        Spectrum{animal=lynx}
        >>> len(handler.load_persistence(Spectrum("lynx")).power)
        1000
    """

    compression: ClassVar[str | None] = "zstd"

    def __init__(
        self,
        data_cls: type[T],
        save_root: Storage,
        ext: str | None = None,
        compression: int = -1,
        *,
        lazy: bool = False,
        header: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_cls, save_root, ext, lazy=lazy, header=header)
        self.level: int | None = compression
