"""Studies in one append-only file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock
from pydantic import Field, field_validator

from prefect_optuna.blocks._journal_file import os_lock
from prefect_optuna.blocks._journal_storage import FileStorage
from prefect_optuna.blocks._metadata import LOGO_URL, page
from prefect_optuna.blocks.study_storage import StudyStorage
from prefect_optuna.errors import (
    DamagedStorageError,
    StorageFormatError,
    StorageUnavailableError,
)


class JournalStudyStorage(StudyStorage):
    """Keeps studies in one append-only file: the default, with no server to install.

    Many processes of one machine may write to it at once. A process that is killed, at any
    moment, leaves the file usable by the others at once: the kernel releases its lock, and a
    last line that it did not finish is cut off, with a warning, before the next is written.

    Everybody who writes to one journal must use the same kind of lock; Optuna itself uses
    `"symlink"` where nothing else is said.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import JournalStudyStorage

        storage = JournalStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "Journal Study Storage"
    _block_type_slug = "journal-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    path: Path = Field(
        description=(
            "The journal file; it and its folder are made when first used. A relative path is "
            "made absolute at once, so that a saved block means the same file everywhere."
        )
    )
    lock: Literal["os", "symlink", "open"] = Field(
        default="os",
        description=(
            "How writers exclude each other: 'os' is the kernel's lock, which a killed process "
            "releases; 'symlink' (NFSv2) and 'open' (NFSv3) are Optuna's lock files, for network "
            "folders whose server has no locks."
        ),
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if "\0" in str(path):
            raise ValueError("expected the path of a file, and found one with a NUL character.")
        try:
            return path.expanduser().absolute()
        except RuntimeError:
            raise ValueError(
                "expected the name of a user of this machine after ~, or just ~/, and there is "
                "none of that name. Write the whole path."
            ) from None

    @property
    def location(self) -> str:
        """The storage's URL for people to read."""
        return f"journal:///{self.path.as_posix()}"

    def _open(self) -> BaseStorage:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
            return FileStorage(self.path, self._make_lock())
        except StorageFormatError as error:
            raise StorageUnavailableError(
                f"{self.path} is no Optuna journal, and was left as it is: expected a first line "
                f'that starts with {{"op_code". {error} Name another file; if it is an SQLite '
                "database, give a URL such as sqlite:///study.db."
            ) from None
        except OSError as error:
            raise StorageUnavailableError(
                f"The journal {self.path} cannot be opened for writing: {error.strerror or error}. "
                "Expected a file, in a folder that this user may write to. Correct the path or "
                "the permissions."
            ) from error
        except DamagedStorageError as error:
            raise StorageUnavailableError(str(error)) from error

    def _make_lock(self) -> BaseJournalFileLock:
        if self.lock == "symlink":
            return JournalFileSymlinkLock(str(self.path))
        if self.lock == "open":
            return JournalFileOpenLock(str(self.path))
        return os_lock(self.path)
