"""The way to a server, and the scripts that run inside it, each whole or not at all.

redis-py's own retries are off. They would send a script twice without saying so, and what is
sent again has to be marked.
"""

from __future__ import annotations

import hashlib
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import hiredis
import redis
import redis.exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from prefect_optuna.blocks._secrets import clean_cause, secrets_in, without_secrets
from prefect_optuna.blocks.redis_storage.layout import location_of, split_url
from prefect_optuna.errors import (
    DamagedStorageError,
    InvalidSettingError,
    PrefectOptunaError,
    StoragePermissionError,
    StorageUnavailableError,
)

# Scripts that run inside the server, each whole or not at all, and the permissions they need.
#
# Scripts never decode a value: they move text, so that no digit of a float is lost.


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
        >>> from prefect_optuna.blocks.redis_storage.server import acl_rules
        >>> print("ACL SETUSER lab on >secret", *acl_rules("lab")[:4])
        ACL SETUSER lab on >secret ~{lab}* ~{lab:* -@all +auth
    """
    name = re.sub(r"([*?\[\]\\^-])", r"\\\1", namespace)
    commands = (*COMMANDS, *(_CLUSTER if cluster else ()))
    return [f"~{{{name}}}*", f"~{{{name}:*", "-@all", *(f"+{command}" for command in commands)]


class Script:
    """A Lua script and the digest by which the server knows it.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.server import Script
        >>> Script("return 1").digest
        'e0e1f9fabfc9d4800c877a703b823ac0578ff8db'
    """

    def __init__(self, source: str) -> None:
        self.source: str = source
        self.digest: str = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


OPEN = Script("""
-- KEYS: registry. ARGV: format, how many ids are wanted.
-- Returns the format found and the last id; a namespace that has none gets this format.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'next', 0)
elseif kind ~= 'hash' then
  return {kind}
end
local format = redis.call('HGET', KEYS[1], 'format')
if format ~= ARGV[1] then return {format or kind} end
return {format, redis.call('HINCRBY', KEYS[1], 'next', ARGV[2])}
""")
"""Opens the registry and hands out ids of studies."""

ADD = Script("""
-- KEYS: meta, log. ARGV: name, directions, operation. Returns 1, or 0 if the study is there.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'operation') == ARGV[3] and 1 or 0
end
redis.call('DEL', KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[3] .. '\\t')
redis.call('HSET', KEYS[1], 'name', ARGV[1], 'directions', ARGV[2], 'operation', ARGV[3],
  'version', 1, 'next', 0, 'tip', ARGV[3])
return 1
""")
"""Makes the keys of a study, which are invisible until it is registered."""

REGISTER = Script("""
-- KEYS: names, studies. ARGV: name, id, the id that this name may have by now, or ''.
-- Returns the id that the name has afterwards, or nothing if one of the keys has lost studies.
if redis.call('HLEN', KEYS[1]) ~= redis.call('HLEN', KEYS[2]) then return false end
local owner = redis.call('HGET', KEYS[1], ARGV[1])
if owner and owner ~= ARGV[2] then
  if owner ~= ARGV[3] then return owner end
  redis.call('HDEL', KEYS[2], owner)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
