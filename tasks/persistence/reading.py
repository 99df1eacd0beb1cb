"""Reading of a file into an object of the class that is asked for, or into an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from prefect_optuna.errors import (
    CorruptPersistenceError,
    SchemaChangedError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.container import Container
from prefect_optuna.tasks.persistence.conversion import made_of
from prefect_optuna.tasks.persistence.generated import PENDING
from prefect_optuna.tasks.persistence.info import PersistentClass

T = TypeVar("T")

# Types whose names are the same however they are written.
_PLAIN = {"bool", "int", "float", "complex", "str", "bytes"}


def header_of(info: PersistentClass[Any]) -> dict[str, Any]:
    """Return the header of a file, which names the class of its object."""
    return {
        "class": info.cls_name,
        "home": info.home,
        "version": info.version,
        "schema": info.schema,
    }


def check_class(info: PersistentClass[Any], header: Mapping[str, Any], where: str) -> None:
    """Make sure that a file holds an object of this class, of whatever version."""
    try:
        name, home = header["class"], header["home"]
    except KeyError as error:
        raise CorruptPersistenceError(
            f"Expected an object of {info.cls_name} in {where}, found a file that does not say "
            f"what it holds: no {error} in its header."
        ) from None
    if home == info.home or home in info.formerly:
        return
    if name != info.cls_name:
        raise WrongPersistenceClassError(
            f"Expected an object of {info.cls_name} in {where}, found one of {name}. Load it as "
            "that, or save the objects in different folders."
        )
    raise WrongPersistenceClassError(
        f"There are two classes {name}: expected an object of {info.home} in {where}, found one "
        f"of {home}. Give one of them persistence_class(name=...). If this is the same class and "
        f"it has moved, say so: persistence_class(formerly=({home!r},))."
    )


def object_of(info: PersistentClass[T], container: Container, *, lazy: bool = False) -> T:
    """The object that a file holds."""
    header, where = container.header, container.where
    check_class(info, header, where)
    if header["version"] != info.version:
        return made_of(info, _migrated(info, container.values(), header["version"], where), where)
    _check_schema(info, header["schema"], where)
    if not lazy:
        return made_of(info, container.values(), f" in {where}")
    # What has a default in the class would never be asked for: Python finds the default.
    late = [
        field.field_name
        for field in info.fields
        if not field.init
        and field.field_name in container.names()
        and not hasattr(info.cls, field.field_name)
        and not container.is_plain(field.field_name)
    ]
    now = {name: container.value(name) for name in container.names() if name not in late}
    made = made_of(info, now, f" in {where}")
    vars(made)[PENDING] = Pending(container, late)
    return made


def object_of_values(info: PersistentClass[T], values: Mapping[str, Any], where: str) -> T:
    """The object of a pickle, which has no version: its values are taken if they fit."""
    if info.migrate is not None and not _fits(info, values):
        values = _migrated(info, dict(values), 0, where)
    return made_of(info, values, f" in {where}")


class Pending(Mapping[str, Any]):
    """Fields that are read when they are asked for. A copy for another process has them all."""

    def __init__(self, container: Container, names: list[str]) -> None:
        self._container = container
        self._names = names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._container.value(name)

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _migrated(
    info: PersistentClass[Any], values: dict[str, Any], version: int, where: str
) -> Mapping[str, Any]:
    if version > info.version:
        raise SchemaChangedError(
            f"{where} was written by version {version} of {info.cls_name}, and this is version "
            f"{info.version}. Read it with the newer code."
        )
    if info.migrate is None:
        raise SchemaChangedError(
            f"{where} was written by version {version} of {info.cls_name}, and this is version "
            f"{info.version}. Say how to get from one to the other: persistence_class(version="
            f"{info.version}, migrate=function), with function(values, version) -> values."
        )
    migrated = info.migrate(values, version)
    lacking = _lacking(info, migrated)
    if lacking:
        raise SchemaChangedError(
            f"{info.cls_name}'s migrate function returned no {', '.join(lacking)} for {where}, of "
            f"version {version}. It has to return all fields."
        )
    return migrated


def _lacking(info: PersistentClass[Any], values: Mapping[str, Any]) -> list[str]:
    return [
        field.field_name
        for field in info.fields
        if field.field_name not in values
        and not (field.has_default if field.init else hasattr(info.cls, field.field_name))
    ]


def _fits(info: PersistentClass[Any], values: Mapping[str, Any]) -> bool:
    return not _lacking(info, values) and not values.keys() - set(info.fields_name())


def _check_schema(info: PersistentClass[Any], schema: Mapping[str, str], where: str) -> None:
    """The fields have to be those of the file, but for new ones that have defaults."""
    changes = [f"{name} is gone" for name in schema if info.get_field(name) is None]
    changes += [f"{name} is new" for name in _lacking(info, schema)]
    changes += [
        f"{name} was {schema[name]} and is {kind}"
        for name, kind in info.schema.items()
        if name in schema and schema[name] != kind and {schema[name], kind} <= _PLAIN
    ]
    if changes:
        raise SchemaChangedError(
            f"The fields of {info.cls_name} have changed since {where} was written: "
            f"{'; '.join(changes)}. Count up its version, and say how to migrate: "
            f"persistence_class(version={info.version + 1}, migrate=function)."
        )
