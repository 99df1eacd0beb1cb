"""Pydantic models as JSON that says which class they are of."""

from __future__ import annotations

import json
import sys
from typing import IO, Any, ClassVar

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.blocks.artifacts.json_artifact import exact_json, from_exact_json
from prefect_optuna.blocks.errors import ArtifactLoadError, ArtifactLogError

__all__ = ["PydanticArtifact"]


class PydanticArtifact(Artifact):
    """Writes a pydantic model, and gives it back validated.

    The file is JSON: the class as `module:name`, and the fields as `JSONArtifact` writes them.
    Reading imports nothing that the file names, for importing runs code: the module of the class
    has to be imported already, or the class is passed as `model`. What a class excludes from its
    dumps, such as private attributes, is not kept.

    Example:
        >>> from pydantic import BaseModel
        >>> from prefect_optuna.blocks.artifacts import PydanticArtifact, decode, encode
        >>> class Settings(BaseModel):
        ...     rate: float
        >>> content = encode(PydanticArtifact, Settings(rate=0.1))
        >>> decode(PydanticArtifact, content, model=Settings)
        Settings(rate=0.1)
    """

    __slots__ = ()
    alias: ClassVar[str] = "pydantic"
    suffix: ClassVar[str] = "json"
    binary: ClassVar[bool] = False

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take models."""
        return isinstance(value, BaseModel)

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
            model: the class; by default the one that was written, if its module is imported.
            **reader_kwargs: there are no others.

        Returns:
            A validated instance.

        Raises:
            ArtifactLoadError: the class is not to be found, or refuses what was written.
        """
        refuse_options(reader_kwargs)
        data = json.load(buf)
        return _validated(model or _imported(data["$model"]), data["fields"])

    def reread_kwargs(self) -> dict[str, Any]:
        """The class itself, which is imported where the artifact is unpickled."""
        return {"model": type(self.value)}


def _fields(model: BaseModel) -> Any:
    values = model.model_dump(by_alias=True, round_trip=True, serialize_as_any=True)
    return exact_json(values, _plain)


def _plain(value: Any) -> Any:
    """What pydantic would write for a value of a type of its own, or the value itself."""
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


def _imported(path: str) -> type[BaseModel]:
    """The class of that path, if it is there already. Nothing is imported, so no code runs."""
    module_name, _, qualname = path.partition(":")
    module = sys.modules.get(module_name)
    found: Any = module
    for name in qualname.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    if isinstance(found, type) and issubclass(found, BaseModel):
        return found
    what = "is not imported" if module is None else f"has no model {qualname!r}"
    raise ArtifactLoadError(
        f"The artifact is a pydantic model of the class {path!r}, and the module {module_name!r} "
        f"{what}. Import the class and pass it as model=...: an artifact does not decide by "
        "itself what is imported."
    )
