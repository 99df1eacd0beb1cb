"""What a study has come to, as JSON, and whether that is as it has to be.

Run by itself in a container of the lab, which reaches the storages: it needs nothing but the
package.

    python history.py watch STUDY N    a line of JSON now and then, until nobody runs the study
                                       and N are finished, or nobody has run it for minutes
    python history.py dump STUDY       all of it
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

KILL_WINDOW = 3.0  # seconds in which a kill may take what has just been computed
POINTS = 600  # of each result: too many for the trial itself, so that it is a file in the archive
STORAGE, ARTIFACTS = "redis-study-storage/lab", "artifact-file-system/lab"
_LOOK_SECONDS = 0.25
_OVER, _GIVEN_UP = 8, 600  # looks at which nobody ran it

Json = dict[str, Any]


def dump(study: Any, archived: Any, *, results: bool = True) -> Json:
    """All that is checked and measured.

    Args:
        study: an Optuna study.
        archived: its archive.
        results: with the result of each trial, out of the archive.
    """
    from prefect_optuna.flows.session import (
        history_of,
        is_lost,
        owner_of,
        session_records,
        state_of,
    )

    trials = study.get_trials(deepcopy=False)
    told: list[Json] = []
    for trial in trials:
        one = {
            "number": trial.number,
            "state": trial.state.name,
            "lost": is_lost(trial),
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "x": trial.params.get("x"),
            "began": trial.datetime_start and trial.datetime_start.timestamp(),
            "ended": trial.datetime_complete and trial.datetime_complete.timestamp(),
            "session": owner_of(trial),
            "repeats": list(history_of(trial)),
            "error": trial.user_attrs.get("error"),
        }
        if results and trial.state.name == "COMPLETE":
            try:
                series = archived.result(trial.number)["series"]
                one["series"] = [len(series), *sorted({*map(float, series)})]
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                one["broken"] = f"{type(error).__name__}: {error}"
        told.append(one)
    return {
        "state": state_of(study, trials),
        "trials": told,
        "late": [{"number": t.number, "x": t.params.get("x")} for t in archived.late_trials()],
        "sessions": session_records(study),
    }


def find_wrong(
    history: Json,
    notes: Mapping[str, Sequence[Json]],
    killed: Mapping[str, Sequence[float]],
    n_trials: int,
    full: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Look through a history.

    Args:
        history: what `dump` says.
        notes: what each machine has written down, by its name, of each trial that it began,
            computed and told.
        killed: when each machine was killed, by the clock of the notes.
        n_trials: how many were asked for.
        full: from when to when the disk of each machine was full: what was computed then may wait
            in memory only, and die there.

    Returns:
        What is wrong, and some counts.
    """
    wrong: list[str] = []
    trials: list[Json] = history["trials"]
    ended = [t for t in trials if t["state"] not in ("RUNNING", "WAITING") and not t["lost"]]
    states = Counter(t["state"] for t in ended)
    if states != {"COMPLETE": n_trials}:
        errors = {t["error"] for t in ended if t["error"]}
        wrong.append(f"{n_trials} trials were asked for, and there are {dict(states)}; {errors}")
    if history["state"] != "completed":
        wrong.append(f"the study is {history['state']!r}, not 'completed'")
    if left := [t["number"] for t in trials if t["state"] in ("RUNNING", "WAITING")]:
        wrong.append(f"trials {left} are left in the queue or running")
    chains = Counter(t["repeats"][0] if t["repeats"] else t["number"] for t in ended)
    if twice := [number for number, count in chains.items() if count > 1]:
        wrong.append(f"trials {twice} and their repetitions have been told both")
    for trial in ended:
        if "broken" in trial:
            wrong.append(f"the result of trial {trial['number']}: {trial['broken']}")
        elif trial.get("series") != [POINTS, trial["x"]]:
            wrong.append(f"the result of trial {trial['number']} is another one's")
    known = {t["x"] for t in [*ended, *history["late"]]}
    seen: Counter[float] = Counter()
    excused = 0
    for machine, lines in notes.items():
        for one in lines:
            if one["kind"] == "told":
                stored = trials[one["number"]]
                if (stored["state"], stored["value"]) != (one["state"], one["value"]):
                    wrong.append(f"trial {one['number']} was told as {one['value']}, and is not")
            if one["kind"] == "computed":
                seen[one["x"]] += 1
                if one["x"] in known:
                    continue
                ends = [at - one["at"] for at in killed.get(machine, ()) if at >= one["at"]]
                without_disk = any(
                    begin <= one["at"] + KILL_WINDOW and one["at"] <= end
                    for begin, end in (full or {}).get(machine, ())
                )
                if ends and (without_disk or min(ends) < KILL_WINDOW):
                    excused += 1
                else:
                    wrong.append(f"{machine} computed x={one['x']}, and that is nowhere")
    counts = {
        "trials": len(trials),
        "finished": len(ended),
        "lost": sum(t["lost"] for t in trials),
        "late": len(history["late"]),
        "computed": seen.total(),
        "computed again": sum(count - 1 for count in seen.values()),
        "killed just before telling": excused,
    }
    return wrong, counts


def idle_seconds(history: Json, session: str, since: float = 0.0, until: float = 0.0) -> float:
    """The longest time for which a session had nothing to run, between two of its trials.

    Args:
        history: what `dump` says.
        session: whose.
        since: gaps that end before are left out; in seconds since 1970.
        until: gaps that begin later are left out; by default when the last new trial began, for
            afterwards there is nothing to do.
    """
    trials = history["trials"]
    until = until or max(t["began"] for t in trials if t["began"] and not t["repeats"])
    mine = sorted(
        (t["began"], t["ended"]) for t in trials if t["session"] == session and t["ended"]
    )
    gaps = [
        after - before
        for (_, before), (after, _) in pairwise(mine)
        if after >= since and before <= until
    ]
    return max(gaps, default=0.0)


def _watch(study: Any, n_trials: int) -> None:
    from prefect_optuna.flows.session import owner_of, session_records, state_of

    over = finished = 0
    while over < (_OVER if finished >= n_trials else _GIVEN_UP):
        time.sleep(_LOOK_SECONDS)
        try:
            trials = study.get_trials(deepcopy=False)
            hosts = {key: one["host"] for key, one in session_records(study).items()}
            state = state_of(study, trials)
        except Exception as error:  # noqa: BLE001 - it is away on purpose
            print(json.dumps({"at": time.time(), "away": f"{error}"}), flush=True)
            continue
        over = 0 if state in ("running", "paused") else over + 1
        running = [hosts.get(owner_of(t) or "", "") for t in trials if t.state.name == "RUNNING"]
        finished = sum(t.state.name == "COMPLETE" for t in trials)
        line = {"at": time.time(), "finished": finished, "running": running, "state": state}
        print(json.dumps(line), flush=True)


def _main(what: str, name: str, n_trials: str = "0") -> None:
    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.tasks import ArchivedStudy

    block = as_study_storage(STORAGE)
    while name not in block.study_names():
        time.sleep(_LOOK_SECONDS)
    study = block.load_study(name)
    if what == "watch":
        _watch(study, int(n_trials))
    else:
        archived = ArchivedStudy.load(name, storage=block, artifacts=ARTIFACTS)
        print(json.dumps(dump(study, archived)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
