"""RedisStorage does what InMemoryStorage does, whatever is called, by whichever of two clients.

Forty examples in the suite; more by `REDIS_MODEL_EXAMPLES=5000`.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any, ClassVar

import optuna
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from redis_servers import RedisServer

from prefect_optuna.blocks.patience import trials_view
from prefect_optuna.blocks.redis_storage import RedisStorage

EXAMPLES = int(os.environ.get("REDIS_MODEL_EXAMPLES", "40"))
UNKNOWN = 999_999  # an id that nobody has

names = st.sampled_from(["", "a", "b", "ü\0 {x}\t\n", "n" * 300])
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
        ("x", 0.25, FloatDistribution(0, 1, step=0.25)),
        ("x", 0.5, FloatDistribution(0.1, 1, log=True)),
        ("x", 3.0, IntDistribution(0, 10)),
        ("y", 4.0, IntDistribution(0, 10, step=2)),
        ("y", 4.0, IntDistribution(1, 10, log=True)),
        ("c", 1.0, CategoricalDistribution(["a", None, 2.5])),
        ("c", 0.0, CategoricalDistribution(["a", None, 2.5])),
        ("c", 0.0, CategoricalDistribution(["a"])),
        ("", 0.5, FloatDistribution(0, 1)),
    ]
)
some = st.integers(0, 1_000)
clients = st.integers(0, 1)


class Raised:
    """An error is a result like any other."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (KeyError, ValueError, RuntimeError, optuna.exceptions.OptunaError) as error:
        return Raised(error)


def kinds(error: Exception) -> set[type]:
    """What a caller may catch."""
    return {
        kind
        for kind in (KeyError, ValueError, RuntimeError, optuna.exceptions.DuplicatedStudyError)
        if isinstance(error, kind)
    } | {optuna.exceptions.UpdateFinishedTrialError} & {type(error)}


def plain(trial: FrozenTrial) -> str:
    """All of a trial but its id, in words: NaN equals NaN, and 1 is not 1.0.

    The order of parameters does not count: a server gives the fields of a hash back in an order of
    its own, once one of them is long, and so a client that joins learns of a live trial.
    """
    return repr(
        (
            trial.number,
            trial.state,
            trial.values,
            sorted(trial.params.items()),
            sorted(trial.distributions.items()),
            sorted(trial.user_attrs.items()),
            sorted(trial.system_attrs.items()),
            sorted(trial.intermediate_values.items()),
            trial.datetime_start is None,
            trial.datetime_complete is None,
        )
    )


