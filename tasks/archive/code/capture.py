"""A problem's functions, with all that they need to run where their script is unknown."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import keyword
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Literal

from prefect_optuna.blocks import ArchiveError, InvalidSettingError
from prefect_optuna.blocks._secrets import SecretVariables, secret_paths
from prefect_optuna.blocks.codec.values import encode_value
from prefect_optuna.blocks.texts import command, visible_line
from prefect_optuna.errors import CaptureError, UnknownNameError
from prefect_optuna.tasks.archive.code.inspection import (
    described,
    functions_in,
    import_path,
    local_imports,
    secret_by_name,
    secret_value,
    unknown_value,
)
from prefect_optuna.tasks.archive.code.reach import ReachedCode
from prefect_optuna.tasks.machine import Resources
from prefect_optuna.tasks.problem import Direction, Problem

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.record.environment import Environment

# Names and values that somebody has registered for a study, and its three entry points.
#
# Together they are a `Problem`. Its functions find what they refer to as they always do, in the
# globals and closures that are archived with them; whoever names a parameter `ctx` gets all the
# registered values there.


EntryPoint = Literal["suggest", "run", "eval"]

_CALLED = {"suggest": "suggest(trial)", "run": "run(params, ctx)", "eval": "eval(result, trial)"}


@dataclass(frozen=True)
class Registered:
    """Names and entry points; a change makes a new one, so that a mistake changes nothing.

    Attributes:
        context: the values by name.
        entrypoints: the names of the functions that suggest, run and evaluate.
    """

    context: Mapping[str, Any] = field(default_factory=dict)
    entrypoints: Mapping[EntryPoint, str] = field(default_factory=dict)

    def with_names(
        self,
        values: Mapping[str, Any],
        *,
        own: Iterable[dict[str, Any]] = (),
        allow_pickle: bool = False,
    ) -> Registered:
        """Add names, each replacing its former value."""
        for name in values:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidSettingError(
                    f"{name!r} is no name for a value of the context: expected one that a "
                    "variable can have, of letters, digits and _, such as 'growth_rate'."
                )
        _check_values(values, ReachedCode(own, allow_pickle=allow_pickle))
        return replace(self, context={**self.context, **values})

    def with_entrypoint(self, part: EntryPoint, name: str) -> Registered:
        """Say which registered function is an entry point."""
        if name not in self.context:
            near = get_close_matches(str(name), self.context, n=3)
            known = near or list(self.context)
            hint = f"Did you mean {' or '.join(map(repr, known[:5]))}? " if known else ""
            raise UnknownNameError(
                f"Nothing is registered as {name!r}. {hint}Define it within `with "
                f"archive.register():`, or call archive.context_add({name!r}, ...)."
            )
        changed = replace(self, entrypoints={**self.entrypoints, part: name})
        _check_source(part, name, self.context[name])
        changed.problem(probe=True)
        return changed

    @property
    def is_complete(self) -> bool:
        """True once all three entry points are known."""
        return len(self.entrypoints) == len(_CALLED)

    def missing(self, *, run: bool = True) -> list[str]:
        """List what is missing for a study to be run again, and how to give it."""
        missing: list[str] = []
        if not self.context:
            missing.append("a context: `with archive.register():` around the definitions")
        for part, called in _CALLED.items():
            if part not in self.entrypoints and (part != "run" or run):
                missing.append(f"the function {called}: archive.set_{part}_entrypoint(name)")
        return missing

    def problem(
        self,
        *,
        axes: Mapping[str, Any] | None = None,
        directions: Iterable[Direction] = ("minimize",),
        probe: bool = False,
    ) -> Problem:
        """The problem that this is. Without a `run`, `eval` gets the parameters."""
        if not probe and (missing := self.missing(run=False)):
            raise ArchiveError(listing("There is no problem yet. It needs", missing))
        functions: dict[EntryPoint, Any] = {
            part: self.context[name] for part, name in self.entrypoints.items()
        }
        evaluate = functions.get("eval")
        run = functions.get("run") or (None if probe else evaluate)
        return Problem(
            suggest=functions.get("suggest", _stand_in),
            run=run or _stand_in,
            evaluate=None if run is evaluate else evaluate,
            context=self.context,
            axes=axes or {},
            directions=tuple(directions),
        )


@dataclass(frozen=True)
class ArchiveReport:
    """The contents of a study's archive, as `OptunaArchive.check_minimal` found them.

    Attributes:
        study_name: the study.
        suggest: the name of the function that suggests parameters.
        run: the name of the function that simulates or trains; `None` if there is none.
        evaluate: the name of the function that gives the value.
        context: the names of all that is registered.
        axes: the names of the axes.
        code_version: the digest of what has been captured.
    """

    study_name: str
    suggest: str
    run: str | None
    evaluate: str
    context: tuple[str, ...]
    axes: tuple[str, ...]
    code_version: str


def listing(title: str, items: Iterable[str]) -> str:
    """A message with several points."""
    return "\n".join([f"{title}:", *(f"  - {item}" for item in items)])


def _stand_in(first: Any) -> dict[str, Any]:
    raise NotImplementedError


def _check_values(values: Mapping[str, Any], reach: ReachedCode) -> None:
    """Say now what could not be archived later; what values refer to is looked at then."""
    for name, value in values.items():
        reach.value(value, name)
    if reach.refusals:
        raise CaptureError(
            listing("Nothing has been registered, for this cannot be archived", reach.refusals)
            + "\nWhat no archived function needs gets a name that starts with `_`, or is made "
            "outside of the block."
        )


def _check_source(part: EntryPoint, name: str, value: Any) -> None:
    if not callable(value) or isinstance(value, (type, ModuleType)):
        raise CaptureError(
            f"{name!r} is {described(value)}, and a function is expected: {_CALLED[part]}."
        )
    if (path := import_path(value)) is not None:
        raise CaptureError(
            f"{name!r} is {path.replace(':', '.')}, which is installed and has no source of "
            f"yours. Wrap it: def {part}(...): return {name}(...)."
        )


class Registration:
    """Compares a scope before and after a `with` block.

    A name counts if it was not there before, or if it is another object now: whoever runs a cell
    of a notebook twice defines the same names twice. Names that start with `_` do not count.

    Attributes:
        names: what has been added; empty until the block has ended.
    """

    def __init__(self, frame: FrameType, add: Callable[[Mapping[str, Any]], None]) -> None:
        self.names: tuple[str, ...] = ()
        self._frame: FrameType | None = frame
        self._add = add
        # A copy: some Pythons give out the live variables, others what they were at this moment.
        self._before = dict(frame.f_locals)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        frame, before = self._frame, self._before
        # The scope would be kept alive by what looks at it.
        self._frame, self._before = None, {}
        if frame is None or kind is not None:
            return
        nothing = object()
        added = {
            name: value
            for name, value in dict(frame.f_locals).items()
            if not name.startswith("_")
            and before.get(name, nothing) is not value
            and value is not self
        }
        self._add(added)
        self.names = tuple(added)


CAPTURE_FORMAT = 1
CAPTURE_KIND = "prefect-optuna/capture"

# The head of an array of numbers, in which is no text; bytes may be some.
_NUMBERS = re.compile(rb"\x93NUMPY[^{]{4,6}\{'descr': '[<>|=](?:[fcmMb]|[iu][248])")
_PARTS = ("suggest", "run", "evaluate", "objective", "plot")


@dataclass(frozen=True)
class Capture:
    """A problem as data: its functions' source, and all that they refer to.

    Attributes:
        document: JSON: the entry points, the captured symbols in the order in which they are
            restored, the context, the axes and the directions.
        blobs: arrays and tables by the SHA-256 digest of their bytes.
        axes: the axes of the problem, as they were given.
        folder: the folder that the problem's source lies in, if there is one.
        origin: what it was captured in, where it comes out of an archive or with a deployment.

    Example:
        >>> from prefect_optuna.tasks import Problem
        >>> from prefect_optuna.tasks.archive import Capture
        >>> problem = Problem.of("prefect_optuna.flows.examples.lynx_hare:problem")
        >>> sorted(Capture.of(problem).document["entrypoints"])
        ['evaluate', 'plot', 'run', 'suggest']
    """

    document: dict[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    origin: Environment | None = None

    @classmethod
    def of(cls, problem: Problem, *, allow_pickle: bool = False) -> Capture:
        """Capture a problem's functions, context and axes. None of them is called.

        Args:
            problem: what to capture.
            allow_pickle: whether objects that have no exact form otherwise are pickled. They come
                back with the same versions of Python and of their packages only.

        Raises:
            CaptureError: something cannot be captured, or is the value of an environment variable
                whose name says that it is secret; the message lists everything, and says for
                each what to do.
        """
        functions = {part: f for part in _PARTS if (f := getattr(problem, part)) is not None}
        reach = ReachedCode(own=map(_globals_of, functions.values()), allow_pickle=allow_pickle)
        entrypoints = {part: reach.value(f, f"`{part}`") for part, f in functions.items()}
        context = {
            key: reach.value(value, f"context[{key!r}]") for key, value in problem.context.items()
        }
        axes = {
            name: reach.value(values, f"axes[{name!r}]") for name, values in problem.axes.items()
        }
        reach.finish()
        if reach.refusals:
            listed = "\n".join(f"  - {refusal}" for refusal in reach.refusals)
            raise CaptureError(
                f"The problem {problem.name!r} cannot be archived, and so could not be run again "
                f"from its study alone:\n{listed}"
            )
        document: dict[str, Any] = {
            "format": CAPTURE_FORMAT,
            "kind": CAPTURE_KIND,
            "entrypoints": entrypoints,
            "symbols": reach.symbols,
            "context": context,
            "axes": axes,
            "directions": list(problem.directions),
            "distributions": dict(sorted(reach.distributions.items())),
            "blobs": {digest: len(content) for digest, content in sorted(reach.blobs.items())},
        }
        if reach.pickled:
            document["pickled"] = reach.pickled
        if resources := Resources.of(problem.resources):
            document["resources"] = resources.as_json()
        lines = _secrets_in(document, reach.blobs)
        lines += [secret_by_name(path) for path in secret_paths(dict(problem.context), "context")]
        if lines:
            listed = "\n".join(f"  - {line}" for line in lines)
            raise CaptureError(
                f"The problem {problem.name!r} is not archived, for everybody who reads the "
                f"archive would read secrets of this machine:\n{listed}"
            )
        return cls(document, reach.blobs, problem.axes, _folder(functions.values()))

    @cached_property
    def content(self) -> bytes:
        """The document as bytes, the same for the same problem."""
        return json.dumps(self.document, indent=1).encode("ascii")

    @cached_property
    def code_version(self) -> str:
        """The SHA-256 digest of the content: it differs when any part of the problem does."""
        return hashlib.sha256(self.content).hexdigest()


def document_of(content: bytes, what: str) -> dict[str, Any]:
    """Read the document of a capture, whose digest has been verified."""
    document = json.loads(content)
    if document.get("kind") != CAPTURE_KIND:
        raise ArchiveError(
            f"The archive is damaged: {what} is no captured problem. Bring the study's manifest "
            "back from a copy."
        )
    if document["format"] > CAPTURE_FORMAT:
        raise ArchiveError(
            f"The archive holds {what} in the format {document['format']}, and this version reads "
            f"up to {CAPTURE_FORMAT}: pip install --upgrade prefect-optuna."
        )
    return document


def encode_scope(scope: Mapping[str, Any]) -> Any:
    """Turn the scope of a flow into tagged JSON."""

    def refuse(value: Any, path: str) -> Any:
        raise CaptureError(unknown_value(value, path))

    encoded = encode_value(dict(scope), refuse, "scope")
    if name := SecretVariables.here().name_in(encoded):
        raise CaptureError(secret_value("The scope", name))
    if paths := list(secret_paths(scope, "scope")):
        raise CaptureError("\n".join(map(secret_by_name, paths)))
    return encoded


def _secrets_in(document: Mapping[str, Any], blobs: Mapping[str, bytes]) -> list[str]:
    """List what holds the value of a secret environment variable, a line for each."""
    secrets = SecretVariables.here()
    in_blobs = {
        digest: name
        for digest, content in blobs.items()
        if not _NUMBERS.match(content) and (name := secrets.name_in(content))
    }
    parts = {
        **{f"`{part}`": value for part, value in document["entrypoints"].items()},
        **{f"{symbol['module']}.{symbol['name']}": symbol for symbol in document["symbols"]},
        **{f"context[{key!r}]": value for key, value in document["context"].items()},
        **{f"axes[{name!r}]": value for name, value in document["axes"].items()},
    }
    lines: list[str] = []
    for path, value in parts.items():
        name = secrets.name_in(value)
        if not name and in_blobs:
            text = json.dumps(value)
            name = next((name for digest, name in in_blobs.items() if digest in text), None)
        if in_path := secrets.name_in(path):
            name, path = in_path, "a name"
        if name:
            lines.append(secret_value(path, name))
    return lines


def _globals_of(function: Any) -> dict[str, Any]:
    """The globals of the module that defines a problem's function, if it defines it."""
    inner = inspect.unwrap(function)
    if isinstance(inner, FunctionType) and "<locals>" not in inner.__qualname__:
        return inner.__globals__
    return {}


