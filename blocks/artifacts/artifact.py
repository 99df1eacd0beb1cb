"""The contract of an artifact handler: how values of one kind become bytes, and bytes a value.

A handler is a class. What it does is in `read` and `write`, and its instances are the artifacts
themselves: a value with a name, a version and a time.
"""

from __future__ import annotations

import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any, ClassVar, Self

from slugify import slugify

from prefect_optuna.blocks.stores.protocol import checked_path
from prefect_optuna.errors import (
    ArtifactLoadError,
    ArtifactLogError,
    CorruptArtifactError,
    PrefectOptunaError,
)


@dataclass(slots=True)
class Artifact(ABC):
    """A value that is kept under a name, and how it is written and read.

    Two artifacts are equal if they are of one handler and agree in the fields that this handler
    adds; the fields here do not count. Artifacts cannot be hashed. Use `construct` to make one.

    Unlike lazyscribe's, whose `created_at` is a naive UTC time, the times here are in UTC and say
    so: they compare with any other time that knows its zone.

    Attributes:
        alias: the name of the handler, by which `find_handler` finds it.
        suffix: the ending of its files, without the dot.
        binary: whether its files hold bytes; otherwise UTF-8 text.
        output_only: whether its files are for people, and reading gives no such value again.
        name: what the artifact is called.
        fname: the name of its file.
        value: the value, or `None` where it has not been read.
        writer_kwargs: further arguments of `write`.
        created_at: when it was made, in UTC.
        expiry: from when on it is out of date, in UTC; `None` for never.
        version: its number among the artifacts of that name, from 0.
        dirty: whether it has still to be written.

    Example:
        >>> from prefect_optuna.blocks.artifacts import JSONArtifact
        >>> artifact = JSONArtifact.construct("best params", {"x": 0.5})
        >>> artifact.name, artifact.version, artifact == JSONArtifact.construct("other")
        ('best params', 0, True)
    """

    alias: ClassVar[str]
    suffix: ClassVar[str]
    binary: ClassVar[bool]
    output_only: ClassVar[bool] = False

    name: str = field(compare=False)
    fname: str = field(compare=False)
    value: Any = field(compare=False, repr=False)
    writer_kwargs: dict[str, Any] = field(compare=False)
    created_at: datetime = field(compare=False)
    expiry: datetime | None = field(compare=False)
    version: int = field(compare=False)
    dirty: bool = field(compare=False)

    @classmethod
    def construct(
        cls,
        name: str,
        value: Any = None,
        fname: str | None = None,
        created_at: datetime | None = None,
        writer_kwargs: dict[str, Any] | None = None,
        version: int = 0,
        expiry: datetime | None = None,
        dirty: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Make an artifact.

        Args:
            name: what to call it.
            value: the value, or `None` for one that is read later.
            fname: the name of its file; by default the name as a slug, the time to the second
                and the suffix, which tells people what it is and is not unique.
            created_at: when it was made; by default now. A time without a zone is taken as UTC.
            writer_kwargs: further arguments of `write`.
            version: its number among the artifacts of that name.
            expiry: from when on it is out of date. A time without a zone is taken as UTC.
            dirty: whether it has still to be written.
            **kwargs: fields that the handler adds, such as `python_version`, which are by
                default as they are here and now; anything else is ignored.

        Returns:
            The artifact.

        Raises:
            InvalidSettingError: `fname` leads out of the place where artifacts are kept.

        Example:
            >>> from datetime import datetime
            >>> from prefect_optuna.blocks.artifacts import JSONArtifact
            >>> JSONArtifact.construct("My names", created_at=datetime(2025, 1, 20, 13, 23)).fname
            'my-names-20250120132300.json'
        """
        created_at = datetime.now(UTC) if created_at is None else _in_utc(created_at)
        if not fname:
            fname = f"{slugify(name) or 'artifact'}-{created_at:%Y%m%d%H%M%S}.{cls.suffix}"
        own = {item.name for item in dataclasses.fields(cls) if item.compare}
        return cls(
            name=name,
            fname=checked_path(fname),
            value=value,
            writer_kwargs=writer_kwargs or {},
            created_at=created_at,
            expiry=None if expiry is None else _in_utc(expiry),
            version=version,
            dirty=dirty,
            **{key: kwargs[key] for key in own & kwargs.keys()},
        )

    @classmethod
    @abstractmethod
    def read(cls, buf: IO[Any], **reader_kwargs: Any) -> Any:
        """Read a value.

        Args:
            buf: an open file, of bytes or of text as `binary` says.
            **reader_kwargs: what the handler offers.

        Returns:
            The value; for an output-only handler, the content of the file.
        """

    @classmethod
    @abstractmethod
    def write(cls, obj: Any, buf: IO[Any], **writer_kwargs: Any) -> None:
        """Write a value. Equal values should give equal bytes, which are then stored once.

        Args:
            obj: the value.
            buf: an open file, for bytes or for text as `binary` says.
            **writer_kwargs: what the handler offers.

        Raises:
            ArtifactLogError: the value is none that would come back.
        """

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Say whether this is the handler that a value gets when nobody names one.

        This is asked for every value, so it must be quick and must not import anything.

        Example:
            >>> from prefect_optuna.blocks.artifacts import JSONArtifact
            >>> JSONArtifact.takes({"x": 1}), JSONArtifact.takes(open)
            (True, False)
        """
        return False

    def environment(self) -> dict[str, Any]:
        """Return what reading depends on: the handler's own fields, such as a Python version.

        It is stored with an artifact, and compared on load with `current_environment`.

        Example:
            >>> from prefect_optuna.blocks.artifacts import JSONArtifact, PickleArtifact
            >>> JSONArtifact.construct("a").environment()
            {}
            >>> PickleArtifact.construct("a", python_version="3.11").environment()
            {'python_version': '3.11'}
        """
        return {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.compare
        }

    @classmethod
    def current_environment(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `environment` that a stored artifact would have here and now.

        Args:
            recorded: what was stored.

        Returns:
            The same fields. If it differs from `recorded`, the artifact may not be readable.

        Example:
            >>> from prefect_optuna.blocks.artifacts import PickleArtifact
            >>> list(PickleArtifact.current_environment({"python_version": "2.7"}))
            ['python_version']
        """
        return cls.construct("artifact").environment()

    def reread_kwargs(self) -> dict[str, Any]:
        """The arguments with which `read` gives back what `write` has just written."""
        return {}

    # A pickled artifact holds its value as the handler writes it, not as pickle would.
    def __getstate__(self) -> dict[str, Any]:
        state = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        if self.value is not None:
            content = encode(type(self), self.value, **self.writer_kwargs)
            state["value"] = content, self.reread_kwargs()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["value"] is not None:
            content, reader_kwargs = state["value"]
            state = {**state, "value": decode(type(self), content, **reader_kwargs)}
        for key, value in state.items():
            setattr(self, key, value)


def encode(handler: type[Artifact], value: Any, /, **writer_kwargs: Any) -> bytes:
    """Turn a value into the content of its file.

    Args:
        handler: who writes it.
        value: the value.
        **writer_kwargs: further arguments of the handler's `write`.

    Returns:
        All of the bytes. Text is in UTF-8, with its line ends as they are.

    Raises:
        ArtifactLogError: the handler cannot write this value, or not with these arguments.

    Example:
        >>> from prefect_optuna.blocks.artifacts import JSONArtifact, encode
        >>> encode(JSONArtifact, {"x": 1})
        b'{"x": 1}'
    """
    content = io.BytesIO()
    buf = content if handler.binary else io.TextIOWrapper(content, "utf-8", newline="")
    try:
        handler.write(value, buf, **writer_kwargs)
        buf.flush()
    except PrefectOptunaError:
        raise
    except ImportError as error:
        raise ArtifactLogError(f"The artifact handler {handler.alias!r} {_needs(error)}") from error
    except Exception as error:
        raise ArtifactLogError(
            f"The artifact handler {handler.alias!r} cannot write this {type_name(value)}"
            f"{_with(writer_kwargs)}: {type(error).__name__}: {error}"
        ) from error
    return content.getvalue()


def decode(handler: type[Artifact], content: bytes, /, **reader_kwargs: Any) -> Any:
    """Turn the content of a file into the value again.

    Args:
        handler: who has written it.
        content: all of the bytes.
        **reader_kwargs: further arguments of the handler's `read`.

    Returns:
        The value; for an output-only handler, the content itself.

    Raises:
        CorruptArtifactError: these are not the bytes that the handler writes.
        ArtifactLoadError: the handler cannot read them, or not with these arguments.

    Example:
        >>> from prefect_optuna.blocks.artifacts import JSONArtifact, decode
        >>> decode(JSONArtifact, b'{"x": 1}')
        {'x': 1}
    """
    raw = io.BytesIO(content)
    buf = raw if handler.binary else io.TextIOWrapper(raw, "utf-8", newline="")
    try:
        return handler.read(buf, **reader_kwargs)
    except PrefectOptunaError:
        raise
    except ImportError as error:
        raise ArtifactLoadError(
            f"The artifact handler {handler.alias!r} {_needs(error)}"
        ) from error
    except Exception as error:
        # With arguments it is unknown whether they or the bytes are to blame.
        kind = ArtifactLoadError if reader_kwargs else CorruptArtifactError
        raise kind(
            f"The artifact handler {handler.alias!r} cannot read these {len(content)} bytes"
            f"{_with(reader_kwargs)}; they may be damaged, cut off, or of another handler: "
            f"{type(error).__name__}: {error}"
        ) from error


def type_name(value: Any) -> str:
    """The name of a value's type as people would import it.

    Example:
        >>> from datetime import date
        >>> type_name(3), type_name(date(2025, 1, 20))
        ('int', 'datetime.date')
    """
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse arguments that a handler does not have, as a function without them does."""
    if options:
        raise TypeError(f"there is no argument {', '.join(map(repr, options))}.")


def _with(options: Mapping[str, Any]) -> str:
    return f" with {', '.join(f'{k}={v!r}' for k, v in options.items())}" if options else ""


def _needs(error: ImportError) -> str:
    package = (error.name or "").partition(".")[0]
    return f"needs a package that cannot be imported: {error}." + (
        f" Is it installed? pip install {package}." if package else ""
    )


def _in_utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        return time.replace(tzinfo=UTC)
    return time.astimezone(UTC)
