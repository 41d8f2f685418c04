"""A cache of computed values, in a folder that may be emptied at any time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from kdnas_env.errors import CacheError, RunError, TableError
from kdnas_env.support.atomic import default_cache_directory

T = TypeVar("T")


def kept(
    name: str,
    read: Callable[[Path], T],
    make: Callable[[], T],
    write: Callable[[T, Path], None],
    *,
    folder: Path | None = None,
) -> T:
    """Return what is kept under a name; if it is not there, or not whole, make and keep it.

    Where its folder cannot be written, a warning says so. Of several processes one makes it, and the others wait.

    Args:
        name: Of the file; a fingerprint of all that it depends on is part of it.
        read: Reads a file, or raises a ``TableError`` or ``CacheError``.
        make: Makes what is not there.
        write: Writes it to a file.
        folder: Where it lies; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
    """
    path = (default_cache_directory() if folder is None else folder) / name
    value = read_whole(path, read)
    if value is not None:
        return value
    with ExitStack() as locked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            locked.enter_context(FileLock(f"{path}.lock"))
        except OSError as error:
            _tell(error)
            return make()
        value = read_whole(path, read)
        if value is None:
            value = make()
            try:
                write(value, path)
            except (OSError, RunError) as error:
                _tell(error)
    return value


def _tell(error: Exception) -> None:
    warnings.warn(
        f"what took long to compute cannot be kept for other processes: {error}. Set KDNAS_CACHE to a folder that you "
        "may write",
        RuntimeWarning,
        stacklevel=3,
    )


def read_whole(path: Path, read: Callable[[Path], T]) -> T | None:
    """Return what a file holds; None if it is not there, or not whole."""
    with suppress(TableError, CacheError):
        return read(path)
    return None
