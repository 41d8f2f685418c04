"""How worker processes are started, and their common set-up."""

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

    On Linux, they are forked from Python's fork server, which only imports: workers after the first begin at once, and
    share the memory of what is imported. Where there is none, each is a new interpreter. Either way the environment
    variables of a worker are those of this process when it is made.

    Args:
        modules: What workers need that takes long to import; it counts for the first call in this process only.
    """
    if sys.platform == "linux":
        multiprocessing.set_forkserver_preload(list(modules))
        # There is none for a process that was forked itself, nor where the path of temporary files is too long.
        with suppress(OSError):
            forkserver.ensure_running()
            return _ForkServerContext()
    return multiprocessing.get_context("spawn")


if sys.platform == "linux":
    from multiprocessing import forkserver
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    class _ForkServerProcess(ForkServerProcess):
        """A process with the environment of the one that makes it, not with that of the server."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._environment = dict(os.environ)

        def run(self) -> None:
            os.environ.clear()
            os.environ.update(self._environment)
            gc.freeze()  # What the server imported stays: to look through it would copy its memory, and take long.
            super().run()

    class _ForkServerContext(ForkServerContext):
        Process = _ForkServerProcess


def end_with_parent() -> None:
    """End this process with the one that started it, however that ends; to be called first in it."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def follow_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it, however that ends; main thread only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def leave_nothing_behind() -> None:
    """Keep the progress bars of libraries from making a lock for all processes, which a killed one would not give back.

    ``tqdm`` makes it with the first bar, shown or not: a semaphore of the system, of which Python warns at the end.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def is_main_process() -> bool:
    """Whether this process is the only one of its work, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0
