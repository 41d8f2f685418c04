"""What a search shows while it works: stages, one line per student, and a bar with an estimate."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from kdnas_env.core.evaluation import EpochReport
from kdnas_env.envs.book import Book
from kdnas_env.support.progress import TaskProgress


class SearchProgress(TaskProgress):
    """Progress on a terminal; where there is none, one line per student.

    Args:
        console: Where it is shown.
        budget: Students in all.
    """

    def __init__(self, console: Console, budget: int) -> None:
        super().__init__(console)
        self._budget = budget
        self._search: TaskID | None = None
        self._best = float("-inf")

    def begin_search(self) -> None:
        """Show the bar of the search."""
        self.end()
        self._search = self._bars.add_task("searching", total=self._budget)
        self._pace.begin("searching")
        self._console.print(f"[bold]{'#':>4} {'loss':>7} {'speed':>9} {'params':>8} {'reward':>8}  student[/]")

    def epoch(self, report: EpochReport) -> None:
        """Show an epoch of the student in work."""
        if self._search is not None:
            text = f"{escape(str(report.config))}  epoch {report.epoch}/{report.epochs}"
            self._bars.update(self._search, description=f"{text}  loss {report.heldout_unexplained:.4f}")

    def record(self, history: Book) -> None:
        """Show the student that was just evaluated."""
        last = history.last
        if last is None or self._search is None:
            return
        self._bars.update(self._search, completed=history.evaluations)
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
        self._pace.tell(history.evaluations, self._budget)
