"""Studies that live as long as the process."""

from __future__ import annotations

import os

from optuna.storages import BaseStorage, InMemoryStorage
from pydantic import Field

from prefect_optuna.blocks._metadata import LOGO_URL, page
from prefect_optuna.blocks.attribute_json import CheckedAttributes
from prefect_optuna.blocks.study_storage import StudyStorage


class _MemoryStorage(CheckedAttributes, InMemoryStorage):
    """Optuna's, without attributes that nobody could copy."""


_storages: dict[str, _MemoryStorage] = {}

if hasattr(os, "register_at_fork"):
    # A copy in a forked child would silently go its own way: it starts empty, as after a spawn.
    os.register_at_fork(after_in_child=_storages.clear)


class InMemoryStudyStorage(StudyStorage):
    """Keeps studies in the memory of the process, for tests and for trying things out.

    All blocks of one name share one storage within a process, so that a study can be loaded and
    resumed there. Another process has its own, and nothing outlives the process.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import InMemoryStudyStorage

        storage = InMemoryStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "In-Memory Study Storage"
    _block_type_slug = "in-memory-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    name: str = Field(
        default="default",
        description="Blocks of the same name share their studies within one process.",
    )

    @property
    def location(self) -> str:
        """The storage's URL for people to read."""
        return f"memory://{self.name}"

    def _open(self) -> BaseStorage:
        # setdefault is atomic: threads that come at once get the same storage.
        return _storages.setdefault(self.name, _MemoryStorage())
