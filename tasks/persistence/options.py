"""`PersistenceOptions`: what is computed once, and loaded ever after."""

from __future__ import annotations

import abc
import argparse
import inspect
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from prefect_optuna.errors import (
    ArtifactNotFoundError,
    AutoIncFieldNotResolvedError,
    InvalidPersistenceClassError,
    PersistenceError,
    PersistenceExistsError,
    PersistenceNotFoundError,
    PersistenceValidationError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.arrow_handler import ArrowHandler
from prefect_optuna.tasks.persistence.fields import missing
from prefect_optuna.tasks.persistence.handler import PersistenceHandler
from prefect_optuna.tasks.persistence.places import Storage

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
            PersistenceExistsError: something is there, and `force` is false.
        """
        handler = self.persistence_handler(dest)
        if not force and handler.persistence_info.is_autoinc_field_resolved(result):
            name = handler.filename(result)
            if handler.artifacts.exists(name):
                raise PersistenceExistsError(
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
            PersistenceNotFoundError: nothing is there, and `error_when_missing` is true.
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
                except (ArtifactNotFoundError, PersistenceNotFoundError):
                    continue
                except WrongPersistenceClassError:
                    raise
                except PersistenceError as error:
                    reason = str(error)
        if error_when_missing:
            kind = PersistenceNotFoundError
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
