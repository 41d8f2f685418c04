"""Lock: trainings share the CPU; a latency probe runs alone.

A probe that shares the cores with training measures the training as well. Within a process the two take turns by
nature; this module makes the processes (and threads) of one user take turns too. The lock is a readers-writer lock of
``filelock``, which the operating system takes from a process that dies, however it dies.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from filelock import FileLock, ReadWriteLock, Timeout

from kdnas_env.errors import RunError

_POLL_SECONDS = 0.2
_logger = logging.getLogger(__name__)
_held: ContextVar[str | None] = ContextVar("kdnas_cores_held", default=None)


def default_lock_path() -> Path:
    """Return ``$KDNAS_LOCK``, else a file of this user and this machine in the folder of temporary files.

    Set the variable where processes that share cores see different temporary folders, as in containers.

    Raises:
        RunError: If there is no folder for temporary files.
    """
    own = os.environ.get("KDNAS_LOCK")
    if own:
        return Path(own).expanduser()
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        raise RunError(f"there is no place for the lock of the cores ({error}); set KDNAS_LOCK to a file") from error
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return folder / f"kdnas-{user}" / f"cores-{platform.node()}.lock"


@contextmanager
def training_lock(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Train (or load the cores otherwise) in the block; wait first while a probe runs or is next in line.

    Hold it for an epoch at most: a probe of another process waits for its end. A process that is forked within the
    block cannot take the lock itself.

    Args:
        path: Lock file; :func:`default_lock_path` by default.

    Raises:
        RunError: If the lock file cannot be made or used.
        RuntimeError: If this thread holds the cores already, which would wait for itself.
    """
    with _hold("training", path):
        yield


@contextmanager
def probe_lock(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Measure in the block, alone; wait first for running trainings and probes, while new ones queue up behind.

    Args:
        path: Lock file; :func:`default_lock_path` by default.

    Raises:
        RunError: If the lock file cannot be made or used.
        RuntimeError: If this thread holds the cores already, which would wait for itself.
    """
    with _hold("probe", path):
        yield


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use a number of threads in the block, and the former number after it.

    Sums are rounded by how they are shared among threads, so that equal results need equal numbers.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _hold(use: Literal["training", "probe"], path: str | os.PathLike[str] | None) -> Iterator[None]:
    if _held.get() is not None:
        raise RuntimeError(f"this thread holds the cores for a {_held.get()} already; end that before the {use}")
    location = default_lock_path() if path is None else Path(path)
    token = _held.set(use)
    try:
        lock = _acquired(use, location)
        try:
            yield
        finally:
            lock.release()
            lock.close()
    finally:
        _held.reset(token)


def _acquired(use: Literal["training", "probe"], location: Path) -> ReadWriteLock:
    try:
        location.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not the shared instance of the process: threads must wait for one another too.
        lock = ReadWriteLock(location, is_singleton=False)
        acquire = lock.acquire_write if use == "probe" else lock.acquire_read
        # Whoever waits keeps the gate shut, so that a steady flow of trainings cannot starve a probe.
        with FileLock(f"{location}.gate"):
            while True:
                try:
                    acquire(timeout=_POLL_SECONDS)  # One long wait would be deaf to Ctrl-C.
                    return lock
                except Timeout:
                    _logger.debug("a %s waits for the cores (%s)", use, location)
    except (OSError, sqlite3.Error, ValueError) as error:
        raise RunError(
            f"the lock of the cores {str(location)!r} cannot be used ({error}); set KDNAS_LOCK to a file in a folder "
            "that you may write"
        ) from error
