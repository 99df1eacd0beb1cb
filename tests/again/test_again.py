"""Scripts as people write them run again when they are gone. `make again` runs all of them."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from prefect_optuna.deployments import LocalServer


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("again_run", Path(__file__).parent / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


again = _load()
# Those of packages that the tests do not need otherwise are for `make again`.
OTHERS = {"catboost", "lightgbm", "optuna_integration", "statsmodels", "torch", "xgboost"}
SCRIPTS = [one for one in again.scripts() if not again.packages_of(one) & OTHERS]


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_s_trials_run_again_when_it_is_gone(
    script: Path, prefect_server: LocalServer
) -> None:
    verdict = again.run(script)
    assert verdict.holds, verdict.why
    assert not verdict.missing


def test_a_verdict_holds_only_where_every_trial_was_reproduced() -> None:
    needed = again.packages_of(again.SCRIPTS / "xgboost_pruning.py")
    assert {"xgboost", "optuna_integration", "sklearn"} <= needed
    assert "helpers" not in again.packages_of(again.SCRIPTS / "helper_modules")
    assert len(again.scripts()) >= 40
    verdict = again.Verdict("some")
    assert not verdict.holds
    verdict.trials["here"] = Counter(["reproduced"])
    assert verdict.holds
    verdict.trials["recorded"] = Counter(["reproduced", "drifted"])
    assert not verdict.holds
    assert verdict.count("recorded") == "1 of 2"
