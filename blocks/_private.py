"""Files and folders of this machine in which only their user can put anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_private"]


def is_private(path: Path) -> bool:
    """Whether a file or folder is this user's, no link, and nobody else may write there.

    Example:
        >>> is_private(Path("no such file"))
        False
    """
    try:
        status = path.lstat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):  # Windows
        return not path.is_symlink()
    is_mine = status.st_uid == os.getuid() and not stat.S_ISLNK(status.st_mode)
    return is_mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
