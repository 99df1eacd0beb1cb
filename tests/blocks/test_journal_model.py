"""The default storage and Optuna's own `JournalStorage` work on one file, and say the same of it.

Thirty examples in the suite; more by `JOURNAL_MODEL_EXAMPLES=3000`.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from storages_under_test import everything, outcome, plain

from prefect_optuna.blocks import JournalStudyStorage, _journal_replay
from prefect_optuna.blocks._journal_file import os_lock

EXAMPLES = int(os.environ.get("JOURNAL_MODEL_EXAMPLES", "30"))
UNKNOWN = 999_999

names = st.sampled_from(["", "a", "ü\0 {x}\t\n", "n" * 300])
numbers = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, float("inf"), 5e-324])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
# Of the same name, some fit each other and some do not.
parameters = st.sampled_from(
    [
        ("x", 0.5, FloatDistribution(0, 1)),
        ("x", 1.5, FloatDistribution(0, 2)),
        ("x", 0.5, FloatDistribution(0.1, 1, log=True)),
        ("x", 3.0, IntDistribution(0, 10)),
        ("y", 4.0, IntDistribution(0, 10, step=2)),
        ("c", 1.0, CategoricalDistribution(["a", None, 2.5])),
        ("c", 0.0, CategoricalDistribution(["a"])),
        ("t", 0.0, CategoricalDistribution(["a"])),
        ("", 0.5, FloatDistribution(0, 1)),
    ]
)
some = st.integers(0, 100)
writers = st.integers(0, 2)
Call = Callable[[BaseStorage], Any]


def theirs(path: Path) -> JournalStorage:
    """Optuna's own on the same file, under the same lock."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=os_lock(path)))


