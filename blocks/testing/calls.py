"""Every kind of call that a storage gets, in sequence, with the state that each has to leave."""

# ruff: noqa: S101 -- these are the assertions of a test
# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

_X = FloatDistribution(0, 1)


def every_kind_of_call(
    storage: BaseStorage, truth: BaseStorage, name: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield calls to make on `storage`; after each, `truth` is asked whether it has come to pass.

    A call that comes to nothing, or to more than was asked, raises AssertionError when the next
    one is fetched. Reads compare their answer with that of `truth`.
    """
    ids: dict[str, Any] = {}

    def keep(key: str, answer: object) -> None:
        ids[key] = answer

    def trial() -> FrozenTrial:
        return truth.get_trial(ids["trial"])

    yield (
        "create_new_study",
        lambda: keep("study", storage.create_new_study([StudyDirection.MINIMIZE], name)),
    )
    assert [s._study_id for s in truth.get_all_studies() if s.study_name == name] == [ids["study"]]
    study: int = ids["study"]

    yield "set_study_user_attr", lambda: storage.set_study_user_attr(study, "key", [1])
    assert truth.get_study_user_attrs(study) == {"key": [1]}
    yield "set_study_system_attr", lambda: storage.set_study_system_attr(study, "key", [2])
    assert truth.get_study_system_attrs(study) == {"key": [2]}

    yield "create_new_trial", lambda: keep("trial", storage.create_new_trial(study))
    assert [t._trial_id for t in truth.get_all_trials(study)] == [ids["trial"]]
    waiting = create_trial(state=TrialState.WAITING, user_attrs={"queued": 1})
    yield (
        "create_new_trial, waiting",
        lambda: keep("waiting", storage.create_new_trial(study, waiting)),
    )
    assert [t._trial_id for t in truth.get_all_trials(study)] == [ids["trial"], ids["waiting"]]
    yield (
        "set_trial_state_values, to running",
        lambda: keep("won", storage.set_trial_state_values(ids["waiting"], TrialState.RUNNING)),
    )
    assert ids["won"] is True
    assert truth.get_trial(ids["waiting"]).state == TrialState.RUNNING
    yield (
        "set_trial_state_values, to running again",
        lambda: keep("won", storage.set_trial_state_values(ids["waiting"], TrialState.RUNNING)),
    )
    assert ids["won"] is False

    # A storage may let these travel with what comes next, so they are read back through it.
    yield "set_trial_param", lambda: storage.set_trial_param(ids["trial"], "x", 0.25, _X)
    assert storage.get_trial(ids["trial"]).params == {"x": 0.25}
    yield (
        "set_trial_intermediate_value",
        lambda: storage.set_trial_intermediate_value(ids["trial"], 3, 0.5),
    )
    assert storage.get_trial(ids["trial"]).intermediate_values == {3: 0.5}
    yield "set_trial_user_attr", lambda: storage.set_trial_user_attr(ids["trial"], "u", "ü")
    assert storage.get_trial(ids["trial"]).user_attrs == {"u": "ü"}
    yield "set_trial_system_attr", lambda: storage.set_trial_system_attr(ids["trial"], "s", [1])
    assert storage.get_trial(ids["trial"]).system_attrs == {"s": [1]}
    if isinstance(storage, BaseHeartbeat) and is_heartbeat_enabled(storage):
        yield "record_heartbeat", lambda: storage.record_heartbeat(ids["trial"])
    yield (
        "set_trial_state_values, to complete",
        lambda: keep(
            "won", storage.set_trial_state_values(ids["trial"], TrialState.COMPLETE, [0.75])
        ),
    )
    assert ids["won"] is True
    assert (trial().state, trial().values) == (TrialState.COMPLETE, [0.75])
    assert (trial().params, trial().intermediate_values) == ({"x": 0.25}, {3: 0.5})
    assert (trial().user_attrs, trial().system_attrs) == ({"u": "ü"}, {"s": [1]})
    now = datetime.now()  # noqa: DTZ005 -- Optuna's times have no zone
    done = create_trial(value=0.125, params={"x": 0.5}, distributions={"x": _X})
    done.datetime_start = done.datetime_complete = now
    yield "create_new_trial, finished", lambda: keep("done", storage.create_new_trial(study, done))
    assert [t.value for t in truth.get_all_trials(study)] == [0.75, None, 0.125]

    reads: dict[str, Callable[[BaseStorage], object]] = {
        "get_trial": lambda s: s.get_trial(ids["trial"]),
        "get_all_trials": lambda s: s.get_all_trials(study),
        "get_n_trials": lambda s: s.get_n_trials(study),
        "get_best_trial": lambda s: s.get_best_trial(study).number,
        "get_trial_param": lambda s: s.get_trial_param(ids["trial"], "x"),
        "get_trial_number_from_id": lambda s: s.get_trial_number_from_id(ids["waiting"]),
        "get_trial_id_from_study_id_trial_number": lambda s: (
            s.get_trial_id_from_study_id_trial_number(study, 2)
        ),
        "get_study_id_from_name": lambda s: s.get_study_id_from_name(name),
        "get_study_name_from_id": lambda s: s.get_study_name_from_id(study),
        "get_study_directions": lambda s: s.get_study_directions(study),
        "get_study_user_attrs": lambda s: s.get_study_user_attrs(study),
        "get_study_system_attrs": lambda s: s.get_study_system_attrs(study),
        "get_all_studies": lambda s: sorted(f._study_id for f in s.get_all_studies()),
    }
    for call, read in reads.items():
        yield call, lambda read=read: keep("answer", read(storage))
        assert ids["answer"] == read(truth)

    yield "delete_study", lambda: storage.delete_study(study)
    assert name not in [s.study_name for s in truth.get_all_studies()]
