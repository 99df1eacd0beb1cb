"""Values as text (plain, Markdown, JSON, YAML, pydantic's models), and as pickles if asked for."""

from __future__ import annotations

import base64
import functools
import importlib.metadata
import json
import math
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar, NoReturn, cast

import numpy as np
import yaml
from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.blocks.codec.untrusted import checked_dtype, is_padded
from prefect_optuna.blocks.codec.values import EXACT_TYPES, decode_value, encode_value
from prefect_optuna.errors import ArtifactLoadError, ArtifactLogError, PrefectOptunaError

# Values of Python and NumPy as JSON that other programs read as well.


_IDENTIFIER_KEY = re.compile(r"\['([A-Za-z_]\w*)'\]")


class JSONArtifact(Artifact):
    """Writes values as JSON, and gives them back with their types.

    What JSON has is written as it is, so the file of a plain dictionary is that dictionary. The
    rest is an object with one key that starts with `$`: `{"$tuple": [1, 2]}`. That holds for
    tuples, sets, times, bytes, complex numbers, NaN and infinities, keys that are no text, NumPy
    arrays and scalars, and more of the standard library. A dictionary that looks like such an
    object is written in another way, and comes back as itself.

    Departures from lazyscribe's, which writes tuples as lists and NaN as a token that is no JSON,
    and refuses most of NumPy.

    Example:
        >>> from prefect_optuna.blocks.artifacts import JSONArtifact, decode, encode
        >>> encode(JSONArtifact, {"span": (1, 2), "loss": float("nan")})
        b'{"span": {"$tuple": [1, 2]}, "loss": {"$float": "nan"}}'
        >>> decode(JSONArtifact, b'{"span": {"$tuple": [1, 2]}}')
        {'span': (1, 2)}
    """

    __slots__ = ()
    alias: ClassVar[str] = "json"
    suffix: ClassVar[str] = "json"
    binary: ClassVar[bool] = False

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take the types that come back exactly; whether their items do, writing shows."""
        return type(value) in EXACT_TYPES or isinstance(value, np.generic)

    @classmethod
    def write(
        cls,
        obj: Any,
        buf: IO[str],
        *,
        default: Callable[[Any], Any] | None = None,
        **writer_kwargs: Any,
    ) -> None:
        """Write a value.

        Args:
            obj: the value.
            buf: a text file.
            default: turns a value that has no exact form into one that has; it comes back as
                that one.
            **writer_kwargs: arguments of `json.dump`, such as `indent`.

        Raises:
            ArtifactLogError: something in the value cannot be written; names its place and type.
        """
        data = exact_json(obj, default)
        # As a whole first: a file that the caller has opened must not end half-written.
        buf.write(json.dumps(data, allow_nan=False, **writer_kwargs))

    @classmethod
    def read(cls, buf: IO[str], *, plain: bool = False, **reader_kwargs: Any) -> Any:
        """Read a value.

        Args:
            buf: a text file, written by this handler or by anybody else.
            plain: whether to leave objects with a `$` key as they are, in a file of somebody
                else who gives them another meaning.
            **reader_kwargs: arguments of `json.load`, such as `parse_float`.

        Returns:
            The value.

        Raises:
            ArtifactLoadError: an object with a `$` key is none that this handler writes.
        """
        data = json.load(buf, **reader_kwargs)
        return data if plain else from_exact_json(data)


def exact_json(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Turn a value into what `json.dumps` writes, with the types beside it.

    Example:
        >>> exact_json({"at": 1j, "n": [1]})
        {'at': {'$complex': [0.0, 1.0]}, 'n': [1]}
    """

    def other(inner: Any, path: str) -> Any:
        if isinstance(inner, np.ndarray):
            return _array_json(cast("np.ndarray[Any, Any]", inner), path)
        converted = inner if default is None else default(inner)
        return _refuse(inner, path) if converted is inner else encode(converted, path)

    def encode(inner: Any, path: str) -> Any:
        return encode_value(inner, other, path)

    return encode(value, "$")


