"""Work in a run folder: its state is recorded, and finished parts are kept when the work is interrupted."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from kdnas_env.errors import KDNASError, RunError
from kdnas_env.searching.run_folder import RunFolder
from kdnas_env.support.progress import Progress, Tone, enter_step


def name_of(product: Path, student: Path) -> str:
    """Return the name of the folder of a product: of the common parent if product and student share one."""
    return (product.parent if product.parent == student.parent else product).name


class Finished:
    """Base of the results of commands. A result can be passed wherever its run folder is expected.

    Attributes:
        path: The run folder.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        about = "".join(f", {name}={value}" for name, value in self.about().items())
        return f"{type(self).__name__}({str(self.path)!r}{about})"

    def about(self) -> dict[str, object]:
        """Return the values that its representation shows beside the folder."""
        return {}


class Interrupted(KeyboardInterrupt):
    """Work was stopped by Ctrl-C or SIGTERM. Finished parts are kept.

    Attributes:
        go_on: The call that resumes the work; on the command line, the command that does.
    """

    def __init__(self, go_on: str) -> None:
        super().__init__(f"stopped; resume with: {go_on}")
        self.go_on = go_on


class Work:
    """Work in a run folder.

    In the folder of an earlier run nothing is recorded before :meth:`begin`, so that a refusal leaves it unchanged.

    Args:
        folder: The folder; None in a process that does not write it.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self._folder = folder
        self._checked = False
        self._recorded = folder is not None and folder.is_new
        if folder is not None and folder.is_new:
            folder.begin()

    def check(self, fingerprints: Mapping[str, str]) -> None:
        """Check that the fingerprints are those of the start of the run; see :meth:`.RunFolder.check`."""
        if self._folder is not None:
            self._folder.check(fingerprints)

    def begin(self, fingerprints: Mapping[str, str] | None = None, **details: Any) -> None:
        """Begin or resume the work; see :meth:`.RunFolder.begin`."""
        if self._folder is not None:
            self._folder.begin(fingerprints, **details)
            self._recorded = self._checked = True

    def finish(self) -> None:
        """Record that the run is finished."""
        if self._folder is not None:
            self._folder.record("finished")

    def stop(self, error: BaseException) -> None:
        """Record that an error ended the work.

        The folder of a new run that was refused before it began is removed. Its settings could not be changed by a
        resumed run, and it would only block the next run.
        """
        refused = isinstance(error, KDNASError) and not self._checked
        if self._folder is not None and self._folder.created and refused:
            self._folder.discard()
        elif self._folder is not None and self._recorded:
            with noted(error):
                self._folder.record("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")


class StageProgress:
    """Reports the progress of a stage of a run. It adds the stage to the names of options between backquotes.

    Args:
        progress: Receives the progress.
        stage: The stage.
    """

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress, self._stage = progress, stage

    def step(self, name: str) -> None:
        """Report that a step begins."""
        enter_step(self._progress, name)

    def begin(self, name: str) -> None:
        """Report that work begins."""
        self._progress.begin(name)

    def advance(self, done: int, total: int) -> None:
        """Report how much of the total is done."""
        self._progress.advance(done, total)

    def note(self, text: str) -> None:
        """Report a value that changes during the work."""
        self._progress.note(text)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Report a line that stays visible."""
        self._progress.say(re.sub(r"`(?!kdnas_env\.)(?=[a-z]+\.[a-z])", f"`{self._stage}.", text), tone)

    def end(self) -> None:
        """Report that the work is done and none follows yet."""
        self._progress.end()


@contextmanager
def noted(error: BaseException) -> Iterator[None]:
    """Run the block as a clean-up after an error. An error in the block becomes a note of the first error."""
    try:
        yield
    except KDNASError as second:
        error.add_note(f"also, {second}")


@contextmanager
def working(folder: RunFolder | None, go_on: str) -> Iterator[Work]:
    """Work in a run folder: its state is recorded, and its lock is released in the end.

    Args:
        folder: The folder; None without one, or in a process that does not write it.
        go_on: The call that resumes an interrupted run.

    Yields:
        The work; begin it after all checks that may refuse it.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM.
        RunError: If a training diverges.
    """
    work = None
    try:
        with terminable():
            work = Work(folder)
            yield work
            work.finish()
    except BaseException as error:
        if work is not None:
            work.stop(error)
        if isinstance(error, FloatingPointError):
            raise RunError(f"{error}; what was finished before is kept") from error
        if not isinstance(error, KeyboardInterrupt):
            raise
        interrupted = Interrupted(go_on)
        for note in getattr(error, "__notes__", ()):
            interrupted.add_note(note)
        raise interrupted from error
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
    """Let SIGTERM end the block like Ctrl-C."""
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
