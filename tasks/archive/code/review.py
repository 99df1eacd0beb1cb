"""An archive as a person reads it before its code may run: its source, and all that it would do.

Restoring knows no tag of code that is not in the table here, so that none can be left out.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks.codec.values import decode_value
from prefect_optuna.blocks.texts import visible, visible_line
from prefect_optuna.tasks.archive.code.sources import FunctionNode, parse

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.code.capture import Capture

_SHOWN = 120  # characters of a value that is only numbers, in the source text


def tag_of(data: Any) -> str:
    """Return the tag of tagged JSON; empty if there is none."""
    if not isinstance(data, dict) or len(data) != 1:
        return ""
    tag = str(next(iter(data)))
    return tag if tag.startswith("$") else ""


def restore_value(data: Any) -> Any:
    """Turn tagged JSON that refers to no code into the value again."""

    def unknown(tag: str, held: Any) -> Any:
        raise ArchiveError(f"The archive holds {tag!r}, which this version does not know.")

    return decode_value(data, unknown)


# -- tags of code ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CodeTag:
    """A tag that leads to code.

    Attributes:
        does: what restoring it does, such as `"call"`; empty for what only refers to something
            that is listed by itself, or is data.
        text: writes what it holds as Python, or nearly so.
    """

    does: str
    text: Callable[[Any], str]


def _dotted(held: Any) -> str:
    return str(held).replace(":", ".")


def _attribute(held: Any) -> str:
    return f"{as_python(held[0])}.{held[1]}"


def _listed(items: Any) -> str:
    if isinstance(items, list):
        return ", ".join(map(as_python, items))
    return f"*{as_python(items)}"


def _call(function: Any, arguments: Any, keywords: Any = None) -> str:
    parts = [part for part in (as_python(function), _listed(arguments)) if part]
    return ", ".join([*parts, *([f"**{as_python(keywords)}"] if keywords else [])])


def _binary(held: Any) -> str:
    if "sha256" in held:
        return f"SHA-256 {held['sha256']}"
    content = restore_value(held)
    return f"{len(content)} bytes, SHA-256 {sha256(content).hexdigest()}"


def _set(held: Any) -> str:
    sets = ", ".join(f"{name} = {_shortened(inner)}" for name, inner in held[1].items())
    return as_python(held[0]) + (f", and sets {sets}" if sets else "")


def _parts(held: Any) -> str:
    rest = [f"{part}: {as_python(inner)}" for part, inner in held[3].items()]
    return "".join(f", and gives it its {part}" for part in rest)


CODE_TAGS: Mapping[str, CodeTag] = {
    "$ref": CodeTag("", _dotted),
    "$module": CodeTag("", str),
    "$cell": CodeTag("", lambda held: f"the variable {held[1]} of {_dotted(held[0])}"),
    "$unbound": CodeTag("", lambda held: "no value"),
    "$npy": CodeTag("", lambda held: f"an array of {_binary(held)}"),
    "$objects": CodeTag("", lambda held: f"an array of [{_listed(held[1])}]"),
    "$table": CodeTag("", lambda held: f"a table of {_binary(held)}"),
    "$import": CodeTag("import", _dotted),
    "$attribute": CodeTag("look up", _attribute),
    "$method": CodeTag("look up", _attribute),
    "$make": CodeTag("call", lambda held: f"{as_python(held[0])}({_listed(held[1])})"),
    "$partial": CodeTag("call", lambda held: f"functools.partial({_call(*held)})"),
    "$alias": CodeTag("call", lambda held: f"{as_python(held[0])}[{_listed(held[1])}]"),
    "$lru_cache": CodeTag(
        "call", lambda held: f"functools.lru_cache({held[1]!r}, {held[2]!r})({as_python(held[0])})"
    ),
    "$singledispatch": CodeTag(
        "call",
        lambda held: f"functools.singledispatch({as_python(held[0])}), with {_listed(held[1])}",
    ),
    "$logger": CodeTag("call", lambda held: f"logging.getLogger({held!r})"),
    "$instance": CodeTag("make", _set),
    "$pydantic": CodeTag("make", _set),
    "$with": CodeTag("set", _set),
    "$new": CodeTag(
        "make", lambda held: f"{as_python(held[0])}.__new__({_call(*held[:3])}){_parts(held)}"
    ),
    "$call": CodeTag(
        "call",
        lambda held: (
            f"{as_python(held[0])}({_listed(held[1])}"
            + (f", **{as_python(held[2])})" if held[2] else ")")
            + _parts(held)
        ),
    ),
    "$pickle": CodeTag("unpickle", lambda held: f"{_binary(held[1])}, of Python {held[0]}"),
}
"""All tags of code that there are. Restoring refuses any other."""

_DATA_TAGS = {"$npy", "$table"}


class Act(NamedTuple):
    """Something that restoring does beside running source.

    Attributes:
        does: the verb, such as `"import"`.
        what: as Python, in full.
        where: the part of the archive that asks for it.
    """

    does: str
    what: str
    where: str


def acts_of(document: Mapping[str, Any]) -> Iterator[Act]:
    """Everything that restoring a captured problem imports, calls, makes or unpickles.

    All of the document is walked, whatever its parts are called: what restoring does not look at
    is listed as well.
    """
    for part, data in document.items():
        if part == "symbols":
            for symbol in data:
                where = f"{symbol['module']}.{symbol['name']}"
                for name in symbol.get("submodules", ()):
                    yield Act("import", str(name), where)
                yield from _acts(symbol, where)
        elif isinstance(data, dict):
            for name, inner in data.items():
                where = part if part == "entrypoints" else f"{part}[{name!r}]"
                yield from _acts({name: inner} if tag_of(data) else inner, where)
        else:
            yield from _acts(data, part)


def _acts(data: Any, where: str) -> Iterator[Act]:
    if isinstance(data, list):
        for item in data:
            yield from _acts(item, where)
    elif isinstance(data, dict):
        if tag := tag_of(data):
            known = CODE_TAGS.get(tag)
            if known is not None and known.does:
                yield Act(known.does, as_python(data), where)
        for item in data.values():
            yield from _acts(item, where)


def as_python(data: Any) -> str:
    """Tagged JSON as a person would write it, in full."""
    tag = tag_of(data)
    if tag in CODE_TAGS:
        try:
            return CODE_TAGS[tag].text(data[tag])
        except (
            ArchiveError,
            LookupError,
            TypeError,
            ValueError,
        ):  # another form than restoring takes
            return json.dumps(data)
    if not _has_tag(data, CODE_TAGS):
        try:
            return repr(restore_value(data))
        except Exception:  # noqa: BLE001 - whatever numbers, times and patterns raise
            return json.dumps(data)
    if tag:
        return f"{tag[1:]}({_listed(data[tag])})"
    if isinstance(data, list):
        return f"[{_listed(data)}]"
    return "{" + ", ".join(f"{name!r}: {as_python(item)}" for name, item in data.items()) + "}"


def _shortened(data: Any) -> str:
    """The same in full, unless it is only numbers: code may run a text."""
    text = as_python(data)
    is_numbers = not any(quote in text for quote in "'\"")
    if len(text) > _SHOWN and is_numbers and not _has_tag(data, CODE_TAGS.keys() - _DATA_TAGS):
        return f"{text[: _SHOWN - 3]}..."
    return text


def _has_tag(data: Any, tags: Collection[str]) -> bool:
    if isinstance(data, list):
        return any(_has_tag(item, tags) for item in data)
    if isinstance(data, dict):
        return tag_of(data) in tags or any(_has_tag(item, tags) for item in data.values())
    return False


# -- source ---------------------------------------------------------------------------------


def source_text(capture: Capture) -> str:
    """All source of a capture as text, module by module, with the values that it works with."""
    texts = {n: module.text for n, module in module_sources(capture.document["symbols"]).items()}
    for part in ("context", "axes"):
        values = capture.document[part].items()
        lines = [f"{_value_text(f'{part}[{name!r}]', value)}\n" for name, value in values]
        texts[part] = "".join([texts.get(part, ""), *lines])
    return "\n\n".join(
        f"# ---- {visible_line(name)} {'-' * (72 - len(name))}\n\n{_visible_lines(text)}"
        for name, text in texts.items()
        if text
    )


def _visible_lines(text: str) -> str:
    return "\t".join(map(visible, text.split("\t")))


class ModuleSource:
    """The source of one module, put together from its symbols."""

    def __init__(self) -> None:
        self.text: str = ""
        self.first_lines: dict[str, int] = {}

    def add(self, name: str, text: str) -> None:
        """Add the text of a symbol."""
        if "\n" in text:
            self.text += "\n\n" if self.text else ""
        self.first_lines[name] = self.text.count("\n") + 1
        self.text += f"{text}\n"


def module_sources(symbols: list[dict[str, Any]]) -> dict[str, ModuleSource]:
    """The source of each module of a capture, by its name."""
    modules: dict[str, ModuleSource] = {}
    # Imports first, as everybody writes them; the order matters to the text only.
    for symbol in sorted(symbols, key=lambda symbol: symbol["mode"] == "source"):
        module = modules.setdefault(symbol["module"], ModuleSource())
        module.add(symbol["name"], _symbol_text(symbol))
    return modules


def _symbol_text(symbol: dict[str, Any]) -> str:
    name = symbol["name"]
    if symbol["mode"] == "source":
        beside = _beside_source(symbol) if symbol["kind"] == "function" else ()
        lines = [_value_text(f"{name}.{part}", value) for part, value in beside]
        return "\n".join([symbol["source"], *lines])
    value = symbol["value"]
    if tag_of(value) == "$import":
        return visible_line(_import_text(str(value["$import"]), name))
    return _value_text(name, value)


def _value_text(name: str, value: Any) -> str:
    """A value as a comment."""
    return visible_line(f"# {name} = {_shortened(value)}")


def _beside_source(symbol: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a function is given that its source does not say, or says otherwise.

    Of defaults and annotations the source says nothing: they are restored as values.
    """
    defaults, kwdefaults, annotations = _said(symbol["source"])
    for part, said in (("defaults", defaults), ("kwdefaults", kwdefaults)):
        if part in symbol and as_python(symbol[part]) != said:
            yield f"__{part}__", symbol[part]
    for part in ("annotations", "attributes", "free"):
        held = symbol.get(part, {})
        for name, value in held.items() if isinstance(held, dict) else ():
            if part != "annotations":
                yield name, value
            elif isinstance(value, str) and value not in annotations:
                yield f"__annotations__[{name!r}]", value


def _said(source: str) -> tuple[str, str, set[str]]:
    """What the source of a function says of its defaults and of its annotations, as text."""
    defaults = kwdefaults = ""
    annotations: set[str] = set()
    # It may be of another Python, and a default more than a plain value.
    with suppress(SyntaxError, StopIteration, ValueError, TypeError, RecursionError):
        node = next(n for n in ast.walk(parse(source)) if isinstance(n, FunctionNode))
        given = [arg.annotation for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
        for one in (*given, getattr(node, "returns", None)):
            if one is not None:
                annotations |= {str(getattr(one, "value", "")), ast.unparse(one)}
        named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        kwdefaults = repr({a.arg: ast.literal_eval(d) for a, d in named if d is not None})
        defaults = repr([ast.literal_eval(default) for default in node.args.defaults])
    return defaults, kwdefaults, annotations


def _import_text(path: str, name: str) -> str:
    module, _, attribute = path.partition(":")
    last = attribute or module
    text = f"from {module} import {attribute}" if attribute else f"import {module}"
    return text if name == last else f"{text} as {name}"
