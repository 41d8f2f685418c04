"""Progress of long work: the protocol that the library reports to, and its display on a console."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import rich.progress
from rich.console import Console
from rich.markup import escape

from kdnas_env.errors import KDNASError
from kdnas_env.support.untrusted import shown

SECONDS_BETWEEN_LINES = 30.0

OnProgress = Callable[[int, int], object]
"""Called with the amount done and the total, such as ``Progress.advance``."""

Tone = Literal["plain", "good", "bad", "warning"]

STYLES: dict[Tone, str | None] = {"plain": None, "good": "green", "bad": "red", "warning": "yellow"}
"""Style of each tone on a console."""


class Progress(Protocol):
    """Receiver of progress reports. Pieces of work follow each other; none is nested."""

    def begin(self, name: str) -> None:
        """Report that a piece of work begins, and that the one before it is done."""

    def advance(self, done: int, total: int) -> None:
        """Report how much of the total is done."""

    def note(self, text: str) -> None:
        """Report a value that changes during the work, such as a loss."""

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Report a line that stays visible, such as a result or a warning."""

    def end(self) -> None:
        """Report that the work is done and none follows yet."""


@runtime_checkable
class Stepped(Protocol):
    """Progress that also receives steps, each of which has several pieces of work."""

    def step(self, name: str) -> None:
        """Report that a step begins."""


def enter_step(progress: Progress, name: str) -> None:
    """Report that a step begins, if the progress receives steps."""
    if isinstance(progress, Stepped):
        progress.step(name)


def checked(progress: Any) -> Progress:
    """Check that an object can receive progress, and return it.

    Raises:
        KDNASError: If it lacks a method of :class:`Progress`.
    """
    missing = [
        name for name in ("begin", "advance", "note", "say", "end") if not callable(getattr(progress, name, None))
    ]
    if missing:
        raise KDNASError(
            f"progress is {shown(progress)}, which has no method {missing[0]!r}; leave it out, or give what "
            "`with kdnas_env.ConsoleProgress() as progress:` makes"
        )
    return progress  # type: ignore[no-any-return]


def counting_on(on_progress: OnProgress, before: int, total: int) -> OnProgress:
    """Return a callback that reports a part of the work as progress of the whole.

    Args:
        on_progress: Receives the progress of the whole.
        before: Amount done when the part begins.
        total: Total amount.
    """
    return lambda done, _: on_progress(before + done, total)


class _Silence:
    def begin(self, name: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def say(self, text: str, tone: Tone = "plain") -> None:
        pass

    def end(self) -> None:
        pass


SILENT: Progress = _Silence()
"""Ignores all reports; the default of the library."""


class Pieces:
    """Alternating pieces of work. Returning to a piece reports it as begun again.

    Args:
        progress: Receives the reports.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._current = progress, ""

    def begin(self, name: str) -> None:
        """Begin a piece, unless it is the current one."""
        if name != self._current:
            self._current = name
            self._progress.begin(name)

    def advancing(self, name: str) -> OnProgress:
        """Return a callback that reports the progress of a piece, and begins the piece if it is not the current one."""

        def advance(done: int, total: int) -> None:
            self.begin(name)
            self._progress.advance(done, total)

        return advance


class Pace:
    """Prints progress and remaining time every 30 seconds if the console is not a terminal.

    Args:
        console: Console to print on.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._name = self._note = ""
        self._since = self._last_printed = 0.0
        self._began: tuple[float, int] | None = None
        self._reached: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def begin(self, name: str) -> None:
        """Begin another piece of work."""
        with self._lock:
            self._name, self._note = name, ""
            self._began = self._reached = None
            self._since = self._last_printed = self._clock()

    def tell(self, done: int, total: int, note: str = "") -> None:
        """Record the progress, and print it if nothing was printed for 30 seconds.

        Args:
            done: Amount done.
            total: Total amount.
            note: Text to append.
        """
        with self._lock:
            # If the count restarts, such as for a second stage, the time estimate restarts too.
            if self._reached is not None and done < self._reached[0]:
                self._began = None
            self._reached, self._note = (done, total), note
            if self._began is None:
                self._began, self._last_printed = (self._clock(), done), self._clock()
                return
        self.remind()

    def remind(self) -> None:
        """Print the progress, or the elapsed time, if nothing was printed for 30 seconds."""
        if self._console.is_terminal:
            return
        with self._lock:
            now = self._clock()
            if now - self._last_printed < SECONDS_BETWEEN_LINES:
                return
            self._last_printed, line = now, self._line(now)
        self._console.print(f"[dim]{escape(line)}[/]", soft_wrap=True)

    def _line(self, now: float) -> str:
        note = self._note and f", {self._note}"
        if self._reached is None or self._began is None:
            return f"{self._name}: {in_words(now - self._since)} so far{note}"
        (done, total), (since, before) = self._reached, self._began
        left = f", about {in_words((now - since) / (done - before) * (total - done))} left" if done > before else ""
        return f"{self._name}: {done} of {total}{note}{left}"


class ConsoleProgress:
    """Progress bars on a terminal or in a notebook; in a log, one line per piece of work and one every 30 seconds.

    Use it in a ``with`` block, which ends the display even after an error. Without a terminal, a thread prints a line
    when the work has reported nothing for 30 seconds.

    Args:
        console: Console to show it on; the standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            transient=True,
        )
        self._pace = Pace(self._console)
        self._ended: threading.Event | None = None
        self._bar: rich.progress.TaskID | None = None
        self._name, self._note = "", ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self, name: str) -> None:
        """Show a new piece of work instead of the previous one."""
        self._drop_bar()
        self._bars.start()  # not earlier, so that an error before any work leaves no empty display
        self._name, self._note = name, ""
        self._pace.begin(name)
        if self._ended is None and not self._console.is_terminal:
            self._ended = threading.Event()
            threading.Thread(target=_remind, args=(self._pace, self._ended), name="progress", daemon=True).start()
        self._bar = self._bars.add_task(escape(name), total=None)
        self._console.print(f"[dim]{escape(name)}[/]", highlight=False)

    def advance(self, done: int, total: int) -> None:
        """Show the amount done."""
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total)
            self._pace.tell(done, total, self._note)

    def note(self, text: str) -> None:
        """Show a text beside the bar."""
        if self._bar is not None:
            self._note = text
            self._bars.update(self._bar, description=escape(f"{self._name}  {text}".rstrip()))

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Print a line above the bar."""
        self._console.print(escape(text), style=STYLES[tone], highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Show no bar until work begins again."""
        self._drop_bar()
        if self._ended is not None:
            self._ended.set()
            self._ended = None
        if self._bars.live.is_started:
            self._bars.stop()

    def _drop_bar(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


def _remind(pace: Pace, ended: threading.Event) -> None:
    """Print a line while the work reports nothing, until it ends."""
    while not ended.wait(SECONDS_BETWEEN_LINES):
        pace.remind()


def in_words(seconds: float) -> str:
    """Return a duration (in seconds) as text in a suitable unit, such as ``2.5 min``."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
