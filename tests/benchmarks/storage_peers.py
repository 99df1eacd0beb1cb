"""The storages that bench_storage compares, each opened from plain text in any process."""

from __future__ import annotations

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

OURS = ("buffered", "fast", "strict")
DEFAULT = "our journal"


def open_storage(kind: str, address: str, place: str) -> BaseStorage:
    """Open a storage.

    Args:
        kind: one of `OURS`, `DEFAULT`, or the name of another.
        address: the URL of its server, or the folder for its file.
        place: the namespace there, or the name of the file.

    Returns:
        The storage.
    """
    if kind in OURS:
        from prefect_optuna.blocks.redis_storage import RedisStorage

        return RedisStorage(address, namespace=place, write_mode=kind)
    if kind == DEFAULT:
        from prefect_optuna.blocks import as_study_storage

        return as_study_storage(f"journal:///{address}/{place}.journal").get_storage()
    if kind == "JournalRedis":
        return JournalStorage(JournalRedisBackend(address, prefix=place))
    if kind == "JournalFile":
        return JournalStorage(JournalFileBackend(f"{address}/{place}.log"))
    if kind == "Rustuna's journal":
        from rustuna.converter import ToOptunaStorage
        from rustuna.storages import JournalFileStorage

        return ToOptunaStorage(JournalFileStorage(f"{address}/{place}.rustuna"))
    if kind == "SQLite":
        return RDBStorage(f"sqlite:///{address}/{place}.db")
    if kind == "PostgreSQL":
        return RDBStorage(address)
    assert kind == "memory"
    return InMemoryStorage()