def from_exact_json(data: Any) -> Any:
    """Turn what `exact_json` returned into the value again.

    Example:
        >>> from_exact_json({"at": {"$complex": [0.0, 1.0]}, "see": {"$ref": "#/x"}})
        {'at': 1j, 'see': {'$ref': '#/x'}}
    """
    try:
        return decode_value(data, _other_tag)
    except PrefectOptunaError:
        raise
    except Exception as error:
        raise ArtifactLoadError(
            "This JSON has an object with a '$' key that the artifact handler 'json' writes with "
            f"other content ({type(error).__name__}: {error}). If somebody else has written it, "
            "read it with plain=True; else it is damaged."
        ) from error


def _array_json(array: np.ndarray[Any, Any], path: str) -> Any:
    dtype = array.dtype
    if type(array) is not np.ndarray or dtype.hasobject or dtype.names is not None:
        return _refuse(array, path)
    shape = list(array.shape)
    is_text = dtype.kind == "U" and not is_padded(array.nbytes, int(np.char.str_len(array).sum()))
    if (
        dtype.kind in "biu"
        or is_text
        or (dtype.kind == "f" and dtype.itemsize <= 8 and _is_finite(array))
    ):
        return {"$array": [dtype.str, shape, array.reshape(-1).tolist()]}
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"$array_bytes": [dtype.str, shape, content]}


def _is_finite(array: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(array).all())


def _other_tag(tag: str, held: Any) -> Any:
    if tag == "$array":
        dtype, shape, values = held
        kind = checked_dtype(dtype)
        if kind.kind not in "biufU":
            raise ValueError("arrays of this type are not written as numbers or text")
        if kind.kind == "U" and is_padded(kind.itemsize * math.prod(shape), sum(map(len, values))):
            raise ValueError("its text is far shorter than its type says")
        return np.array(values, kind).reshape(shape)
    if tag == "$array_bytes":
        dtype, shape, content = held
        return np.frombuffer(base64.b64decode(content), checked_dtype(dtype)).reshape(shape).copy()
    return {tag: decode_value(held, _other_tag)}


def _refuse(value: Any, path: str) -> Any:
    where = _IDENTIFIER_KEY.sub(r".\1", path)
    kind = type_name(value)
    if isinstance(value, np.ndarray):
        kind += f" of {value.dtype}"
    raise ArtifactLogError(
        f"{where} is of type {kind}, which has no exact form in JSON. Expected numbers, text, "
        "lists, dictionaries, times, NumPy arrays and the like. Convert it, or say how with "
        "default=..., or use another artifact handler."
    )


# Plain values as YAML, for files that people edit.


_MAX_ITEMS = 100_000  # more than there are characters
_LINE_ENDS = re.compile("[\\r\x85\u2028\u2029]")


class YAMLArtifact(Artifact):
    """Writes what safe YAML has: numbers, text, dates, bytes, lists, sets and dictionaries.

    Anything else is refused, tuples as well, which safe YAML would give back as lists. Reading
    makes plain values only and runs no code. Dictionaries keep their order.

    Example:
        >>> from prefect_optuna.blocks.artifacts import YAMLArtifact, encode
        >>> print(encode(YAMLArtifact, {"rate": 0.1, "layers": [8, 8]}).decode(), end="")
        rate: 0.1
        layers:
        - 8
        - 8
    """

    __slots__ = ()
    alias: ClassVar[str] = "yaml"
    suffix: ClassVar[str] = "yaml"
    binary: ClassVar[bool] = False

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Write a value.

        Args:
            obj: the value.
            buf: a text file.
            **writer_kwargs: arguments of `yaml.dump`, such as `default_flow_style`.

        Raises:
            ArtifactLogError: the value holds something that would not come back.
        """
        options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, **writer_kwargs}
        try:
            text: str = yaml.dump(obj, Dumper=_Dumper, **options)
        except yaml.representer.RepresenterError as error:
            raise ArtifactLogError(
                f"The artifact handler 'yaml' has no form for a value in it: {error.args[-1]!r}. "
                "Convert it to plain Python, or use the handler 'json', which has more types."
            ) from error
        buf.write(text)

    @classmethod
    def read(cls, buf: IO[str], **reader_kwargs: Any) -> Any:
        """Read a value.

        Args:
            buf: a text file.
            **reader_kwargs: there are none.

        Returns:
            Plain values.
        """
        refuse_options(reader_kwargs)
        loader = _Loader(buf)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
        if _items(value, {}) > _MAX_ITEMS + loader.index:
            raise ValueError("it has aliases of aliases, which stand for more than it has text")
        return value


class _Loader(yaml.SafeLoader):
    """The safe one, in which mappings that are merged into others stay small."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_ITEMS + self.index:
            raise ValueError("it merges mappings into more than it has text")


