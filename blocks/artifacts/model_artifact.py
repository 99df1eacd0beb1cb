"""Pydantic models as JSON that says which class they are of."""

from __future__ import annotations

import json
from typing import IO, Any, ClassVar

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.blocks.artifacts.json_artifact import exact_json, from_exact_json
from prefect_optuna.errors import ArtifactLoadError, ArtifactLogError


class PydanticArtifact(Artifact):
    """Writes a pydantic model, and gives it back validated.

    The file is JSON: the class as `module:name`, and the fields as `JSONArtifact` writes them.
    What the file names is not followed, for the validators of a class run code, and some import
    whatever they are told: the class is passed as `model`, or is that of a handler of one's own,
    which has an alias and a `model` and is registered. What a class excludes from its dumps, such
    as private attributes, is not kept.

    Attributes:
        model: the class of a handler for one class of models.

    Example:
        >>> from pydantic import BaseModel
        >>> from prefect_optuna.blocks.artifacts import PydanticArtifact, decode, encode
        >>> class Settings(BaseModel):
        ...     rate: float
        >>> content = encode(PydanticArtifact, Settings(rate=0.1))
        >>> decode(PydanticArtifact, content, model=Settings)
        Settings(rate=0.1)
        >>> class SettingsArtifact(PydanticArtifact):
        ...     alias = "settings"
        ...     model = Settings
        >>> decode(SettingsArtifact, content)
        Settings(rate=0.1)
    """

    __slots__ = ()
    alias: ClassVar[str] = "pydantic"
    suffix: ClassVar[str] = "json"
    binary: ClassVar[bool] = False
    model: ClassVar[type[BaseModel] | None] = None

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take models; a handler for one class, those of that class."""
        return isinstance(value, BaseModel if cls.model is None else cls.model)

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Write a model.

        Args:
            obj: an instance of a pydantic model.
            buf: a text file.
            **writer_kwargs: arguments of `json.dump`, such as `indent`.

        Raises:
            ArtifactLogError: it is no model, has a secret or another field that cannot be
                written, or would not come back the same.
        """
        if not isinstance(obj, BaseModel):
            raise ArtifactLogError(
                "The artifact handler 'pydantic' expects an instance of a pydantic model, and "
                f"found {type_name(obj)}. Leave the handler out to get one that fits."
            )
        model = type(obj)
        fields = _fields(obj)
        try:
            again = _fields(_validated(model, fields))
        except ArtifactLoadError as error:
            raise ArtifactLogError(f"This model could not be read again: {error}") from error
        if again != fields:
            raise ArtifactLogError(
                f"This {type_name(obj)} would come back with other fields: {fields} would be "
                f"{again}. Does a field hold a subclass of its type, or a validator change what "
                "is valid already?"
            )
        data = {"$model": f"{model.__module__}:{model.__qualname__}", "fields": fields}
        buf.write(json.dumps(data, allow_nan=False, **writer_kwargs))

    @classmethod
    def read(
        cls, buf: IO[str], *, model: type[BaseModel] | None = None, **reader_kwargs: Any
    ) -> BaseModel:
        """Read a model.

        Args:
            buf: a text file.
            model: the class; by default that of the handler.
            **reader_kwargs: there are no others.

        Returns:
            A validated instance.

        Raises:
            ArtifactLoadError: no class is given, or it refuses what was written.
        """
        refuse_options(reader_kwargs)
        data = json.load(buf)
        chosen = model or cls.model
        if chosen is None:
            raise ArtifactLoadError(
                f"The artifact is a pydantic model of the class {data['$model']!r}. Import the "
                "class and pass it as model=...: an artifact does not decide by itself what is "
                "validated, for validating may run code."
            )
        return _validated(chosen, data["fields"])

    def reread_kwargs(self) -> dict[str, Any]:
        """The class itself, which is imported where the artifact is unpickled."""
        return {"model": type(self.value)}


def _fields(model: BaseModel) -> Any:
    values = model.model_dump(by_alias=True, round_trip=True, serialize_as_any=True)
    return exact_json(values, _plain)


def _plain(value: Any) -> Any:
    """Return what pydantic would write for a value of a type of its own, or the value itself."""
    if isinstance(value, (Secret, SecretStr, SecretBytes)):
        return value  # its stars would be written, and read as the secret
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        return value


def _validated(model: type[BaseModel], fields: Any) -> BaseModel:
    try:
        return model.model_validate(from_exact_json(fields))
    except ValidationError as error:
        raise ArtifactLoadError(
            f"{model.__module__}:{model.__qualname__} refuses the fields that were written: "
            f"{error}. Has the class changed? Pass model=... with one that fits."
        ) from error
