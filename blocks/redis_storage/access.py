"""The permissions that a user of the server needs."""

from __future__ import annotations

import re

COMMANDS: tuple[str, ...] = (
    *("auth", "hello", "select", "ping", "info"),
    *("eval", "evalsha", "time", "type", "exists", "del", "unlink"),
    *("hget", "hmget", "hgetall", "hkeys", "hlen", "hset", "hsetnx", "hdel", "hincrby"),
    *("lrange", "llen", "rpush", "ltrim"),
    *("zadd", "zrem", "zrangebyscore"),
)
"""Every command that a `RedisStorage` sends or runs in a script; all are in Redis 6.2."""

_CLUSTER = ("cluster|slots", "cluster|shards", "cluster|nodes", "readonly", "command", "asking")


def acl_rules(namespace: str = "optuna", *, cluster: bool = False) -> list[str]:
    """The rules for a user who may work with one namespace, and nothing else.

    Args:
        namespace: of the storage.
        cluster: whether the server is a Redis Cluster, whose clients ask for its nodes.

    Returns:
        What to give to `ACL SETUSER`, after the name, `on`, and the password.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.access import acl_rules
        >>> print("ACL SETUSER lab on >secret", *acl_rules("lab")[:4])
        ACL SETUSER lab on >secret ~{lab}* ~{lab:* -@all +auth
    """
    name = re.sub(r"([*?\[\]\\^-])", r"\\\1", namespace)
    commands = (*COMMANDS, *(_CLUSTER if cluster else ()))
    return [f"~{{{name}}}*", f"~{{{name}:*", "-@all", *(f"+{command}" for command in commands)]