def _folder(functions: Iterable[Any]) -> Path | None:
    for function in functions:
        for inner in functions_in(function):
            file = inner.__globals__.get("__file__")
            if file and Path(file).is_file():
                return Path(file).resolve().parent
    return None


# The packages that captured code imports, and which of them are not here, or are others.


_OURS = "prefect-optuna"


@dataclass(frozen=True)
class Needed:
    """A package that captured code imports.

    Attributes:
        module: what it imports.
        name: of the distribution.
        version: that was installed where it was captured; empty if that is unknown.
        users: the modules that import it, sorted.
        is_optional: whether the code goes on without it: it imports it within functions only, and
            catches that it is not there.
    """

    module: str
    name: str
    version: str
    users: tuple[str, ...]
    is_optional: bool

    @property
    def requirement(self) -> str:
        """The requirement in pip's syntax."""
        return f"{self.name}=={self.version}" if self.version else self.name


def needed_packages(capture: Capture, environment: Environment | None) -> list[Needed]:
    """List what captured code imports of other distributions. Nothing is executed."""
    versions = environment.distributions if environment is not None else {}
    used: dict[str, dict[str, None]] = {}
    guarded: set[str] = set()
    firmly: set[str] = set()
    for symbol in capture.document["symbols"]:
        for module, is_guarded in _imports_of(symbol):
            top = module.partition(".")[0]
            used.setdefault(top, {})[symbol["module"]] = None
            (guarded if is_guarded else firmly).add(top)
    packages = {
        name: Needed(
            top,
            name,
            versions.get(name, ""),
            tuple(sorted(used.get(top, ()))),
            top in guarded - firmly,
        )
        for top, name in capture.document["distributions"].items()
    }
    return [packages[name] for name in sorted(packages, key=str.lower)]


