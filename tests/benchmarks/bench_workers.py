"""A thousand workers on one study: what each of their calls to Redis takes, and where it breaks.

The calls of one real trial are recorded: `optimize`, five parameters, three reports, each followed
by `should_prune`. Then so many workers replay them against a real server, with a connection each,
and follow the study as clients do: every answer brings what the others have done, a client that has
fallen behind the log reads all trials that run anew, and each worker renews its session's record.
They do not decode the answers; that costs each worker's machine, not the server.

Latencies are from the call to the whole answer, as the middle, the worst of a hundred, and the
worst of a thousand. It breaks where trials take longer than they would without their calls: the
pace is the time that they should take, of that which they took, aim 95 %. The server's share of a
processor says whether it is the limit, or this program.

    python tests/benchmarks/bench_workers.py [--workers 1000] [--seconds 60 20 10 5]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import optuna
import redis.asyncio
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks.redis_storage.layout import StudyKeys
from prefect_optuna.blocks.redis_storage.server import COMMIT, Server
from prefect_optuna.flows import optimize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redis_servers import RedisServer

RENEWAL = 15.0  # seconds between two renewals of a session's record
LENGTHS = {"d": 3, "c": 6, "f": 2, "a": 4, "b": 3}  # of the commands in a call, but for `w`


def objective(trial: optuna.Trial) -> float:
    """Five parameters and three reports."""
    value = sum(trial.suggest_float(f"x{i}", -5, 5) ** 2 for i in range(5))
    for step in range(3):
        trial.report(value / (step + 1), step)
        trial.should_prune()
    return value


class Call(NamedTuple):
    """A call of a trial: what it is for, and its commands; the trial's number is to be put in."""

    kind: str
    commands: list[list[Any]]


def split(arguments: list[Any]) -> list[list[Any]]:
    """The commands among the arguments of a call."""
    commands, place = [], 5
    while place < len(arguments):
        name = arguments[place]
        length = 8 + 3 * int(arguments[place + 7]) if name == "w" else LENGTHS[name]
        commands.append(arguments[place : place + length])
        place += length
    return commands


def kind_of(commands: list[list[Any]]) -> str:
    """What a call is for, in a word."""
    for name, *rest in commands:
        if name in "cf":
            return "ask"
        if name == "w":
            return "tell" if rest[2] not in ("", "R", "W") else "report"
    return "read" if not commands else "renew"


def record(url: str) -> list[Call]:
    """The calls that the third trial of a real study makes, from its ask to its tell."""
    calls: list[Call] = []
    run = Server.run

    def noted(self: Server, script: Any, keys: Any, arguments: list[Any], **options: Any) -> Any:
        if script is COMMIT and arguments[0] != -1:
            commands = split(list(arguments))
            calls.append(Call(kind_of(commands), commands))
        return run(self, script, keys, arguments, **options)

    with patch.object(Server, "run", noted):
        optimize(
            objective, study_name="workers", n_trials=4, sampler="random", storage=url,
            artifacts="archive",
        )  # fmt: skip
    asks = [place for place, call in enumerate(calls) if call.kind == "ask"]
    calls = calls[asks[2] : asks[3]]
    last = max(place for place, call in enumerate(calls) if call.kind == "tell")
    return [call for call in calls[: last + 1] if call.kind != "renew"]


