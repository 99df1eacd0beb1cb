"""Description of a server, and of the share of it that a namespace takes, for its operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_optuna.blocks.redis_storage.layout import Registry, StudyKeys
from prefect_optuna.errors import StoragePermissionError

if TYPE_CHECKING:
    from prefect_optuna.blocks.redis_storage.server import Server


@dataclass(frozen=True)
class RedisDescription:
    """Description of a Redis storage. `str` of it is a text for people.

    Args:
        location: the server's URL, without user and password.
        namespace: what the names of the keys begin with.
        server: `"Redis"`, `"Valkey"`, or whatever the server calls itself.
        version: of the server.
        mode: `"standalone"`, `"cluster"` or `"sentinel"`.
        persistence: what the server keeps on its disk, and when.
        warning: what may be lost when the server restarts; None if nothing may.
        studies: how many.
        trials: how many, in all studies.
        bytes: of the server's memory that the studies take, about; None if the server does not
            tell this user.

    Example:
        >>> from prefect_optuna.blocks.redis_storage import RedisDescription
        >>> kept = "append-only file, written to disk everysec"
        >>> print(RedisDescription("redis://lab:6379/0", "optuna", "Redis", "7.2.4",
        ...                        "standalone", kept, None, 2, 500, 153_500))
        redis://lab:6379/0, namespace 'optuna': Redis 7.2.4, standalone
        2 studies, 500 trials, 153,500 bytes
        On disk: append-only file, written to disk everysec
    """

    location: str
    namespace: str
    server: str
    version: str
    mode: str
    persistence: str
    warning: str | None
    studies: int
    trials: int
    bytes: int | None

    def __str__(self) -> str:
        size = "unknown" if self.bytes is None else f"{self.bytes:,}"
        lines = [
            f"{self.location}, namespace {self.namespace!r}: "
            f"{self.server} {self.version}, {self.mode}",
            f"{self.studies:,} studies, {self.trials:,} trials, {size} bytes",
            f"On disk: {self.persistence}",
        ]
        return "\n".join([*lines, f"Warning: {self.warning}"] if self.warning else lines)


def describe(server: Server, namespace: str) -> RedisDescription:
    """Describe a server and a namespace. Nothing is written."""
    nodes = _primaries(server)
    info = _ask(server, nodes[0], "INFO")
    kept = [_persistence(server, node) for node in nodes]
    # A cluster loses what its most forgetful node loses.
    persistence, warning = next((settings for settings in kept if settings[1]), kept[0])
    studies, trials, size = _contents(server, namespace)
    return RedisDescription(
        location=server.location,
        namespace=namespace,
        server=str(info.get("server_name", "redis")).capitalize(),
        version=str(info.get("valkey_version", info["redis_version"])),
        mode="sentinel"
        if "+sentinel:" in server.location
        else str(info.get("redis_mode") or info["server_mode"]),
        persistence=persistence,
        warning=warning,
        studies=studies,
        trials=trials,
        bytes=size,
    )


def _primaries(server: Server) -> list[Any]:
    from redis.cluster import RedisCluster

    client = server.client
    if isinstance(client, RedisCluster):
        return [client.get_redis_connection(node) for node in client.get_primaries()]
    return [client]


def _ask(server: Server, node: Any, *command: str) -> Any:
    from prefect_optuna.blocks.redis_storage.server import ERRORS

    try:
        return node.execute_command(*command)
    except ERRORS as error:
        raise server.explained(error) from server.cause(error)


def _persistence(server: Server, node: Any) -> tuple[str, str | None]:
    appends = bool(_ask(server, node, "INFO", "persistence")["aof_enabled"])
    try:
        settings = _settings(_ask(server, node, "CONFIG", "GET", "*"))
    except StoragePermissionError:
        settings = None
    if appends:
        when = settings["appendfsync"] if settings else "at times that this user may not ask for"
        text = f"append-only file, written to disk {when}"
        if when in ("always", "everysec"):
            return text, None
        return text, (
            "an operating system that crashes can lose what it has not yet written; set "
            "appendfsync to everysec."
        )
    if settings is None:
        return "no append-only file; of snapshots nothing is known to this user", (
            "a restart of the server loses everything since the last snapshot, if it makes any. "
            "Set appendonly to yes, or let this user ask for CONFIG GET."
        )
    if settings["save"]:
        return f"snapshots (save {settings['save']})", (
            "a restart of the server can lose everything since the last snapshot. "
            "Set appendonly to yes."
        )
    return "nothing", (
        "nothing is kept on disk, and a restart of the server loses every study. "
        "Set appendonly to yes."
    )


def _settings(reply: Any) -> dict[str, str]:
    """Return the settings in a reply to CONFIG GET, which are bytes or text."""
    pairs: dict[Any, Any] = (
        reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    )
    return {_text(name): _text(value) for name, value in pairs.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _contents(server: Server, namespace: str) -> tuple[int, int, int | None]:
    registry = Registry(namespace)
    (ids,) = server.read([("HKEYS", registry.studies)])
    sizes = _sizes(server, [registry.root, registry.names, registry.studies])
    trials = 0
    for study_id in map(int, ids):
        keys = StudyKeys(namespace, study_id)
        count, live = server.read([("HGET", keys.meta, "next"), ("HKEYS", keys.live)])
        trials += int(count or 0)
        own = _sizes(server, [*keys.fixed, *(keys.trial(int(number)) for number in live)])
        sizes = None if sizes is None or own is None else sizes + own
    return len(ids), trials, sizes


def _sizes(server: Server, keys: list[str]) -> int | None:
    """The bytes that these keys of one slot take, if the server tells."""
    try:
        return sum(size or 0 for size in server.read([("MEMORY", "USAGE", key) for key in keys]))
    except StoragePermissionError:
        return None