def missing_packages(capture: Capture, environment: Environment | None) -> list[Needed]:
    """List the packages that captured code cannot do without, and that are not here."""
    return [
        package
        for package in needed_packages(capture, environment)
        if not package.is_optional and not _is_here(package.module)
    ]


def require_packages(
    capture: Capture, environment: Environment | None, *, otherwise: str = ""
) -> None:
    """Refuse captured code whose packages are not here, before any of it has run.

    `otherwise` is what else there is to do than to install them, in a sentence.
    """
    missing = missing_packages(capture, environment)
    if not missing:
        return
    install = command("pip", "install", *(package.requirement for package in missing))
    if not otherwise and _is_worker():
        otherwise = "Deploy it with --install, and workers install it."
    raise ArchiveError(
        visible_line(
            f"{lack_words(missing)}. No trial was begun. "
            f"{f'{otherwise} Or i' if otherwise else 'I'}nstall "
            f"{'it' if len(missing) == 1 else 'them'} where this runs, such as in the image of the "
            f"workers, and start it again: {install}"
        )
    )


def lack_words(missing: Iterable[Needed]) -> str:
    """Say that packages are not here."""
    return f"{_here()} lacks {'; '.join(map(_use, missing))}"


def lacking(capture: Capture, environment: Environment) -> list[str]:
    """Say what is not here as it was where code was captured: Python, and what it imports."""
    lines: list[str] = []
    if not is_this_python(environment):
        lines.append(f"{environment.implementation.removeprefix('C')} {environment.python}")
    for one in needed_packages(capture, environment):
        if one.name == _OURS:
            continue
        here = _version_here(one.name)
        is_there = here == one.version if one.version else one.is_optional or _is_here(one.module)
        if not is_there:
            lines.append(f"{_use(one)}{f' and is {here} here' if here else ''}")
    return [visible_line(line) for line in lines]


