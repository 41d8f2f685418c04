"""Lock: trainings share the CPU; a latency probe runs alone.

A probe that shares the cores with a training measures too long a latency. Within a process, the two run one after the
other. This module synchronises the processes and threads of one user. The lock is a readers-writer lock of
``filelock``. If a process dies or is killed, the operating system releases its lock.
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
    """Return the lock file: ``$KDNAS_LOCK``, else a file per user and machine in the folder for temporary files.

    Set the variable if processes that share cores have different temporary folders, as in containers.

    Raises:
        RunError: If there is no folder for temporary files.
    """
    own = os.environ.get("KDNAS_LOCK")
    if own:
        return Path(own).expanduser()
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        raise RunError(f"there is no folder for the CPU lock ({error}); set KDNAS_LOCK to a file") from error
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return folder / f"kdnas-{user}" / f"cores-{platform.node()}.lock"


@contextmanager
def training_lock(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Hold the lock for training or other work on all cores; wait first while a probe runs or is next in the queue.

    Hold it for one epoch at most, because probes of other processes wait for its end. A process that is forked within
    the block cannot acquire the lock.

    Args:
        path: Lock file; :func:`default_lock_path` by default.

    Raises:
        RunError: If the lock file cannot be made or used.
        RuntimeError: If this thread already holds the lock, because it would wait for itself.
    """
    with _hold_lock("training", path):
        yield


@contextmanager
def probe_lock(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Hold the lock alone, for a measurement; wait first for running trainings and probes. New ones queue behind it.

    Args:
        path: Lock file; :func:`default_lock_path` by default.

    Raises:
        RunError: If the lock file cannot be made or used.
        RuntimeError: If this thread already holds the lock, because it would wait for itself.
    """
    with _hold_lock("probe", path):
        yield


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Set the number of PyTorch threads in the block, and restore it afterwards.

    The rounding of sums depends on the number of threads, so equal results need equal numbers of threads.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _hold_lock(use: Literal["training", "probe"], path: str | os.PathLike[str] | None) -> Iterator[None]:
    if _held.get() is not None:
        raise RuntimeError(f"this thread already holds the CPU lock for a {_held.get()}; end that before the {use}")
    location = default_lock_path() if path is None else Path(path)
    token = _held.set(use)
    try:
        lock = _acquire_lock(use, location)
        try:
            yield
        finally:
            lock.release()
            lock.close()
    finally:
        _held.reset(token)


def _acquire_lock(use: Literal["training", "probe"], location: Path) -> ReadWriteLock:
    try:
        location.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A separate instance instead of the process-wide one, so that threads wait for one another too.
        lock = ReadWriteLock(location, is_singleton=False)
        acquire = lock.acquire_write if use == "probe" else lock.acquire_read
        # A second lock forms a queue, so that a steady flow of trainings cannot starve a probe.
        with FileLock(f"{location}.gate"):
            while True:
                try:
                    acquire(timeout=_POLL_SECONDS)  # Short waits let Ctrl-C through.
                    return lock
                except Timeout:
                    _logger.debug("a %s waits for the CPU lock (%s)", use, location)
    except (OSError, sqlite3.Error, ValueError) as error:
        raise RunError(
            f"the CPU lock {str(location)!r} cannot be used ({error}); set KDNAS_LOCK to a file in a folder "
            "that you can write to"
        ) from error
