"""The check of a history finds what it is there for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.history import POINTS, find_wrong, idle_seconds


def trial(number: int, **changes: Any) -> dict[str, Any]:
    x = number / 10
    return {
        "number": number,
        "state": "COMPLETE",
        "lost": False,
        "value": x,
        "x": x,
        "began": 10.0 * number,
        "ended": 10.0 * number + 9,
        "session": "a",
        "repeats": [],
        "error": None,
        "series": [POINTS, x],
        **changes,
    }


def history(*changed: dict[str, Any]) -> dict[str, Any]:
    trials = {t["number"]: t for t in [*(trial(n) for n in range(3)), *changed]}
    return {"state": "completed", "trials": list(trials.values()), "late": [], "sessions": {}}


def computed(x: float, at: float = 100.0) -> dict[str, list[dict[str, Any]]]:
    return {"m": [{"kind": "computed", "at": at, "number": 0, "x": x}]}


def told(value: float) -> dict[str, list[dict[str, Any]]]:
    return {"m": [{"kind": "told", "at": 1.0, "number": 0, "value": value, "state": "COMPLETE"}]}


def test_a_history_that_is_right_is_right() -> None:
    wrong, counts = find_wrong(history(), {**computed(0.1), **told(0.0)}, {}, 3)
    assert wrong == []
    assert counts["finished"] == 3


@pytest.mark.parametrize(
    ("given", "notes", "word"),
    [
        (history(trial(3)), {}, "3 trials were asked for"),
        (history(trial(2, state="FAIL", error="S3 is away")), {}, "S3 is away"),
        (history(trial(3, state="RUNNING")), {}, "left in the queue or running"),
        (history(trial(2, repeats=[1])), {}, "told both"),
        (history(trial(2, broken="DigestError")), {}, "DigestError"),
        (history(trial(2, series=[POINTS, 0.7])), {}, "another one's"),
        ({**history(), "state": "interrupted"}, {}, "'interrupted'"),
        (history(), computed(0.77), "that is nowhere"),
        (history(), told(0.77), "was told as 0.77, and is not"),
    ],
)
def test_what_is_wrong_is_found(
    given: dict[str, Any], notes: dict[str, list[dict[str, Any]]], word: str
) -> None:
    (wrong,) = find_wrong(given, notes, {}, 3)[0]
    assert word in wrong


@pytest.mark.parametrize(
    ("killed", "full", "is_lost"),
    [
        ([102.0], [], False),  # it was about to tell
        ([110.0], [], True),
        ([99.0], [], True),  # before it was computed
        ([110.0], [(90.0, 120.0)], False),  # it could not be put down
        ([], [(90.0, 120.0)], True),
        ([110.0], [(20.0, 30.0)], True),
    ],
)
def test_only_what_a_kill_may_have_taken_is_excused(
    killed: list[float], full: list[tuple[float, float]], is_lost: bool
) -> None:
    wrong, _ = find_wrong(history(), computed(0.77), {"m": killed}, 3, {"m": full})
    assert bool(wrong) == is_lost


def test_the_longest_time_in_which_a_worker_had_nothing_to_do() -> None:
    others: Callable[..., float] = idle_seconds
    given = history(trial(2, began=25.0, ended=34.0), trial(3, session="b", began=60.0, ended=61.0))
    assert others(given, "a") == 6.0
    assert others(given, "a", since=30.0) == 0.0
    assert others(given, "b") == 0.0


def test_without_docker_the_lab_says_what_to_install() -> None:
    lab = Path(__file__).with_name("lab.py")
    done = subprocess.run(
        [sys.executable, str(lab)], capture_output=True, text=True, env={"PATH": "/nowhere"}
    )
    assert done.returncode == 2
    assert "there is no `docker` on the PATH" in done.stderr
    assert "docker.io" in done.stderr
