"""Each kind of key is damaged in turn: `check` names it, and `repair` mends it or gives it up."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
import redis
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from redis_servers import RedisServer, redis_cluster

from prefect_optuna.blocks import RedisStudyStorage, StorageUnavailableError
from prefect_optuna.blocks.redis_storage import RedisReport, RedisStorage, check, repair
from prefect_optuna.blocks.redis_storage.layout import Registry, StudyKeys
from prefect_optuna.errors import DamagedStorageError

SPACE = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}


class Lab:
    """A namespace with two studies, of which one has trials in every state."""

    def __init__(self, url: str, client: Any, namespace: str) -> None:
        self.url, self.client, self.namespace = url, client, namespace
        self.registry = Registry(namespace)
        with closing(self.open()) as storage:
            study = optuna.create_study(storage=storage, study_name="main", direction="maximize")
            study.set_user_attr("who", "lab")
            for value in (0.5, 1.5, 2.5):
                trial = study.ask(SPACE)
                trial.set_user_attr("note", "fine")
                study.tell(trial, value)
            study.tell(study.ask(SPACE), state=TrialState.FAIL)
            running = study.ask(SPACE)
            running.set_user_attr("so far", 1)
            running.report(0.25, 3)
            study.enqueue_trial({"x": 0.5})
            self.keys = StudyKeys(namespace, study._study_id)
            optuna.create_study(storage=storage, study_name="other").ask(SPACE)
        self.before = self.trials()

    def open(self) -> RedisStorage:
        return RedisStorage(self.url, namespace=self.namespace)

    def trials(self) -> list[FrozenTrial]:
        """What a new client reads."""
        with closing(self.open()) as storage:
            return optuna.load_study(study_name="main", storage=storage).trials

    def check(self) -> RedisReport:
        return check(self.url, namespace=self.namespace)

    def repair(self, **options: Any) -> RedisReport:
        return repair(self.url, namespace=self.namespace, **options)

    def keys_there(self) -> set[str]:
        return {key.decode() for key in self.client.scan_iter(match=f"{{{self.namespace}*")}


@pytest.fixture
def lab(redis_server: str) -> Generator[Lab]:
    with closing(redis.Redis.from_url(redis_server)) as client:
        yield Lab(redis_server, client, f"maintained-{uuid4()}")


def garble(lab: Lab, key: str) -> None:
    """Another type, with text that nobody can read."""
    lab.client.delete(key)
    lab.client.set(key, b"\xff garbage")


# What each damage does to a key, and which trials are no longer what they were.
DAMAGE: dict[str, tuple[Callable[[Lab], Any], set[int]]] = {
    "the registry is gone": (lambda lab: lab.client.delete(lab.registry.root), set()),
    "the registry is garbage": (lambda lab: garble(lab, lab.registry.root), set()),
    "the registry's format is gone": (
        lambda lab: lab.client.hdel(lab.registry.root, "format"),
        set(),
    ),
    "the registry counts too low": (
        lambda lab: lab.client.hset(lab.registry.root, "next", 0),
        set(),
    ),
    "the registry's counter is garbage": (
        lambda lab: lab.client.hset(lab.registry.root, "next", "many"),
        set(),
    ),
    "the names are gone": (lambda lab: lab.client.delete(lab.registry.names), set()),
    "the names are garbage": (lambda lab: garble(lab, lab.registry.names), set()),
    "a name leads nowhere": (
        lambda lab: lab.client.hset(lab.registry.names, "ghost", 99),
        set(),
    ),
    "a name leads to another study": (
        lambda lab: lab.client.hset(lab.registry.names, "main", 2),
        set(),
    ),
    "the studies are gone": (lambda lab: lab.client.delete(lab.registry.studies), set()),
    "the studies are garbage": (lambda lab: garble(lab, lab.registry.studies), set()),
    "the studies have a ghost": (
        lambda lab: lab.client.hset(lab.registry.studies, 99, "ghost"),
        set(),
    ),
    "a study lacks its name": (lambda lab: lab.client.hdel(lab.keys.meta, "name"), set()),
    "a study counts too low": (lambda lab: lab.client.hset(lab.keys.meta, "next", 2), set()),
    "a study counts too high": (lambda lab: lab.client.hset(lab.keys.meta, "next", 10**9), set()),
    "a study's counter is gone": (lambda lab: lab.client.hdel(lab.keys.meta, "next"), set()),
    "a study's version is garbage": (
        lambda lab: lab.client.hset(lab.keys.meta, "version", "new"),
        set(),
    ),
    "a study's version is gone": (lambda lab: lab.client.hdel(lab.keys.meta, "version"), set()),
    "the log is gone": (lambda lab: lab.client.delete(lab.keys.log), set()),
    "the log is of another type": (lambda lab: garble(lab, lab.keys.log), set()),
    "the log has garbage at its end": (
        lambda lab: lab.client.rpush(lab.keys.log, b"\xff"),
        set(),
    ),
    "the log has an entry that no storage has written": (
        lambda lab: lab.client.lset(lab.keys.log, 2, "operation\tc0\no\t4\tnot JSON"),
        set(),
    ),
    "the kinds are gone": (lambda lab: lab.client.delete(lab.keys.kinds), set()),
    "the kinds are garbage": (lambda lab: garble(lab, lab.keys.kinds), set()),
    "a kind is wrong": (lambda lab: lab.client.hset(lab.keys.kinds, '"px"', "I0"), set()),
    "a distribution is gone, and another study has it": (
        lambda lab: lab.client.delete(lab.keys.distributions),
        set(),
    ),
    "the heartbeats are garbage": (lambda lab: garble(lab, lab.keys.heartbeats), set()),
    "a heartbeat of nobody": (lambda lab: lab.client.zadd(lab.keys.heartbeats, {"77": 1}), set()),
    "a finished trial is garbage": (
        lambda lab: lab.client.lset(lab.keys.finished, 1, b"\xff"),
        {1},
    ),
    "a finished trial is gone": (lambda lab: lab.client.rpop(lab.keys.finished), {3}),
    "a finished trial is there twice": (
        lambda lab: lab.client.rpush(
            lab.keys.finished, *lab.client.lrange(lab.keys.finished, 0, 0)
        ),
        set(),
    ),
    "all finished trials are gone": (
        lambda lab: lab.client.delete(lab.keys.finished),
        {0, 1, 2, 3},
    ),
    "the finished trials are of another type": (
        lambda lab: garble(lab, lab.keys.finished),
        {0, 1, 2, 3},
    ),
    "a finished trial is alive as well": (
        lambda lab: lab.client.hset(
            lab.keys.live, 0, next(iter(lab.client.hgetall(lab.keys.live).values()))
        ),
        set(),
    ),
    "a live trial is garbage": (lambda lab: lab.client.hset(lab.keys.live, 4, b"\xff"), {4}),
    "the live trials are gone": (lambda lab: lab.client.delete(lab.keys.live), {4, 5}),
    "the live trials are of another type": (lambda lab: garble(lab, lab.keys.live), {4, 5}),
    "a live trial has a name for a number": (
        lambda lab: lab.client.hset(lab.keys.live, "four", "R"),
        set(),
    ),
    "a live trial has a field that is garbage": (
        lambda lab: lab.client.hset(lab.keys.trial(4), b"\xff", b"\xff"),
        set(),
    ),
    "what was set on a live trial is of another type": (
        lambda lab: garble(lab, lab.keys.trial(4)),
        {4},
    ),
    "the key of a trial that nobody has made": (
        lambda lab: lab.client.hset(lab.keys.trial(99), '"unote"', "0 1"),
        set(),
    ),
    "an attribute is garbage": (lambda lab: lab.client.hset(lab.keys.user, "raw", b"\xff"), set()),
    "the attributes are of another type": (lambda lab: garble(lab, lab.keys.system), set()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_mended_and_what_was_whole_stays_as_it_was(name: str, lab: Lab) -> None:
    damage, changed = DAMAGE[name]
    damage(lab)
    found = lab.check()
    assert not found.ok, str(found)
    assert {problem.kind for problem in found.problems} == {"damaged"}, str(found)
    assert lab.check() == found, "looking changes nothing"

    done = lab.repair()

    assert done.repaired
    assert done.ok, str(done)
    assert lab.check().ok, str(lab.check())
    after = lab.trials()
    assert len(after) == len(lab.before)
    for number, (trial, before) in enumerate(zip(after, lab.before, strict=True)):
        assert (trial == before) is (number not in changed), f"trial {number}: {trial}"
    with closing(lab.open()) as storage:
        study = optuna.load_study(study_name="main", storage=storage)
        assert study.user_attrs == {"who": "lab"}
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert len(study.trials) >= len(lab.before) + 1
        assert {s.study_name for s in storage.get_all_studies()} == {"main", "other"}


def test_a_healthy_namespace_has_no_problems_and_repairing_it_writes_nothing(lab: Lab) -> None:
    with closing(lab.open()) as storage:
        # What a finished trial is made with may be of another kind than what the others suggest.
        any_trial = optuna.trial.create_trial(
            params={"x": 3}, distributions={"x": IntDistribution(1, 9)}, value=1.0
        )
        optuna.load_study(study_name="main", storage=storage).add_trial(any_trial)
    before = {key: lab.client.dump(key) for key in lab.keys_there()}
    report = lab.check()
    assert report.ok
    assert report.problems == ()
    assert (report.studies, report.trials) == (2, 8)
    assert lab.repair() == report
    assert {key: lab.client.dump(key) for key in lab.keys_there()} == before


def test_a_namespace_that_is_not_there_is_healthy_and_stays_away(lab: Lab) -> None:
    report = check(lab.url, namespace="nobody's")
    assert (report.ok, report.studies) == (True, 0)
    assert repair(lab.url, namespace="nobody's").repaired == ()
    assert lab.client.keys("*nobody's*") == []


def test_every_damage_at_once_is_mended_too(lab: Lab) -> None:
    lab.client.delete(lab.registry.root, lab.registry.names, lab.registry.studies, lab.keys.log)
    lab.client.lset(lab.keys.finished, 2, "?")
    lab.client.hset(lab.keys.live, 5, "?")
    lab.client.hset(lab.keys.meta, "next", "?")
    assert not lab.check().ok
    assert lab.repair().ok
    after = lab.trials()
    assert [after[n] for n in (0, 1, 3, 4)] == [lab.before[n] for n in (0, 1, 3, 4)]
    assert [after[n].state for n in (2, 5)] == [TrialState.FAIL] * 2


def test_a_trial_that_was_replaced_says_so_and_keeps_what_its_own_key_told(lab: Lab) -> None:
    lab.client.hset(lab.keys.live, 4, b"\xff")
    lab.repair()
    trial = lab.trials()[4]
    assert trial.state == TrialState.FAIL
    assert "replaced" in trial.user_attrs["redis:damaged"]
    assert trial.user_attrs["so far"] == 1
    assert trial.intermediate_values == {3: 0.25}
    assert trial.params == lab.before[4].params
    trial._validate()


def test_what_cannot_be_read_is_set_aside(lab: Lab) -> None:
    (record,) = lab.client.lrange(lab.keys.finished, 1, 1)
    lab.client.lset(lab.keys.finished, 1, record[:-3])
    lab.repair()
    (aside,) = [key for key in lab.keys_there() if ":damaged-" in key]
    assert aside.startswith(lab.keys.finished)
    assert lab.client.lrange(aside, 0, -1) == [record[:-3]]


def test_a_client_that_was_open_reads_the_repaired_study_again(lab: Lab) -> None:
    with closing(lab.open()) as storage:
        study = optuna.load_study(study_name="main", storage=storage)
        assert len(study.trials) == 6
        lab.client.hset(lab.keys.live, 4, b"\xff")
        lab.repair()
        assert [t.state for t in study.trials] == [t.state for t in lab.trials()]


def test_a_study_that_is_half_deleted_is_deleted_whole(lab: Lab) -> None:
    lab.client.hset(lab.keys.meta, "deleted", "1")
    assert not lab.check().ok
    assert lab.repair().ok
    assert not {key for key in lab.keys_there() if key.startswith(lab.keys.prefix)}
    with closing(lab.open()) as storage:
        assert [s.study_name for s in storage.get_all_studies()] == ["other"]


def test_keys_of_a_study_that_nobody_knows_are_removed_when_there_is_nothing_in_them(
    lab: Lab,
) -> None:
    orphan = StudyKeys(lab.namespace, 7)
    lab.client.hset(orphan.trial(3), '"unote"', "0 1")
    lab.client.hset(orphan.kinds, '"px"', "F0")
    assert not lab.check().ok
    assert lab.repair().ok
    assert not {key for key in lab.keys_there() if key.startswith(orphan.prefix)}


def test_two_studies_of_one_name_are_told_apart(lab: Lab) -> None:
    lab.client.hset(StudyKeys(lab.namespace, 2).meta, "name", "main")
    assert lab.repair().ok
    with closing(lab.open()) as storage:
        names = [s.study_name for s in storage.get_all_studies()]
        assert names == ["main", "main (recovered 2)"]
        assert len(optuna.load_study(study_name=names[1], storage=storage).trials) == 1
    assert lab.trials() == lab.before


def test_lost_distributions_are_lost_unless_somebody_still_has_them(lab: Lab) -> None:
    for study_id in (1, 2):
        lab.client.delete(StudyKeys(lab.namespace, study_id).distributions)
    report = lab.repair()
    assert not report.ok
    assert {problem.kind for problem in report.problems} == {"lost"}
    assert "pass the distributions of your search space" in str(report)
    with pytest.raises(DamagedStorageError, match="distribution"):
        lab.trials()
    assert lab.repair(distributions=SPACE.values()).ok
    assert lab.trials() == lab.before


def test_lost_directions_are_lost_and_the_report_says_how_to_set_them(lab: Lab) -> None:
    lab.client.delete(lab.keys.meta)
    report = lab.repair()
    (problem,) = report.problems
    assert (problem.kind, problem.key) == ("lost", lab.keys.meta)
    assert "HSET" in problem.remedy
    lab.client.hset(lab.keys.meta, "directions", json.dumps([2]))
    assert lab.repair().ok
    assert lab.trials() == lab.before


def test_a_worker_that_has_been_silent_is_named_and_is_no_damage(lab: Lab) -> None:
    lab.client.zadd(lab.keys.heartbeats, {"4": 1})
    report = lab.check()
    assert report.ok
    (problem,) = report.problems
    assert problem.kind == "stale"
    assert "trial 4" in str(report)
    assert lab.repair().repaired == ()


def test_a_newer_format_and_somebody_else_s_key_are_left_alone(lab: Lab) -> None:
    lab.client.hset(lab.registry.root, "format", 9)
    newer = lab.repair()
    assert [p.kind for p in newer.problems] == ["lost"]
    assert "format 9" in str(newer)
    assert lab.client.hget(lab.registry.root, "format") == b"9"
    root = Registry(other := f"theirs-{uuid4()}").root
    lab.client.set(root, "mine")
    theirs = repair(lab.url, namespace=other)
    assert [p.kind for p in theirs.problems] == ["lost"]
    assert lab.client.get(root) == b"mine"


def test_a_write_between_looking_and_mending_is_not_overwritten(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_optuna.blocks.redis_storage.server import Server
    from prefect_optuna.blocks.redis_storage.study_check import MEND

    lab.client.delete(lab.keys.kinds)
    run, writes, answers = Server.run, [], []

    def run_late(self: Server, script: Any, *arguments: Any, **options: Any) -> Any:
        if script is MEND and not writes:
            with closing(lab.open()) as storage:
                study = optuna.load_study(study_name="main", storage=storage)
                writes.append(study.ask(SPACE).number)
        answer = run(self, script, *arguments, **options)
        if script is MEND:
            answers.append(answer)
        return answer

    monkeypatch.setattr(Server, "run", run_late)
    assert lab.repair().ok
    assert writes == [5]
    assert answers[0] == 0, "what was to be mended is not as it was seen"
    assert lab.trials()[5].state == TrialState.RUNNING


def test_a_study_that_others_write_to_is_not_called_damaged(lab: Lab) -> None:
    looks: list[RedisReport] = []

    def look(_study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.number % 8 == 0:
            looks.append(lab.check())

    with closing(lab.open()) as one, closing(lab.open()) as other, ThreadPoolExecutor(1) as pool:
        busy, looking = (optuna.load_study(study_name="main", storage=s) for s in (one, other))

        def objective(trial: optuna.Trial) -> float:
            value = trial.suggest_float("x", 0, 1)
            trial.report(value, 1)
            trial.set_user_attr("large", "x" * 2000)
            return value

        running = pool.submit(busy.optimize, objective, n_trials=60)
        looking.optimize(objective, n_trials=60, callbacks=[look])
        running.result()
    assert looks
    assert all(report.ok for report in looks), [str(report) for report in looks if not report.ok]


def test_a_name_with_signs_of_a_pattern_is_only_a_name(lab: Lab) -> None:
    odd = Lab(lab.url, lab.client, "l*[a-z]?\\\\b" + uuid4().hex)
    lab.client.delete(lab.keys.kinds)
    assert odd.check().ok
    odd.client.delete(odd.registry.names, odd.registry.studies)
    assert odd.check().studies == 2
    assert odd.repair().ok
    assert odd.trials() == odd.before
    assert not lab.check().ok


def test_a_storage_and_a_block_can_be_checked_and_repaired(lab: Lab) -> None:
    with closing(lab.open()) as storage:
        lab.client.delete(lab.keys.kinds)
        assert not check(storage).ok
        block = RedisStudyStorage(url=lab.url, namespace=lab.namespace)
        assert block.check() == check(storage)
        assert block.repair().repaired
        assert repair(storage).ok


def test_a_cluster_is_checked_and_repaired(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as url:
        host = url.removeprefix("redis+cluster://").split(":")
        with closing(redis.RedisCluster(host=host[0], port=int(host[1]))) as client:
            lab = Lab(url, client, "lab")
            assert lab.check().ok
            client.delete(lab.registry.names)
            client.lset(lab.keys.finished, 0, "?")
            client.hset(StudyKeys("lab", 2).meta, "deleted", 1)
            assert not lab.check().ok
            assert lab.repair().ok
            assert lab.trials()[1:] == lab.before[1:]


def test_looking_needs_a_server_and_shows_no_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="hunter2") as server:
        url = server.url
        assert check(url).ok
        with pytest.raises(StorageUnavailableError) as caught:
            check(url.replace("hunter2", "wrong-hunter2"))
    assert "hunter2" not in str(caught.value)