class BothStorages(RuleBasedStateMachine):
    """Every call goes to the model and to one of two clients, and both have to say the same."""

    url: ClassVar[str]
    write_mode: ClassVar[str]
    namespaces: ClassVar[Any] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        namespace = f"model-{self.write_mode}-{next(self.namespaces)}"
        self.clients = [
            RedisStorage(self.url, namespace=namespace, write_mode=self.write_mode)  # type: ignore[arg-type]
            for _ in range(2)
        ]
        self.model = InMemoryStorage()
        self.studies: list[tuple[int, int]] = []  # ids in the model and in Redis, also deleted ones
        self.trials: list[tuple[int, int]] = []
        self.objectives: dict[int, int] = {}
        self.unsent: dict[tuple[int, int], int] = {}  # a trial, and the client that wrote to it
        self.seen: list[tuple[FrozenTrial, str]] = []

    # The machinery.

    def study(self, index: int) -> tuple[int, int]:
        known = [*self.studies, (UNKNOWN, UNKNOWN)]
        return known[index % len(known)]

    def trial(self, index: int) -> tuple[int, int]:
        known = [*self.trials, (UNKNOWN, UNKNOWN)]
        return known[index % len(known)]

    def send(self, but_of: tuple[int, int] | None = None) -> None:
        """Have what a client holds back sent, as it would be after 50 ms."""
        for trial, client in list(self.unsent.items()):
            if trial != but_of:
                del self.unsent[trial]
                outcome(lambda c=client, t=trial: self.clients[c].get_trial(t[1]))

    def same(
        self, on_model: Callable[[BaseStorage], Any], on_redis: Callable[[BaseStorage], Any], c: int
    ) -> tuple[Any, Any]:
        expected = outcome(lambda: on_model(self.model))
        found = outcome(lambda: on_redis(self.clients[c]))
        if isinstance(expected, Raised) or isinstance(found, Raised):
            assert isinstance(expected, Raised), f"unexpected {found}"
            assert isinstance(found, Raised), f"expected {expected}, found {found!r}"
            assert kinds(expected.error) == kinds(found.error), f"{expected} {found}"
        return expected, found

    def equal(
        self, study: tuple[int, int], c: int, call: Callable[[BaseStorage, int], Any]
    ) -> None:
        self.send()
        expected, found = self.same(lambda s: call(s, study[0]), lambda s: call(s, study[1]), c)
        if not isinstance(expected, Raised):
            assert repr(expected) == repr(found)

    def write(
        self, index: int, c: int, at_once: bool, call: Callable[[BaseStorage, int], None]
    ) -> None:
        """Writes that may travel later: what is wrong with one shows at the next, at the latest."""
        trial = self.trial(index)
        mine = self.unsent.get(trial) == c
        self.send(but_of=trial if mine else None)
        valid = not isinstance(expected := outcome(lambda: call(self.model, trial[0])), Raised)

        def on_redis() -> None:
            call(self.clients[c], trial[1])
            if at_once or not valid:
                self.clients[c].get_trial(trial[1])
            if not valid:
                # Another client has finished the trial, and this one had not heard of it: what it
                # held back is dropped when it is sent, and now it knows.
                call(self.clients[c], trial[1])

        found = outcome(on_redis)
        if isinstance(expected, Raised) or isinstance(found, Raised):
            assert isinstance(expected, Raised), f"unexpected {found}"
            assert isinstance(found, Raised), f"expected {expected}, found {found!r}"
            assert kinds(expected.error) == kinds(found.error), f"{expected} {found}"
        if valid and not at_once:
            self.unsent[trial] = c

    # Studies.

    @rule(name=names, two=st.booleans(), maximize=st.booleans(), c=clients)
    def create_study(self, name: str, two: bool, maximize: bool, c: int) -> None:
        directions = [StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE] * (1 + two)
        ids = self.same(*[lambda s: s.create_new_study(directions, name)] * 2, c)
        if not isinstance(ids[0], Raised):
            assert ids[1] not in [known for _, known in self.studies], "an id was given twice"
            self.studies.append(ids)
            self.objectives[ids[0]] = len(directions)

    @rule(index=some, c=clients)
    def delete_study(self, index: int, c: int) -> None:
        self.send()
        study = self.study(index)
        self.same(lambda s: s.delete_study(study[0]), lambda s: s.delete_study(study[1]), c)

    @rule(index=some, key=names, value=json_values, system=st.booleans(), c=clients)
    def set_study_attr(self, index: int, key: str, value: Any, system: bool, c: int) -> None:
        study, method = self.study(index), f"set_study_{'system' if system else 'user'}_attr"
        self.same(
            lambda s: getattr(s, method)(study[0], key, copy.deepcopy(value)),
            lambda s: getattr(s, method)(study[1], key, value),
            c,
        )

    @rule(index=some, name=names, c=clients)
    def read_study(self, index: int, name: str, c: int) -> None:
        study = self.study(index)
        self.equal(study, c, lambda s, i: s.get_study_name_from_id(i))
        self.equal(study, c, lambda s, i: s.get_study_directions(i))
        self.equal(study, c, lambda s, i: sorted(s.get_study_user_attrs(i).items()))
        self.equal(study, c, lambda s, i: sorted(s.get_study_system_attrs(i).items()))
        self.equal(study, c, lambda s, i: sorted(f.study_name for f in s.get_all_studies()))
        model, redis = self.same(*[lambda s: s.get_study_id_from_name(name)] * 2, c)
        assert isinstance(model, Raised) or (model, redis) in self.studies

    # Trials.

    @rule(index=some, c=clients)
    def create_trial(self, index: int, c: int) -> None:
        self.add_trial(index, None, c)

    @rule(
        index=some,
        c=clients,
        state=st.sampled_from(TrialState),
        values=st.lists(numbers, min_size=2, max_size=2),
        attrs=st.dictionaries(names, json_values, max_size=2),
        reports=st.dictionaries(st.integers(0, 9), st.floats(), max_size=2),
    )
    def create_trial_from_template(
        self,
        index: int,
        c: int,
        state: TrialState,
        values: list[float],
        attrs: dict[str, Any],
        reports: dict[int, float],
    ) -> None:
        values = values[: self.objectives.get(self.study(index)[0], 1)]
        template = create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            # Of its own name: InMemoryStorage alone does not compare later ones with a template's.
            params={"t": 0.5},
            distributions={"t": FloatDistribution(0, 1)},
            user_attrs=attrs,
            system_attrs=attrs,
            intermediate_values=reports,
        )
        if state != TrialState.WAITING:
            template.datetime_start = datetime(2020, 1, 2, 3, 4, 5, 678)  # noqa: DTZ001 -- as Optuna's
        self.add_trial(index, template, c)

    def add_trial(self, index: int, template: FrozenTrial | None, c: int) -> None:
        study = self.study(index)
        self.send()
        ids = self.same(
            lambda s: s.create_new_trial(study[0], copy.deepcopy(template)),
            lambda s: s.create_new_trial(study[1], template),
            c,
        )
        if not isinstance(ids[0], Raised):
            assert ids[1] not in [known for _, known in self.trials], "an id was given twice"
            self.trials.append(ids)

    @rule(index=some, parameter=parameters, at_once=st.booleans(), c=clients)
    def set_param(
        self, index: int, parameter: tuple[str, float, BaseDistribution], at_once: bool, c: int
    ) -> None:
        self.write(index, c, at_once, lambda s, i: s.set_trial_param(i, *parameter))

    @rule(index=some, step=st.integers(0, 9), value=st.floats(), at_once=st.booleans(), c=clients)
    def report(self, index: int, step: int, value: float, at_once: bool, c: int) -> None:
        self.write(index, c, at_once, lambda s, i: s.set_trial_intermediate_value(i, step, value))

    @rule(
        index=some,
        key=names,
        value=json_values,
        system=st.booleans(),
        at_once=st.booleans(),
        c=clients,
    )
    def set_attr(
        self, index: int, key: str, value: Any, system: bool, at_once: bool, c: int
    ) -> None:
        method = f"set_trial_{'system' if system else 'user'}_attr"
        self.write(index, c, at_once, lambda s, i: getattr(s, method)(i, key, copy.deepcopy(value)))

    @rule(
        index=some,
        state=st.sampled_from([s for s in TrialState if s != TrialState.WAITING]),
        values=st.lists(numbers, min_size=2, max_size=2),
        c=clients,
    )
    def set_state(self, index: int, state: TrialState, values: list[float], c: int) -> None:
        trial = self.trial(index)
        # A client takes along what it holds back itself.
        self.send(but_of=trial if self.unsent.get(trial) == c else None)
        self.unsent.pop(trial, None)
        told = None
        if state == TrialState.COMPLETE:
            study = outcome(lambda: self.model._trial_id_to_study_id_and_number[trial[0]][0])
            told = values[: self.objectives.get(study, 1)]
        answers = self.same(
            lambda s: s.set_trial_state_values(trial[0], state, told),
            lambda s: s.set_trial_state_values(trial[1], state, told),
            c,
        )
        assert isinstance(answers[0], Raised) or answers[0] is answers[1]

    @precondition(lambda self: self.studies)
    @rule(index=some, c=clients)
    def pop_waiting(self, index: int, c: int) -> None:
        study = self.study(index)
        self.send()

        def pop(storage: BaseStorage, study_id: int) -> int | None:
            for trial in storage.get_all_trials(study_id, deepcopy=False, states={WAITING}):
                assert storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
                return trial.number
            return None

        self.equal(study, c, pop)

    @rule(index=some, c=clients, name=st.sampled_from(["x", "y", "c", "t", "nobody's"]))
    def read_trial(self, index: int, c: int, name: str) -> None:
        trial = self.trial(index)
        self.equal(trial, c, lambda s, i: plain(self.keep(s.get_trial(i))))
        self.equal(trial, c, lambda s, i: s.get_trial_number_from_id(i))
        self.equal(trial, c, lambda s, i: s.get_trial_param(i, name))
        self.equal(trial, c, lambda s, i: sorted(s.get_trial_params(i).items()))
        self.equal(trial, c, lambda s, i: sorted(s.get_trial_user_attrs(i).items()))
        self.equal(trial, c, lambda s, i: sorted(s.get_trial_system_attrs(i).items()))

    @rule(
        index=some,
        c=clients,
        deep=st.booleans(),
        states=st.none() | st.sets(st.sampled_from(TrialState)),
        number=st.integers(0, 5),
    )
    def read_trials(
        self, index: int, c: int, deep: bool, states: set[TrialState] | None, number: int
    ) -> None:
        study = self.study(index)

        def all_trials(storage: BaseStorage, study_id: int) -> list[str]:
            trials = storage.get_all_trials(study_id, deepcopy=deep, states=states)
            return [plain(self.keep(trial)) for trial in trials]

        self.equal(study, c, all_trials)
        self.equal(study, c, lambda s, i: [plain(trial) for trial in trials_view(s, i)])
        self.equal(study, c, lambda s, i: [plain(trial) for trial in trials_view(s, i)[number:]])
        self.equal(study, c, lambda s, i: s.get_n_trials(i))
        self.equal(study, c, lambda s, i: s.get_n_trials(i, state=TrialState.COMPLETE))
        self.equal(study, c, lambda s, i: plain(s.get_best_trial(i)))
        ids = self.same(
            lambda s: s.get_trial_id_from_study_id_trial_number(study[0], number),
            lambda s: s.get_trial_id_from_study_id_trial_number(study[1], number),
            c,
        )
        assert isinstance(ids[0], Raised) or ids in self.trials

    def keep(self, trial: FrozenTrial) -> FrozenTrial:
        self.seen.append((trial, plain(trial)))
        return trial

    def teardown(self) -> None:
        self.send()
        for model, redis in self.studies:
            for c in (0, 1):
                self.equal((model, redis), c, lambda s, i: [plain(t) for t in s.get_all_trials(i)])
        for trial, as_it_was in self.seen:
            assert plain(trial) == as_it_was, "what was returned has changed later"
        for client in self.clients:
            client.close()


WAITING = TrialState.WAITING


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("write_mode", ["buffered", "strict"])
def test_whatever_is_called_redis_and_memory_say_the_same(
    write_mode: str, server: RedisServer
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    machine = type("Machine", (BothStorages,), {"url": server.url, "write_mode": write_mode})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            # Making an example smaller may take minutes here; the one that was found has few steps.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
