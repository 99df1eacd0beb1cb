"""`check`, `repair` and `describe`: a namespace, for its operator.

A healthy namespace needs neither. They are for the day on which somebody has deleted a key, a
server was restored in part, or a disk was full.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution

from prefect_optuna.blocks.redis_storage.layout import (
    FORMAT,
    Registry,
    StudyKeys,
    decode_distribution,
    stored_distribution,
)
from prefect_optuna.blocks.redis_storage.storage import RedisStorage
from prefect_optuna.blocks.redis_storage.study_check import (
    LOOK,
    MEND,
    Findings,
    KeyContent,
    RedisProblem,
    StudyCheck,
    integer,
)
from prefect_optuna.errors import StoragePermissionError, StorageUnavailableError

if TYPE_CHECKING:
    from prefect_optuna.blocks.redis_storage.server import Server

# Description of a server, and of the share of it that a namespace takes, for its operator.


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
    studies, trials, size = _share(server, namespace)
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
    return {_as_text(name): _as_text(value) for name, value in pairs.items()}


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _share(server: Server, namespace: str) -> tuple[int, int, int | None]:
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


_ATTEMPTS = 5
_CHUNK = 5_000


@dataclass(frozen=True)
class RedisReport:
    """The findings of `check`, or the work of `repair`. `str` of it is a text for people.

    Args:
        location: the server's URL, without user and password.
        namespace: that was looked through.
        studies: how many.
        trials: how many, in all studies.
        problems: what is wrong now.
        repaired: what was wrong, and is no more.

    Example:
        >>> from prefect_optuna.blocks.redis_storage import RedisReport
        >>> report = RedisReport("redis://lab:6379/0", "optuna", 2, 500, (), ())
        >>> print(report)
        redis://lab:6379/0, namespace 'optuna': 2 studies, 500 trials, no problems
        >>> report.ok
        True
    """

    location: str
    namespace: str
    studies: int
    trials: int
    problems: tuple[RedisProblem, ...]
    repaired: tuple[RedisProblem, ...]

    @property
    def ok(self) -> bool:
        """True if nothing is damaged or lost; a silent worker is neither."""
        return all(problem.kind == "stale" for problem in self.problems)

    def __str__(self) -> str:
        count = f"{len(self.problems)} problems" if self.problems else "no problems"
        lines = [
            f"{self.location}, namespace {self.namespace!r}: {self.studies:,} studies, "
            f"{self.trials:,} trials, {count}",
            *(f"repaired: {problem}" for problem in self.repaired),
            *map(str, self.problems),
        ]
        return "\n".join(lines)


def check(
    target: RedisStorage | Server | str, *, namespace: str = "optuna", stale_after: float = 600.0
) -> RedisReport:
    """Look through a namespace. Nothing is written, and others may write at the same time.

    A study that is made or deleted at this very moment may look damaged: look again. Besides what
    `acl_rules` lists, the user needs the commands SCAN and ZRANGE.

    Args:
        target: a storage, whose namespace is taken, or a URL.
        namespace: to look through, if a URL is given.
        stale_after: seconds without a heartbeat after which a running trial is named.

    Returns:
        What is wrong; print it to read it.

    Raises:
        StorageUnavailableError: the server cannot be reached, or refuses; or others write so much
            that no study can be read in one moment.

    Example:
        ```python
        from prefect_optuna.blocks.redis_storage import check

        print(check("redis://localhost:6379/0"))
        ```
    """
    with _server(target, namespace) as (server, namespace):
        return _look(server, namespace, {}, stale_after)[0]


def repair(
    target: RedisStorage | Server | str,
    *,
    namespace: str = "optuna",
    distributions: Iterable[BaseDistribution] = (),
) -> RedisReport:
    """Mend what `check` calls damaged. Run it while nobody makes or deletes a study.

    A study that somebody has written to since it was looked at is looked at again. Besides what
    `check` needs, the user needs the commands RENAME, LSET and LREM.

    Nothing that can be read is removed, and what cannot be read is set aside, under the name of
    its key and `:damaged-...`. A trial of which nothing is left is replaced by a failed one, so
    that the others can be read. Workers that are open read their studies again.

    Args:
        target: a storage, whose namespace is taken, or a URL.
        namespace: to repair, if a URL is given.
        distributions: of your search space, in case the server has lost some of them.

    Returns:
        What was mended, and what is left.

    Raises:
        StorageUnavailableError: the server cannot be reached, or refuses.

    Example:
        ```python
        from prefect_optuna.blocks.redis_storage import repair

        print(repair("redis://localhost:6379/0"))
        ```
    """
    stored = [stored_distribution(distribution) for distribution in distributions]
    spare = {each.key: each.text for each in stored}
    with _server(target, namespace) as (server, namespace):
        repaired: list[RedisProblem] = []
        report, all_findings = _look(server, namespace, spare, float("inf"))
        # Mending one thing can show another: a study that is registered again is looked through.
        for _ in range(_ATTEMPTS):
            if not any(findings.is_mendable for findings in all_findings):
                break
            for findings in all_findings:
                if findings.is_mendable and server.run(MEND, *findings.script()):
                    repaired += [p for p in findings.problems if p.kind == "damaged"]
            report, all_findings = _look(server, namespace, spare, float("inf"))
        return replace(report, repaired=tuple(repaired))


@contextmanager
def _server(target: RedisStorage | Server | str, namespace: str) -> Generator[tuple[Server, str]]:
    from prefect_optuna.blocks.redis_storage.server import Server

    if isinstance(target, RedisStorage):
        target.flush()
        yield target._server, target.namespace  # pyright: ignore[reportPrivateUsage]
        return
    if isinstance(target, Server):
        yield target, namespace
        return
    server = Server(
        target, namespace=namespace, timeout=10.0, retry_limit=10.0, options={}, sentinel_options={}
    )
    try:
        yield server, namespace
    finally:
        server.close()


def _look(
    server: Server, namespace: str, spare: dict[str, str], stale_after: float
) -> tuple[RedisReport, list[Findings]]:
    names = _keys_of(server, namespace)
    registry = _Registry(server, namespace, names)
    all_findings, trials = [registry.findings, *registry.removals], 0
    if registry.is_ours:
        spare = {**_all_distributions(server, namespace, registry.names), **spare}
        (now,) = server.read([("TIME",)])
        since = (int(now[0]) - stale_after) * 1000
        for study_id in registry.names:
            study = _check_study(server, namespace, study_id, registry, spare, since)
            all_findings.append(study.findings)
            trials += study.trials
    report = RedisReport(
        location=server.location,
        namespace=namespace,
        studies=len(registry.names),
        trials=trials,
        problems=tuple(problem for findings in all_findings for problem in findings.problems),
        repaired=(),
    )
    return report, all_findings


def _keys_of(server: Server, namespace: str) -> list[str]:
    """Every key of the namespace, also those that nothing leads to."""
    from prefect_optuna.blocks.redis_storage.server import ERRORS

    glob = re.sub(r"([*?\[\]\\])", r"\\\1", namespace)
    try:
        return [
            raw.decode(errors="replace")
            for pattern in (f"{{{glob}}}*", f"{{{glob}:*")
            for raw in server.client.scan_iter(match=pattern, count=1000)
        ]
    except ERRORS as error:
        raise server.explained(error) from server.cause(error)


def _contents(server: Server, keys: Iterable[str], known: int = 0) -> dict[str, KeyContent]:
    keys = list(keys)
    replies = server.run(LOOK, keys, [known])
    return {
        key: KeyContent(kind.decode(), items)
        for key, (kind, items) in zip(keys, replies, strict=True)
    }


def _all_distributions(server: Server, namespace: str, ids: Iterable[int]) -> dict[str, str]:
    """A distribution has the same short id in every study."""
    distributions: dict[str, str] = {}
    for study_id in ids:
        key = StudyKeys(namespace, study_id).distributions
        content = _contents(server, [key])[key]
        for name, text in content.fields.items() if content.kind == "hash" else ():
            try:
                decode_distribution(text.decode())
                distributions[name.decode()] = text.decode()
            except (ValueError, TypeError, LookupError):
                continue
    return distributions


def _check_study(
    server: Server,
    namespace: str,
    study_id: int,
    registry: _Registry,
    spare: dict[str, str],
    since: float,
) -> StudyCheck:
    keys = StudyKeys(namespace, study_id)
    numbers = set(registry.trials.get(study_id, ()))
    finished = _finished(server, keys)
    others = [key for key in keys.fixed if key != keys.finished]
    for _ in range(_ATTEMPTS):
        wanted = [keys.finished, *others, *map(keys.trial, sorted(numbers))]
        contents = _contents(server, wanted, len(finished))
        live = contents[keys.live]
        more = {integer(raw) for raw in live.fields} - {None} if live.kind == "hash" else set()
        if more <= numbers:
            break
        numbers |= {number for number in more if number is not None}
    else:
        raise StorageUnavailableError(
            f"{server.where} is written to so much that study {study_id} cannot be read in one "
            "moment. Try again while fewer workers run."
        )
    if (tail := contents[keys.finished]).kind == "list":
        contents[keys.finished] = KeyContent("list", [*finished, *tail.items])
    there = {number for number in numbers if contents[keys.trial(number)].kind != "none"}
    findings = Findings(contents, (keys.meta, "version"))
    name = registry.names[study_id]
    study = StudyCheck(keys, study_id, name, findings, there, spare, since)
    study.run()
    return study


def _finished(server: Server, keys: StudyKeys) -> list[bytes]:
    """Finished trials never change, so that they need not all be read in one moment."""
    records: list[bytes] = []
    (kind,) = server.read([("TYPE", keys.finished)])
    while kind in (b"list", "list"):
        start = len(records)
        (chunk,) = server.read([("LRANGE", keys.finished, start, start + _CHUNK - 1)])
        records += chunk
        if len(chunk) < _CHUNK:
            break
    return records


class _Registry:
    """The studies that there are, checked against the registry."""

    def __init__(self, server: Server, namespace: str, names: Iterable[str]) -> None:
        self.registry: Registry = Registry(namespace)
        self.trials: dict[int, set[int]] = {}
        self.names: dict[int, bytes] = {}
        self.removals: list[Findings] = []
        self.is_ours: bool = True
        self._server, self._namespace = server, namespace
        root, by_name, by_id = self.registry.root, self.registry.names, self.registry.studies
        self.findings: Findings = Findings(
            _contents(server, (root, by_name, by_id)), (root, "next")
        )
        ids = self._scanned(names)
        self._check_root(ids)
        if self.is_ours:
            self.findings.check_type(by_name, "hash")
            self.findings.check_type(by_id, "hash")
            self._check_studies(ids)

    def _scanned(self, names: Iterable[str]) -> set[int]:
        ids: set[int] = set()
        pattern = re.compile(re.escape(f"{{{self._namespace}:") + r"(\d+)\}:(?:trial:(\d+)|\w+)")
        for name in names:
            if match := pattern.fullmatch(name):
                study_id = int(match[1])
                ids.add(study_id)
                if match[2]:
                    self.trials.setdefault(study_id, set()).add(int(match[2]))
        return ids

    def _check_root(self, ids: set[int]) -> None:
        findings, root = self.findings, self.registry.root
        fields = findings.fields(root)
        written = fields.get(b"format")
        if not ids and (not findings.exists(root) or written == str(FORMAT).encode()):
            pass
        elif not ids and written is None:
            self.is_ours = False
            findings.lost(root, "is none of a RedisStorage", "take another namespace")
            return
        elif written is not None and written.isdigit() and int(written) > FORMAT:
            self.is_ours = False
            findings.lost(
                root,
                f"is of format {int(written)}, and this version knows {FORMAT}",
                "update prefect-optuna",
            )
            return
        else:
            findings.check_type(root, "hash")
            if written != str(FORMAT).encode():
                findings.damaged(
                    root,
                    "does not say which format the namespace has",
                    f"set it to {FORMAT}",
                    ("HSET", root, "format", FORMAT),
                )
        last, highest = integer(fields.get(b"next")), max(ids, default=0)
        if ids and (last is None or last < highest):
            findings.damaged(
                root,
                f"says that the last id is {last}, and there is a study {highest}",
                f"set it to {highest}",
                ("HSET", root, "next", highest),
            )

    def _check_studies(self, scanned: set[int]) -> None:
        findings, by_name, by_id = self.findings, self.registry.names, self.registry.studies
        names, studies = findings.fields(by_name), findings.fields(by_id)
        for raw in studies:
            if integer(raw) is None:
                findings.damaged(by_id, f"has an id {raw!r}", "remove it", ("HDEL", by_id, raw))
        registered = {n: name for raw, name in studies.items() if (n := integer(raw))}
        taken: dict[bytes, int] = {}
        for study_id in sorted(registered.keys() | scanned):
            name = self._check_one(study_id, registered.get(study_id), taken)
            if name is None:
                continue
            taken[name] = study_id
            self.names[study_id] = name
            if names.get(name) != str(study_id).encode():
                findings.damaged(
                    by_name,
                    f"does not lead from {_text(name)!r} to study {study_id}",
                    "let it",
                    ("HSET", by_name, name, study_id),
                )
            if registered.get(study_id) != name:
                findings.damaged(
                    by_id,
                    f"does not have the name {_text(name)!r} of study {study_id}",
                    "add it",
                    ("HSET", by_id, study_id, name),
                )
        for name in names:
            if name not in taken:
                findings.damaged(
                    by_name,
                    f"has a name {_text(name)!r} without a study",
                    "remove it",
                    ("HDEL", by_name, name),
                )

    def _check_one(
        self, study_id: int, registered: bytes | None, taken: dict[bytes, int]
    ) -> bytes | None:
        """The name that a study has or gets; None if there is no study, or it is to go."""
        keys = StudyKeys(self._namespace, study_id)
        contents = _contents(self._server, [keys.meta])
        meta = contents[keys.meta].fields if contents[keys.meta].kind == "hash" else {}
        kept = (keys.live, keys.finished, keys.user, keys.system)
        is_empty = not any(self._server.read([("EXISTS", key) for key in kept]))
        if b"deleted" in meta or (is_empty and (registered is None or not meta)):
            what = "deleted" if b"deleted" in meta else "not there"
            self._remove(keys, study_id, contents, what)
            if registered is not None:
                self.findings.mend(("HDEL", self.registry.studies, study_id))
            return None
        name = meta.get(b"name") or registered or f"recovered {study_id}".encode()
        if name in taken:
            name += f" (recovered {study_id})".encode()
        return name

    def _remove(
        self, keys: StudyKeys, study_id: int, contents: dict[str, KeyContent], what: str
    ) -> None:
        findings = Findings(contents, (keys.meta, "version"))
        remains = [*keys.fixed, *map(keys.trial, self.trials.get(study_id, ()))]
        findings.damaged(
            keys.meta,
            f"belongs to a study that is {what}",
            "remove what is left of it",
            *(("UNLINK", *remains[i : i + 1000]) for i in range(0, len(remains), 1000)),
        )
        self.removals.append(findings)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
