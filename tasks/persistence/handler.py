"""Handlers: objects of one class in one folder, each in a file of its name."""

from __future__ import annotations

import abc
import gzip
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar, cast

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem
from prefect_optuna.errors import (
    AlreadyExistsError,
    AutoIncFieldNotResolvedError,
    CorruptPersistenceError,
    FileOfOthersError,
    InvalidPersistenceClassError,
    PathNotFoundError,
    PersistenceError,
    PersistenceValidationError,
    PickleRefusedError,
    SkippedFileWarning,
    UnsupportedValueError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.container import (
    Container,
    as_dict,
    check_class,
    header_of,
    object_of,
    object_of_values,
    to_be_saved,
    write_container,
)
from prefect_optuna.tasks.persistence.info import (
    MAX_NAME,
    PersistentClass,
    PersistentField,
    Storage,
    ensure_persistence_class,
    explained,
    filename,
    is_folder,
    located,
    missing,
    placed,
)

T = TypeVar("T")

_LAST: dict[tuple[str, str], tuple[int, int | None]] = {}
"""The last number that this process has saved in a family, and the folder's stamp then."""
_MAX_LAST = 1000


class PersistenceHandler(abc.ABC, Generic[T]):
    """Keeps objects of one persistence class in one folder, each in a file of its name.

    A handler of your own says how an object is written to a local path and read from there. The
    rest is done here, on whichever filesystem: a file appears whole or not at all, and each
    number of an auto-increment field is given once, whoever else saves at the same moment.

    Example:
        >>> import json
        >>> from prefect_optuna.tasks.persistence import FileHandler, as_dict, field
        >>> from prefect_optuna.tasks.persistence import from_dict, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        ...     notes: str
        >>> class JSONHandler(FileHandler):
        ...     ext = ".json"
        ...     def _save_persistence(self, result, path):
        ...         path.write_text(json.dumps(as_dict(result)))
        ...     def _load_persistence(self, path):
        ...         return from_dict(self.persistence_class, json.loads(path.read_text()))
        >>> handler = JSONHandler(Session, "memory://docs-json")
        >>> handler.save_persistence(Session("lynx", notes="asleep"))
        Session{animal=lynx}
        >>> handler.load_persistence(Session("lynx")).notes
        'asleep'
    """

    ext: str = ""
    """The extension of the files."""

    @property
    @abc.abstractmethod
    def persistence_class(self) -> type[T]:
        """The class of the objects."""

    @property
    @abc.abstractmethod
    def save_root(self) -> Storage:
        """The folder, as it was given."""

    @property
    def persistence_info(self) -> PersistentClass[T]:
        """The description of the class."""
        return ensure_persistence_class(self.persistence_class)

    @property
    def artifacts(self) -> ArtifactFileSystem:
        """The folder as an artifact filesystem."""
        artifacts: ArtifactFileSystem | None = vars(self).get("_artifacts")
        if artifacts is None:
            artifacts = as_artifact_filesystem(self.save_root)
            vars(self)["_artifacts"] = artifacts
        return artifacts

    def filename(self, result: T | type[T] | None = None, **values: Any) -> str:
        """The name of the file of an object.

        Args:
            result: the object; nothing, if all values are given.
            values: take the place of the object's own.

        Returns:
            The name, with extension.

        Raises:
            AutoIncFieldNotResolvedError: the field that counts has no number.
            UnsupportedValueError: a value cannot be in a name, or the name is too long.
        """
        name = filename(self.persistence_class if result is None else result, **values)
        return self._checked(name + self.ext)

    def filepath(self, result: T | type[T] | None = None, **values: Any) -> Path | str:
        """Return the place of an object's file: a path, or a URL if it is not on this machine.

        Takes and raises what `filename` does.
        """
        return located(self.artifacts, self.filename(result, **values))

    def validate(self, ref: T | Mapping[str, Any], res: T | Mapping[str, Any]) -> bool:
        """Compare the validated fields of the object asked for and the one found.

        Args:
            ref: the object that was asked for.
            res: the object that was found.

        Returns:
            `True`.

        Raises:
            PersistenceValidationError: they differ; names the field.
        """
        return self.persistence_info.validate(ref, res)

    def save_persistence(self, result: T, path: str | Path | None = None) -> T:
        """Save an object.

        Without a path, an auto-increment field without a number gets the next one, and then
        nothing is ever replaced. Everything else replaces the earlier file of the same values.

        Args:
            result: the object.
            path: where to, in place of its own name: a name in the folder, a path, or a URL.

        Returns:
            The object, with its number.

        Raises:
            InvalidPersistenceClassError: it is of another class.
            UnsetFieldError: a field is not set; names it.
            UnsupportedValueError: a name or the file cannot hold a value; names the field.
            AutoIncFieldNotResolvedError: there is a path, and no number.
            AlreadyExistsError: the file of other values or of another class has this name.
            StorageUnavailableError: the filesystem failed.
        """
        self._check_kind(result)
        info = self.persistence_info
        field = info.autoinc_field
        if path is not None:
            self.save_as(result, *self._placed(path))
            return result
        if field is not None and not info.is_autoinc_field_resolved(result):
            return self._save_next(result, field)
        name = self.filename(result)
        to_be_saved(result, self.artifacts.location(name))
        self._check_replaceable(result, name)
        self._write(result, self.artifacts, name, exclusive=False)
        return result

    def save_as(self, result: T, artifacts: ArtifactFileSystem, name: str) -> None:
        """Save an object under any name, in any artifact filesystem, in place of what was there.

        Args:
            result: the object.
            artifacts: where to.
            name: the path there.

        Raises:
            AutoIncFieldNotResolvedError: the field that counts has no number.
            UnsetFieldError: a field is not set; names it.
        """
        info = self.persistence_info
        if info.autoinc_field is not None and not info.is_autoinc_field_resolved(result):
            raise AutoIncFieldNotResolvedError(result, info.autoinc_field)
        to_be_saved(result, artifacts.location(name))
        self._write(result, artifacts, name, exclusive=False)

    def load_persistence(self, path: str | Path | T | Mapping[str, Any]) -> T:
        """Load an object.

        Args:
            path: the object asked for, of which the keys are set, or a mapping of them; or a
                file: a name in the folder, a path, or a URL.

        Returns:
            The object. If an object or a mapping was asked for, its validated fields agree.

        Raises:
            PathNotFoundError: there is no such file.
            PersistenceValidationError: there is one of other values; names the field.
            CorruptPersistenceError: the file is cut off, or something else.
            WrongPersistenceClassError: it holds an object of another class.
            SchemaChangedError: it was written by another version of the class.
            AutoIncFieldNotResolvedError: the object has no number.
        """
        if isinstance(path, (str, Path)):
            return self.load_from(*self._placed(path))
        if isinstance(path, Mapping):
            asked: Any = {str(name): value for name, value in path.items()}
            name = self.filename(None, **asked)
        else:
            self._check_kind(path)
            asked, name = path, self.filename(path)
        return self.load_own(name, asked)

    def load_all(
        self, result: T | type[T] | None = None, **values: Any
    ) -> Iterator[tuple[Path | str, T]]:
        """Load all objects that have the given values.

        `missing` in place of a value, and a number that is not set, stand for any. Files that
        are damaged or hold something else are left out with a `SkippedFileWarning`.

        Args:
            result: an object with the values; nothing, if they are given by name.
            values: take the place of the object's own.

        Returns:
            An iterator of where each object is, and the object, in the order of their numbers.
        """
        asked = self._asked(result, values)
        for name in self.names(result, **values):
            try:
                loaded = self.load_own(name, asked, validate=False)
            except (PersistenceError, PathNotFoundError) as error:
                if isinstance(error, FileOfOthersError):
                    continue
                warnings.warn(
                    f"{self.artifacts.location(name)} is left out: {error}",
                    SkippedFileWarning,
                    stacklevel=2,
                )
                continue
            yield located(self.artifacts, name), loaded

    def names(self, result: T | type[T] | None = None, **values: Any) -> list[str]:
        """The names of the files that may hold objects of the given values, by their numbers.

        The folder is listed, and no file is opened. Takes what `load_all` does.
        """
        return [name for _, name in self._numbered(self._asked(result, values))]

    @abc.abstractmethod
    def _save_persistence(self, result: T, path: Path) -> None:
        """Write an object to a new local file, which then takes its place."""

    @abc.abstractmethod
    def _load_persistence(self, path: Path) -> T:
        """Read an object from a local file."""

    def load_from(self, artifacts: ArtifactFileSystem, name: str) -> T:
        """Load an object of a file of any name, in any artifact filesystem.

        Args:
            artifacts: where it is.
            name: its path there.
        """
        with explained(artifacts, name, self.persistence_info.cls_name):
            if is_folder(artifacts):
                with artifacts.open(name) as file:
                    path = Path(file.name)
                return self._load_persistence(path)
            return self._load_bytes(artifacts.read_path(name), artifacts.location(name))

    def _load_bytes(self, content: bytes, where: str) -> T:
        """Read an object of a file that is not on this machine."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(where).name)
            path.write_bytes(content)
            return self._load_persistence(path)

    def _check_replaceable(self, result: T, name: str) -> None:
        """Raise if a file of that name holds something else than an earlier state of `result`."""

    def _write(
        self, result: T, artifacts: ArtifactFileSystem, name: str, *, exclusive: bool
    ) -> None:
        with (
            explained(artifacts, name, self.persistence_info.cls_name),
            artifacts.open(name, "xb" if exclusive else "wb") as file,
        ):
            self._save_persistence(result, Path(file.name))

    def _save_next(self, result: T, field: PersistentField) -> T:
        """Save under the next free number, by creating a file that was not there."""
        name = field.field_name
        before = getattr(result, name, None)
        family = (self.artifacts.url, self.filename(result, **{name: missing}))
        # After a save the folder is not listed again if nothing there has changed.
        stamp = self._stamp()
        last, then = _LAST.get(family, (0, None))
        known = stamp is not None and then == stamp
        number = last + 1 if known else self._next_number(result)
        try:
            setattr(result, name, number)
            to_be_saved(result, self.artifacts.location(self.filename(result)))
            while True:
                try:
                    self._write(result, self.artifacts, self.filename(result), exclusive=True)
                except AlreadyExistsError:  # another process was faster
                    number = self._next_number(result) if known else number + 1
                    known = False
                    setattr(result, name, number)
                else:
                    if len(_LAST) == _MAX_LAST:
                        _LAST.clear()
                    _LAST[family] = (number, self._stamp())
                    return result
        except BaseException:
            setattr(result, name, before)
            raise

    def _stamp(self) -> int | None:
        """Return a stamp that changes when a file of the folder is made, renamed or removed."""
        if not is_folder(self.artifacts):
            return None
        try:
            return Path(self.artifacts.url).stat().st_mtime_ns
        except OSError:
            return None

    def _next_number(self, result: T) -> int:
        """Return one more than the highest number in the folder, without opening its files."""
        asked = self._asked(result, {}) | self._no_number()
        pattern = self.persistence_info.matching(None, asked, self.ext).pattern
        # One search through all names takes a fifth of the time of one for each name.
        taken = re.findall(rf"(?<![^\0]){pattern}(?![^\0])", "\0".join(self.artifacts.ls()))
        digits = max(map(len, taken), default=0)
        return 1 + int(max((number for number in taken if len(number) == digits), default=-1))

    def _numbered(self, asked: Mapping[str, Any]) -> list[tuple[int, str]]:
        """The number and the name of each file that may be meant, in order."""
        pattern = self.persistence_info.matching(None, asked, self.ext)
        matches = [match for name in self.artifacts.ls() if (match := pattern.fullmatch(name))]
        return sorted((int(match.groupdict().get("number") or 0), match[0]) for match in matches)

    def _asked(self, result: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each key that is asked for."""
        info = self.persistence_info
        if result is not None and result is not self.persistence_class:
            self._check_kind(result)
        else:
            result = None
        asked: dict[str, Any] = {}
        for field in info.fields:
            if field.field_name in values:
                asked[field.field_name] = values[field.field_name]
            elif result is not None and field.field_name in vars(result):
                asked[field.field_name] = getattr(result, field.field_name)
            elif field.filename is not False:
                asked[field.field_name] = missing
        return asked

    def load_own(self, name: str, asked: Any, *, validate: bool = True) -> T:
        """Load a file of the folder, if it holds what its name says and what is asked for.

        Args:
            name: the name of the file.
            asked: an object, or a mapping of names to values.
            validate: whether the validated fields count, or the keys only.

        Raises:
            FileOfOthersError: it holds other keys.
            PersistenceValidationError: a validated field differs.
        """
        loaded = self.load_from(self.artifacts, name)
        return self._accepted(loaded, name, asked, validate=validate)

    def _accepted(self, found: T, name: str, asked: Any, *, validate: bool = True) -> T:
        info = self.persistence_info
        pattern = info.matching(None, self._asked(found, {}) | self._no_number(), self.ext)
        match = pattern.fullmatch(name)
        if match is None:
            raise FileOfOthersError(
                f"{self.artifacts.location(name)} holds the object {found}. The file has been "
                "renamed, or the values of two objects make the same name."
            )
        if info.autoinc_field is not None:
            setattr(found, info.autoinc_field.field_name, int(match["number"]))
        try:
            self.check_found(asked, found, validate=validate)
        except PersistenceValidationError as error:
            raise type(error)(f"{self.artifacts.location(name)}: {error}") from None
        return found

    def check_found(self, asked: Any, found: T, *, validate: bool = True) -> None:
        """Make sure that an object has the values that are asked for.

        Args:
            asked: an object, or a mapping of names to values.
            found: the object.
            validate: whether the validated fields count, or the keys only.

        Raises:
            FileOfOthersError: another value is in its file name.
            PersistenceValidationError: a validated field differs.
        """
        info = self.persistence_info
        if isinstance(asked, Mapping):
            asked = {**dict.fromkeys(info.fields_name(), missing), **asked}
        # Two objects may have one name: of the values `a-b` and `c`, and of `a` and `b-c`.
        for field in info.fields:
            name = field.field_name
            wanted = _value(asked, name)
            if field.filename is False or wanted is missing or (field.autoinc and wanted is None):
                continue
            own = getattr(found, name)
            if own is not None and info.part(field, own) != info.part(field, wanted):
                raise FileOfOthersError(
                    f"the object's {name} is {own}, and {wanted} was asked for."
                )
        if validate:
            self.validate(asked, found)

    def _no_number(self) -> dict[str, Any]:
        field = self.persistence_info.autoinc_field
        return {} if field is None else {field.field_name: missing}

    def _checked(self, name: str) -> str:
        if len(name.encode()) > MAX_NAME:
            info = self.persistence_info
            raise UnsupportedValueError(
                f"The file name of an object of {info.cls_name} would have {len(name.encode())} "
                f"bytes, and {MAX_NAME} is the limit of common filesystems: {name[:60]}... Shorten "
                + ", ".join(f.field_name for f in info.fields if f.filename is not False)
                + ", or use field(filename=function)."
            )
        return name

    def _check_kind(self, result: Any) -> None:
        if not isinstance(result, self.persistence_class):
            raise InvalidPersistenceClassError(
                f"Expected an object of {self.persistence_info.cls_name}, found a "
                f"{type(result).__name__}."
            )

    def _placed(self, path: str | Path) -> tuple[ArtifactFileSystem, str]:
        """A bare name is one in the folder; anything else is a path or a URL of its own."""
        if "/" not in str(path) and "\\" not in str(path):
            return self.artifacts, str(path)
        return placed(path)

    def __repr__(self) -> str:
        name = self.persistence_info.cls_name
        return f"{type(self).__name__}({name}, {self.artifacts.location()!r})"


class FileHandler(PersistenceHandler[T]):
    """A handler that is made of a class and a folder.

    Args:
        data_cls: the class of the objects.
        save_root: the folder: a path, a URL such as `s3://bucket/spectra` or `memory://name`, an
            `ArtifactFileSystem`, or the saved block `"artifact-file-system/name"`.
        ext: the extension of the files.

    Raises:
        InvalidPersistenceClassError: `data_cls` is no persistence class.
    """

    def __init__(self, data_cls: type[T], save_root: Storage, ext: str | None = None) -> None:
        ensure_persistence_class(data_cls)
        self._persistence_class = data_cls
        self._save_root = save_root
        if ext is not None:
            self.ext: str = ext

    @property
    def persistence_class(self) -> type[T]:
        """The class of the objects."""
        return self._persistence_class

    @property
    def save_root(self) -> Storage:
        """The folder, as it was given."""
        return self._save_root


def _value(asked: Any, name: str) -> Any:
    if isinstance(asked, Mapping):
        return asked.get(name, missing)
    return getattr(asked, name, missing)


# The handlers to take: Arrow files, which run no code when they are read.


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
                    raise AlreadyExistsError(
                        f"{where} holds an object whose {key.field_name} is {held}, and one whose "
                        f"{key.field_name} is {own} was to be saved under the same name. Nothing "
                        "has been replaced. Take another filename_field_splitter or folder."
                    )
        except WrongPersistenceClassError as error:
            raise AlreadyExistsError(
                f"{where} belongs to another class, and nothing has been replaced: {error}"
            ) from error
        except (PathNotFoundError, CorruptPersistenceError):
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
            PathNotFoundError: it is not there.
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


# Pickles, as `neuralib` writes them. Reading one may run any code, and has to be allowed.


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
