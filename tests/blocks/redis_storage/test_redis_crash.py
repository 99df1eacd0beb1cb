"""Clients and the server are killed at random under load, and the history is still true.

A short run in the suite. For a long one, which prints its seed, see CONTRIBUTING.md:

    REDIS_CRASH_SECONDS=600 REDIS_CRASH_SEED=1 .venv/bin/python -m pytest -s \
        tests/blocks/redis_storage/test_redis_crash.py --timeout=900
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from redis_servers import RedisServer
from servers import wait_until
from storages_under_test import redis_storage

from prefect_optuna.blocks.testing import Attempt, Crew, History, violations
from prefect_optuna.blocks.testing.processes import fail_stale_trials, mixed_load, open_study

SECONDS = float(os.environ.get("REDIS_CRASH_SECONDS", "4"))
SEED = int(os.environ.get("REDIS_CRASH_SEED", "1"))
WORKERS = 6


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_kills_of_clients_and_of_the_server_lose_nothing_and_run_nothing_twice(
    tmp_path: Path,
) -> None:
    print(f"REDIS_CRASH_SEED={SEED} REDIS_CRASH_SECONDS={SECONDS:g}")
    rng = random.Random(SEED)
    logs: list[Path] = []
    stop = tmp_path / "stop"
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        connect = redis_storage(server).connect_with_heartbeat
        assert connect is not None
        connect().create_new_study([StudyDirection.MINIMIZE], "crash")
        with Crew(connect) as crew:

            def send() -> int:
                logs.append(tmp_path / f"w{len(logs)}.log")
                seed = rng.randrange(1_000_000)
                return crew.send(mixed_load, "crash", logs[-1], stop, seed, True)

            def written() -> int:
                return sum(log.stat().st_size for log in logs if log.exists())

            workers = [send() for _ in range(WORKERS)]
            kills = {"server": 0, "client": 0}
            end = time.monotonic() + SECONDS
            while time.monotonic() < end or not all(kills.values()):
                before, enough = written(), rng.randrange(500, 10_000)
                wait_until(
                    lambda before=before, enough=enough: written() > before + enough,
                    what="the clients get on with their work",
                )
                if rng.random() < 0.4:
                    kills["server"] += 1
                    server.kill()
                    server.start()
                else:
                    kills["client"] += 1
                    crew.kill(workers.pop(rng.randrange(WORKERS)))
                    workers.append(send())
            stop.touch()
            crew.answers(limit=60)
        study = open_study(connect(), "crash")
        recover(study)
        found = violations(
            map(History.read, logs), study.get_trials(), study.user_attrs, recovered=True
        )
        trials = study.get_trials(deepcopy=False)
        print(kills, f"{len(trials)} trials")
        assert not found, f"REDIS_CRASH_SEED={SEED}: " + "\n".join(found)
        again = [t.system_attrs["failed_trial"] for t in trials if "failed_trial" in t.system_attrs]
        assert len(again) == len(set(again)), "a stale trial was tried again more than once"
        assert len(trials) > 50


def recover(study: Study) -> None:
    """Fail what nobody works on any more, as the next `Study.optimize` would."""

    def none_is_running() -> bool:
        fail_stale_trials(study)
        return not study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    with suppress(TimeoutError):  # the history says which
        wait_until(none_is_running, what="every trial that was left running is failed")


# The harness sees what it is there to see.


def finished(number: int, value: float = 1.0, **attrs: object) -> FrozenTrial:
    trial = create_trial(value=value, user_attrs=attrs)
    trial.number = number
    return trial


def in_state(number: int, state: TrialState) -> FrozenTrial:
    trial = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None)
    trial.number = number
    return trial


ASKED = Attempt("ask", answered=True, number=0)
TOLD = Attempt("tell", answered=True, number=0, value=1.0)


def test_a_true_history_has_no_violations() -> None:
    assert violations([History([ASKED, TOLD])], [finished(0)]) == []


def test_what_had_no_answer_may_have_happened_or_not() -> None:
    history = History([ASKED, Attempt("tell", number=0, value=1.0)])
    assert violations([history], [finished(0)]) == []
    assert violations([history], [in_state(0, TrialState.RUNNING)]) == []
    assert violations([History([Attempt("ask")])], []) == []
    assert violations([History([Attempt("ask")])], [in_state(0, TrialState.RUNNING)]) == []


@pytest.mark.parametrize(
    ("attempts", "trials", "sentence"),
    [
        ([ASKED, TOLD], [in_state(0, TrialState.RUNNING)], "was told COMPLETE, and is RUNNING"),
        ([ASKED, TOLD], [finished(0, 2.0)], "is not what was told"),
        ([ASKED, TOLD], [], "given to a worker, and is not there"),
        ([ASKED, ASKED, TOLD], [finished(0)], "was given to 2 workers"),
        ([ASKED], [finished(0)], "is complete, and nobody has told it"),
        ([], [in_state(0, TrialState.RUNNING)], "no worker got them"),
        ([ASKED, TOLD], [finished(1)], "trial 0 has the number 1"),
        ([Attempt("enqueue", answered=True, tag="a")], [], "a was enqueued, and is gone"),
        (
            [ASKED, TOLD, Attempt("ask", answered=True, number=1),
             Attempt("tell", answered=True, number=1, value=1.0), Attempt("enqueue", tag="a")],
            [finished(0, enqueued="a"), finished(1, enqueued="a")],
            "was enqueued once, and is there 2 times",
        ),
        ([Attempt("attribute", answered=True, tag="k", value=2)], [], "not one of"),
        (
            [ASKED, Attempt("tell", answered=True, number=0, value=1.0, tag="a")],
            [finished(0, tag="b")],
            "is not what was told",
        ),
    ],
)  # fmt: skip
def test_a_history_that_cannot_be_true_is_found_out(
    attempts: list[Attempt], trials: list[FrozenTrial], sentence: str
) -> None:
    found = violations([History(attempts)], trials, {"k": 1})
    assert any(sentence in violation for violation in found), found


def test_a_trial_that_is_left_running_after_the_recovery_is_found_out() -> None:
    trials = [in_state(0, TrialState.RUNNING)]
    assert violations([History([ASKED])], trials, recovered=True) == ["trial 0 is running for ever"]


def test_where_the_first_heartbeat_comes_after_the_ask_a_kill_in_between_leaves_a_trial() -> None:
    trials, of_optuna = [in_state(0, TrialState.RUNNING)], {"heartbeat_on_ask": False}
    assert violations([History([ASKED])], trials, recovered=True, **of_optuna) == []
    history = History([ASKED, Attempt("beat", answered=True, number=0)])
    assert violations([history], trials, recovered=True, **of_optuna) != []
