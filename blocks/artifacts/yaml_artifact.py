"""Plain values as YAML, for files that people edit."""

from __future__ import annotations

import re
from typing import IO, Any, ClassVar, NoReturn

import yaml

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options
from prefect_optuna.errors import ArtifactLogError

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
