"""Keys of a namespace and their contents: what is in them, and how it is written.

The registry is one slot of a Redis Cluster, and each study is another:

| key | type | content |
|---|---|---|
| `{ns}` | hash | `format`: of this layout; `next`: the last study's id |
| `{ns}:names` | hash | a study's name: its id |
| `{ns}:studies` | hash | a study's id: its name |
| `{ns:id}:meta` | hash | `name`, `directions`, `operation`, `version`, `tip`, `next`, `sums` |
| `{ns:id}:live` | hash | number of an unfinished trial: its head |
| `{ns:id}:trial:<n>` | hash | what was set on an unfinished trial after it was made |
| `{ns:id}:finished` | list | one record for each finished trial, in the order they finished |
| `{ns:id}:log` | list | the last operations; the last of them is number `version` |
| `{ns:id}:distributions` | hash | short id: a distribution as Optuna's JSON |
| `{ns:id}:kinds` | hash | a parameter's field: what a distribution must be like to fit |
| `{ns:id}:heartbeats` | sorted set | number of a running trial: the server's milliseconds |
| `{ns:id}:user`, `{ns:id}:system` | hash | the study's attributes: name as JSON: value as JSON |

In `meta`, `directions` is JSON, `operation` made the study, `tip` is the last one, which begins the
log's last entry, and `next` is the number of the next trial, and so how many there are. `sums`,
see `study_check.py`, are of the first trials in `finished`, and save others the reading of them.
`deleted` is there while a study is deleted.

A head is four parts with tabs between them: the state (`R` or `W`) and, right after it, the
operation that made the trial; the time it was started; the time it was completed; and the fields
it was made with, as a JSON object. A field is a JSON string: `"px"` is the parameter x, `"ukey"`
and `"skey"` are attributes, `"i3"` is the intermediate value of step 3, `"v"` the objectives'
values. In `trial:<n>` each value follows the place of its field and a space: `0 [...]`.

A record is a JSON array: `[number, state, values, started, completed, fields, later fields...]`,
where states are the first letters of their names, times are seconds since 1970 in UTC, with a
decimal point (0.1.0 wrote microseconds on the writer's wall clock, without one), and a parameter is
`[id of the distribution, value inside Optuna]`. Of fields of one name, the last one counts.

An entry of the log is lines: the operation, a tab and its answer; then what it did, as in
`study_copy.py`. Nothing is ever pickled.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks._secrets import check_login, scheme_of
from prefect_optuna.blocks.codec.values import encode
from prefect_optuna.errors import AttributeEncodingError, InvalidSettingError

# Values, distributions, times and trials as JSON text, and back.
#
# JSON by the standard library, which keeps NaN, infinity and every digit of a float.


LETTERS: dict[TrialState, str] = {state: state.name[0] for state in TrialState}
"""The letter that stands for a state."""

STATES: dict[str, TrialState] = {letter: state for state, letter in LETTERS.items()}
"""The state that a letter stands for."""

_SIMPLE = frozenset({str, int, float, bool, type(None)})
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def plain(value: Any, text: str) -> Any:
    """Return what a reader will get for a value that has been encoded as this text.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import encode, plain
        >>> plain((1, 2), encode((1, 2)))
        [1, 2]
    """
    return value if type(value) in _SIMPLE else json.loads(text)


def encode_number(value: float) -> str:
    """Turn a number, also one of NumPy, into JSON.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import encode_number
        >>> encode_number(0.1), encode_number(float("nan"))
        ('0.1', 'NaN')
    """
    number = float(value)
    return repr(number) if math.isfinite(number) else _to_json(number)


def encode_values(values: Iterable[float] | None) -> str:
    """Turn the values of a trial's objectives into JSON.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import encode_values
        >>> encode_values([1, 0.5]), encode_values(None)
        ('[1.0,0.5]', 'null')
    """
    return "null" if values is None else f"[{','.join(map(encode_number, values))}]"


def encode_time(moment: datetime | None) -> str:
    """Turn a time into JSON.

    Returns:
        Seconds since 1970 in UTC, with a decimal point.

    Example:
        >>> from datetime import UTC, datetime
        >>> from prefect_optuna.blocks.redis_storage.layout import encode_time
        >>> encode_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        '1767323045.0'
    """
    return "null" if moment is None else repr(moment.timestamp())


def decode_time(stored: float | str | None) -> datetime | None:
    """Give back a time, as Optuna's other storages do: in the time zone of this process.

    Version 0.1.0 wrote whole numbers, microseconds since 1970 on the writer's wall clock, and
    text where a time had a zone.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import decode_time
        >>> decode_time(1767323045.0).timestamp(), decode_time(1767323045000000)
        (1767323045.0, datetime.datetime(2026, 1, 2, 3, 4, 5))
    """
    if stored is None:
        return None
    try:
        if isinstance(stored, float):
            return datetime.fromtimestamp(stored)  # noqa: DTZ006
        if isinstance(stored, str):
            return datetime.fromisoformat(stored).astimezone().replace(tzinfo=None)
        return _EPOCH + timedelta(microseconds=stored)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{stored!r} is no time") from error


@lru_cache(4096)
def parameter_field(name: str) -> str:
    """The field in which a parameter is kept.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import parameter_field
        >>> parameter_field("lr")
        '"plr"'
    """
    return _to_json("p" + name)


@lru_cache(4096)
def attribute_field(which: str, name: str) -> str:
    """The field in which an attribute of a trial is kept.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import attribute_field
        >>> attribute_field("u", "note")
        '"unote"'
    """
    return _to_json(which + name)


@dataclass(frozen=True, slots=True)
class StoredDistribution:
    """A distribution as the server keeps it, once for all trials."""

    key: str
    text: str
    kind: str


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:6]).decode()


@lru_cache(4096)
def _stored(distribution: BaseDistribution, _identity: object) -> StoredDistribution:
    text = distribution_to_json(distribution)
    if isinstance(distribution, CategoricalDistribution):
        kind = "C" + _digest(encode(distribution.choices))
    else:
        kind = type(distribution).__name__[0] + str(int(getattr(distribution, "log", False)))
    return StoredDistribution(_digest(text), text, kind)


def _identity(distribution: BaseDistribution) -> object:
    # `1 == True`, and so are the distributions over them; what is stored must not be.
    if isinstance(distribution, CategoricalDistribution):
        return repr(distribution.choices)
    return None


_by_bounds: dict[tuple[object, ...], StoredDistribution] = {}


def stored_distribution(distribution: BaseDistribution) -> StoredDistribution:
    """Return the stored form of a distribution; equal ones are worked out once.

    Example:
        >>> from optuna.distributions import FloatDistribution
        >>> from prefect_optuna.blocks.redis_storage.layout import stored_distribution
        >>> stored_distribution(FloatDistribution(1e-5, 1.0, log=True)).kind
        'F1'
    """
    kind = type(distribution)
    if kind is FloatDistribution or kind is IntDistribution:
        bounds: Any = distribution
        key = (kind, bounds.low, bounds.high, bounds.step, bounds.log)
        stored = _by_bounds.get(key)
        if stored is None:
            if len(_by_bounds) >= 4096:
                _by_bounds.clear()
            stored = _by_bounds[key] = _stored(distribution, None)
        return stored
    try:
        return _stored(distribution, _identity(distribution))
    except TypeError as error:
        raise AttributeEncodingError(
            f"Expected choices that are JSON: numbers, text, True, False and None. Found "
            f"{distribution}: {error}. Choose among names, and look up what they stand for."
        ) from error


class Parts:
    """The parts of a trial, gathered field by field.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import Parts
        >>> parts = Parts({}.__getitem__)
        >>> parts.set("unote", "good")
        >>> parts.user
        {'note': 'good'}
    """

    __slots__ = (
        "distributions",
        "find",
        "intermediate",
        "params",
        "system",
        "user",
        "values",
    )

    def __init__(self, distribution: Callable[[str], BaseDistribution]) -> None:
        self.find: Callable[[str], BaseDistribution] = distribution
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.user: dict[str, Any] = {}
        self.system: dict[str, Any] = {}
        self.intermediate: dict[int, float] = {}
        self.values: list[float] | None = None

    def set(self, field: str, value: Any) -> None:
        """Set one field.

        Example:
            >>> from prefect_optuna.blocks.redis_storage.layout import Parts
            >>> parts = Parts({}.__getitem__)
            >>> parts.set("i3", 0.5)
            >>> parts.intermediate
            {3: 0.5}
        """
        kind, name = field[0], field[1:]
        if kind == "p":
            distribution = self.find(value[0])
            self.distributions[name] = distribution
            self.params[name] = distribution.to_external_repr(value[1])
        elif kind == "u":
            self.user[name] = value
        elif kind == "s":
            self.system[name] = value
        elif kind == "i":
            self.intermediate[int(name)] = value
        elif kind == "v":
            self.values = value
        else:
            raise ValueError(f"unknown field {field!r}")

    def update(self, fields: dict[str, Any]) -> None:
        """Set many fields.

        Example:
            >>> from prefect_optuna.blocks.redis_storage.layout import Parts
            >>> parts = Parts({}.__getitem__)
            >>> parts.update({"ua": 1, "ub": 2})
            >>> parts.user
            {'a': 1, 'b': 2}
        """
        params, distributions, find = self.params, self.distributions, self.find
        for field, value in fields.items():
            if field[0] == "p":  # most are, and there may be many thousands
                name = field[1:]
                distribution = distributions[name] = find(value[0])
                params[name] = distribution.to_external_repr(value[1])
            else:
                self.set(field, value)

    def frozen(
        self,
        number: int,
        trial_id: int,
        state: TrialState,
        started: datetime | None,
        completed: datetime | None,
    ) -> FrozenTrial:
        """A trial of Optuna's, which takes these parts over.

        Example:
            >>> from optuna.trial import TrialState
            >>> from prefect_optuna.blocks.redis_storage.layout import Parts
            >>> parts = Parts({}.__getitem__)
            >>> parts.frozen(0, 2, TrialState.WAITING, None, None).state.name
            'WAITING'
        """
        return FrozenTrial(
            number,
            state,
            None,
            started,
            completed,
            self.params,
            self.distributions,
            self.user,
            self.system,
            self.intermediate,
            trial_id,
            values=self.values,
        )

    def copy(self) -> Parts:
        """Parts that can be changed on their own.

        Example:
            >>> from prefect_optuna.blocks.redis_storage.layout import Parts
            >>> Parts({}.__getitem__).copy().user
            {}
        """
        other = Parts(self.find)
        other.params = self.params.copy()
        other.distributions = self.distributions.copy()
        other.user = self.user.copy()
        other.system = self.system.copy()
        other.intermediate = self.intermediate.copy()
        other.values = self.values
        return other


def encode_fields(trial: FrozenTrial) -> tuple[str, list[StoredDistribution]]:
    """Turn what was set on a trial into the fields of its head or record.

    Example:
        >>> from optuna.trial import create_trial
        >>> from prefect_optuna.blocks.redis_storage.layout import encode_fields
        >>> encode_fields(create_trial(value=1.0, user_attrs={"note": "good"}))[0]
        '{"unote":"good"}'
    """
    fields: list[str] = []
    distributions: list[StoredDistribution] = []
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        stored = stored_distribution(distribution)
        distributions.append(stored)
        internal = encode_number(distribution.to_internal_repr(value))
        fields.append(f'{parameter_field(name)}:["{stored.key}",{internal}]')
    for which, attributes in (("u", trial.user_attrs), ("s", trial.system_attrs)):
        fields += [
            f"{attribute_field(which, name)}:{encode(value, name)}"
            for name, value in attributes.items()
        ]
    fields += [
        f'"i{step}":{encode_number(value)}' for step, value in trial.intermediate_values.items()
    ]
    if trial.values is not None and not trial.state.is_finished():
        fields.append(f'"v":{encode_values(trial.values)}')
    return f"{{{','.join(fields)}}}", distributions


decode_distribution: Callable[[str], BaseDistribution] = lru_cache(4096)(json_to_distribution)


# The URLs of servers; redis-py is not needed to read them.


_SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)


def location_of(target: Any) -> str:
    """Return the address of a URL or a client, for people, without any password.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import location_of
        >>> location_of("rediss://lab:secret@redis.example.org:6380/2?ssl_ca_certs=ca.pem")
        'rediss://redis.example.org:6380/2'
    """
    if isinstance(target, str):
        url = split_url(target)
        host = url.netloc.rpartition("@")[2]
        return f"{url.scheme}://{host}{url.path}"
    if hasattr(target, "get_default_node"):
        node: Any = target.get_default_node()
        return f"redis+cluster://{node.host}:{node.port}"
    pool = getattr(target, "connection_pool", None)
    if pool is None:
        raise InvalidSettingError(
            "expected a URL such as redis://localhost:6379/0, or a redis.Redis or RedisCluster "
            f"client, and found {type(target).__qualname__}."
        )
    settings = pool.connection_kwargs
    if (service := getattr(pool, "service_name", None)) is not None:
        return f"redis+sentinel://{service}"
    if "path" in settings:
        return f"unix://{settings['path']}"
    scheme = "rediss" if pool.connection_class.__name__.startswith("SSL") else "redis"
    host, port = settings.get("host", "localhost"), settings.get("port", 6379)
    return f"{scheme}://{host}:{port}/{settings.get('db', 0) or 0}"


def split_url(url: str) -> SplitResult:
    """Take a URL apart.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import split_url
        >>> split_url("redis+sentinel://a:26379,b/service/0").path
        '/service/0'
    """
    scheme = scheme_of(url)
    if scheme not in _SCHEMES or "://" not in url:
        raise InvalidSettingError(
            "expected a URL that starts with " + "://, ".join(_SCHEMES) + "://, such as "
            f"redis://localhost:6379/0, and found {f'one of {scheme!r}' if scheme else 'none'}."
        )
    try:
        check_login(url)
    except ValueError as error:
        raise InvalidSettingError(str(error)) from None
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        for host in hosts.split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise InvalidSettingError(
            f"expected {scheme}://host:port, such as {scheme}://localhost:6379, and found a host "
            "or a port that is none."
        ) from None
    return parts


FORMAT = 1
"""The version of this layout."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The keys that say which studies there are.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import Registry
        >>> Registry("lab").names
        '{lab}:names'
    """

    namespace: str

    @property
    def root(self) -> str:
        """Hash: the format, and the last id that was given to a study."""
        return f"{{{self.namespace}}}"

    @property
    def names(self) -> str:
        """Hash: ids by name."""
        return f"{self.root}:names"

    @property
    def studies(self) -> str:
        """Hash: names by id."""
        return f"{self.root}:studies"


class StudyKeys:
    """The keys of one study.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import StudyKeys
        >>> StudyKeys("lab", 3).trial(7)
        '{lab:3}:trial:7'
    """

    def __init__(self, namespace: str, study_id: int) -> None:
        self.prefix: str = f"{{{namespace}:{study_id}}}:"
        self.meta: str = self.prefix + "meta"
        self.live: str = self.prefix + "live"
        self.log: str = self.prefix + "log"
        self.finished: str = self.prefix + "finished"
        self.distributions: str = self.prefix + "distributions"
        self.kinds: str = self.prefix + "kinds"
        self.heartbeats: str = self.prefix + "heartbeats"
        self.user: str = self.prefix + "user"
        self.system: str = self.prefix + "system"

    @property
    def fixed(self) -> tuple[str, ...]:
        """Every key but those of unfinished trials, in the order in which scripts take them."""
        return (
            self.meta,
            self.live,
            self.log,
            self.finished,
            self.distributions,
            self.kinds,
            self.heartbeats,
            self.user,
            self.system,
        )

    def trial(self, number: int) -> str:
        """Hash: what was set on an unfinished trial.

        Example:
            >>> from prefect_optuna.blocks.redis_storage.layout import StudyKeys
            >>> StudyKeys("lab", 3).trial(7)
            '{lab:3}:trial:7'
        """
        return f"{self.prefix}trial:{number}"


def trial_id(study_id: int, number: int) -> int:
    """The id of a trial, which holds the study's id in its lowest bits and the number above them.

    So ids need no counter, are small, and never meet. The study's id takes groups of four bits,
    of which the lowest says whether another group follows.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import trial_id, trial_place
        >>> trial_id(5, 1000)
        16010
        >>> trial_place(16010)
        (5, 1000)
    """
    bits, shift = 0, 0
    while True:
        group, study_id = study_id & 7, study_id >> 3
        bits |= (group << 1 | (study_id > 0)) << shift
        shift += 4
        if not study_id:
            return number << shift | bits


def trial_place(of: int) -> tuple[int, int]:
    """The study's id and the trial's number that an id stands for.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import trial_place
        >>> trial_place(16010)
        (5, 1000)
    """
    study_id, shift, rest = 0, 0, int(of)
    while rest >= 0:
        group, rest = rest & 15, rest >> 4
        study_id |= group >> 1 << shift
        if not group & 1:
            if group == 0:  # no study has the id 0, and no id ends with an empty group
                break
            return study_id, rest
        shift += 3
    raise KeyError(f"No trial with the id {of} exists.")