return ARGV[2]
""")
"""Gives a name to a study, if it is free."""

UNREGISTER = Script("""
-- KEYS: names, studies. ARGV: id, whether this is a second attempt. Returns whether it was there.
local name = redis.call('HGET', KEYS[2], ARGV[1])
if not name then return ARGV[2] end
if redis.call('HGET', KEYS[1], name) == ARGV[1] then redis.call('HDEL', KEYS[1], name) end
redis.call('HDEL', KEYS[2], ARGV[1])
return '1'
""")
"""Takes the name from a study."""

BEATS = Script("""
-- KEYS: live, heartbeats. ARGV: grace period in milliseconds.
-- Returns the running trials that have been silent for longer.
local now = redis.call('TIME')
local limit = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1]
local stale = {}
for _, number in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. limit)) do
  local head = redis.call('HGET', KEYS[1], number)
  if head and string.sub(head, 1, 1) == 'R' then stale[#stale + 1] = number end
end
return stale
""")
"""Finds the trials that have lost their worker."""

COMMIT = Script(
    """
-- KEYS: meta, live, log, finished, distributions, kinds, heartbeats, user, system, the trial.
-- ARGV: the version that the client knows and its operation, how many finished trials it knows,
--   this operation, whether this is a second attempt, then commands.
-- Returns: 'ok', version, last operation, answer, entries, records, and see below.
local meta, live, log, finished = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local since, count, operation = tonumber(ARGV[1]), tonumber(ARGV[3]), ARGV[4]
local found = redis.call('HMGET', meta, 'version', 'next', 'tip', 'deleted')
if found[4] or not found[1] then return {'gone'} end
local version, next_number, tip = tonumber(found[1]), tonumber(found[2]), found[3]
if not version or not next_number or not tip then return {'damaged', meta} end
local current = since == version and ARGV[2] == tip
if current and not ARGV[6] then return {'same'} end

local function starts(text, head) return string.sub(text, 1, #head) == head end

-- What happened since the version that the client knows, if the log still tells.
local answer, done, entries = {}, nil, nil
if current then
  entries = {}
elseif since >= 0 and since <= version then
  entries = redis.call('LRANGE', log, since - version - 1, -1)
  if #entries ~= version - since + 1 or not starts(entries[1], ARGV[2] .. '\\t') then
    entries = nil
  else
    table.remove(entries, 1)
    for _, entry in ipairs(entries) do
      if starts(entry, operation .. '\\t') then
        done = string.match(entry, '^[^\\t]*\\t([^\\n]*)')
      end
    end
  end
end
-- Nothing is done to a study that is not what the client takes it for.
if not entries and ARGV[6] then return {ARGV[5] == '1' and 'unknown' or 'gap'} end

local lines, pushed, length = {}, {}, nil
local function add(...) lines[#lines + 1] = table.concat({...}, '\\t') end

local function find(number, birth)  -- the head of a live trial, or why there is none
  local head = redis.call('HGET', live, number)
  if not head then
    return nil, tonumber(number) < next_number and 'f' or 'm'
  elseif string.match(head, '^%u([^\\t]*)') ~= birth then
    return nil, 'm'
  end
  return head
end

local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local function fields_of(key)  -- a JSON object, its fields in the order they were first set
  local flat, fields = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    local place, value = string.match(flat[i + 1], '^(%d+) (.*)$')
    fields[(i + 1) / 2] = {tonumber(place), flat[i] .. ':' .. value}
  end
  table.sort(fields, function(a, b) return a[1] < b[1] end)
  for i, field in ipairs(fields) do fields[i] = field[2] end
  return '{' .. table.concat(fields, ',') .. '}'
end

local function finish(record)
  length = redis.call('RPUSH', finished, record)
  pushed[#pushed + 1] = record
end

local commands = {}

function commands.d(i)  -- distribution: id, JSON
  redis.call('HSETNX', KEYS[5], ARGV[i + 1], ARGV[i + 2])
  return 3
end

function commands.c(i)  -- create: state, start, completion, fields, whether a heartbeat starts
  local rest = '\\t' .. ARGV[i + 2] .. '\\t' .. ARGV[i + 3] .. '\\t' .. ARGV[i + 4]
  redis.call('HSET', live, next_number, ARGV[i + 1] .. operation .. rest)
  if ARGV[i + 5] == '1' then redis.call('ZADD', KEYS[7], clock(), next_number) end
  if #rest < 1024 then add('c', next_number, ARGV[i + 1] .. rest) else add('~', next_number) end
  answer[#answer + 1] = 'c' .. next_number
  next_number = next_number + 1
  return 6
end

function commands.f(i)  -- create a finished trial: its record after the number
  finish('[' .. next_number .. ',' .. ARGV[i + 1])
  add('f', next_number)
  answer[#answer + 1] = 'c' .. next_number
  next_number = next_number + 1
  return 2
end

-- Write to a trial: number, birth, new state or '', values, time, whether a heartbeat starts,
-- how many fields; then for each the field, its value, and its kind or ''.
function commands.w(i)
  local number, key, new = ARGV[i + 1], KEYS[10], ARGV[i + 3]
  local finishes = new ~= '' and new ~= 'R' and new ~= 'W'
  local last = i + 7 + 3 * ARGV[i + 7]
  local head, why = find(number, ARGV[i + 2])
  if not head then
    answer[#answer + 1] = 's' .. why
    return last - i + 1
  end
  local fields, size, said = {}, 0, #lines
  for j = i + 8, last, 3 do
    local field, value, kind = ARGV[j], ARGV[j + 1], ARGV[j + 2]
    if kind ~= '' and redis.call('HSETNX', KEYS[6], field, kind) == 0
      and redis.call('HGET', KEYS[6], field) ~= kind then
      answer[#answer + 1] = 'si'
      return last - i + 1
    end
    if finishes then
      fields[#fields + 1] = field .. ':' .. value
    else
      local old = redis.call('HGET', key, field)
      local place = old and string.match(old, '^%d+') or redis.call('HLEN', key)
      redis.call('HSET', key, field, place .. ' ' .. value)
      add('o', number, field, value)
      size = size + #value
    end
  end
  if size > 1024 then
    for j = #lines, said + 1, -1 do lines[j] = nil end
    add('~', number)
  end
  local old = string.sub(head, 1, 1)
  if new == '' or new == 'R' and old == 'R' then
    answer[#answer + 1] = new == '' and 's1' or 's0'
    return last - i + 1
  end
  local birth, start, complete, first =
    string.match(head, '^%u([^\\t]*)\\t([^\\t]*)\\t([^\\t]*)\\t(.*)$')
  if finishes then
    local record = {number, '"' .. new .. '"', ARGV[i + 4], start, ARGV[i + 5], first}
    if redis.call('EXISTS', key) == 1 then
      record[7] = fields_of(key)
      redis.call('DEL', key)
    end
    if #fields > 0 then record[#record + 1] = '{' .. table.concat(fields, ',') .. '}' end
    finish('[' .. table.concat(record, ',') .. ']')
    redis.call('HDEL', live, number)
    redis.call('ZREM', KEYS[7], number)
    add('f', number)
  else
    if new == 'R' then start = ARGV[i + 5] end
    redis.call('HSET', live, number,
      new .. birth .. '\\t' .. start .. '\\t' .. complete .. '\\t' .. first)
    if new == 'R' and ARGV[i + 6] == '1' then redis.call('ZADD', KEYS[7], clock(), number) end
    if new == 'W' then redis.call('ZREM', KEYS[7], number) end
    add('s', number, new, start)
  end
  answer[#answer + 1] = 's1'
  return last - i + 1
end

function commands.a(i)  -- attribute of the study: u or s, name, value
  local which, name, value = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  redis.call('HSET', which == 'u' and KEYS[8] or KEYS[9], name, value)
  if #value < 256 then add('a', which, name, value) else add('b', which, name) end
  return 4
end

function commands.b(i)  -- heartbeat: number, birth
  local head = find(ARGV[i + 1], ARGV[i + 2])
  if head and string.sub(head, 1, 1) == 'R' then
    redis.call('ZADD', KEYS[7], clock(), ARGV[i + 1])
  end
  return 3
end

if done then
  answer = done
else
  local i = 6
  while ARGV[i] do i = i + commands[ARGV[i]](i) end
  answer = table.concat(answer, ' ')
  if #lines > 0 then
    table.insert(lines, 1, operation .. '\\t' .. answer)
    redis.call('RPUSH', log, table.concat(lines, '\\n'))
    version, tip = version + 1, operation
    redis.call('HSET', meta, 'version', version, 'tip', tip, 'next', next_number)
    if version % 256 == 0 then redis.call('LTRIM', log, -LOG_LENGTH, -1) end
  end
end

if current and (not length or length == count + #pushed) then
  return {'ok', version, tip, answer, entries, pushed}
end
length = redis.call('LLEN', finished)
local records = count < length and redis.call('LRANGE', finished, count - length, -1) or {}
if entries and count <= length then return {'ok', version, tip, answer, entries, records} end
if since >= 0 then return {'gap'} end
-- The client starts from the finished trials it knows, and takes all that are alive.
if count > length then return {'reset'} end
return {'live', version, tip, redis.call('HGETALL', live), records, next_number}
""".replace("LOG_LENGTH", "4096")
)
"""Everything that changes a study, or asks what has changed."""


_FINAL = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
_PASSING = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.MasterDownError,
    redis_errors.RedisClusterException,
    OSError,
)
# What clusters raise is no error of Redis for redis-py.
ERRORS = (redis_errors.RedisError, redis_errors.RedisClusterException, OSError)
"""The errors of redis-py."""

_PASSING_WORDS = ("BUSY ", "LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN")
# What is forbidden inside a script, in the words of Redis 6.2 and 7.
_FORBIDDEN_WORDS = ("NOPERM", "executing the script can't", "ACL failure in script")
_LOGIN_WORDS = (
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "invalid username-password",
    "without any password",
)


def is_passing(error: Exception) -> bool:
    """Tell whether the next attempt may succeed: a connection was lost, or a server is starting.

    Example:
        >>> import redis
        >>> from prefect_optuna.blocks.redis_storage.server import is_passing
        >>> is_passing(redis.TimeoutError()), is_passing(redis.AuthenticationError())
        (True, False)
    """
    if isinstance(error, _FINAL) or _is_about_a_certificate(error):
        return False
    return isinstance(error, _PASSING) or _text(error).startswith(_PASSING_WORDS)


def translated(
    error: Exception, where: str, waited: float = 0.0, secrets: Iterable[str] = ()
) -> PrefectOptunaError:
    """Say in the project's own errors what has gone wrong.

    Args:
        error: of redis-py.
        where: the server and the namespace, without any password.
        waited: for how many seconds it has been tried.
        secrets: what the server may have repeated and the message may not.

    Example:
        >>> import redis
        >>> from prefect_optuna.blocks.redis_storage.server import translated
        >>> print(translated(redis.AuthenticationError("WRONGPASS"), "redis://lab:6379/0"))
        redis://lab:6379/0 does not let this user in: WRONGPASS. Correct the username and the ...
    """
    text = without_secrets(_text(error), secrets)
    tried = f" It was tried again for {waited:.1f} s." if waited >= 0.1 else ""
    forbidden = isinstance(error, redis_errors.NoPermissionError)
    if forbidden or any(word in text for word in _FORBIDDEN_WORDS):
        return StoragePermissionError(
            f"{where} does not let this user do that: {text}. Give the user the rules that "
            "`acl_rules(namespace)` lists."
        )
    if isinstance(error, _FINAL) or any(word in text for word in _LOGIN_WORDS):
        return StoragePermissionError(
            f"{where} does not let this user in: {text}. Correct the username and the password."
        )
    if isinstance(error, redis_errors.ReadOnlyError) or text.startswith("READONLY"):
        return StoragePermissionError(
            f"{where} is a read-only replica. Give the address of the primary, or of a Sentinel "
            f"that knows it (redis+sentinel://host:26379/service/0).{tried}"
        )
    if text.startswith("MISCONF"):
        return StoragePermissionError(
            f"{where} takes no writes, because it cannot save to its disk: {text} Make room on "
            "the disk of the server."
        )
    if isinstance(error, redis_errors.OutOfMemoryError) or "OOM" in text[:60]:
        return StorageUnavailableError(
            f"{where} has no memory left (maxmemory). Nothing was written. Give the server more "
            "memory, or delete studies."
        )
    if "unknown command" in text or "Unknown Redis command" in text:
        return StorageUnavailableError(
            f"{where} lacks a command that RedisStorage needs: {text}. It needs Redis 6.2 or "
            "later, or Valkey, with scripting (EVALSHA) allowed."
        )
    if "value is not an integer" in text:
        return DamagedStorageError(
            f"{where} has a counter that is no number: {text}. Somebody has changed it. Run "
            "`check` on the storage, and restore a backup."
        )
    if "WRONGTYPE" in text:
        return DamagedStorageError(
            f"{where} has a key of another type than RedisStorage has made: {text}. Somebody has "
            "changed it. Run `check` on the storage, and restore a backup."
        )
    if _is_about_a_certificate(error):
        return StorageUnavailableError(
            f"{where} shows a TLS certificate that is not trusted: {text}. Name its authority "
            "with ?ssl_ca_certs=/path/ca.pem in the URL."
        )
    if isinstance(error, redis_errors.BusyLoadingError) or text.startswith("LOADING"):
        return StorageUnavailableError(
            f"{where} is still loading its data.{tried} Try again when it is done."
        )
    if is_passing(error):
        return StorageUnavailableError(
            f"{where} cannot be reached: {text or type(error).__name__}.{tried} Is the server "
            "running, and are host and port right?"
        )
    return StorageUnavailableError(f"{where} has refused: {text or type(error).__name__}.")


def _text(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    # Before Redis 7, what a command in a script has answered stands at the end.
    inside = re.search(r"@user_script: ?\d+: -([A-Z]+ .*)", text)
    return inside[1] if inside else text


def _is_about_a_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


_T = TypeVar("_T")
_Client = Any  # redis.Redis or RedisCluster, whose types do not know each other

_FIRST_DELAY, _LAST_DELAY = 0.005, 0.5


class Server:
    """Sends commands and scripts, and tries again when the way to the server fails.

    Args:
        target: a URL, or a client of redis-py, whose settings are taken over.
        namespace: for the errors.
        timeout: seconds to wait for a connection and for each reply.
        retry_limit: seconds for which a call is tried again.
        options: more settings for redis-py's connections.
        sentinel_options: the same for the connections to Sentinels.
    """

    def __init__(
        self,
        target: str | _Client,
        *,
        namespace: str,
        timeout: float,
        retry_limit: float,
        options: dict[str, Any],
        sentinel_options: dict[str, Any],
    ) -> None:
        self.location: str = location_of(target)
        self.where: str = f"{self.location}, namespace {namespace!r},"
        self.retry_limit: float = retry_limit
        self._idle: list[Any] = []
        settings: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "health_check_interval": 0,
            **options,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
        }
        self.client: _Client = self._connected(target, settings, sentinel_options)
        self._secrets = secrets_in([target, options]) | secrets_in(sentinel_options)
        self._is_cluster = isinstance(self.client, RedisCluster)

    def _connected(
        self, target: str | _Client, settings: dict[str, Any], sentinel_options: dict[str, Any]
    ) -> _Client:
        try:
            if not isinstance(target, str):
                return _like(target, settings)
            client = _from_url(target, settings, sentinel_options)
            if (pool := getattr(client, "connection_pool", None)) is not None:
                if not isinstance(pool.connection_kwargs["retry"], Retry):
                    raise TypeError("retry")
                pool.connection_class(**pool.connection_kwargs)  # it is not connected yet
            return client
        except PrefectOptunaError:
            raise
        except ERRORS as error:  # a cluster is asked for its nodes
            raise translated(error, self.where) from None
        except (TypeError, ValueError, AttributeError):
            # Their own message names an option; that may be a piece of a password.
            raise InvalidSettingError(
                f"The URL of {self.location} has an option that redis-py does not have, or one "
                "whose value is of another kind. Expected those of redis.Redis, such as "
                "?socket_timeout=5, or none: user, password and TLS have settings of their own."
            ) from None

    def run(
        self, script: Script, keys: Sequence[str], arguments: list[Any], *, again: int | None = None
    ) -> Any:
        """Run a script."""

        def once(attempt: int) -> Any:
            if attempt and again is not None:
                arguments[again] = "1"
            try:
                return self._send([("EVALSHA", script.digest, len(keys), *keys, *arguments)])[0]
            except redis_errors.NoScriptError:
                return self._send([("EVAL", script.source, len(keys), *keys, *arguments)])[0]

        return self._insist(once)

    def read(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands that may be sent twice, all at once."""
        return self._insist(lambda _: self._send(commands)) if commands else []

    def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self._is_cluster:
            if len(commands) == 1:
                return [self.client.execute_command(*commands[0])]
            with self.client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return pipeline.execute()
        # A client of redis-py takes half as long again as all the rest of a trial. Its
        # connections are what is needed: they log in, check certificates and ask Sentinels.
        pool = self.client.connection_pool
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = pool.get_connection()
        try:
            packed = [hiredis.pack_command(command) for command in commands]
            connection.send_packed_command(packed, check_health=False)
            replies = [_reply(connection) for _ in commands]
        except BaseException:
            # The next reply could be that of an earlier command.
            connection.disconnect()
            pool.release(connection)
            raise
        self._idle.append(connection)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _insist(self, once: Callable[[int], _T]) -> _T:
        attempt, started, deadline = 0, 0.0, 0.0
        while True:
            try:
                return once(attempt)
            except ERRORS as error:
                now = time.monotonic()
                if attempt == 0:
                    started, deadline = now, now + self.retry_limit
                delay = min(_FIRST_DELAY * 2**attempt, _LAST_DELAY) * random.uniform(0.5, 1.0)  # noqa: S311
                if not is_passing(error) or now + delay > deadline:
                    raise self.explained(error, now - started) from self.cause(error)
                # The others are no better, or the address belongs to another server by now.
                self.disconnect()
                time.sleep(delay)
                attempt += 1

    def explained(self, error: Exception, waited: float = 0.0) -> PrefectOptunaError:
        """Return the error to raise for one of redis-py's, after `waited` seconds of retries."""
        return translated(error, self.where, waited, self._secrets)

    def cause(self, error: Exception) -> BaseException | None:
        """Return the cause to raise an error from: none, if the server has repeated a password."""
        return clean_cause(error, self._secrets)

    def disconnect(self) -> None:
        """Close the connections that are not in use; the next call opens new ones."""
        while self._idle:
            connection = self._idle.pop()
            connection.disconnect()
            self.client.connection_pool.release(connection)
        if self._is_cluster:
            self.client.disconnect_connection_pools()
        else:
            self.client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.disconnect()
        self.client.close()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis_errors.ResponseError as error:
        return error  # others follow


def _from_url(url: str, settings: dict[str, Any], sentinel_options: dict[str, Any]) -> _Client:
    parts = split_url(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        return redis.Redis.from_url(url, **settings)
    login, _, hosts = parts.netloc.rpartition("@")
    query = dict(parse_qsl(parts.query))
    sentinel_login = {
        name.removeprefix("sentinel_"): query.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in query
    }
    # redis-py reads the rest of the URL as it would for one server.
    single = (
        f"{scheme}://{login}@localhost/?{urlencode(query)}"
        if login
        else (f"{scheme}://localhost/?{urlencode(query)}")
    )
    pool = redis.ConnectionPool.from_url(single, **settings)
    settings = {k: v for k, v in pool.connection_kwargs.items() if k not in ("host", "port", "db")}
    secure = scheme == "rediss"
    default_port = 26379 if kind == "sentinel" else 6379
    addresses = [_address(host, default_port) for host in hosts.split(",")]
    if kind == "cluster":
        if parts.path not in ("", "/", "/0"):
            raise InvalidSettingError(
                f"a Redis Cluster has database 0 only, and found {parts.path[1:]!r}. Leave it out."
            )
        return _cluster(addresses, {**settings, "ssl": secure})
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not (database or "0").isdigit():
        raise InvalidSettingError(
            "expected redis+sentinel://host:26379,host2/service/0, with the name that the "
            f"Sentinel has for its primary, and found {parts.path!r} as service and database."
        )
    timeouts = {k: settings[k] for k in ("socket_timeout", "socket_connect_timeout")}
    sentinel = Sentinel(
        addresses,
        sentinel_kwargs={
            **timeouts,
            **sentinel_login,
            **sentinel_options,
            "retry": settings["retry"],
        },
    )
    return sentinel.master_for(
        unquote(service), db=int(database or 0), **({"ssl": True} if secure else {}), **settings
    )


def _address(host: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "localhost", parts.port or default_port


def _cluster(addresses: list[tuple[str, int]], settings: dict[str, Any]) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in addresses]
    return RedisCluster(startup_nodes=nodes, **settings)


def _like(client: _Client, settings: dict[str, Any]) -> _Client:
    """A client with the settings of another, and without its retries."""
    own = {name: settings[name] for name in ("retry", "decode_responses")}
    if isinstance(client, RedisCluster):
        manager: Any = client.nodes_manager
        nodes = [(node.host, node.port) for node in manager.startup_nodes.values()]
        return _cluster(nodes, {**manager.connection_kwargs, **own})
    pool = client.connection_pool
    timeouts = {
        name: settings[name]
        for name in ("socket_timeout", "socket_connect_timeout")
        if pool.connection_kwargs.get(name) is None
    }
    kwargs = {**pool.connection_kwargs, **timeouts, **own}
    if (service := getattr(pool, "service_name", None)) is not None:
        kwargs.pop("connection_pool", None)
        return pool.sentinel_manager.master_for(service, **kwargs)
    copy = redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
    return redis.Redis.from_pool(copy)