def _items(value: Any, known: dict[int, int]) -> int:
    """Count the items in a value; repeated ones count each time."""
    if not isinstance(value, (dict, list, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = 1  # for itself, if it is in itself
        inside: Any = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_items(item, known) for item in inside)
    return known[id(value)]


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # These end a line in YAML, and would be read as a space unless they are escaped.
    style = '"' if _LINE_ENDS.search(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


def _refuse_tuple(_dumper: yaml.SafeDumper, value: tuple[Any, ...]) -> NoReturn:
    raise ArtifactLogError(
        f"The artifact handler 'yaml' would give the tuple {value!r} back as a list. Make it a "
        "list, or use the handler 'json', which keeps tuples."
    )


_Dumper.add_representer(str, _text)
_Dumper.add_representer(tuple, _refuse_tuple)


# Pydantic models as JSON that says which class they are of.


class PydanticArtifact(Artifact):
    """Writes a pydantic model, and gives it back validated.

    The file is JSON: the class as `module:name`, and the fields as `JSONArtifact` writes them.
    What the file names is not followed, for the validators of a class run code, and some import
    whatever they are told: the class is passed as `model`, or is that of a handler of one's own,
    which has an alias and a `model` and is registered. What a class excludes from its dumps, such
    as private attributes, is not kept.

    Attributes:
        model: the class of a handler for one class of models.

    Example:
        >>> from pydantic import BaseModel
        >>> from prefect_optuna.blocks.artifacts import PydanticArtifact, decode, encode
        >>> class Settings(BaseModel):
        ...     rate: float
        >>> content = encode(PydanticArtifact, Settings(rate=0.1))
        >>> decode(PydanticArtifact, content, model=Settings)
        Settings(rate=0.1)
        >>> class SettingsArtifact(PydanticArtifact):
        ...     alias = "settings"
        ...     model = Settings
        >>> decode(SettingsArtifact, content)
        Settings(rate=0.1)
    """

    __slots__ = ()
    alias: ClassVar[str] = "pydantic"
    suffix: ClassVar[str] = "json"
    binary: ClassVar[bool] = False
    model: ClassVar[type[BaseModel] | None] = None

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take models; a handler for one class, those of that class."""
        return isinstance(value, BaseModel if cls.model is None else cls.model)

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Write a model.

        Args:
            obj: an instance of a pydantic model.
            buf: a text file.
            **writer_kwargs: arguments of `json.dump`, such as `indent`.

        Raises:
            ArtifactLogError: it is no model, has a secret or another field that cannot be
                written, or would not come back the same.
        """
        if not isinstance(obj, BaseModel):
            raise ArtifactLogError(
                "The artifact handler 'pydantic' expects an instance of a pydantic model, and "
                f"found {type_name(obj)}. Leave the handler out to get one that fits."
            )
        model = type(obj)
        fields = _fields(obj)
        try:
            again = _fields(_validated(model, fields))
        except ArtifactLoadError as error:
            raise ArtifactLogError(f"This model could not be read again: {error}") from error
        if again != fields:
            raise ArtifactLogError(
                f"This {type_name(obj)} would come back with other fields: {fields} would be "
                f"{again}. Does a field hold a subclass of its type, or a validator change what "
                "is valid already?"
            )
        data = {"$model": f"{model.__module__}:{model.__qualname__}", "fields": fields}
        buf.write(json.dumps(data, allow_nan=False, **writer_kwargs))

    @classmethod
    def read(
        cls, buf: IO[str], *, model: type[BaseModel] | None = None, **reader_kwargs: Any
    ) -> BaseModel:
        """Read a model.

        Args:
            buf: a text file.
            model: the class; by default that of the handler.
            **reader_kwargs: there are no others.

        Returns:
            A validated instance.

        Raises:
            ArtifactLoadError: no class is given, or it refuses what was written.
        """
        refuse_options(reader_kwargs)
        data = json.load(buf)
        chosen = model or cls.model
        if chosen is None:
            raise ArtifactLoadError(
                f"The artifact is a pydantic model of the class {data['$model']!r}. Import the "
                "class and pass it as model=...: an artifact does not decide by itself what is "
                "validated, for validating may run code."
            )
        return _validated(chosen, data["fields"])

    def reread_kwargs(self) -> dict[str, Any]:
        """The class itself, which is imported where the artifact is unpickled."""
        return {"model": type(self.value)}


def _fields(model: BaseModel) -> Any:
    values = model.model_dump(by_alias=True, round_trip=True, serialize_as_any=True)
    return exact_json(values, _plain)


def _plain(value: Any) -> Any:
    """Return what pydantic would write for a value of a type of its own, or the value itself."""
    if isinstance(value, (Secret, SecretStr, SecretBytes)):
        return value  # its stars would be written, and read as the secret
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        return value


def _validated(model: type[BaseModel], fields: Any) -> BaseModel:
    try:
        return model.model_validate(from_exact_json(fields))
    except ValidationError as error:
        raise ArtifactLoadError(
            f"{model.__module__}:{model.__qualname__} refuses the fields that were written: "
            f"{error}. Has the class changed? Pass model=... with one that fits."
        ) from error


class TextArtifact(Artifact):
    r"""Writes text in UTF-8, to the letter: line ends stay as they are.

    Example:
        >>> from prefect_optuna.blocks.artifacts import TextArtifact, decode, encode
        >>> decode(TextArtifact, encode(TextArtifact, "µ\r\n"))
        'µ\r\n'
    """

    __slots__ = ()
    alias: ClassVar[str] = "text"
    suffix: ClassVar[str] = "txt"
    binary: ClassVar[bool] = False

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take text."""
        return type(value) is str

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Write text.

        Args:
            obj: a string.
            buf: a text file.
            **writer_kwargs: there are none.

        Raises:
            ArtifactLogError: it is no string.
        """
        refuse_options(writer_kwargs)
        if not isinstance(obj, str):
            raise ArtifactLogError(
                f"The artifact handler {cls.alias!r} expects a string, and found "
                f"{type_name(obj)}. Pass str(...), or leave the handler out to get one that fits."
            )
        buf.write(obj)

    @classmethod
    def read(cls, buf: IO[str], **reader_kwargs: Any) -> str:
        """Read text.

        Args:
            buf: a text file.
            **reader_kwargs: there are none.

        Returns:
            All of it.
        """
        refuse_options(reader_kwargs)
        return buf.read()


class MarkdownArtifact(TextArtifact):
    """Writes Markdown, which is text; only the suffix is another, and it is never guessed.

    Example:
        >>> from prefect_optuna.blocks.artifacts import find_handler
        >>> find_handler("markdown").suffix
        'md'
    """

    __slots__ = ()
    alias: ClassVar[str] = "markdown"
    suffix: ClassVar[str] = "md"

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Return False: a text is Markdown only if it is logged as such."""
        return False


# Any Python object as a pickle, for those who ask for it.

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
