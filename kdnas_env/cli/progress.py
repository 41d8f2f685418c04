"""What a search shows while it works: stages, one line per student, and a bar with an estimate."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kdnas_env.envs.history import SearchHistory
from kdnas_env.evaluation import EpochReport


class SearchProgress:
    """Progress on a terminal; where there is none, one line per student.

    Args:
        console: Where it is shown.
        budget: Students in all.
    """

    def __init__(self, console: Console, budget: int) -> None:
        self._console = console
        self._budget = budget
        self._progress = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
        )
        self._stage: TaskID | None = None
        self._stage_name = ""
        self._search: TaskID | None = None
        self._best = float("-inf")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        """Show that something is prepared, and how far it is."""
        if name != self._stage_name:
            self._end_stage()
            self._stage_name = name
            self._stage = self._progress.add_task(f"preparing {name}", total=total)
            self._console.print(f"[dim]preparing {name}[/]")
        if self._stage is not None:
            self._progress.update(self._stage, completed=done, total=total)

    def begin(self) -> None:
        """Show the bar of the search."""
        self._end_stage()
        self._search = self._progress.add_task("searching", total=self._budget)
        self._console.print(f"[bold]{'#':>4} {'loss':>7} {'speed':>9} {'params':>8} {'reward':>8}  student[/]")

    def epoch(self, report: EpochReport) -> None:
        """Show an epoch of the student in work."""
        if self._search is not None:
            text = f"{escape(str(report.config))}  epoch {report.epoch}/{report.epochs}"
            self._progress.update(self._search, description=f"{text}  loss {report.heldout_unexplained:.4f}")

    def record(self, history: SearchHistory) -> None:
        """Show the student that was just evaluated."""
        last = history.last
        if last is None or self._search is None:
            return
        self._progress.update(self._search, completed=history.evaluations)
        evaluation, reward = last.evaluation, last.reward
        if last.usable:
            numbers = (
                f"{reward.loss:7.4f} {reward.speedup:8.2f}x {evaluation.parameters / 1e6:7.2f}M {reward.reward:8.4f}"
            )
        else:
            numbers = f"{evaluation.status!s:>26} {reward.reward:8.4f}"
        best = last.usable and reward.reward > self._best
        self._best = max(self._best, reward.reward) if last.usable else self._best
        line = f"{history.evaluations:>4} {numbers}  {evaluation.config}"
        style = "green" if best else ("red" if not last.usable else None)
        reason = f" ({evaluation.error})" if evaluation.error else ""
        self._console.print(escape(line + reason + (" *" if best else "")), style=style, highlight=False)

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None
