"""Starting worker processes, and their common set-up."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext
from typing import Any


def worker_context(*modules: str) -> SpawnContext | ForkServerContext:
    """Return the multiprocessing context of workers; they do not inherit threads or GPU state of this process.

    On Linux, workers are forked from Python's fork server, which only imports modules: workers after the first start
    immediately and share the memory of imported modules. Elsewhere, each worker is a new interpreter. In both cases, a
    worker gets the environment variables that this process has when it creates the worker.

    Args:
        modules: Modules that workers need and that take long to import; only the first call in this process uses them.
    """
    if sys.platform == "linux":
        multiprocessing.set_forkserver_preload(list(modules))
        # Fails in a process that was forked itself, or if the path of the temporary folder is too long.
        with suppress(OSError):
            forkserver.ensure_running()
            return _ForkServerContext()
    return multiprocessing.get_context("spawn")


if sys.platform == "linux":
    from multiprocessing import forkserver
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    class _ForkServerProcess(ForkServerProcess):
        """A process with the environment variables of its creator, not those of the fork server."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._environment = dict(os.environ)

        def run(self) -> None:
            os.environ.clear()
            os.environ.update(self._environment)
            gc.freeze()  # Garbage collection of the server's imports would be slow, and would copy shared memory.
            super().run()

    class _ForkServerContext(ForkServerContext):
        Process = _ForkServerProcess


def end_with_parent() -> None:
    """Make this process end when its parent ends, even if the parent is killed. Call it first in the child process."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def follow_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and end when the parent ends. Call it in the main thread only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def leave_nothing_behind() -> None:
    """Prevent ``tqdm`` from creating a system-wide lock, which a killed process would not release.

    ``tqdm`` creates this semaphore with the first progress bar, even a hidden one. Python warns of leaked semaphores.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def is_main_process() -> bool:
    """Return whether this process runs alone or is the first of the processes that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0
