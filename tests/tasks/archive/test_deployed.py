"""A captured problem as one text: it comes back as it was, or not at all."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.errors import ArchiveSignatureError, CaptureError
from prefect_optuna.tasks import Environment, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.carrying.portable import (
    block_name,
    digest_of,
    pack_problem,
    require_signature,
    sign,
    unpack_problem,
)
from prefect_optuna.tasks.archive.code.restore import restore_problem
from prefect_optuna.tasks.archive.record.manifest import SigningKeys

WEIGHTS = np.arange(1000.0)


def suggest(trial: Any) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: dict[str, float]) -> float:
    return params["x"] * float(WEIGHTS.sum())


@pytest.fixture(scope="module")
def capture() -> Capture:
    return Capture.of(Problem(suggest=suggest, run=run, axes={"t": [1.0, 2.0]}))


@pytest.fixture(scope="module")
def text(capture: Capture) -> str:
    return pack_problem(capture, Environment.capture(Path(__file__).parent))


def test_it_comes_back_as_it_was_and_says_where_it_was_captured(
    capture: Capture, text: str
) -> None:
    back = unpack_problem(text, capture.code_version)
    assert (back.document, back.blobs) == (capture.document, capture.blobs)
    assert back.blobs
    assert back.code_version == capture.code_version
    assert back.origin is not None
    assert back.origin.distributions == Environment.capture().distributions
    assert restore_problem(back, back.origin).call("run", {"x": 1.0}) == WEIGHTS.sum()


def test_neither_the_script_nor_what_git_has_not_committed_goes_along(text: str) -> None:
    environment = content_of(text)["environment"]
    assert environment["script_source"] == ""
    assert not environment["git"] or environment["git"]["diff"] == ""


def test_files_that_nobody_brings_along_are_not_named(capture: Capture, text: str) -> None:
    """Or the study's archive would miss them, for as long as there is one."""
    content = content_of(text)
    content["environment"]["script_source"] = "0" * 64
    content["environment"]["git"] = {
        "commit": "0" * 40, "branch": "", "dirty": True, "diff": "0" * 64,
    }  # fmt: skip
    origin = unpack_problem(packed(content), capture.code_version).origin
    assert origin is not None
    assert origin.git is not None
    assert (origin.script_source, origin.git.diff) == ("", "")


def content_of(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def packed(content: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


def with_other_code(content: Any) -> None:
    content["capture"] = content["capture"].replace("params", "param5")


def with_another_blob(content: Any) -> None:
    [digest] = content["blobs"]
    content["blobs"][digest] = base64.b64encode(b"another one").decode()


def with_one_blob_more(content: Any) -> None:
    content["blobs"]["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] = ""


def without_blobs(content: Any) -> None:
    content["blobs"] = {}


def of_another_kind(content: Any) -> None:
    content["kind"] = "something"


def with_a_list_for_a_mapping(content: Any) -> None:
    content["environment"] = []


def with_text_for_a_mapping_within(content: Any) -> None:
    content["environment"]["distributions"] = "numpy"


@pytest.mark.parametrize(
    "change",
    [
        with_text_for_a_mapping_within,
        with_other_code,
        with_another_blob,
        with_one_blob_more,
        without_blobs,
        of_another_kind,
        with_a_list_for_a_mapping,
    ],
)
def test_what_was_changed_is_refused(capture: Capture, text: str, change: Any) -> None:
    content = content_of(text)
    change(content)
    with pytest.raises(ArchiveError, match=r"damaged, or somebody has changed it.*Deploy it again"):
        unpack_problem(packed(content), capture.code_version)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64 \x00",
        "AAAA",
        base64.b64encode(zlib.compress(b"[" * 100_000)).decode(),
        packed([1]),
        packed({}),
    ],
    ids=["empty", "no base64", "no zlib", "nested", "list", "nothing"],
)
def test_what_is_no_packed_problem_is_refused(text: str) -> None:
    with pytest.raises(ArchiveError, match="damaged, or somebody has changed it"):
        unpack_problem(text, "0" * 64)


def test_a_bomb_is_not_unpacked(capture: Capture) -> None:
    bomb = base64.b64encode(zlib.compress(b" " * (80 << 20), 9)).decode()
    assert len(bomb) < 200_000
    with pytest.raises(ArchiveError, match="damaged, or somebody has changed it") as refused:
        unpack_problem(bomb, capture.code_version)
    assert "unpacks to more than it may" in str(refused.value.__cause__)
    with pytest.raises(ArchiveError, match="are the most"):
        unpack_problem("A" * 10_000_000, capture.code_version)


def test_a_newer_format_says_what_to_do(capture: Capture, text: str) -> None:
    content = {**content_of(text), "format": 2}
    with pytest.raises(ArchiveError, match="pip install --upgrade prefect-optuna"):
        unpack_problem(packed(content), capture.code_version)


def test_a_signature_holds_for_that_very_text_and_key(text: str) -> None:
    keys, others = SigningKeys("k" * 16), SigningKeys("o" * 16)
    signature = sign(text, keys)
    assert require_signature(text, signature, keys)
    assert not require_signature(text, signature, None)
    assert not require_signature(text, sign(text, None), None)
    for one, of_it, checked_with, words in (
        (text + "A", signature, keys, "has been changed after it was signed"),
        (text, sign(text, None), keys, "is not signed"),
        (text, signature, others, "is signed with the key"),
        (text, {"key": keys.id}, keys, "in place of a signature"),
    ):
        with pytest.raises(ArchiveSignatureError, match=words):
            require_signature(one, of_it, checked_with)


def test_a_url_with_a_password_does_not_travel(tmp_path: Path) -> None:
    file = tmp_path / "leaky.py"
    file.write_text(
        "DATABASE = 'postgresql://me:hunter2@db/x'\n\n\ndef objective(trial):\n"
        "    return len(DATABASE) * trial.suggest_float('x', 0, 1)\n"
    )
    module = ModuleType("leaky")
    module.__file__ = str(file)
    exec(compile(file.read_text(), str(file), "exec"), vars(module))
    capture = Capture.of(Problem(objective=vars(module)["objective"]))
    with pytest.raises(CaptureError, match=r"os\.environ") as refused:
        pack_problem(capture, Environment.capture())
    assert "hunter2" not in str(refused.value)


def with_another_package(content: Any) -> None:
    content["environment"]["distributions"]["evil"] = "1.0"


def from_another_place(content: Any) -> None:
    content["environment"]["sources"] = {"numpy": "https://elsewhere.example/numpy-1-py3-none.whl"}


def with_another_python(content: Any) -> None:
    content["environment"]["python"] = "3.1.4"


@pytest.mark.parametrize("change", [with_another_package, from_another_place, with_another_python])
def test_workers_install_the_environment_that_the_deployment_names_and_no_other(
    capture: Capture, text: str, change: Any
) -> None:
    content = content_of(text)
    origin = unpack_problem(text, capture.code_version).origin
    assert origin is not None
    install = digest_of(origin)
    assert unpack_problem(text, capture.code_version, install).origin == origin
    assert block_name(capture.code_version, install) != block_name(capture.code_version, True)
    change(content)
    unpack_problem(packed(content), capture.code_version)  # nothing is installed of it
    with pytest.raises(ArchiveError, match=r"somebody has changed it.*with the packages that it"):
        unpack_problem(packed(content), capture.code_version, install)
