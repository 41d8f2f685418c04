"""What all processes do that others are started in for work."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process


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
