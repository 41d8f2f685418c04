"""What a long command shows while it works: stages, and a bar with an estimate, or a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 30.0


class Pace:
    """Says every half minute how far a piece of work is and what is left, where no terminal shows a bar.

    Args:
        console: Where.
        clock: Returns seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._name = ""
        self._began: tuple[float, int] | None = None
        self._told = 0.0

    def begin(self, name: str) -> None:
        """Begin another piece of work."""
        self._name, self._began = name, None

    def tell(self, done: int, total: int, note: str = "") -> None:
        """Say how far it is, if nothing was said for a while.

        Args:
            done: What is done.
            total: What there is to do.
            note: More to be said.
        """
        if self._console.is_terminal:
            return
        now = self._clock()
        if self._began is None:
            self._began, self._told = (now, done), now
        elif now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            since, before = self._began
            left = f", about {in_words((now - since) / (done - before) * (total - done))} left" if done > before else ""
            said = f"{self._name}: {done} of {total}{note and f', {note}'}{left}"
            self._console.print(f"[dim]{escape(said)}[/]", soft_wrap=True)


class TaskProgress:
    """Progress on a terminal; where there is none, one line per stage and one every half minute.

    Args:
        console: Where it is shown.
        counter: Column that says how far it is; by default in percent.
    """

    def __init__(self, console: Console, counter: ProgressColumn | None = None) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            counter or TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
        )
        self._pace = Pace(console)
        self._task: TaskID | None = None
        self._name, self._description, self._note = "", "", ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        """Show that something is prepared, and how far it is."""
        if name != self._name:
            self._show(name, f"preparing {name}")
        self.advance(done, total)

    def begin(self, name: str) -> None:
        """Show that work on something begins, or that other work is next."""
        self._show(name, name)

    def advance(self, done: int, total: int) -> None:
        """Show how far it is."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)
            self._pace.tell(done, total, self._note)

    def note(self, note: str) -> None:
        """Show something beside how far it is, such as a loss."""
        if self._task is not None:
            self._note = note
            self._progress.update(self._task, description=escape(f"{self._description}  {note}"))

    def end(self) -> None:
        """Show no longer what was shown."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def _show(self, name: str, description: str) -> None:
        self.end()
        self._name, self._description, self._note = name, description, ""
        self._pace.begin(description)
        self._task = self._progress.add_task(escape(description), total=None)
        self._console.print(f"[dim]{escape(description)}[/]", highlight=False)


def in_words(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
