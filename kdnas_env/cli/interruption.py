"""Being stopped from outside without losing what is done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from kdnas_env.errors import KDNASError
from kdnas_env.searching.run_folder import RunFolder


class Interrupted(KeyboardInterrupt):
    """A command was interrupted, and has said how to go on."""


class Work:
    """A command at work in a run folder.

    Nothing is recorded in the folder of an earlier run before :meth:`begin`: what is refused until then leaves it as it
    was.

    Args:
        folder: The folder; None in a process that leaves it to another.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self._folder = folder
        self._checked = False
        self._recorded = folder is not None and folder.is_new
        if folder is not None and folder.is_new:
            folder.begin()

    def check(self, fingerprints: Mapping[str, str]) -> None:
        """Refuse what was other when the run was started; see :meth:`.RunFolder.check`."""
        if self._folder is not None:
            self._folder.check(fingerprints)

    def begin(self, fingerprints: Mapping[str, str] | None = None, **details: Any) -> None:
        """Begin, or go on; see :meth:`kdnas_env.searching.run_folder.RunFolder.begin`."""
        if self._folder is not None:
            self._folder.begin(fingerprints, **details)
            self._recorded = self._checked = True

    def finish(self) -> None:
        """Record that the run is finished."""
        if self._folder is not None:
            self._folder.record("finished")

    def fail(self, error: BaseException, console: Console) -> None:
        """Record that the work failed; take a new run back that was refused before it was begun.

        Its settings could not be changed by going on, so that it would only stand in the way of the next.
        """
        refused = isinstance(error, KDNASError) and not self._checked
        if self._folder is not None and self._folder.created and refused:
            self._folder.discard()
        else:
            self.stop("failed", console)

    def stop(self, state: str, console: Console) -> None:
        """Record how the work ended too early. If that fails, it is told, and what ended the work stays the error."""
        if self._folder is not None and self._recorded:
            with aside(console):
                self._folder.record(state)


@contextmanager
def aside(console: Console) -> Iterator[None]:
    """Do in the block what is left to do after an error: what goes wrong with that is told, and does not replace it."""
    try:
        yield
    except KDNASError as error:
        console.print(f"besides, {escape(str(error))}", style="red", highlight=False, soft_wrap=True)


@contextmanager
def working(console: Console, folder: RunFolder | None, go_on: str) -> Iterator[Work]:
    """Work in a run folder: its state is written down, and it is free for others in the end.

    Args:
        console: Where is said how to go on.
        folder: The folder; None in a process that leaves it to another.
        go_on: The command that goes on with an interrupted run.

    Yields:
        The work, to be begun once all is checked that may be refused.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM.
    """
    work = None
    try:
        with terminable():
            work = Work(folder)
            yield work
            work.finish()
    except KeyboardInterrupt as error:
        if work is not None:
            work.stop("interrupted", console)
        if not isinstance(error, Interrupted):
            console.print(f"\nstopped; go on with\n\n    {escape(go_on)}\n", highlight=False, soft_wrap=True)
        raise Interrupted from error
    except BaseException as error:
        if work is not None:
            work.fail(error, console)
        raise
    finally:
        if folder is not None:
            folder.release()


def _within_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C does: what is done is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _within_destructor(frame):
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()  # a little later: Python ignores errors there
            return
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
