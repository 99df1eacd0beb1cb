"""Archives that former versions have written load for ever; `data/` holds one of each format."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from pydantic import SecretStr

from prefect_optuna.blocks import InMemoryStudyStorage, JournalStudyStorage
from prefect_optuna.errors import ArchiveSignatureError, OtherPythonWarning
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem, copy_study, diff
from prefect_optuna.tasks.archive.carrying.portable import EXPORT_FORMAT
from prefect_optuna.tasks.archive.code import restore
from prefect_optuna.tasks.archive.record.manifest import MANIFEST_FORMAT

DATA = Path(__file__).with_name("data")
KEY = SecretStr("the key of the archives in this folder")
EXPORTS = sorted(DATA.glob("*.study.zip"))


@pytest.fixture(autouse=True)
def no_restored_modules() -> Generator[None]:
    """Restored code is restored anew in each test; it may be of another version of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherPythonWarning)
        yield
    restore._restored.clear()
    for name in [name for name in sys.modules if name.startswith("prefect_optuna_archive_")]:
        if "." not in name:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
        del sys.modules[name]


def imported(file: Path, key: SecretStr | None = None) -> ArchivedStudy:
    name = f"formats-{file.name}"
    block = InMemoryStudyStorage(name=name)
    if "hares" in block.study_names():
        return ArchivedStudy.load(
            "hares", storage=block, artifacts=f"memory://{name}", signing_key=key
        )
    return ArchivedStudy.import_(file, storage=block, artifacts=f"memory://{name}", signing_key=key)


def former(tmp_path: Path) -> ArchivedStudy:
    """The study of format 1, which had a journal and a folder, and no export."""
    shutil.copytree(DATA / "format-1-unsigned", tmp_path / "former")
    return ArchivedStudy.load(
        "hares",
        storage=JournalStudyStorage(path=tmp_path / "former" / "studies.journal"),
        artifacts=tmp_path / "former" / "artifacts",
    )


def assert_alive(archived: ArchivedStudy) -> None:
    """What every format holds: two trials, two versions, results, and code that gives them."""
    assert len(archived.versions) == 2
    assert [archived.scope(place) for place in range(2)] == [{"version": 0}, {"version": 1}]
    assert [archived.version_of(number) for number in range(2)] == [0, 1]
    assert archived.environment.python == "3.11.7"
    assert archived.environment.distributions["optuna"] == "4.5.0"
    assert "numpy==2.1.0\n" in archived.requirements()
    assert "def grown(rate" in archived.source()
    assert "hares" in archived.describe()
    problem = archived.problem(trusted=True)
    assert (problem.axes, problem.context) == ({"year": [0.0, 0.5, 1.0, 1.5]}, {"scale": 2.0})
    for trial in archived.study.trials:
        result = problem.call("run", trial.params)
        np.testing.assert_array_equal(result["hare"], archived.result(trial.number)["hare"])
        assert result["note"] == archived.result(trial.number)["note"] == trial.params["kind"]
        assert problem.call("evaluate", result) == trial.value
    hares = archived.timeseries("hare", trials=[0, 1])
    assert hares.num_rows == 8
    assert sorted(set(hares["trial"].to_pylist())) == [0, 1]


def test_the_present_formats_have_archives_here() -> None:
    """A new format needs new files: run data/make_archives.py, and keep those that are there."""
    names = {path.name for path in EXPORTS}
    for kind in ("unsigned", "signed"):
        assert f"format-{MANIFEST_FORMAT}-{kind}.study.zip" in names
    assert EXPORT_FORMAT == 1


@pytest.mark.parametrize("file", EXPORTS, ids=lambda file: file.name)
def test_an_export_of_a_former_version_is_alive(file: Path) -> None:
    archived = imported(file)
    assert_alive(archived)
    assert archived.environment.seed == 7
    assert archived.script() == "print('the script')\n"
    lynxes = archived.timeseries("lynx")
    assert lynxes.column_names[:2] == ["trial", "day"]
    rates = [trial.params["rate"] for trial in archived.study.trials]
    assert lynxes["value"].to_pylist() == [rates[0], 0.5, 0.25, rates[1], 0.5, 0.25]
    assert lynxes["day"].to_pylist() == [1.0, 2.0, 3.0] * 2


def test_an_archive_of_format_1_is_alive(tmp_path: Path) -> None:
    archived = former(tmp_path)
    assert archived.manifest.format == 1
    assert_alive(archived)


@pytest.mark.parametrize(
    "file", [file for file in EXPORTS if "-signed" in file.name], ids=lambda file: file.name
)
def test_a_signature_of_a_former_version_holds(file: Path) -> None:
    archived = imported(file, KEY)
    assert archived.signatures.holds, str(archived.signatures)
    assert archived.problem().name == "run"
    with pytest.raises(ArchiveSignatureError, match="is signed with the key"):
        imported(file, SecretStr("the key of somebody else")).problem()


def test_a_study_of_format_1_is_carried_on_compared_and_signed(tmp_path: Path) -> None:
    archived = former(tmp_path)
    block = InMemoryStudyStorage(name=f"formats-{tmp_path.name}")
    copy_study(
        from_study_name="hares",
        from_storage=JournalStudyStorage(path=tmp_path / "former" / "studies.journal"),
        from_artifacts=tmp_path / "former" / "artifacts",
        to_storage=block,
        to_artifacts=tmp_path / "there",
    )
    copy = ArchivedStudy.load("hares", storage=block, artifacts=tmp_path / "there")
    assert_alive(copy)
    assert not diff(archived, copy)
    archive = OptunaArchive(copy.study, artifacts=tmp_path / "there", signing_key=KEY)
    archive.save_problem(Problem(suggest=_suggest, run=_run))
    archive.sign()
    signed = ArchivedStudy.load(
        "hares", storage=block, artifacts=tmp_path / "there", signing_key=KEY
    )
    assert signed.signatures.holds, str(signed.signatures)
    assert signed.manifest.format == MANIFEST_FORMAT
    assert len(signed.versions) == 3
    np.testing.assert_array_equal(signed.result(0)["hare"], archived.result(0)["hare"])


def _suggest(trial: object) -> dict[str, float]:
    return {}


def _run(params: dict[str, float]) -> float:
    return 0.0
