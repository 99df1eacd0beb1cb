"""Archived code, read by a person before it may run, and back to life in modules of its own.

Each version of an archive gets a package, `prefect_optuna_archive_<start of its digest>`, with a
module for each module that its code came from. The caller's modules are neither used nor changed.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import json
import linecache
import logging
import pickle
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from types import CellType, FunctionType, MemberDescriptorType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks.codec.untrusted import array_size, read_npy
from prefect_optuna.blocks.codec.values import decode_value
from prefect_optuna.blocks.texts import command, visible, visible_line
from prefect_optuna.errors import OtherPythonWarning
from prefect_optuna.tasks.archive.code.capture import require_packages
from prefect_optuna.tasks.archive.code.inspection import (
    ARCHIVED_AS,
    ARCHIVED_FILE,
    ARCHIVED_IMPORTS,
    Parts,
    fill_in,
    put_together,
)
from prefect_optuna.tasks.archive.code.sources import (
    FunctionNode,
    compile_function,
    compile_statement,
    parse,
)
from prefect_optuna.tasks.archive.series.results import decode_result

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.code.capture import Capture
    from prefect_optuna.tasks.archive.record.environment import Environment
    from prefect_optuna.tasks.problem import Problem

_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_PACKAGE = "prefect_optuna_archive_"


_lock = threading.RLock()
_restored: dict[str, _Restorer] = {}


def restore_problem(capture: Capture, environment: Environment | None = None) -> Problem:
    """Bring a captured problem back to life. This executes its code.

    Within one process a version is restored once: its modules are like any others.

    Warns:
        OtherPythonWarning: it is for another version of Python, in which it also compiles.

    Raises:
        ArchiveError: a package that it needs is missing, its code fails, or it is damaged.
    """
    try:
        return _restore(capture, environment)
    except ArchiveError:
        raise
    except Exception as error:
        raise ArchiveError(
            f"The archived problem could not be restored: {type(error).__name__}: {error}. "
            "Compare the installed packages with those of the archive: "
            "ArchivedStudy.environment.diff(). Where they are the same, the archive is damaged: "
            "bring the study's attributes and the files of its archive back from a copy."
        ) from error


def _restore(capture: Capture, environment: Environment | None) -> Problem:
    from prefect_optuna.tasks.problem import Problem

    with _lock:
        restorer = _restored.get(capture.code_version)
        if restorer is None:
            require_packages(capture, environment)
            restorer = _Restorer(capture, environment)
            restorer.restore()
            if restorer.python != _PYTHON:
                warnings.warn(
                    f"The archived code ran in Python {restorer.python}, and this is {_PYTHON}. "
                    "Results may differ.",
                    OtherPythonWarning,
                    stacklevel=4,
                )
            _restored[capture.code_version] = restorer
    document = capture.document
    return Problem(
        **{part: restorer.value(data) for part, data in document["entrypoints"].items()},
        context={key: restorer.value(data) for key, data in document["context"].items()},
        axes={name: restorer.value(data) for name, data in document["axes"].items()},
        directions=tuple(document["directions"]),
        resources=document.get("resources"),
    )


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _is_slot(cls: type, name: str) -> bool:
    held = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    return isinstance(held, MemberDescriptorType)


class _Restorer:
    def __init__(self, capture: Capture, environment: Environment | None) -> None:
        self._capture = capture
        self._versions = environment.distributions if environment is not None else {}
        self.python = _minor(environment.python) if environment is not None else _PYTHON
        self.package = _PACKAGE + capture.code_version[:12]
        self._symbols = {
            f"{symbol['module']}:{symbol['name']}": symbol for symbol in capture.document["symbols"]
        }
        self._loaded: dict[str, Any] = {}
        self._unfilled: dict[str, Callable[[], None]] = {}
        self._turns = {reference: turn for turn, reference in enumerate(self._symbols)}
        self._turn = 0
        self._sources = module_sources(capture.document["symbols"])
        self._modules: dict[str, ModuleType] = {}

    def restore(self) -> None:
        import cloudpickle

        try:
            for name in self._sources:
                self._module(name)
            for reference, turn in self._turns.items():
                self._turn = turn
                self._load(reference)
                if fill := self._unfilled.pop(reference, None):
                    fill()
        except BaseException:
            self._forget()
            raise
        # Other processes do not have these modules: cloudpickle sends them along.
        cloudpickle.register_pickle_by_value(sys.modules[self.package])

    def _forget(self) -> None:
        for name in list(sys.modules):
            if name == self.package or name.startswith(f"{self.package}."):
                del sys.modules[name]

    def value(self, data: Any) -> Any:
        return decode_value(data, self._other)

    # -- modules ----------------------------------------------------------------------------

    def _module(self, label: str) -> ModuleType:
        """The module for one of the captured ones, and the packages it lies in."""
        if label in self._modules:
            return self._modules[label]
        self._parent("")
        parts = label.split(".")
        for end in range(1, len(parts)):
            self._parent(".".join(parts[:end]))
        return self._parent(label)

    def _parent(self, label: str) -> ModuleType:
        if label in self._modules:
            return self._modules[label]
        name = f"{self.package}.{label}" if label else self.package
        module = ModuleType(name, "Restored from the archive of a study.")
        source = self._sources.get(label)
        is_package = not label or any(other.startswith(f"{label}.") for other in self._sources)
        if is_package:
            module.__path__ = []
        filename = f"<archive {self._capture.code_version[:12]}>/{label or '__init__'}.py"
        vars(module).update(
            __file__=filename,
            __package__=name if is_package else name.rpartition(".")[0],
            __builtins__=self._builtins(),
        )
        vars(module)[ARCHIVED_AS] = label
        vars(module)[ARCHIVED_FILE] = filename
        vars(module)[ARCHIVED_IMPORTS] = {
            symbol["name"]: symbol["value"]["$import"]
            for symbol in self._symbols.values()
            if symbol["module"] == label and symbol["mode"] == "import"
        }
        if source is not None:
            lines = source.text.splitlines(keepends=True)
            linecache.cache[filename] = (len(source.text), None, lines, filename)
        self._modules[label] = module
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
        return module

    def _builtins(self) -> dict[str, Any]:
        """Builtins whose `import`, in a function, finds the archived modules first."""

        def import_archived(
            name: str,
            module_globals: Mapping[str, Any] | None = None,
            module_locals: Mapping[str, Any] | None = None,
            fromlist: Any = (),
            level: int = 0,
        ) -> ModuleType:
            if level == 0 and name in self._modules:
                archived = f"{self.package}.{name}"
                if fromlist:
                    return sys.modules[archived]
                return sys.modules[f"{self.package}.{name.partition('.')[0]}"]
            return builtins.__import__(name, module_globals, module_locals, fromlist, level)

        return {**vars(builtins), "__import__": import_archived}

    # -- symbols ----------------------------------------------------------------------------

    def _load(self, reference: str) -> Any:
        if reference in self._loaded:
            return self._loaded[reference]
        symbol = self._symbols.get(reference)
        if symbol is None:
            raise ArchiveError(f"The archive refers to {reference!r}, which is not in it.")
        module = self._module(symbol["module"])
        try:
            if symbol["mode"] != "source":
                value = self._load_value(reference, symbol)
            elif symbol["kind"] == "function":
                value = self._load_function(reference, symbol, module)
            else:
                value = self._load_statement(symbol, module)
        except ArchiveError:
            raise
        except SyntaxError as error:
            raise ArchiveError(
                f"The archived {reference.replace(':', '.')} ran in Python {self.python}, and this "
                f"is {_PYTHON}, where it does not compile: {error}. Run it with Python "
                f"{self.python}."
            ) from error
        except Exception as error:
            raise ArchiveError(
                f"The archived {reference.replace(':', '.')} could not be restored: "
                f"{type(error).__name__}: {error}. Compare the installed packages with those of "
                "the archive: ArchivedStudy.environment.diff()."
            ) from error
        self._loaded[reference] = value
        if symbol["name"].isidentifier():
            vars(module)[symbol["name"]] = value
        return value

    def _fill(self, reference: str, fill: Callable[[], None]) -> None:
        """Give something what it holds; one that was asked for ahead of its turn, when that comes.

        Only what it holds itself refers to it so early, and the rest of that may need what comes
        in between.
        """
        if self._turns[reference] > self._turn:
            self._unfilled[reference] = fill
        else:
            fill()

    def _load_value(self, reference: str, symbol: dict[str, Any]) -> Any:
        for submodule in symbol.get("submodules", ()):
            self._import(submodule)
        data = symbol["value"]
        if (tag := tag_of(data)) in ("$instance", "$pydantic"):
            return self._instance(tag, data[tag], reference)
        if tag == "$with":
            return self._set(*data[tag])
        if tag in ("$new", "$call"):
            return self._object(tag, data[tag], reference)
        return self.value(data)

    def _load_function(self, reference: str, symbol: dict[str, Any], module: ModuleType) -> Any:
        free = symbol.get("free", {})
        code = compile_function(
            symbol["source"],
            symbol["qualname"],
            list(free),
            vars(module)[ARCHIVED_FILE],
            futures=symbol.get("futures", ()),
            imported=vars(module)[ARCHIVED_IMPORTS],
            line=self._sources[symbol["module"]].first_lines[symbol["name"]],
        )
        cells: dict[str, CellType] = {}
        for name, data in free.items():
            cells[name] = self._cell(data["$cell"]) if tag_of(data) == "$cell" else CellType()
        if reference in self._loaded:
            return self._loaded[reference]  # the owner of a shared variable refers to this one
        function = FunctionType(
            code,
            vars(module),
            code.co_name,
            closure=tuple(cells[name] for name in code.co_freevars),
        )
        # Before what it refers to, which may refer to it.
        self._loaded[reference] = function
        function.__qualname__ = symbol.get("called", symbol["qualname"])
        function.__name__ = function.__qualname__.rpartition(".")[2]
        function.__module__ = module.__name__

        def fill() -> None:
            if "defaults" in symbol:
                function.__defaults__ = tuple(self.value(symbol["defaults"]))
            if "kwdefaults" in symbol:
                function.__kwdefaults__ = self.value(symbol["kwdefaults"])
            function.__annotations__ = self.value(symbol.get("annotations", {}))
            for name, data in free.items():
                if tag_of(data) not in ("$cell", "$unbound"):
                    cells[name].cell_contents = self.value(data)
            vars(function).update(self.value(symbol.get("attributes", {})))

        self._fill(reference, fill)
        return function

    def _cell(self, held: Any) -> CellType:
        """A variable of a closure that another closure has as well."""
        owner = self._load(held[0])
        return owner.__closure__[owner.__code__.co_freevars.index(held[1])]

    def _load_statement(self, symbol: dict[str, Any], module: ModuleType) -> Any:
        source = self._sources[symbol["module"]]
        code = compile_statement(
            symbol["source"],
            vars(module)[ARCHIVED_FILE],
            futures=symbol.get("futures", ()),
            imported=vars(module)[ARCHIVED_IMPORTS],
            line=source.first_lines[symbol["name"]],
        )
        # The statement's own name is the last it binds; a class in a function has another.
        name = symbol["name"].partition("#")[0].rpartition(".")[2]
        before = dict(vars(module))
        exec(code, vars(module))  # noqa: S102 - what `trusted=True` is about
        value = vars(module)[name]
        if not symbol["name"].isidentifier():
            vars(module).pop(name)
            if name in before:
                vars(module)[name] = before[name]
        return value

    # -- values -----------------------------------------------------------------------------

    def _other(self, tag: str, held: Any) -> Any:
        if tag not in CODE_TAGS:  # nothing is restored that a review does not show
            raise ArchiveError(f"The archive holds {tag!r}, which this version does not know.")
        match tag:
            case "$ref":
                return self._load(held)
            case "$module":
                return self._module(held)
            case "$import":
                return self._import(held)
            case "$attribute":
                return getattr(self.value(held[0]), held[1])
            case "$method":
                return getattr(self.value(held[0]), held[1])
            case "$partial":
                function, arguments, keywords = (self.value(item) for item in held)
                return functools.partial(function, *arguments, **keywords)
            case "$npy":
                content = self._binary(held)
                return read_npy(BytesIO(content), len(content))
            case "$objects":
                return self._objects(held[0], self.value(held[1]))
            case "$pickle":
                return self._unpickle(*held)
            case "$table":
                return decode_result(self._binary(held))
            case "$make":
                return self.value(held[0])(*self.value(held[1]))
            case "$alias":
                arguments = self.value(held[1])
                return self.value(held[0])[tuple(arguments)]
            case "$lru_cache":
                return functools.lru_cache(held[1], held[2])(self.value(held[0]))
            case "$singledispatch":
                dispatch = functools.singledispatch(self.value(held[0]))
                for kind, function in held[1]:
                    dispatch.register(self.value(kind), self.value(function))
                return dispatch
            case "$logger":
                return logging.getLogger(held)
            case _:  # an object that is no symbol of its own, or a variable outside a closure
                raise ArchiveError(f"The archive holds {tag!r} where it cannot be.")

    def _unpickle(self, python: str, held: Any) -> Any:
        try:
            return pickle.loads(self._binary(held))  # noqa: S301 - what `trusted=True` is about
        except Exception as error:
            here = platform.python_version()
            raise ArchiveError(
                f"The archive holds an object that Python {python} has pickled, and Python {here} "
                f"cannot read it: {type(error).__name__}: {error}. "
                + ("Use that version of Python, and the" if here != python else "Use the")
                + " packages that ArchivedStudy.environment names."
            ) from error

    def _binary(self, held: Any) -> bytes:
        if "sha256" in held:
            return self._capture.blobs[held["sha256"]]
        return restore_value(held)

    def _instance(self, tag: str, held: Any, reference: str) -> Any:
        cls = self.value(held[0])
        value = cls.__new__(cls)
        # Before its attributes, which may refer to it.
        self._loaded[reference] = value

        def fill() -> None:
            state = {name: self.value(data) for name, data in held[1].items()}
            if tag == "$pydantic":
                value.__setstate__(state)
                return
            for name, attribute in state.items():
                if _is_slot(cls, name):
                    object.__setattr__(value, name, attribute)
                else:
                    vars(value)[name] = attribute  # past a property of that name

        self._fill(reference, fill)
        return value

    def _object(self, tag: str, held: Any, reference: str) -> Any:
        make, arguments, keywords = (self.value(item) for item in held[:3])
        value = put_together(Parts(tag == "$new", make, tuple(arguments), keywords))
        self._loaded[reference] = value

        def fill() -> None:
            fill_in(value, {part: self.value(data) for part, data in held[3].items()})

        self._fill(reference, fill)
        return value

    def _set(self, owner: Any, held: Mapping[str, Any]) -> Any:
        """An object or a class with attributes that nothing else gives it."""
        value = self.value(owner)
        for name, data in held.items():
            if isinstance(value, type):
                type.__setattr__(value, name, self.value(data))
            else:
                setattr(value, name, self.value(data))
        return value

    def _objects(self, shape: Any, items: list[Any]) -> Any:
        """An array of Python objects."""
        if array_size(np.dtype(np.uint8), shape) != len(items):
            raise ArchiveError(f"The archive holds {len(items)} objects for the shape {shape}.")
        array = np.empty(len(items), dtype=object)
        for place, item in enumerate(items):
            array[place] = item
        return array.reshape(shape)

    def _import(self, path: str) -> Any:
        name, _, attribute = path.partition(":")
        try:
            value: Any = importlib.import_module(name)
            for part in attribute.split(".") if attribute else ():
                value = getattr(value, part)
        except (ImportError, AttributeError) as error:
            raise ArchiveError(self._missing(name, path, error)) from error
        return value

    def _missing(self, name: str, path: str, error: Exception) -> str:
        top = name.partition(".")[0]
        distribution = self._capture.document["distributions"].get(top)
        if distribution is None:
            return (
                f"The archived code imports {path.replace(':', '.')}, which Python "
                f"{sys.version.split()[0]} does not have: {error}. It ran in Python "
                f"{self.python}."
            )
        version = self._versions.get(distribution)
        pinned = f"{distribution}=={version}" if version else distribution
        return (
            f"The archived code imports {path.replace(':', '.')}, which cannot be imported here: "
            f"{error}. Run: {command('pip', 'install', pinned)}"
        )


# An archive as a person reads it before its code may run: its source, and all that it would do.

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
