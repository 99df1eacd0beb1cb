"""Resources of one trial: processors, memory and GPUs, with one meaning wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic import field_validator as _field_validator
from pydantic import model_validator as _model_validator

from prefect_optuna.errors import InvalidSettingError

_EXPECTED = (
    "`resources` are what one trial has to itself, such as "
    '{"cpus": 2, "memory": "4 GiB", "gpus": 1}, or "cpus=2,memory=4GiB,gpus=1"'
)


class Resources(BaseModel):
    """The resources that one trial has to itself.

    A part that is left out is not counted; but a trial with resources and without `gpus` sees no
    GPU, on any runner.

    Args:
        cpus: processors, such as 2 or 0.5. Libraries like BLAS take as many threads.
        memory: such as `"4 GiB"`, or a number of bytes.
        gpus: whole GPUs, which no other trial has meanwhile; or a part of one, such as 0.5, for
            trials that may share it.

    Example:
        >>> from prefect_optuna.tasks.resources import Resources
        >>> str(Resources(cpus=2, memory="4 GiB", gpus=1))
        '2 CPUs, 4.0 GiB of memory and 1 GPU'
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    cpus: float | None = Field(
        default=None, gt=0, title="CPUs", description="Of one trial; BLAS takes as many threads."
    )
    memory: str | int | None = Field(
        default=None, title="Memory", description="Of one trial, such as '4 GiB'."
    )
    gpus: float = Field(
        default=0, ge=0, title="GPUs", description="Of one trial alone; 0.5 is half of one."
    )

    @_model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not pairs or any(not sign for _, sign, _ in pairs):
            raise ValueError("expected NAME=VALUE pairs")
        return {name.strip(): given.strip() for name, _, given in pairs}

    @_field_validator("cpus", "gpus")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("expected a finite number")
        return value

    @_field_validator("gpus")
    @classmethod
    def _whole_or_shared(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("expected whole GPUs, or a part of one such as 0.5")
        return value

    @_field_validator("memory")
    @classmethod
    def _a_size(cls, value: str | int | None) -> str | int | None:
        if value is not None and TypeAdapter(ByteSize).validate_python(value) <= 0:
            raise ValueError("expected more than nothing")
        return value

    @classmethod
    def of(cls, value: Resources | Mapping[str, Any] | str | None) -> Resources | None:
        """Resources of what people write; `None` of nothing.

        Raises:
            InvalidSettingError: it cannot be read.

        Example:
            >>> from prefect_optuna.tasks.resources import Resources
            >>> Resources.of("cpus=2,memory=4GiB").memory_bytes
            4294967296
        """
        if value is None or isinstance(value, Resources):
            return value
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"][:1]))
            if first["type"] == "extra_forbidden":
                why = f"there is no {where!r}: cpus, memory, gpus"
            else:
                why = f"{where}: " * bool(where) + first["msg"].removeprefix("Value error, ")
            raise InvalidSettingError(f"{_EXPECTED}; found {value!r} ({why}).") from None

    @property
    def memory_bytes(self) -> int | None:
        """The memory in bytes."""
        return (
            None if self.memory is None else int(TypeAdapter(ByteSize).validate_python(self.memory))
        )

    def as_json(self) -> dict[str, Any]:
        """Return them as a parameter of a flow run, or for an archive."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def __str__(self) -> str:
        """Return them in words, for people."""
        return in_words(self.cpus, self.memory_bytes, self.gpus)


if TYPE_CHECKING:
    ResourcesGiven: TypeAlias = Resources | Mapping[str, Any] | str
else:  # a flow makes them of the others, and its form has fields for them
    ResourcesGiven = Resources


def in_words(cpus: float | None, memory: int | None, gpus: float) -> str:
    """Amounts in words; what is `None`, and no GPU, is left out.

    Example:
        >>> from prefect_optuna.tasks.resources import in_words
        >>> in_words(1, None, 2)
        '1 CPU and 2 GPUs'
    """
    parts = [] if cpus is None else [f"{cpus:g} CPU{'' if cpus == 1 else 's'}"]
    if memory is not None:
        parts.append(f"{ByteSize(memory).human_readable(separator=' ')} of memory")
    if gpus:
        parts.append(f"{gpus:g} GPU{'' if gpus <= 1 else 's'}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
