"""A file that becomes an artifact when it is closed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from prefect_optuna.blocks._artifact_paths import TEMPORARY_PREFIX


class ArtifactWriter(io.BufferedRandom):
    """Collects a write on this machine; closing it makes the artifact, all of it at once.

    A `with` block that fails, `discard`, and being forgotten make none. An upload that fails can
    so begin anew, and nothing of an artifact has to fit into memory.
    """

    def __init__(self, folder: str, publish: Callable[[str], None]) -> None:
        self._file = f"{folder}{os.sep}{TEMPORARY_PREFIX}{os.urandom(12).hex()}"
        self._publish = publish
        super().__init__(io.FileIO(self._file, "x+"))

    def close(self) -> None:
        """Make the artifact."""
        if self.closed:
            return
        try:
            super().close()  # what is in the buffer goes to the disk, which may be full
            self._publish(self._file)
        finally:
            self._remove()

    def discard(self) -> None:
        """Forget what has been written; no artifact is made."""
        if not self.closed:
            self.raw.close()
            with suppress(ValueError):  # "raw stream has been closed", about what is in the buffer
                super().close()
        self._remove()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        self.discard()

    def _remove(self) -> None:
        with suppress(OSError):
            os.unlink(self._file)  # noqa: PTH108 - may run when the interpreter ends
