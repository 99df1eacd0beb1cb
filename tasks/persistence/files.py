"""`save`, `load` and `PersistenceOptions`: one object, one file, computed once."""

from __future__ import annotations

import abc
import argparse
import inspect
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from prefect.logging import get_logger

from prefect_optuna.errors import (
    AlreadyExistsError,
    AutoIncFieldNotResolvedError,
    CorruptPersistenceError,
    InvalidPersistenceClassError,
    PathNotFoundError,
    PersistenceConcatError,
    PersistenceError,
    PersistenceValidationError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.container import MAGIC
from prefect_optuna.tasks.persistence.handler import (
    ArrowHandler,
    FileHandler,
    GzipHandler,
    PersistenceHandler,
    PickleHandler,
)
from prefect_optuna.tasks.persistence.info import (
    Storage,
    ensure_persistence_class,
    explained,
    missing,
    placed,
    same,
)

# `PersistenceOptions`: what is computed once, and loaded ever after.


T = TypeVar("T")


class PersistenceOptions(abc.ABC, Generic[T]):
    """Options of a program whose result is an object of a persistence class, kept in a file.

    A subclass says which object is wanted, and how its data is computed. `load_cache` computes
    only if there is no file of that object. The class is the argument of the generic.

    Example:
        >>> from prefect_optuna.tasks.persistence import PersistenceOptions, field
        >>> from prefect_optuna.tasks.persistence import persistence_class
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     power: list[float]
        >>> class SpectrumOptions(PersistenceOptions[Spectrum]):
        ...     animal = "lynx"
        ...     def empty_cache(self):
        ...         return Spectrum(self.animal)
        ...     def compute_cache(self, result):
        ...         print("computes")
        ...         result.power = [0.5, 0.25]
        ...         return result
        >>> SpectrumOptions().load_cache(dest="spectra").power
        computes
        [0.5, 0.25]
        >>> SpectrumOptions().load_cache(dest="spectra").power
        [0.5, 0.25]
    """

    GROUP_CACHE: ClassVar[str] = "Persistence options"

    invalid_cache: bool = False
    """True to compute anew what there is."""

    @property
    def persistence_class(self) -> type[T]:
        """The class of the object: the argument of `PersistenceOptions[...]`.

        Raises:
            InvalidPersistenceClassError: there is none.
        """
        for cls in type(self).__mro__:
            for base in vars(cls).get("__orig_bases__", ()):
                origin = get_origin(base)
                if isinstance(origin, type) and issubclass(origin, PersistenceOptions):
                    (argument,) = get_args(base)[:1]
                    if not isinstance(argument, TypeVar):
                        return argument
        raise InvalidPersistenceClassError(
            f"unable to retrieve cache class T: write class {type(self).__name__}("
            "PersistenceOptions[MyClass])."
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add `--invalid-cache` to the parser of a command line, in a group of its own.

        Args:
            parser: the parser. `parse_args(namespace=options)` sets the attribute.

        Example:
            >>> import argparse
            >>> from prefect_optuna.tasks.persistence import PersistenceOptions
            >>> parser = argparse.ArgumentParser()
            >>> PersistenceOptions.add_arguments(parser)
            >>> parser.parse_args(["--invalid-cache"])
            Namespace(invalid_cache=True)
        """
        parser.add_argument_group(cls.GROUP_CACHE).add_argument(
            "--invalid-cache", action="store_true", help="compute anew what has been saved"
        )

    def persistence_handler(self, dest: Storage | None = None) -> PersistenceHandler[T]:
        """The handler that loads and saves; override it to take another.

        Args:
            dest: the folder; by default the current one.
        """
        return ArrowHandler(self.persistence_class, Path.cwd() if dest is None else dest)

    @abc.abstractmethod
    def empty_cache(self) -> T:
        """Make the object that is wanted, of which the keys are set and nothing else."""

    @abc.abstractmethod
    def compute_cache(self, result: T) -> T:
        """Compute the data of an object, of which the keys are set.

        Args:
            result: what was asked for.

        Returns:
            The object, complete.
        """

    def validate_cache(self, result_path: Path | str, result: T) -> bool:
        """Say whether an object that was loaded may be used; override it.

        Args:
            result_path: where it was.
            result: the object.

        Returns:
            `False` to compute anew. Raising `TypeError`, `ValueError`, `KeyError`,
            `AttributeError` or `RuntimeError` does the same.
        """
        return True

    def find_cache(
        self, result: T, dest: Storage | None = None, validator: bool = False
    ) -> list[T]:
        """Load all objects that have the keys of this one.

        Args:
            result: the object; `missing` in place of a key, and no number, stand for any.
            dest: the folder; by default the current one.
            validator: whether only those count that `validate_cache` accepts.

        Returns:
            The objects, by their numbers.
        """
        loaded = self.persistence_handler(dest).load_all(result)
        return [data for path, data in loaded if not validator or self._accepts(path, data)]

    def save_cache(self, result: T, dest: Storage | None = None, force: bool = True) -> None:
        """Save an object.

        Args:
            result: the object.
            dest: the folder; by default the current one.
            force: whether to replace what is there.

        Raises:
            AlreadyExistsError: something is there, and `force` is false.
        """
        handler = self.persistence_handler(dest)
        if not force and handler.persistence_info.is_autoinc_field_resolved(result):
            name = handler.filename(result)
            if handler.artifacts.exists(name):
                raise AlreadyExistsError(
                    f"{handler.artifacts.location(name)} exists. Say force=True to replace it."
                )
        handler.save_persistence(result)

    def load_cache(
        self,
        result: T | None = None,
        error_when_missing: bool = False,
        dest: Storage | None = None,
        **values: Any,
    ) -> T:
        """Load an object, or compute and save it.

        It is computed if there is no file, or one that is damaged, of older fields, of other
        validated values, or refused by `validate_cache`; then it takes the place of that file. If
        the class counts, the newest object that is accepted is loaded, and what is computed gets
        a number of its own.

        Args:
            result: the object that is wanted; by default what `empty_cache` makes.
            error_when_missing: raise instead of computing.
            dest: the folder; by default the current one.
            values: take the place of the object's keys.

        Returns:
            The object.

        Raises:
            PathNotFoundError: nothing is there, and `error_when_missing` is true.
            WrongPersistenceClassError: the file of another class is in the way.
            StorageUnavailableError: the filesystem failed.
        """
        handler = self.persistence_handler(dest)
        info = handler.persistence_info
        asked = self.empty_cache() if result is None else result
        for name, value in values.items():
            if info.get_field(name) is not None:
                setattr(asked, name, value)
        reason = "--invalid-cache was given"
        if not self.invalid_cache:
            try:
                names = [handler.filename(asked)]
            except AutoIncFieldNotResolvedError:
                names = handler.names(asked)[::-1]  # the newest first
            reason = "no such file has been saved"
            for name in names:
                try:
                    loaded = handler.load_own(name, asked)
                    if self._accepts(handler.artifacts.location(name), loaded):
                        return loaded
                    reason = "validate_cache has refused it"
                except PathNotFoundError:
                    continue
                except WrongPersistenceClassError:
                    raise
                except PersistenceError as error:
                    reason = str(error)
        if error_when_missing:
            kind = PathNotFoundError
            if "validate fail" in reason:
                kind = PersistenceValidationError
            raise kind(
                f"There is no {info.filename(asked)}{handler.ext} in "
                f"{handler.artifacts.location()} that may be used, and nothing was to be computed: "
                f"{reason}"
            )
        return handler.save_persistence(self.compute_cache(asked))

    def _accepts(self, path: Path | str, found: T) -> bool:
        try:
            return self.validate_cache(Path(path) if "://" not in str(path) else path, found)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
            return False


def get_options_and_cache(
    opt_cls: type[PersistenceOptions[T]],
    ref: Any,
    error_when_missing: bool = False,
    invalid_cache: bool = False,
    **values: Any,
) -> T:
    """Load the object of some options, whose values are those of other options.

    Args:
        opt_cls: the options that make the object; called without arguments.
        ref: an object with attributes of the same names, such as the options of the program that
            needs the result.
        error_when_missing: raise instead of computing.
        invalid_cache: whether to compute anew what there is.
        values: passed on to `load_cache`.

    Returns:
        The object.

    Example:
        >>> from types import SimpleNamespace
        >>> from prefect_optuna.tasks.persistence import PersistenceOptions, field
        >>> from prefect_optuna.tasks.persistence import get_options_and_cache, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        >>> class SessionOptions(PersistenceOptions[Session]):
        ...     animal = "lynx"
        ...     def empty_cache(self):
        ...         return Session(self.animal)
        ...     def compute_cache(self, result):
        ...         return result
        >>> get_options_and_cache(SessionOptions, SimpleNamespace(animal="hare"))
        Session{animal=hare}
    """
    options = opt_cls()
    for cls in opt_cls.__mro__:
        for name in {*vars(cls), *inspect.get_annotations(cls)}:
            own = vars(cls).get(name)
            is_option = not (name.startswith("_") or name.isupper() or hasattr(own, "__get__"))
            if is_option and (value := getattr(ref, name, missing)) is not missing:
                setattr(options, name, value)
    options.invalid_cache = invalid_cache
    return options.load_cache(error_when_missing=error_when_missing, **values)


# Checks of objects that were loaded: are they new enough, whole, of one experiment.


_logger = get_logger("persistence")

Moment = float | Path | tuple[int, int, int] | date | datetime


def create_date_validate(obj: Moment, ref: Moment, verbose: bool = True) -> bool:
    """Say whether something was made at the time of something else, or later.

    Args:
        obj: a time in seconds, a path, whose file's time of change counts, (year, month, day), a
            date, or a date with time. What has no time zone is local time; a day begins at
            midnight.
        ref: what it is compared with.
        verbose: log why not.

    Returns:
        Whether it was; `False` if a file is missing.

    Raises:
        TypeError: this is no time.

    Example:
        >>> from prefect_optuna.tasks.persistence import create_date_validate
        >>> create_date_validate((2026, 1, 3), (2026, 1, 2))
        True
    """
    try:
        made, needed = _seconds(obj), _seconds(ref)
    except FileNotFoundError as error:
        if verbose:
            _logger.warning("There is no file %s to compare the time of.", error.filename)
        return False
    if made >= needed:
        return True
    if verbose:
        when = datetime.fromtimestamp(needed, tz=UTC).astimezone()
        _logger.warning("persistence data is created before %s", when.isoformat(" ", "seconds"))
    return False


def attributes_validate(obj: Any, *exclude: str) -> bool:
    """Say whether all fields of an object are set that have no value in its class.

    Args:
        obj: an object of a persistence class.
        exclude: names of fields that may be unset.

    Returns:
        Whether they are.

    Raises:
        InvalidPersistenceClassError: it is no such object.

    Example:
        >>> from prefect_optuna.tasks.persistence import attributes_validate, field
        >>> from prefect_optuna.tasks.persistence import persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        ...     power: list[float]
        >>> attributes_validate(Session("lynx")), attributes_validate(Session("lynx"), "power")
        (False, True)
    """
    return all(
        field.optional or field.field_name in exclude or hasattr(obj, field.field_name)
        for field in ensure_persistence_class(obj).fields
    )


class ETLConcatable(abc.ABC, Generic[T]):
    """Something whose objects, one for each imaging plane, can be put together to one."""

    @abc.abstractmethod
    def concat_etl(self, data: list[T]) -> T:
        """Put the objects of all planes together.

        Args:
            data: the objects.

        Returns:
            One object.
        """


def validate_concat_etl_persistence(
    data: Sequence[Any], field_check: tuple[str, ...] | None = None
) -> None:
    """Make sure that objects are the planes of one experiment.

    They need `exp_date`, `animal` and `plane_index`.

    Args:
        data: the objects.
        field_check: names of more fields that have to be the same in all.

    Raises:
        PersistenceConcatError: they are of different experiments; names the field.
        RuntimeError: there are none, or they have no `exp_date` or `animal`.
        AttributeError: one has no `plane_index`.
        TypeError: a `plane_index` is no int.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, persistence_class
        >>> from prefect_optuna.tasks.persistence import validate_concat_etl_persistence
        >>> @persistence_class
        ... class Plane:
        ...     exp_date: str = field(filename=True)
        ...     animal: str = field(filename=True)
        ...     plane_index: int = field(filename=True)
        >>> validate_concat_etl_persistence([Plane("2026-01-02", "lynx", n) for n in range(2)])
    """
    if not data or any(not hasattr(data[0], name) for name in ("exp_date", "animal")):
        raise RuntimeError(
            "different dataset is not concatable: expected objects with exp_date and animal."
        )
    for number, plane in enumerate(data):
        if not hasattr(plane, "plane_index"):
            raise AttributeError(f"not plane index field: object {number} has no plane_index.")
        if type(plane.plane_index) is not int:
            raise TypeError(
                f"Expected an int as plane_index of object {number}, found "
                f"{type(plane.plane_index).__name__}."
            )
    for name in ("exp_date", "animal", *(field_check or ())):
        first = getattr(data[0], name)
        for number, plane in enumerate(data):
            if not same(first, getattr(plane, name)):
                raise PersistenceConcatError(
                    f"Expected one {name} in all objects, found another in object {number} than in "
                    "the first. Concatenate the planes of one experiment only."
                )


def _seconds(moment: Moment) -> float:
    if isinstance(moment, bool):
        raise TypeError("Expected a time, found a bool.")
    if isinstance(moment, (int, float)):
        return float(moment)
    if isinstance(moment, Path):
        return moment.stat().st_mtime
    if isinstance(moment, tuple):
        return _local(datetime(*moment))  # noqa: DTZ001 - a day of the user's own calendar
    if isinstance(moment, datetime):
        return _local(moment)
    if isinstance(moment, date):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _local(datetime(moment.year, moment.month, moment.day))  # noqa: DTZ001
    raise TypeError(
        f"Expected seconds, a path, (year, month, day) or a date, found {type(moment).__name__}."
    )


def _local(moment: datetime) -> float:
    return moment.timestamp()


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
        PathNotFoundError: there is no such file.
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
