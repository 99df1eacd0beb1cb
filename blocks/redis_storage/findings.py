"""Problems of the keys of a namespace, and the commands that mend them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefect_optuna.blocks.redis_storage.scripts import Script
from prefect_optuna.blocks.texts import visible_line

LOOK = Script("""
-- KEYS: any, of one slot. ARGV: how many items of the first, if it is a list, are known.
-- Returns the type and the content of each, all of one moment.
local found = {}
for i, key in ipairs(KEYS) do
  local kind, content = redis.call('TYPE', key).ok, {}
  if kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'list' then content = redis.call('LRANGE', key, i == 1 and ARGV[1] or 0, -1)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  found[i] = {kind, content}
end
return found
""")
"""Reads whole keys, of whatever type."""

MEND = Script("""
-- KEYS: a hash, then all keys that the commands touch. ARGV: a field of the hash and its value,
-- then each command as its length and its parts. Returns 0 if the field has another value by now.
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
elseif ARGV[2] ~= '' then return 0 end
local i = 3
while ARGV[i] do
  local length = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + length))
  i = i + length + 1
end
return 1
""")
"""Runs commands, unless the hash has been written meanwhile."""


@dataclass(frozen=True)
class RedisProblem:
    """One thing that is wrong in a namespace.

    Args:
        key: of the server.
        kind: `"damaged"`: `repair` mends it; `"lost"`: only a backup helps; `"stale"`: nothing is
            damaged, and a worker has been silent for long.
        found: what is wrong.
        remedy: what `repair` does about it, or what a person can do.

    Example:
        >>> from prefect_optuna.blocks.redis_storage import RedisProblem
        >>> print(RedisProblem("{lab}:names", "damaged", "has no study 's'", "add it"))
        {lab}:names has no study 's' (damaged: add it)
    """

    key: str
    kind: Literal["damaged", "lost", "stale"]
    found: str
    remedy: str

    def __str__(self) -> str:
        return visible_line(f"{self.key} {self.found} ({self.kind}: {self.remedy})")


@dataclass(frozen=True)
class Content:
    """Type and content of a key, as `LOOK` returns them."""

    kind: str
    items: Sequence[bytes]

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Fields of a hash, or members and scores of a sorted set."""
        return dict(zip(self.items[::2], self.items[1::2], strict=True))


_NOTHING = Content("none", ())


class Findings:
    """The problems of the keys of one slot, gathered with what mends them."""

    def __init__(self, contents: dict[str, Content], anchor: tuple[str, str]) -> None:
        self.problems: list[RedisProblem] = []
        self._contents = contents
        self._anchor = anchor
        self._value = self.fields(anchor[0]).get(anchor[1].encode(), b"")
        self._commands: list[tuple[Any, ...]] = []
        self._keys: dict[str, None] = {}
        self._suffix = f":damaged-{secrets.token_hex(4)}"

    def fields(self, key: str) -> dict[bytes, bytes]:
        """Return the content of a hash or a sorted set; empty for other types."""
        content = self._contents.get(key, _NOTHING)
        return content.fields if content.kind in ("hash", "zset") else {}

    def items(self, key: str) -> Sequence[bytes]:
        """Return the content of a list; empty for other types."""
        content = self._contents.get(key, _NOTHING)
        return content.items if content.kind == "list" else ()

    def exists(self, key: str) -> bool:
        """Tell whether there is such a key, of any type."""
        return self._contents.get(key, _NOTHING).kind != "none"

    def check_type(self, key: str, expected: str) -> None:
        """A key of another type is set aside, and its content counts as missing."""
        actual = self._contents.get(key, _NOTHING).kind
        if actual not in (expected, "none"):
            self.damaged(
                key,
                f"is a {actual}, and a {expected} was expected",
                f"set it aside as {key}:damaged-...",
                ("RENAME", key, key + self._suffix),
            )

    def damaged(self, key: str, found: str, remedy: str, *commands: tuple[Any, ...]) -> None:
        """Add a problem with the commands that mend it; their second part is a key."""
        self.problems.append(RedisProblem(key, "damaged", found, remedy))
        self.mend(*commands)

    def lost(self, key: str, found: str, remedy: str) -> None:
        """Add a problem that cannot be mended from what is there."""
        self.problems.append(RedisProblem(key, "lost", found, remedy))

    def stale(self, key: str, found: str, remedy: str) -> None:
        """Add a problem that needs no repair."""
        self.problems.append(RedisProblem(key, "stale", found, remedy))

    def mend(self, *commands: tuple[Any, ...]) -> None:
        """Add commands."""
        for command in commands:
            self._commands.append(command)
            touched = command[1:] if command[0] in ("UNLINK", "RENAME") else command[1:2]
            self._keys.update(dict.fromkeys(touched))

    def keep(self, key: str, raw: Iterable[bytes]) -> tuple[Any, ...]:
        """The command that sets aside what is taken out of a key."""
        return ("RPUSH", key + self._suffix, *raw)

    @property
    def is_mendable(self) -> bool:
        """True if there are commands."""
        return bool(self._commands)

    def script(self) -> tuple[list[str], list[Any]]:
        """Keys and arguments for `MEND`."""
        arguments: list[Any] = [self._anchor[1], self._value]
        for command in self._commands:
            arguments += [len(command), *command]
        return [self._anchor[0], *self._keys], arguments


def integer(raw: bytes | None) -> int | None:
    """A whole number that is not negative, or None."""
    return int(raw) if raw is not None and raw.isdigit() else None
