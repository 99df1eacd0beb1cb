"""Prefect's serializer for objects of persistence classes."""

from __future__ import annotations

import importlib
import io
from typing import Any

from prefect.serializers import Serializer
from pydantic import Field

from prefect_optuna.errors import WrongPersistenceClassError
from prefect_optuna.tasks.persistence.container import Container, write_container
from prefect_optuna.tasks.persistence.conversion import to_be_saved
from prefect_optuna.tasks.persistence.info import (
    CLASSES,
    PersistentClass,
    ensure_persistence_class,
)
from prefect_optuna.tasks.persistence.reading import header_of, object_of


class PersistenceSerializer(Serializer):
    """Serializes objects of persistence classes as the Arrow files that `ArrowHandler` writes.

    The bytes are no text, so that it can serialize the results of flows, and of tasks with
    `persisted`; for other results of tasks Prefect wraps what it is given into JSON.

    Example:
        >>> from prefect_optuna.tasks.persistence import PersistenceSerializer, field
        >>> from prefect_optuna.tasks.persistence import persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        >>> serializer = PersistenceSerializer()
        >>> serializer.loads(serializer.dumps(Session("lynx")))
        Session{animal=lynx}
    """

    type: str = Field(default="persistence", frozen=True)
    module: str | None = Field(
        default=None,
        description="The module of the class, which is imported if the class is not known yet.",
    )

    def dumps(self, obj: Any) -> bytes:
        """Encode an object.

        Args:
            obj: an object of a persistence class.

        Returns:
            An Arrow file.

        Raises:
            InvalidPersistenceClassError: it is none.
            UnsetFieldError: a field is not set; names it.
            UnsupportedValueError: a value cannot be held; names the field.
        """
        info = ensure_persistence_class(obj)
        file = io.BytesIO()
        values = to_be_saved(obj, "the result of a run")
        write_container(file, values, header_of(info), where=f"{info.cls_name}.")
        return file.getvalue()

    def loads(self, blob: bytes) -> Any:
        """Decode an object.

        Args:
            blob: what `dumps` returned, or the content of a file of `ArrowHandler`.

        Returns:
            The object.

        Raises:
            CorruptPersistenceError: this is no such file.
            WrongPersistenceClassError: its class is not known here.
            SchemaChangedError: its class has changed.
        """
        container = Container(blob, "the result of a run")
        return object_of(self._info(container.header), container)

    def _info(self, header: dict[str, Any]) -> PersistentClass[Any]:
        home = header.get("home", "")
        if home not in CLASSES and self.module is not None:
            try:
                importlib.import_module(self.module)
            except ImportError as error:
                raise WrongPersistenceClassError(
                    f"The result is of the class {home}, and its module {self.module} cannot be "
                    f"imported: {error}. Put the class into a module that this process can import."
                ) from error
        cls = CLASSES.get(home)
        if cls is None:
            raise WrongPersistenceClassError(
                f"The result is of the class {home}, which this process does not know. Import the "
                "module of the class first."
            )
        return ensure_persistence_class(cls)
