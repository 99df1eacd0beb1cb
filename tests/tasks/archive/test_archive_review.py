"""What a careful person reads before `trusted=True` has all that restoring would do."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_optuna.blocks import ArchiveError, InMemoryStudyStorage
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code import restore
from prefect_optuna.tasks.archive.code.restore import CODE_TAGS, restore_problem

TABLE = [float(number) for number in range(40)]
SHELL = {"$import": "os:system"}


def suggest(trial: Any) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: dict[str, float], factor: float = 2.0, *, offset: float = 1.0) -> float:
    return factor * params["x"] * TABLE[1] + offset


DOCUMENT = Capture.of(
    Problem(suggest=suggest, run=run, context={"gain": 1.0}, axes={"day": [1.0, 2.0]})
).document


def symbol_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(symbol for symbol in document["symbols"] if symbol["name"] == name)


@functools.cache
def _plain() -> ArchivedStudy:
    storage = InMemoryStudyStorage(name="review")
    study = storage.create_study("hares")
    problem = Problem(suggest=suggest, run=run)
    OptunaArchive(study, artifacts="memory://review").save_problem(problem)
    return ArchivedStudy.load("hares", storage=storage, artifacts="memory://review")


def archived_as(document: dict[str, Any]) -> ArchivedStudy:
    """The archive of a study whose code is that document."""
    archived = copy.copy(_plain())
    [digest] = archived._captures
    archived._captures = {digest: Capture(document)}
    return archived


def changed(place: str, data: Any) -> dict[str, Any]:
    """The document with something else at a place that restoring looks at."""
    document = copy.deepcopy(DOCUMENT)
    part, _, name = place.partition(" ")
    if part in ("context", "axes", "entrypoints"):
        document[part][name] = data
    elif part == "value":
        symbol_of(document, "TABLE")["value"] = data
    elif part == "names":
        symbol_of(document, "TABLE")["submodules"] = ["os.path", "antigravity"]
    else:
        symbol_of(document, "run")[part] = {name: data} if name else data
    return document


PLACES = [
    "context gain", "context $make", "axes day", "entrypoints plot", "value", "defaults",
    "kwdefaults offset", "annotations x", "attributes note", "free cell",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_shown_wherever_it_is_hidden(place: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    call = {"$make": [SHELL, [f"touch {marker}"]]}
    data = [*TABLE, call] if place in ("value", "defaults") else call
    archived = archived_as(changed(place, data))
    shown = archived.describe()
    assert not marker.exists()
    assert re.search(rf"call +os\.system\('touch {re.escape(str(marker))}'\)  \(", shown)
    assert re.search(r"import +os\.system  \(", shown)
    if place == "value":
        assert f"39.0, os.system('touch {marker}')]" in archived.source()
    if place not in ("free cell", "annotations x"):
        with contextlib.suppress(TypeError, ArchiveError):  # a number is no function
            archived.problem(trusted=True)
        assert marker.exists()  # so it was worth reading


def made_with(expression: str) -> Any:
    def run(params: dict[str, float], unit: str = "m", *, kind: str = "linear") -> float:
        return eval(expression) + params["x"]

    return run


HARMLESS = Capture.of(
    Problem(suggest=suggest, run=made_with("1 + 1"), context={"gain": 1.0})
).document


@pytest.mark.parametrize(
    "part", ["defaults", "kwdefaults", "free", "attributes", "annotations", "context"]
)
def test_a_text_that_code_may_run_is_shown_where_the_source_says_another(part: str) -> None:
    program = f"__import__('os').system('touch {'x' * 200}')"
    document = copy.deepcopy(HARMLESS)
    symbol = next(s for s in document["symbols"] if s.get("free"))
    held: Any = {
        "defaults": [program],
        "kwdefaults": {"kind": program},
        "free": {"expression": program},
        "attributes": {"note": program},
        "annotations": {**symbol["annotations"], "unit": program},
        "context": {"gain": {"$tuple": [1.0, program]}},
    }[part]
    (document if part == "context" else symbol)[part] = held
    assert repr(program) in archived_as(document).source()


def test_an_object_is_shown_with_what_it_holds() -> None:
    program = f"__import__('os').system('touch {'x' * 200}')"
    held = {"$instance": [{"$import": "types:SimpleNamespace"}, {"program": program}]}
    archived = archived_as(changed("value", held))
    assert f"and sets program = {program!r}" in archived.source()
    assert f"and sets program = {program!r}" in archived.describe()


def test_the_scope_and_the_variables_are_shown() -> None:
    program = f"__import__('os').system('touch {'x' * 200}')"
    archived = archived_as(HARMLESS)
    [version] = archived.manifest.versions
    forged = version.model_copy(update={"scope": {"gain": {"$tuple": [program]}}})
    archived.manifest = archived.manifest.model_copy(update={"versions": [forged]})
    environment = replace(archived.environment, variables={"XLA_FLAGS": program})
    archived._environments = {version.environment: environment}
    shown = archived.describe()
    assert f"Scope: {{'gain': ({program!r},)}}" in shown
    assert f"{{'XLA_FLAGS': {program!r}}}" in shown


def test_what_a_source_says_itself_is_not_said_twice() -> None:
    source = archived_as(copy.deepcopy(HARMLESS)).source()
    assert "__" not in source.partition("def run")[2].partition("def ")[0]
    assert "expression = '1 + 1'" in source
    numbers = archived_as(changed("value", [float(n) for n in range(1000)])).source()
    assert max(map(len, numbers.splitlines())) < 200


def test_a_pickle_is_shown_though_the_list_of_pickles_has_none(tmp_path: Path) -> None:
    content = pickle.dumps(tmp_path)
    data = {
        "$pickle": ["3.11.0", {"$bytes": "" + __import__("base64").b64encode(content).decode()}]
    }
    document = changed("context gain", {"$tuple": [1, data]})
    assert "pickled" not in document
    shown = archived_as(document).describe()
    assert re.search(r"unpickle .* of Python 3\.11\.0  \(context\['gain'\]\)", shown)


def test_submodules_are_imports_too() -> None:
    shown = archived_as(changed("names", None)).describe()
    assert "import   antigravity  (" in shown


HIDDEN = {
    "\x1b[2K": r"\x1b[2K",
    "\x1b]8;;http://x\x07": r"\x1b]8;;http://x\x07",
    "\r": r"\r",
    "\x9b31m": r"\x9b31m",
    "\u202e": r"\u202e",
    "\u2066": r"\u2066",
    "\u200b": r"\u200b",
    "\u2028": r"\u2028",
    "\ufeff": r"\ufeff",
    "\x08": r"\x08",
    "\U000e0041": r"\U000e0041",
}


@pytest.mark.parametrize("letters", HIDDEN)
def test_what_cannot_be_seen_is_written_out(letters: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    symbol_of(document, "run")["source"] += f"\n    # {letters}"
    symbol_of(document, "TABLE")["name"] = f"TABLE{letters}"
    document["context"][f"gain{letters}"] = {"$import": f"os:{letters}"}
    document["distributions"][letters] = letters
    document["entrypoints"]["plot"] = {"$ref": f"m:{letters}"}
    archived = archived_as(document)
    for text in (archived.describe(), archived.source()):
        assert letters not in text
        assert HIDDEN[letters] in text
        assert all(line.isprintable() for line in text.replace("\t", "").split("\n"))


def test_a_line_break_in_a_name_makes_no_line() -> None:
    name = "gain\n  Signed with the key 0000; the signatures hold"
    shown = archived_as(changed(f"context {name}", 1.0)).describe()
    assert not any(line.startswith("  Signed with") for line in shown.splitlines())


def test_letters_of_all_languages_stay_as_they_are() -> None:
    assert visible_line("é ñ → 雪 🐇 \\x1b") == "é ñ → 雪 🐇 \\x1b"


def test_a_tag_that_no_review_shows_is_not_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    document = changed("context gain", {"$make": [{"$import": "builtins:dict"}, []]})
    monkeypatch.delitem(CODE_TAGS, "$make")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArchiveError, match=r"'\$make', which this version does not know"):
        restore_problem(Capture(document))


# -- whatever a mutated archive would do is in the review ------------------------------------------


class Recorder:
    """Stands for all that is imported, and records what is done with it."""

    def __init__(self, name: str, done: list[tuple[str, str]]) -> None:
        self.__dict__.update(_name=name, _done=done)

    def _did(self, does: str, what: str, result: str) -> Recorder:
        self._done.append((does, what))
        return Recorder(result, self._done)

    def __getattr__(self, name: str) -> Recorder:
        if name.startswith("__"):  # what `functools` and `typing` ask of every object
            raise AttributeError(name)
        return self._did("look up", f"{self._name}.{name}", f"{self._name}.{name}")

    def __call__(self, *arguments: Any, **keywords: Any) -> Recorder:
        return self._did("call", self._name, ")")  # as the text of its result ends

    def __getitem__(self, key: Any) -> Recorder:
        if type(key) is int:  # somebody iterates
            raise IndexError
        return self._did("call", self._name, "]")


_PATHS = st.sampled_from(
    ["os:system", "shutil", "subprocess:Popen.wait", "a.b:c\x1b[2K", "x\u202ey"]
)
_LEAVES = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.just(TABLE),
    st.builds(lambda path: {"$import": path}, _PATHS),
    st.builds(lambda name: {"$logger": name}, st.sampled_from(["root", "a\nb"])),
    st.just({"$ref": f"{__name__}:TABLE"}),
    st.just({"$pickle": ["3.11.0", {"$bytes": "gASVBAAAAAAAAACMAXiULg=="}]}),
)  # fmt: skip


def _nodes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, max_size=3)
    named = st.dictionaries(st.text("ab$", max_size=2), inner, max_size=2)
    name = st.sampled_from(["run", "a\x9bb"])
    return st.one_of(
        some, named,
        st.builds(lambda f, a: {"$make": [f, a]}, inner, some),
        st.builds(lambda f, a, k: {"$partial": [f, a, k]}, inner, some, named),
        st.builds(lambda f, n: {"$attribute": [f, n]}, inner, name),
        st.builds(lambda f, n: {"$method": [f, n]}, inner, name),
        st.builds(lambda f, a: {"$alias": [f, a]}, inner, some),
        st.builds(lambda f: {"$lru_cache": [f, 3, False]}, inner),
        st.builds(lambda f, a: {"$singledispatch": [f, [[a, f]]]}, inner, inner),
        st.builds(lambda c, n: {"$instance": [c, n]}, inner, named),
        st.builds(lambda c, a, k, n: {"$new": [c, a, k, n]}, inner, some, named, named),
        st.builds(lambda c, a, s: {"$call": [c, a, {}, {"state": s}]}, inner, some, inner),
        st.builds(lambda a: {"$objects": [[len(a)], a]}, some),
        st.builds(lambda tag, a: {tag: a}, st.sampled_from(["$tuple", "$set", "$deque"]), some),
        st.builds(lambda k, v: {"$dict": [[k, v]]}, inner, inner),
        st.builds(lambda f, a: {"$defaultdict": [f, a]}, inner, some),
        st.builds(lambda tag, a: {tag: a}, st.sampled_from(["$ndtype", "$own"]), inner),
    )  # fmt: skip


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), data=st.recursive(_LEAVES, _nodes, max_leaves=12))
def test_whatever_a_mutated_archive_would_do_is_described(place: str, data: Any) -> None:
    document = changed(place, data)
    done: list[tuple[str, str]] = []

    class Watched(restore._Restorer):  # pyright: ignore[reportPrivateUsage]
        def _import(self, path: str) -> Any:
            done.append(("import", path.replace(":", ".")))
            return Recorder(path.replace(":", "."), done)

        def _unpickle(self, python: str, held: Any) -> Any:
            done.append(("unpickle", python))
            return "pickled"

    restorer = Watched(Capture(document), None)
    try:
        restorer.restore()
        for part in ("entrypoints", "context", "axes"):
            for inner in document[part].values():
                restorer.value(inner)
    except Exception:  # noqa: BLE001 - it cannot be restored; what it did until then counts
        pass
    finally:
        restorer._forget()  # pyright: ignore[reportPrivateUsage]
    shown = archived_as(document).describe()
    for does, what in done:
        assert any(
            line.strip().startswith(does) and visible_line(what) in line
            for line in shown.splitlines()
        ), (does, what, shown)
    assert all(line.isprintable() for line in shown.splitlines())
