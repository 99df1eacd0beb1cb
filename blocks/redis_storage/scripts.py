"""Scripts that run inside the server, each whole or not at all, and the permissions they need.

Scripts never decode a value: they move text, so that no digit of a float is lost.
"""

from __future__ import annotations

import hashlib
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
        >>> from prefect_optuna.blocks.redis_storage.scripts import acl_rules
        >>> print("ACL SETUSER lab on >secret", *acl_rules("lab")[:4])
        ACL SETUSER lab on >secret ~{lab}* ~{lab:* -@all +auth
    """
    name = re.sub(r"([*?\[\]\\^-])", r"\\\1", namespace)
    commands = (*COMMANDS, *(_CLUSTER if cluster else ()))
    return [f"~{{{name}}}*", f"~{{{name}:*", "-@all", *(f"+{command}" for command in commands)]


class Script:
    """A Lua script and the digest by which the server knows it.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.scripts import Script
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
