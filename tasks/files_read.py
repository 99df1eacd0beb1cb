"""Which files code reads: data that no archive holds, and that may have changed since."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["files_read"]

_MAX_FILES = 100
_CODE = (".py", ".pyc", ".so", ".pyd", ".journal")
_STUDIES = f"{os.sep}.prefect-optuna{os.sep}"

_listening: list[dict[str, str]] = []
_hooked = False


@contextmanager
def files_read() -> Generator[dict[str, str]]:
    """Take down the files that Python opens for reading while this is in force.

    Left out are code, Python's own files, those of installed packages, and the system's; what is
    written meanwhile, too; and where studies are kept.
    Libraries that open files in C without telling Python (HDF5, Arrow) are not seen.

    Returns:
        A context manager that gives a mapping, of absolute paths to what the code has called them.

    Example:
        >>> import pathlib, tempfile
        >>> from prefect_optuna.tasks.files_read import files_read
        >>> path = pathlib.Path(tempfile.mkdtemp()).resolve() / "pelts.csv"
        >>> _ = path.write_text("1845,19.58")
        >>> with files_read() as read:
        ...     _ = path.read_text()
        >>> list(read) == [str(path)]
        True
    """
    global _hooked
    if not _hooked:  # Python has no way to take such a hook away
        sys.addaudithook(_take_down)
        _hooked = True
    read: dict[str, str] = {}
    _listening.append(read)
    try:
        yield read
    finally:
        # By identity: two that are empty are equal.
        _listening[:] = [other for other in _listening if other is not read]
        for path in [p for p, given in read.items() if not given or not Path(p).is_file()]:
            del read[path]


def _take_down(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _listening:
        return
    given, _, flags = arguments
    if not isinstance(given, str) or not given:
        return
    path = os.path.abspath(given)  # noqa: PTH100 - of a string, as cheap as it can be
    if path.endswith(_CODE) or path.startswith(_not_data()) or _STUDIES in path:
        return
    is_written = flags & (os.O_WRONLY | os.O_RDWR)
    for read in _listening:
        if is_written:
            read[path] = ""
        elif len(read) < _MAX_FILES:
            read.setdefault(path, given)


@functools.cache
def _not_data() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths["stdlib"], paths["purelib"], paths["platlib"], site.getusersitepackages()]
    folders += [str(Path.home() / ".prefect"), os.environ.get("PREFECT_HOME", sys.prefix)]
    folders += [sys.prefix, str(Path.home() / ".cache"), "/proc", "/sys", "/dev", "/etc"]
    return tuple(folder + os.sep for folder in {*folders, *map(os.path.realpath, folders)})
