"""Description of a storage that the contract puts to the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from optuna.storages import BaseStorage

Connect: TypeAlias = Callable[[], BaseStorage]
"""Opens the storage, in whichever process; picklable, such as a `functools.partial`."""


@dataclass(frozen=True)
class StorageUnderTest:
    """One empty database, how to open it, and what can be done to it.

    Only `connect` is needed. Each of the others belongs to rows of the contract that make no
    sense without it: there is no server to kill where there is none.

    Args:
        connect: opens the database anew, as another process would. It is pickled, so make it a
            `functools.partial` of something that can be imported.
        connect_with_heartbeat: the same with a heartbeat each second, a grace period of 2 s, and
            a callback that tries a stale trial once more
            (`optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)`). Without it,
            `connect`.
        server_port: where the server listens on 127.0.0.1, if there is one.
        connect_through: given another port, returns a `connect` that goes there. The contract
            puts a proxy of its own on it, which drops connections.
        kill_server: ends the server as a power cut would. It has to be one that keeps on disk
            what it has acknowledged.
        start_server: starts it again, on its port and its data, and waits until it answers.
        save_state: keeps what the database holds, and returns a function that puts it back
            behind the back of everybody who is connected.
        damage: damages one thing after the other, such as a key, and puts the whole database back
            before the next. It yields what is damaged now. Given None, the thing is missing;
            given bytes, it holds them.
        stored_bytes: how much the database holds.

    Example:
        >>> from functools import partial
        >>> from optuna.storages import RDBStorage
        >>> from prefect_optuna.blocks.testing import StorageUnderTest
        >>> StorageUnderTest(connect=partial(RDBStorage, "sqlite:///studies.db")).kill_server
    """

    connect: Connect
    connect_with_heartbeat: Connect | None = None
    server_port: int | None = None
    connect_through: Callable[[int], Connect] | None = None
    kill_server: Callable[[], None] | None = None
    start_server: Callable[[], None] | None = None
    save_state: Callable[[], Callable[[], None]] | None = None
    damage: Callable[[bytes | None], Iterator[str]] | None = None
    stored_bytes: Callable[[], int] | None = None
