"""Being stopped from outside without losing what is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from kdnas_env.cli.run_folder import RunFolder


class Interrupted(KeyboardInterrupt):
    """A command was interrupted, and has said how to go on."""


@contextmanager
def working(console: Console, folder: RunFolder | None, go_on: str) -> Iterator[None]:
    """Work in a run folder: its state is written down, and it is free for others in the end.

    Args:
        console: Where is said how to go on.
        folder: The folder; None in a process that leaves it to another.
        go_on: The command that goes on with an interrupted run.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM.
    """

    def record(state: str) -> None:
        if folder is not None:
            folder.record(state)

    try:
        with terminable():
            record("running")
            yield
            record("finished")
    except KeyboardInterrupt as error:
        record("interrupted")
        if not isinstance(error, Interrupted):
            console.print(f"\nstopped; go on with\n\n    {escape(go_on)}\n", highlight=False, soft_wrap=True)
        raise Interrupted from error
    except BaseException:
        record("failed")
        raise
    finally:
        if folder is not None:
            folder.release()


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C does: what is done is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
