"""Persistence classes: what is declared, what is made of it, and the names of files."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Optional, TypeVar

import cloudpickle
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.tasks.persistence import (
    ArrowHandler,
    AutoIncFieldNotResolvedError,
    FieldOrderError,
    InvalidPersistenceClassError,
    MissingKeyError,
    PersistenceValidationError,
    UnsetFieldError,
    UnsupportedValueError,
    as_dict,
    auto_generated_content,
    autoinc_field,
    ensure_persistence_class,
    field,
    filename,
    from_dict,
    missing,
    persistence_class,
)

T = TypeVar("T")


@persistence_class
class Example:
    use_animal: str = field(validator=True, filename=True)
    use_session: str = field(validator=True, filename=False)
    use_date: str = field(True, "", True)
    example_data: list[str]


@persistence_class
class Result:
    a: str = field(validator=True, filename=True)
    b: int = autoinc_field()
    c: str
    d: int = 5

    def _replace(self, *, a: str = ..., b: int = ..., c: str = ..., d: int = ...) -> Result:
        return auto_generated_content(a=a, b=b, c=c, d=d)


def test_PS1_a_field_takes_validator_prefix_and_filename_in_this_order() -> None:
    @persistence_class
    class Shot:
        depth: float = field(lambda v, u: abs(v - u) < 1, "d", lambda depth: f"{depth:.0f}")
        note: str | None = field(False, "n", lambda note: note)

    assert filename(Shot(99.6, "x")) == "cache-Shot-d100-nx"
    assert filename(Shot(99.6, None)) == "cache-Shot-d100"
    info = ensure_persistence_class(Shot)
    assert info.validate(Shot(99.6, "x"), Shot(100.1, "y"))
    with pytest.raises(PersistenceValidationError, match="depth"):
        info.validate(Shot(99.6, "x"), Shot(120.0, "x"))
    with pytest.raises(InvalidPersistenceClassError, match="validator"):
        field(validator="yes")


def test_PS2_an_autoincrement_field_is_an_int_and_takes_part_in_names_and_validation() -> None:
    counter = ensure_persistence_class(Result).autoinc_field
    assert counter is not None
    assert (counter.validator, counter.filename, counter.init) == (True, True, True)
    assert filename(Result("q", b=3)) == "cache-Result-q-3"

    @persistence_class
    class Annotations:
        b: Annotated[int, "counts"] = autoinc_field("r")

    assert filename(Annotations(7)) == "cache-Annotations-r7"
    for annotation in (Optional[int], str, "str", "Unknown", int | None):  # noqa: UP045
        namespace = {"__annotations__": {"a": annotation}, "a": autoinc_field()}
        with pytest.raises(RuntimeError, match="type of autoinc field a should be int, but"):
            persistence_class(type("Wrong", (), namespace))
    with pytest.raises(TypeError, match="Data is given by keyword"):
        Result("q", np.ones(3))


def test_PS3_a_second_autoincrement_field_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"duplicated auto_inc_field.*a and b"):

        @persistence_class
        class Two:
            a: int = autoinc_field()
            b: int = autoinc_field()


def test_PS4_a_class_may_have_another_name_and_another_splitter() -> None:
    @persistence_class(name="my-name", filename_field_splitter="_")
    class Named:
        a: str = field(filename=True)
        b: str = field(filename=True)

        def _replace(self, **values: Any) -> Named:
            return auto_generated_content(**values)

    assert filename(Named("x", "y")) == "cache_my-name_x_y"
    assert repr(Named("x", "y")._replace(a="z")) == "my-name{a=z, b=y}"
    for bad in ("../x", "/x", "a\0b"):
        with pytest.raises(InvalidPersistenceClassError):
            persistence_class(name=bad)(type("Bad", (), {}))
    with pytest.raises(InvalidPersistenceClassError, match="splitter"):
        persistence_class(filename_field_splitter="/")(type("Bad", (), {}))


def test_PS5_fields_are_inherited_in_order_and_what_is_no_field_is_said() -> None:
    @persistence_class
    class Parent:
        a: str = field(filename=True)
        data: int

    @persistence_class
    class Child(Parent):
        d: str = field(filename=True, default="D")
        more: int

    assert ensure_persistence_class(Child).fields_name() == ["a", "data", "d", "more"]
    child = Child("A", data=1, more=2)
    assert filename(child) == "cache-Child-A-D"
    assert as_dict(child) == {"a": "A", "data": 1, "d": "D", "more": 2}
    assert ensure_persistence_class(Parent).fields_name() == ["a", "data"]

    class Forgotten(Parent):
        pass

    with pytest.raises(InvalidPersistenceClassError, match="put @persistence_class on it"):
        ensure_persistence_class(Forgotten)
    with pytest.raises(InvalidPersistenceClassError, match="x is a field without a type"):
        persistence_class(type("Untyped", (), {"x": field()}))
    assert filename(persistence_class(type("Nothing", (), {}))()) == "cache-Nothing"


def test_PS6_other_annotations_are_data_which_is_unset_until_it_is_assigned() -> None:
    result = Result("q")
    with pytest.raises(AttributeError, match="no attribute 'c'"):
        _ = result.c
    assert as_dict(result) == {"a": "q", "b": None, "d": 5}
    info = ensure_persistence_class(Result)
    assert [one.field_name for one in info.fields if one.optional] == ["d"]

    @persistence_class
    class Nothing:
        d: int | None = None
        constant: ClassVar[int] = 3

    (only,) = ensure_persistence_class(Nothing).fields
    assert (only.field_name, only.optional) == ("d", False)
    assert as_dict(Nothing()) == {"d": None}


def test_PS6_data_may_be_given_by_keyword_as_type_checkers_see_it() -> None:
    assert as_dict(Example("A", "s", "1", example_data=["x"]))["example_data"] == ["x"]
    with pytest.raises(TypeError, match="positional"):
        Example("A", "s", "1", ["x"])


def test_PS7_init_takes_the_fields_with_their_annotations() -> None:
    parameters = inspect.signature(Result).parameters
    keys = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.annotation, p.default) for p in keys] == [
        ("a", "str", inspect.Parameter.empty),
        ("b", "int", None),
    ]
    with pytest.raises(TypeError, match="use_date"):
        Example("A00", "")
    with pytest.raises(SyntaxError, match="'a', which has no default, follows 'b'"):

        @persistence_class
        class Wrong:
            b: int = autoinc_field()
            a: str = field()

    assert issubclass(FieldOrderError, PrefectOptunaError)


def test_PS7_defaults_are_those_of_dataclasses() -> None:
    @persistence_class
    class Defaults:
        a: str = field(filename=True, default="A")
        b: list[int] = field(default_factory=list)
        later: list[int] = field(init=False)
        made: list[int] = field(init=False, default_factory=lambda: [1])

    one, other = Defaults(), Defaults("B")
    one.b.append(1)
    assert (one.a, one.b, other.a, other.b, other.made) == ("A", [1], "B", [], [1])
    assert not hasattr(one, "later")
    with pytest.raises(InvalidPersistenceClassError, match="both"):
        field(default=1, default_factory=list)


def test_PS8_methods_of_the_class_itself_are_kept() -> None:
    @persistence_class
    class Own:
        a: str = field(filename=True)

        def __init__(self) -> None:
            self.a = "own"

        def __str__(self) -> str:
            return "str"

        def __repr__(self) -> str:
            return "repr"

    own = Own()
    assert (own.a, str(own), repr(own)) == ("own", "str", "repr")

    @persistence_class
    class Heir(Own):
        b: int

    assert (Heir().a, str(Heir())) == ("own", "str")


def test_PS9_str_is_the_file_name_also_without_a_number() -> None:
    assert str(Example("A00", "s", "1234")) == "cache-Example-A00-1234"
    assert str(Result("q")) == "cache-Result-q-None"
    example = Example("A00", "", "")
    del example.use_animal
    with pytest.raises(RuntimeError, match="field use_animal is required for filename"):
        str(example)


def test_PS10_repr_has_the_arguments_of_init() -> None:
    assert repr(Example("A00", "", "1234")) == (
        "Example{use_animal=A00, use_session=, use_date=1234}"
    )
    assert repr(Result("q")) == "Result{a=q, b=None}"


def test_PS11_replace_makes_another_object_and_leaves_unset_data_unset() -> None:
    result = Result("q", c="data")
    other = result._replace(a="r", b=2)
    assert as_dict(other) == {"a": "r", "b": 2, "c": "data", "d": 5}
    assert result.a == "q"
    assert not hasattr(Result("q")._replace(a="r"), "c")
    signature = inspect.signature(Result._replace)
    assert list(signature.parameters) == ["self", "a", "b", "c", "d"]
    assert signature.parameters["b"].default is missing
    assert not hasattr(Example, "_replace")
    with pytest.raises(TypeError, match="no field x"):
        result._replace(x=1)


def test_PS12_match_args_are_all_fields() -> None:
    assert Result.__match_args__ == ("a", "b", "c", "d")
    match Result("q", c="data"):
        case Result(a, None, c):
            assert (a, c) == ("q", "data")


def test_PS13_equality_is_identity_unless_it_is_asked_for() -> None:
    assert Example("A", "s", "d") != Example("A", "s", "d")
    assert len({Example("A", "s", "d"), Example("A", "s", "d")}) == 2

    @persistence_class(eq=True)
    class Equal:
        a: str = field()
        power: Any

    def made(power: Any) -> Equal:
        return Equal("x", power=power)

    assert made(np.array([1.0, np.nan])) == made(np.array([1.0, np.nan]))
    assert made(np.ones(3)) != made(np.ones(4))
    assert made({"x": [np.ones(2)]}) == made({"x": [np.ones(2)]})
    assert Equal("x") != made(1)
    assert made(1) != "x"
    with pytest.raises(TypeError, match="unhashable"):
        hash(made(1))


def test_PS14_a_file_name_is_made_of_the_values_and_missing_is_a_star() -> None:
    assert filename(Result("q"), b=1) == "cache-Result-q-1"
    assert filename(Result, a="q", b=1, unknown=2) == "cache-Result-q-1"
    assert filename(Result("q", b=1), a=missing) == "cache-Result-*-1"
    assert filename(Example(None, "", "d")) == "cache-Example-None-d"
    with pytest.raises(TypeError):
        ensure_persistence_class(Example).filename(Result("q"))
    with pytest.raises(RuntimeError, match="use_animal is required"):
        filename(Example, use_date="d")


def test_PS15_a_number_is_needed_for_a_file_name() -> None:
    for what in (Result("q"), Result):
        with pytest.raises(AutoIncFieldNotResolvedError, match="without autoinc field b"):
            filename(what, a="q")
    with pytest.raises(UnsetFieldError, match="field a is required"):
        filename(Result, b=1)


def test_PS20_as_dict_has_what_is_declared_and_set() -> None:
    example = Example("A", "s", "d")
    example.other = 1
    assert as_dict(example) == {"use_animal": "A", "use_session": "s", "use_date": "d"}
    with pytest.raises(TypeError, match="data is None"):
        as_dict(None)
    with pytest.raises(RuntimeError, match="not a persistence_class : int"):
        as_dict(1)
    with pytest.raises(InvalidPersistenceClassError, match="class Example itself"):
        as_dict(Example)


def test_PS21_from_dict_takes_what_the_class_knows() -> None:
    made = from_dict(Result, {"a": "q", "c": "data", "extra": 1})
    assert as_dict(made) == {"a": "q", "b": None, "c": "data", "d": 5}
    with pytest.raises(KeyError, match="missing required field : a, of Result"):
        from_dict(Result, {"c": "data"})
    assert issubclass(MissingKeyError, PrefectOptunaError)


def test_PS21_a_class_with_its_own_init_is_made_by_its_own_from_dict() -> None:
    @persistence_class
    class Own:
        a: str = field()
        data: int

        def __init__(self, both: str) -> None:
            if both == "bad":
                raise TypeError("a mistake of its own")
            self.a = both

        @classmethod
        def from_dict(cls, d: dict[str, Any]) -> Any:
            made = cls(d["a"])
            made.data = d["data"] + 1
            return made if d["data"] else None

    assert as_dict(from_dict(Own, {"a": "x", "data": 1, "extra": 0})) == {"a": "x", "data": 2}
    with pytest.raises(TypeError, match="returned a NoneType"):
        from_dict(Own, {"a": "x", "data": 0})

    @persistence_class
    class Faulty:
        a: str = field()

        def __init__(self, a: str) -> None:
            raise TypeError("a mistake of its own")

        @classmethod
        def from_dict(cls, d: dict[str, Any]) -> Any:
            raise AssertionError("never asked")

    with pytest.raises(TypeError, match="a mistake of its own"):
        from_dict(Faulty, {"a": "x"})


def test_PS22_what_is_known_of_a_class() -> None:
    for what in (Example, Example("A", "s", "d")):
        info = ensure_persistence_class(what)
        assert info.cls_name == "Example"
        assert info.fields_name() == ["use_animal", "use_session", "use_date", "example_data"]
        assert info.autoinc_field is None
        session = info.get_field("use_session")
        assert session is not None
        assert (session.validator, session.filename) == (True, False)
        assert info.get_field("other") is None
        assert info.filename(use_animal="A", use_date="d") == "cache-Example-A-d"
    with pytest.raises(RuntimeError, match="not a persistence_class : int"):
        ensure_persistence_class(3)


def test_PS22_a_generic_class_is_one_with_and_without_its_argument() -> None:
    @persistence_class
    class Box(Generic[T]):
        key: str = field(filename=True)
        held: T

    box = Box[int]("k", held=3)
    assert filename(box) == "cache-Box-k"
    assert ensure_persistence_class(Box[int]) is ensure_persistence_class(Box)
    assert as_dict(box) == {"key": "k", "held": 3}


def test_PS23_validation_names_the_field_and_both_values() -> None:
    info = ensure_persistence_class(Example)
    with pytest.raises(FileNotFoundError, match=r"Example.use_session validate fail: s !="):
        info.validate(Example("A", "s", "d"), Example("A", "", "d"))
    assert info.validate(
        {"use_animal": "A", "use_session": missing, "use_date": "d"}, Example("A", "s", "d")
    )
    with pytest.raises(PersistenceValidationError, match="use_session"):
        info.validate(Example("A", "s", "d"), {"use_animal": "A"})

    @persistence_class
    class Arrays:
        grid: Any = field(validator=True)

    arrays = ensure_persistence_class(Arrays)
    assert arrays.validate(Arrays(np.arange(3)), Arrays(np.arange(3)))
    with pytest.raises(PersistenceValidationError, match="grid"):
        arrays.validate(Arrays(np.arange(3)), Arrays(np.arange(4)))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("../x", "leads out"),
        ("..", "leads out"),
        ("a/../../b", "leads out"),
        ("..\\x", "leads out"),
        ("/etc/passwd", "absolute"),
        ("\\\\host\\x", "absolute"),
        ("C:\\x", "absolute"),
        ("a\0b", "NUL"),
        ("x" * 300, "255 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_PS29_a_value_that_leads_elsewhere_is_an_error_that_names_the_field(
    value: str, reason: str
) -> None:
    with pytest.raises(UnsupportedValueError, match=rf"Example\.use_animal is .*{reason}"):
        filename(Example(value, "", "d"))


def test_PS29_other_values_are_parts_of_one_name_and_stay_different() -> None:
    values = ["a/b", "a%2Fb", "a\\b", "a*b", "a?b", "[ab]", "a b", "a:b", "ä", "a\nb", ".", "", "-"]
    names = [filename(Example(value, "", "d")) for value in values]
    assert len(set(names)) == len(values)
    assert names[0] == "cache-Example-a%2Fb-d"
    assert filename(Example("2026-01-02 x.5", "", "d")) == "cache-Example-2026-01-02 x.5-d"
    assert not any(set(name) & set('/\\*?[]:\n"<>|') for name in names)


def test_PS31_an_unresolved_number_says_of_which_object_and_field() -> None:
    result = Result("q")
    with pytest.raises(AutoIncFieldNotResolvedError) as caught:
        filename(result)
    assert caught.value.instance is result
    assert caught.value.field == "b"
    assert isinstance(caught.value, RuntimeError)
    counter = ensure_persistence_class(Result).autoinc_field
    assert AutoIncFieldNotResolvedError(result, counter).field == "b"


def test_PS32_the_body_of_a_generated_method_is_never_run() -> None:
    with pytest.raises(RuntimeError, match="It is auto generated content"):
        auto_generated_content(a=1)


def test_objects_and_classes_travel_to_other_processes() -> None:
    @persistence_class
    class Local:
        a: str = field(filename=True)
        power: Any

    local = Local("x", power=np.ones(2))
    copy = pickle.loads(cloudpickle.dumps(local))
    assert filename(copy) == "cache-Local-x"
    assert ensure_persistence_class(copy).home == ensure_persistence_class(Local).home
    example = pickle.loads(pickle.dumps(Example("A", "s", "d", example_data=["x"])))
    assert as_dict(example)["example_data"] == ["x"]


def test_a_pydantic_model_is_a_persistence_class_too(tmp_path: Path) -> None:
    class Best(BaseModel):
        number: int
        values: tuple[float, ...]

    @persistence_class
    class Outcome(BaseModel):
        model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

        states: dict[str, int] = Field(default_factory=dict)
        study_name: Annotated[str, field(validator=True, filename=True)] = Field(min_length=1)
        best: list[Best] = Field(default_factory=list)
        power: np.ndarray | None = None
        _block: Any = PrivateAttr(default=None)

    outcome = Outcome(
        study_name="lynx-hare", best=[Best(number=3, values=(0.5,))], power=np.arange(3)
    )
    outcome._block = "secret"
    assert filename(outcome) == "cache-Outcome-lynx-hare"
    handler = ArrowHandler(Outcome, tmp_path)
    handler.save_persistence(outcome)
    found = handler.load_persistence({"study_name": "lynx-hare"})
    assert (found.study_name, found.states, found.best) == ("lynx-hare", {}, outcome.best)
    assert found.power is not None
    assert found.power.tolist() == [0, 1, 2]
    assert found._block is None
    with pytest.raises(AttributeError, match="unknown"):
        _ = found.unknown

    with pytest.raises(InvalidPersistenceClassError, match="the model is frozen"):

        @persistence_class
        class Frozen(BaseModel):
            model_config = ConfigDict(frozen=True)

            run: Annotated[int | None, autoinc_field()] = None

    @persistence_class
    class Counted(BaseModel):
        key: Annotated[str, field(filename=True)]
        run: Annotated[int | None, autoinc_field()] = None

    counted = ArrowHandler(Counted, tmp_path)
    assert [counted.save_persistence(Counted(key="k")).run for _ in range(2)] == [0, 1]
    assert [one.run for _, one in counted.load_all(Counted(key="k"))] == [0, 1]