def is_this_python(environment: Environment) -> bool:
    """Tell whether code of an environment is for this Python: the same but for its last number."""
    here = platform.python_version_tuple()[:2]
    return (
        environment.implementation == platform.python_implementation()
        and tuple(environment.python.split(".")[:2]) == here
    )


def other_versions(capture: Capture, environment: Environment | None) -> list[str]:
    """Say which packages that the code imports are here in another version."""
    lines: list[str] = []
    for need in needed_packages(capture, environment):
        here = _version_here(need.name)
        if here and need.version and here != need.version:
            lines.append(
                f"{need.name} is {here} here, and was {need.version} where the code was captured."
            )
    return lines


def edited_files(name: str) -> list[str]:
    """The modules of a distribution that are not what was installed: somebody has edited them.

    Example:
        >>> from prefect_optuna.tasks.archive.code.capture import edited_files
        >>> edited_files("optuna")
        []
    """
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    edited: list[str] = []
    for file in files:
        if file.suffix == ".py" and file.hash is not None and file.hash.mode == "sha256":
            with contextlib.suppress(OSError):
                digest = hashlib.sha256(Path(file.locate()).read_bytes()).digest()
                if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                    edited.append(str(file))
    return edited


def _imports_of(symbol: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The modules that a symbol imports, and whether it goes on without them."""
    if symbol["mode"] == "source":
        # What does not parse is of another Python, which is said when it is compiled.
        with contextlib.suppress(SyntaxError):
            for statement in local_imports(symbol["source"]):
                if statement.level == 0:
                    yield statement.module, statement.is_guarded
    for path in _import_tags(symbol):
        yield path.partition(":")[0], False


def _import_tags(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():  # pyright: ignore[reportUnknownVariableType]
            if key == "$import" and isinstance(value, str):
                yield value
            else:
                yield from _import_tags(value)
    elif isinstance(data, list):
        for value in data:  # pyright: ignore[reportUnknownVariableType]
            yield from _import_tags(value)


def _is_here(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version_here(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _use(one: Needed) -> str:
    return f"{f'{one.name} {one.version}'.strip()}, which {_files(one.users)}"


def _files(users: tuple[str, ...]) -> str:
    if not users:
        return "the archived code needs"
    files = [f"{user.replace('.', '/')}.py" for user in users]
    if len(files) == 1:
        return f"{files[0]} imports"
    return f"{', '.join(files[:-1])} and {files[-1]} import"


def _here() -> str:
    return "This worker" if _is_worker() else f"This Python ({platform.python_version()})"


def _is_worker() -> bool:
    from prefect.runtime import deployment

    return bool(deployment.id)
