"""Rescues the studies that Optuna's former `RedisStorage` has left behind.

Optuna 1.4 to 3.0 had a storage of that name. It kept these keys, all values but the lists of
trials being pickles, and no version of Optuna since 3.1 can read them:

| key | content |
|---|---|
| `study_list` | list of the ids of the studies |
| `study_id:<id>:study_name` | the name |
| `study_id:<id>:directions` | list of directions; before 2.4 `:direction`, one of them |
| `study_id:<id>:study_summary` | a `StudySummary`, which holds the attributes |
| `study_id:<id>:trial_list` | list of the ids of the trials, in digits |
| `trial_id:<id>:frozentrial` | a `FrozenTrial` |

where ids have ten digits in the names of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks._secrets import secrets_in, without_secrets
from prefect_optuna.blocks.codec.untrusted import (
    ForbiddenNameError,
    Stored,
    loads,
    without_pickled_state,
)
from prefect_optuna.blocks.locations import as_study_storage
from prefect_optuna.blocks.redis_storage.layout import location_of
from prefect_optuna.blocks.study_storage import StudyStorage
from prefect_optuna.errors import (
    DamagedStorageError,
    PickleRefusedError,
    PrefectOptunaError,
    StorageUnavailableError,
    StudyMismatchError,
    StudyNotFoundError,
)

if TYPE_CHECKING:
    from redis import Redis

_CLASSES = (
    "FrozenTrial",
    "StudySummary",
    "FloatDistribution",
    "UniformDistribution",
    "LogUniformDistribution",
    "DiscreteUniformDistribution",
    "IntDistribution",
    "IntUniformDistribution",
    "IntLogUniformDistribution",
    "CategoricalDistribution",
)
_ENUMERATIONS = {"TrialState": TrialState, "StudyDirection": StudyDirection}


@dataclass(frozen=True)
class LegacyStudy:
    """A study as Optuna's former `RedisStorage` kept it.

    Example:
        >>> from optuna.study import StudyDirection
        >>> from prefect_optuna.blocks.legacy_redis import LegacyStudy
        >>> LegacyStudy("old", (StudyDirection.MINIMIZE,), {}, {}, ()).name
        'old'
    """

    name: str
    directions: tuple[StudyDirection, ...]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]
    trials: tuple[FrozenTrial, ...]


def read_legacy_redis(url: str, study_name: str | None = None) -> list[LegacyStudy]:
    """Read what Optuna 1.4 to 3.0's `RedisStorage` has left in a Redis database.

    Nothing is written, and nothing that is stored there is run: the pickles may name Optuna's
    classes, times and numbers, and are refused otherwise.

    Args:
        url: of the Redis database, as the former storage had it: `redis://localhost:6379/0`.
        study_name: of the only study to read; without it, all of them.

    Returns:
        The studies, oldest first. Old kinds of distributions have become today's.

    Raises:
        InvalidSettingError: the URL is none of a Redis server.
        StorageUnavailableError: the server does not answer, or does not let this user read.
        StudyNotFoundError: there is no study of that name.
        PickleRefusedError: a value asks for code that is not Optuna's.
        DamagedStorageError: a value is missing or is damaged.

    Example:
        On a server with such data:
        ```python
        from prefect_optuna.blocks import read_legacy_redis

        for study in read_legacy_redis("redis://localhost:6379/0"):
            print(study.name, len(study.trials))
        ```
    """
    from redis import Redis, RedisError

    where = location_of(url)
    try:
        with Redis.from_url(url, socket_timeout=30, socket_connect_timeout=10) as client:
            return _Reader(client).studies(study_name)
    except (RedisError, OSError, TypeError, ValueError) as error:
        if isinstance(error, PrefectOptunaError):
            raise
        raise StorageUnavailableError(
            f"The Redis server at {where} cannot be read "
            f"({without_secrets(str(error), secrets_in(url))}). Check that it runs and "
            "is reachable from here, and that the user, the password and the database are right."
        ) from None


def import_legacy_redis(
    url: str, to_storage: BaseStorage | StudyStorage | str | Path, study_name: str | None = None
) -> list[str]:
    """Copy what Optuna 1.4 to 3.0's `RedisStorage` has left behind into another storage.

    Trials keep their order, parameters, values, attributes and times. One that was running is
    copied as failed, for nobody is left who could finish it; one that was waiting still waits. The
    state of CMA-ES, which Optuna would unpickle, stays behind: it is found again from the trials.
    If it fails, no study has been copied. The old data stay as they are.

    Args:
        url: of the Redis database, as the former storage had it.
        to_storage: where to: any storage of Optuna, a block, or what names one.
        study_name: of the only study to copy; without it, all of them.

    Returns:
        The names of the studies that were copied.

    Raises:
        StudyMismatchError: the other storage has a study of such a name already.
        StorageUnavailableError, StudyNotFoundError, PickleRefusedError, DamagedStorageError: as
            `read_legacy_redis`.

    Example:
        On a server with such data:
        ```python
        from prefect_optuna.blocks import import_legacy_redis

        import_legacy_redis("redis://localhost:6379/0", "sqlite:///rescued.db")
        ```
    """
    if isinstance(to_storage, BaseStorage):
        storage = to_storage
    else:
        storage = as_study_storage(to_storage).get_storage()
    studies = read_legacy_redis(url, study_name)
    there = {study.study_name for study in storage.get_all_studies()}
    if both := sorted(there & {study.name for study in studies}):
        raise StudyMismatchError(
            f"expected a storage without the studies that are to be copied, and it has "
            f"{', '.join(map(repr, both))}. Copy the others by their names, or choose another."
        )
    created: list[int] = []
    try:
        for study in studies:
            created.append(storage.create_new_study(study.directions, study.name))
            _fill(storage, created[-1], study)
    except BaseException:
        for study_id in created:
            storage.delete_study(study_id)
        raise
    return [study.name for study in studies]


def _fill(storage: BaseStorage, study_id: int, study: LegacyStudy) -> None:
    for key, value in study.user_attrs.items():
        storage.set_study_user_attr(study_id, key, value)
    for key, value in study.system_attrs.items():
        storage.set_study_system_attr(study_id, key, value)
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            trial.state = TrialState.FAIL
            trial.datetime_complete = datetime.now()  # noqa: DTZ005 -- Optuna's have no zone
        storage.create_new_trial(study_id, template_trial=without_pickled_state(trial))


class _Reader:
    def __init__(self, client: Redis) -> None:
        self._client = client

    def studies(self, name: str | None) -> list[LegacyStudy]:
        ids: list[int] = [self._load("study_list", value) for value in self._list("study_list")]
        names = {self._get(f"study_id:{i:010d}:study_name"): i for i in ids}
        if name is None:
            return [self._study(study_id, its_name) for its_name, study_id in names.items()]
        if name not in names:
            known = ", ".join(map(repr, names)) or "none at all"
            raise StudyNotFoundError(
                f"expected a study {name!r} of Optuna's former RedisStorage, and found {known}. "
                "Correct the name, or the number of the database at the end of the URL."
            )
        return [self._study(names[name], name)]

    def _study(self, study_id: int, name: str) -> LegacyStudy:
        prefix = f"study_id:{study_id:010d}"
        summary = self._get(f"{prefix}:study_summary", Stored).fields
        if self._client.exists(f"{prefix}:directions"):
            directions = self._get(f"{prefix}:directions", (list, tuple))
        else:
            directions = [self._get(f"{prefix}:direction", StudyDirection)]
        trials = [self._trial(int(trial_id)) for trial_id in self._list(f"{prefix}:trial_list")]
        return LegacyStudy(
            name=name,
            directions=tuple(
                StudyDirection.MINIMIZE if d == StudyDirection.NOT_SET else d for d in directions
            ),
            user_attrs=_field(summary, "user_attrs"),
            system_attrs=_field(summary, "system_attrs"),
            trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        )

    def _trial(self, trial_id: int) -> FrozenTrial:
        key = f"trial_id:{trial_id:010d}:frozentrial"
        fields = self._get(key, Stored).fields
        return self._checked(key, lambda: _frozen(fields))

    def _list(self, key: str) -> list[bytes]:
        if (kind := self._client.type(key)) not in (b"list", b"none"):
            raise _damaged(key, f"it is a {kind!r}, not a list")
        values: Any = self._client.lrange(key, 0, -1)
        return values

    def _get(self, key: str, kind: type | tuple[type, ...] = object) -> Any:
        data: Any = self._client.get(key)
        if data is None:
            raise DamagedStorageError(
                f"expected the key {key!r} of Optuna's former RedisStorage, and it is missing. "
                "Copy the other studies one by one, by their names."
            )
        return self._load(key, data, kind)

    def _load(self, key: str, data: bytes, kind: type | tuple[type, ...] = object) -> Any:
        value = self._checked(key, lambda: loads(data, "optuna", _CLASSES, _ENUMERATIONS))
        if not isinstance(value, kind):
            raise _damaged(key, f"it is a {type(value).__name__}")
        return value

    def _checked(self, key: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ForbiddenNameError as error:
            raise PickleRefusedError(
                f"expected a pickle of Optuna's in the key {key!r}, and found one that asks for "
                f"{error}. Nothing of it was run. If you have put such a value into an attribute "
                "yourself, remove it with the Optuna that wrote it; else somebody has tampered "
                "with the database."
            ) from None
        except DamagedStorageError:
            raise
        except Exception as error:  # a broken pickle raises whatever it comes upon  # noqa: BLE001
            raise _damaged(key, f"{type(error).__name__}: {error}") from None


def _damaged(key: str, what: str) -> DamagedStorageError:
    return DamagedStorageError(
        f"expected a value of Optuna's former RedisStorage in the key {key!r}, and it cannot be "
        f"read ({what}). Copy the other studies one by one, by their names."
    )


def _field(fields: dict[str, Any], name: str) -> Any:
    # Over the years, attributes have become properties of what is kept behind a `_`.
    return fields[f"_{name}"] if f"_{name}" in fields else fields[name]


def _frozen(fields: dict[str, Any]) -> FrozenTrial:
    if "_values" in fields:
        values = fields["_values"]
    else:  # until 2.3 there was one
        values = None if fields["value"] is None else [fields["value"]]
    return FrozenTrial(
        number=_field(fields, "number"),
        state=TrialState(fields["state"]),
        value=None,
        values=None if values is None else [float(value) for value in values],
        datetime_start=_field(fields, "datetime_start"),
        datetime_complete=fields["datetime_complete"],
        params=_field(fields, "params"),
        distributions={k: _distribution(d) for k, d in _field(fields, "distributions").items()},
        user_attrs=_field(fields, "user_attrs"),
        system_attrs=_field(fields, "system_attrs"),
        intermediate_values=fields["intermediate_values"],
        trial_id=fields["_trial_id"],
    )


def _distribution(stored: Stored) -> BaseDistribution:
    kind, fields = stored.kind, stored.fields
    if kind == "CategoricalDistribution":
        return CategoricalDistribution(fields["choices"])
    low, high = fields["low"], fields["high"]
    log = kind.endswith("LogUniformDistribution") or bool(fields.get("log", False))
    if kind.startswith("Int"):
        step = 1 if log else fields.get("step", fields.get("_step", 1))
        return IntDistribution(low, high, log=log, step=step)
    step = fields.get("q", fields.get("step"))
    return FloatDistribution(low, high, log=log, step=step)