class OneFile(RuleBasedStateMachine):
    """Each call is made by one of two of ours and one of Optuna's, and by Optuna's elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "shared.journal"
        self.block = JournalStudyStorage(path=self.path)
        self.ours = [self.open() for _ in range(2)]
        self.writers = [*self.ours, theirs(self.path)]
        self.model = theirs(self.folder / "model.journal")
        self.seen: list[tuple[FrozenTrial, str]] = []

    def do(self, writer: int, call: Call) -> None:
        self.wait_for_others(writer)
        expected = outcome(lambda: call(self.model))
        assert outcome(lambda: call(self.writers[writer])) == expected

    def open(self) -> Any:
        return self.block.model_copy().get_storage()

    def wait_for_others(self, writer: int | None = None) -> None:
        """Let pass the time after which others see the parameters and attributes of a trial."""
        for storage in self.ours:
            if storage is not (None if writer is None else self.writers[writer]):
                storage.flush()

    def study(self, index: int) -> int:
        known = [study._study_id for study in self.model.get_all_studies()]
        return known[index % len(known)] if known and index % 11 != 7 else UNKNOWN

    def trial(self, index: int) -> int:
        studies = [study._study_id for study in self.model.get_all_studies()]
        known = [t._trial_id for i in studies for t in self.model.get_all_trials(i)]
        return known[index % len(known)] if known and index % 11 != 7 else UNKNOWN

    @initialize()
    def begin(self) -> None:
        self.create_study("a", two=False, w=0)
        self.create_trial(1, w=1)
        self.create_trial(1, w=2)

    @rule(name=names, two=st.booleans(), w=writers)
    def create_study(self, name: str, two: bool, w: int) -> None:
        directions = [StudyDirection.MAXIMIZE] * (1 + two)
        self.do(w, lambda s: s.create_new_study(directions, name))

    @rule(index=some, really=st.integers(0, 9), w=writers)
    def delete_study(self, index: int, really: int, w: int) -> None:
        study = UNKNOWN if really < 7 else self.study(index)
        self.do(w, lambda s: s.delete_study(study))

    @rule(index=some, key=names, value=json_values, which=st.sampled_from("us"), w=writers)
    def set_study_attr(self, index: int, key: str, value: Any, which: str, w: int) -> None:
        study, method = self.study(index), f"set_study_{'user' if which == 'u' else 'system'}_attr"
        self.do(w, lambda s: getattr(s, method)(study, key, copy.deepcopy(value)))

    @rule(index=some, w=writers)
    def create_trial(self, index: int, w: int) -> None:
        study = self.study(index)
        self.do(w, lambda s: s.create_new_trial(study))

    @rule(
        index=some,
        state=st.sampled_from(TrialState),
        values=st.lists(numbers, min_size=2, max_size=2),
        attrs=st.dictionaries(names, json_values, max_size=2),
        reports=st.dictionaries(st.integers(0, 9), st.floats(), max_size=2),
        w=writers,
    )
    def create_trial_from_template(
        self,
        index: int,
        state: TrialState,
        values: list[float],
        attrs: dict[str, Any],
        reports: dict[int, float],
        w: int,
    ) -> None:
        study = self.study(index)
        count = 1 if study == UNKNOWN else len(self.model.get_study_directions(study))
        template = create_trial(
            state=state,
            values=values[:count] if state == TrialState.COMPLETE else None,
            params={"t": 0.5},
            distributions={"t": FloatDistribution(0, 1)},
            user_attrs=attrs,
            system_attrs=attrs,
            intermediate_values=reports,
        )
        if state != TrialState.WAITING:
            template.datetime_start = datetime(2020, 1, 2, 3, 4, 5, 678)  # noqa: DTZ001 -- as Optuna's
        self.do(w, lambda s: s.create_new_trial(study, copy.deepcopy(template)))

    @rule(index=some, parameter=parameters, w=writers)
    def set_param(self, index: int, parameter: tuple[str, float, BaseDistribution], w: int) -> None:
        trial = self.trial(index)
        self.do(w, lambda s: s.set_trial_param(trial, *parameter))

    @rule(index=some, step=st.integers(0, 9), value=st.floats(), w=writers)
    def report(self, index: int, step: int, value: float, w: int) -> None:
        trial = self.trial(index)
        self.do(w, lambda s: s.set_trial_intermediate_value(trial, step, value))

    @rule(index=some, key=names, value=json_values, which=st.sampled_from("us"), w=writers)
    def set_attr(self, index: int, key: str, value: Any, which: str, w: int) -> None:
        trial, method = self.trial(index), f"set_trial_{'user' if which == 'u' else 'system'}_attr"
        self.do(w, lambda s: getattr(s, method)(trial, key, copy.deepcopy(value)))

    @rule(
        index=some,
        state=st.sampled_from(TrialState),
        values=st.lists(numbers, min_size=2, max_size=2),
        w=writers,
    )
    def set_state(self, index: int, state: TrialState, values: list[float], w: int) -> None:
        trial = self.trial(index)
        if trial == UNKNOWN and state == TrialState.RUNNING:
            return  # Optuna's own fails an assertion
        told = values[:1] if state == TrialState.COMPLETE else None
        self.do(w, lambda s: s.set_trial_state_values(trial, state, told))

    @rule(w=st.integers(0, 1))
    def open_again(self, w: int) -> None:
        self.wait_for_others()
        self.writers[w] = self.ours[w] = self.open()

    @rule(w=st.integers(0, 1))
    def end_session(self, w: int) -> None:
        self.ours[w].remove_session()

    @rule()
    def read(self) -> None:
        expected = [undated(said) for said in everything(self.model)]
        for storage in self.ours:
            if storage._waiting:  # of its own it knows already, and nobody else has written since
                assert [undated(said) for said in everything(storage)] == expected
        self.wait_for_others()
        for storage in self.writers:
            assert [undated(said) for said in everything(storage)] == expected
        dated = [everything(storage) for storage in self.writers]
        assert dated[0] == dated[1] == dated[2]
        for study in self.ours[0].get_all_studies():
            for storage in self.ours:
                for shown in storage.get_all_trials(study._study_id, deepcopy=False):
                    for trial in (shown, storage.get_trial(shown._trial_id)):
                        self.seen.append((trial, plain(trial)))

    def teardown(self) -> None:
        self.read()
        self.wait_for_others()
        fresh = everything(theirs(self.path))
        assert fresh == everything(self.ours[0])
        assert fresh == everything(self.block.model_copy().get_storage())
        for trial, as_it_was in self.seen:
            assert plain(trial) == as_it_was, "what was returned has changed later"
        shutil.rmtree(self.folder)


def undated(said: Any) -> str:
    """Without the times, which differ between the file and the model."""
    return re.sub(r"datetime\.datetime\(\d[^)]*\)", "then", repr(said))


@pytest.mark.parametrize("indexed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_whatever_is_called_ours_and_optuna_s_own_say_the_same_of_one_file(
    indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is `indexed`, whoever opens the file reads an index, and writes one."""
    if indexed:
        monkeypatch.setattr(_journal_replay, "_WORTH", 1)
        monkeypatch.setattr(_journal_replay, "_PART", 1 << 60)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_state_machine_as_test(
        OneFile,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
