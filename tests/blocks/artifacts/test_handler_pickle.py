"""Pickle and joblib: only where asked for, and with the versions they depend on."""

from __future__ import annotations

import importlib.metadata
import pickle
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from prefect_optuna.blocks import ArtifactLoadError, ArtifactLogError
from prefect_optuna.blocks.artifacts import (
    Artifact,
    JoblibArtifact,
    PickleArtifact,
    decode,
    encode,
    handler_for,
)
from prefect_optuna.errors import UnknownHandlerError

PICKLES = pytest.mark.parametrize("handler", [PickleArtifact, JoblibArtifact])
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


RAN: list[str] = []


class Payload:
    def __reduce__(self) -> Any:
        return run, ("the code of the file",)


def run(what: str) -> None:
    RAN.append(what)


class Model:
    def __init__(self) -> None:
        self.weights = np.arange(4.0)


@PICKLES
def test_LZ5_LZ8_any_object_comes_back_where_pickle_is_allowed(handler: type[Artifact]) -> None:
    again = decode(handler, encode(handler, Decimal("0.1"), allow_pickle=True), allow_pickle=True)
    assert again == Decimal("0.1")
    arrays = {"a": np.arange(1000)}
    content = encode(handler, arrays, allow_pickle=True)
    assert decode(handler, content, allow_pickle=True)["a"].tolist() == list(range(1000))


@PICKLES
@pytest.mark.parametrize("allowed", [False, 1, "yes"])
def test_pickle_is_neither_written_nor_read_unless_asked_for(
    handler: type[Artifact], allowed: Any
) -> None:
    with pytest.raises(ArtifactLogError, match="allow_pickle=True"):
        encode(handler, {}, allow_pickle=allowed)
    content = encode(handler, Payload(), allow_pickle=True)
    with pytest.raises(ArtifactLoadError, match="allow_pickle=True"):
        decode(handler, content, allow_pickle=allowed)
    with pytest.raises(ArtifactLoadError, match="runs the code"):
        decode(handler, content)
    assert RAN == []
    decode(handler, content, allow_pickle=True)
    assert RAN.pop() == "the code of the file"


def test_LZ5_pickle_is_what_pickle_reads() -> None:
    assert (PickleArtifact.alias, PickleArtifact.suffix, PickleArtifact.binary) == (
        "pickle",
        "pkl",
        True,
    )
    content = encode(PickleArtifact, [1], allow_pickle=True)
    assert content[:2] == b"\x80\x05"  # protocol 5, whichever Python writes
    assert pickle.loads(content) == [1]
    assert encode(PickleArtifact, [1], allow_pickle=True, protocol=2)[:2] == b"\x80\x02"


def test_LZ5_pickle_records_the_python_version() -> None:
    artifact = PickleArtifact.construct("a", 1)
    assert artifact.environment() == {"python_version": PYTHON}
    recorded = PickleArtifact.construct("a", python_version="2.7").environment()
    assert recorded == {"python_version": "2.7"}
    assert PickleArtifact.current_environment(recorded) == {"python_version": PYTHON}


def test_LZ8_joblib_records_the_package_of_the_object_and_the_versions() -> None:
    artifact = JoblibArtifact.construct("a", np.zeros(3))
    assert artifact.environment() == {
        "python_version": PYTHON,
        "joblib_version": importlib.metadata.version("joblib"),
        "package": "numpy",
        "package_version": np.__version__,
    }
    old = JoblibArtifact.construct("a", package="numpy", package_version="1.0").environment()
    assert old["package_version"] == "1.0"
    assert JoblibArtifact.current_environment(old) == artifact.environment()
    # of another name than the distribution, and of none
    import yaml

    named = JoblibArtifact.construct("a", yaml.SafeLoader("")).environment()
    assert (named["package"], named["package_version"]) == ("yaml", yaml.__version__)
    none = JoblibArtifact.construct("a", Model()).environment()
    assert none["package_version"] is None
    assert JoblibArtifact.current_environment(none) == none


def test_the_environment_is_compared_without_importing_anything() -> None:
    recorded = JoblibArtifact.construct("a", package="antigravity").environment()
    assert recorded["package_version"] is None
    assert "antigravity" not in sys.modules


@PICKLES
def test_what_cannot_be_pickled_is_refused(handler: type[Artifact]) -> None:
    with pytest.raises(ArtifactLogError, match="cannot write this function"):
        encode(handler, lambda: 1, allow_pickle=True)


@PICKLES
def test_a_pickle_is_never_the_handler_of_a_value(handler: type[Artifact]) -> None:
    assert not handler.takes(Model())
    with pytest.raises(UnknownHandlerError, match="allow_pickle=True"):
        handler_for(Model())


@PICKLES
def test_a_class_that_is_gone_is_an_error_that_says_so(
    handler: type[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(handler, Decimal(1), allow_pickle=True).replace(b"\x07decimal", b"\x07demical")
    with pytest.raises(ArtifactLoadError, match="No module named 'demical'"):
        decode(handler, content, allow_pickle=True)


def test_joblib_compresses_where_asked() -> None:
    plain = encode(JoblibArtifact, np.zeros(10_000), allow_pickle=True)
    packed = encode(JoblibArtifact, np.zeros(10_000), allow_pickle=True, compress=3)
    assert len(packed) < len(plain) / 10
    assert decode(JoblibArtifact, packed, allow_pickle=True).shape == (10_000,)
    assert packed == encode(JoblibArtifact, np.zeros(10_000), allow_pickle=True, compress=3)
