"""Temporary folders that do not outlive whoever made them, however that ended.

Each is locked as long as its maker lives: the operating system gives the lock of a process back, even of one that was
killed. Whoever makes the next one removes those of this user that nobody holds.
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
"""Age below which a folder is left alone: its maker may not have locked it yet."""


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Make a temporary folder for the block.

    Args:
        purpose: A word for its name.

    Raises:
        OSError: If there is no place for it.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-"))
    lock = FileLock(folder / _LOCK)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Remove what killed processes of this user left."""
    for folder in place.glob(f"{_PREFIX}*"):
        # Somebody else may sweep, too, or the folder may be another's.
        with suppress(OSError, Timeout):
            status = folder.lstat()
            ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            old = time.time() - status.st_mtime > _NEW_SECONDS
            if ours and old and not folder.is_symlink() and (folder / _LOCK).is_file():
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder)
