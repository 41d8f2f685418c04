"""A cache of computed values on disk; its folder may be emptied at any time."""

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


def cached(
    name: str,
    read: Callable[[Path], T],
    make: Callable[[], T],
    write: Callable[[T, Path], None],
    *,
    folder: Path | None = None,
) -> T:
    """Return a cached value; if it is missing or damaged, compute and store it.

    If several processes need it, one computes it while the others wait. If the folder is read-only, it warns.

    Args:
        name: Name of the file, including a fingerprint of everything that the value depends on.
        read: Reads the value from a file; raises a ``TableError`` or ``CacheError`` if the file is missing or damaged.
        make: Computes the value.
        write: Writes the value to a file.
        folder: Folder of the file; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
    """
    path = (default_cache_directory() if folder is None else folder) / name
    value = read_intact(path, read)
    if value is not None:
        return value
    with ExitStack() as locked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            locked.enter_context(FileLock(f"{path}.lock"))
        except OSError as error:
            _warn(error)
            return make()
        value = read_intact(path, read)
        if value is None:
            value = make()
            try:
                write(value, path)
            except (OSError, RunError) as error:
                _warn(error)
    return value


def _warn(error: Exception) -> None:
    warnings.warn(
        f"a computed value cannot be cached for other processes: {error}. Set KDNAS_CACHE to a folder that you "
        "can write to",
        RuntimeWarning,
        stacklevel=3,
    )


def read_intact(path: Path, read: Callable[[Path], T]) -> T | None:
    """Return the content of a file; None if the file is missing or damaged."""
    with suppress(TableError, CacheError):
        return read(path)
    return None
