"""What a long command shows while it works: stages, and a bar with an estimate."""

from __future__ import annotations

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


class TaskProgress:
    """Progress on a terminal; where there is none, one line per stage.

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
        self._task: TaskID | None = None
        self._name = ""

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

    def end(self) -> None:
        """Show no longer what was shown."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def _show(self, name: str, description: str) -> None:
        self.end()
        self._name, self._task = name, self._progress.add_task(escape(description), total=None)
        self._console.print(f"[dim]{escape(description)}[/]", highlight=False)
