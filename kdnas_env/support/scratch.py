"""Temporary folders that are removed even if their process was killed.

The process that creates a folder holds a lock on it. When the process ends, even if it is killed, the operating system
releases the lock. Creating a folder first removes all unlocked folders of the same user.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX, _LOCK = "kdnas-", ".lock"
_NEW_SECONDS = 60.0
"""Age in seconds below which a folder is not removed, because its process may not have locked it yet."""


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Make a temporary folder for the block.

    Args:
        purpose: A word that becomes part of its name.

    Raises:
        OSError: If it cannot be created.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-"))
    lock, maker = FileLock(folder / _LOCK), os.getpid()
    try:
        with lock:
            yield folder
    finally:
        # A child that was forked in the block leaves it, too, but must not take the folder from its parent.
        if os.getpid() == maker:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Remove the folders that killed processes of this user left."""
    for folder in place.glob(f"{_PREFIX}*"):
        # Another process may be removing the same folder, or it may belong to another user.
        with suppress(OSError, Timeout):
            status = folder.lstat()
            ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            old = time.time() - status.st_mtime > _NEW_SECONDS
            if ours and old and not folder.is_symlink() and (folder / _LOCK).is_file():
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder)