class Worker:
    """One worker: it asks, reports and tells, and follows what the others do."""

    ids = itertools.count()

    def __init__(self, keys: StudyKeys, calls: list[Call], seconds: float, times: Times) -> None:
        self.id = next(self.ids)
        self.keys, self.calls, self.seconds, self.times = keys, calls, seconds, times
        self.version, self.token, self.finished = -1, "", 0
        self.operations = itertools.count()

    async def work(self, client: redis.asyncio.Redis, until: float) -> None:
        """Run trials, one after the other, until it is time."""
        self.client = client
        await self.load()
        await asyncio.sleep(random.uniform(0, self.seconds))
        renewed = time.monotonic() - random.uniform(0, RENEWAL)
        while time.monotonic() < until:
            number, birth = 0, ""
            begun = time.monotonic()
            for place, call in enumerate(self.calls):
                operation = f"w{self.id}-{next(self.operations)}"
                commands = [self.placed(command, number, birth) for command in call.commands]
                answer = await self.call(call.kind, operation, commands, number)
                if call.kind == "ask":
                    number = int(answer.split()[-1][1:])
                    birth = operation
                if time.monotonic() - renewed > RENEWAL:
                    renewed = time.monotonic()
                    note = ["a", "s", json.dumps(f"session:{self.id}"), json.dumps("x" * 300)]
                    await self.call("renew", f"w{self.id}-{next(self.operations)}", [note], number)
                planned = begun + self.seconds * (place + 1) / len(self.calls)
                await asyncio.sleep(max(0.0, planned - time.monotonic()))
            self.times["trial"].append(time.monotonic() - begun)

    def placed(self, command: list[Any], number: int, birth: str) -> list[Any]:
        """A command of the recorded trial, for the trial of this worker."""
        return ["w", number, birth, *command[3:]] if command[0] == "w" else command

    async def call(self, kind: str, operation: str, commands: list[list[Any]], number: int) -> str:
        """Make a call, and take over what the answer says of the others."""
        keys = [*self.keys.fixed, self.keys.trial(number)]
        flat = [part for command in commands for part in command]
        while True:
            state = [self.version, self.token, self.finished]
            begun = time.perf_counter()
            reply = await self.client.evalsha(
                COMMIT.digest, len(keys), *keys, *state, operation if commands else "-", "0", *flat
            )
            self.times[kind].append(time.perf_counter() - begun)
            if reply[0] == b"gap":
                await self.load()
                continue
            if reply[0] == b"ok":
                _, version, token, answer, _, records = reply
                self.version, self.token = version, token.decode()
                self.finished += len(records)
                return answer.decode()
            assert reply[0] == b"same", reply
            return ""

    async def load(self) -> None:
        """Read anew what a client does that the log no longer tells."""
        begun = time.perf_counter()
        keys = self.keys.fixed
        reply = await self.client.evalsha(
            COMMIT.digest, len(keys), *keys, -1, "", self.finished, "-", "0"
        )
        assert reply[0] == b"live", reply[0]
        _, self.version, token, heads, records, _ = reply
        self.token = token.decode()
        self.finished += len(records)
        pipeline = self.client.pipeline(transaction=False)
        for number in heads[::2]:
            pipeline.hgetall(self.keys.trial(int(number)))
        await pipeline.execute()
        self.times["load anew"].append(time.perf_counter() - begun)


Times = defaultdict[str, list[float]]


async def simulate(
    url: str, calls: list[Call], n_workers: int, seconds: float, lasts: float
) -> tuple[Times, float, float]:
    """Let workers run trials that take so long.

    Returns:
        The times of calls and trials, and the share of a processor of the server and of this.
    """
    times: Times = defaultdict(list)
    keys = StudyKeys("optuna", 1)
    clients = [redis.asyncio.Redis.from_url(url, protocol=2) for _ in range(n_workers)]
    await clients[0].script_load(COMMIT.source)
    for client in clients[:: max(1, n_workers // 50)]:
        await client.ping()
    workers = [Worker(keys, calls, seconds, times) for _ in clients]
    info = await clients[0].info("cpu")
    own = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    begun = time.monotonic()
    # Each ends the trial that it runs, so that as many are told as are begun.
    await asyncio.gather(
        *(
            worker.work(client, begun + lasts)
            for worker, client in zip(workers, clients, strict=True)
        )
    )
    took = time.monotonic() - begun
    after = await clients[0].info("cpu")
    used = sum(after[f"used_cpu_{kind}"] - info[f"used_cpu_{kind}"] for kind in ("user", "sys"))
    mine = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - own
    for client in clients:
        await client.aclose()
    return times, used / took, mine / took


def shown(measured: list[float]) -> str:
    """The middle, the worst of a hundred and of a thousand, in milliseconds."""
    if not measured:
        return ""
    ranked = sorted(measured)
    points = (ranked[min(len(ranked) - 1, int(len(ranked) * part))] for part in (0.5, 0.99, 0.999))
    return " / ".join(f"{1000 * point:,.1f}" for point in points)


def main() -> None:
    """Record a trial, replay it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[60, 20, 10, 5])
    parser.add_argument("--lasts", type=float, default=30.0, help="seconds in which trials begin")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 10_000)), hard))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    kinds = ("ask", "read", "report", "tell", "renew", "load anew")
    table = Table(title="ms of a call: middle / worst of 100 / of 1,000", show_lines=True)
    for title in ("workers", "a trial", "pace", "server", "this", *kinds):
        table.add_column(title, justify="right", overflow="fold")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = f"{folder}/home"
        os.chdir(folder)
        for n_workers, seconds in itertools.product(given.workers, given.seconds):
            place = Path(folder) / f"{n_workers}-{seconds}"
            place.mkdir()
            with RedisServer(place) as server:
                calls = record(server.url)
                times, used, mine = asyncio.run(
                    simulate(server.url, calls, n_workers, seconds, max(given.lasts, 1.2 * seconds))
                )
            pace = seconds * len(times["trial"]) / sum(times["trial"])
            table.add_row(
                f"{n_workers:,}", f"{seconds:g} s", f"{pace:.0%}", f"{used:.0%}",
                f"{mine:.0%}", *(shown(times[kind]) for kind in kinds),
            )  # fmt: skip
        os.chdir("/")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
