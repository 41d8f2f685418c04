"""``kdnas search``: its output."""

from __future__ import annotations

from rich.table import Table

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.cli.flags import FlagProgress
from kdnas_env.core.reward import IMITATION
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.envs.book import Record, best_of
from kdnas_env.pipeline.search import search
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.search.page import load_command, task_command
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.searching.run_folder import PICTURE, REPORT, STUDENT

_SHOWN = 5


def run_search(options: SearchOptions) -> int:
    """Search, and print the result; return the exit status: 1 if there is no student.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    with FlagProgress(console, options) as progress:
        run = search(options, progress=progress)
    print_search(console, run)
    return int(run.best is None)


def print_search(console: SafeConsole, run: SearchRun, *, hints: bool = True) -> None:
    """Print the best students of a search, and the paths of its files.

    Args:
        console: Console to print on.
        run: The search.
        hints: Whether to suggest next steps for the best student.
    """
    console.print(_best_students(run))
    _print_warnings(console, run, "" if hints else "search.")
    console.say(f"run folder: {run.path}")
    console.say(f"picture:    {run.path / PICTURE}")
    console.say(f"page:       {run.path / REPORT}")
    if run.best is None:
        console.say(_why_none(run), "bad")
        return
    student = str(run.path / STUDENT)
    console.say(f"student:    {student}")
    if not hints:
        return
    console.say(f"\nload it with\n\n    {load_command(student)}\n")
    if run.options.task.name is not None:
        console.say(f"train it on the task with\n\n    {task_command(run)}\n")


def _why_none(run: SearchRun) -> str:
    nearest = run.nearest
    if nearest is None:
        return "no student could be distilled; results.json in the run folder says why"
    return (
        f"no student keeps the limits. The nearest of {len(run.records)} is {nearest.evaluation.config}: "
        f"{nearest.broken_limits(run.options.limits)}. "
        "Widen the limits (--speedup 0 for any speed), search another space (--space.file), or evaluate more students "
        "(--budget)"
    )


def _best_students(run: SearchRun) -> Table:
    """Return a table of the best students, with the teacher and the best random student."""
    by = run.reward.quality
    loss = "loss" if by == IMITATION else f"loss on {run.options.task.name}"
    table = grid("", loss, "ms", "speed", "params", "reward", left=["student"], title=f"Best students by quality {by}")
    shown = run.ranked[:_SHOWN]
    for place, record in enumerate(shown, start=1):
        table.add_row(str(place), *_cells(record), style="bold" if place == 1 else None)
    table.add_section()
    faster = [record for record in run.front if record not in shown]
    for record in faster[:_SHOWN]:
        table.add_row("front", *_cells(record))
    table.add_section()
    captions = ["front: no student is both faster and closer to the teacher"] if faster else []
    random_best = best_of(run.drawn)
    if random_best is not None:
        table.add_row("random", *_cells(random_best))
        captions.append(f"random: the best of the {len(run.drawn)} students that were drawn at random")
    table.caption = "\n".join(captions)
    latency = run.teacher_latency_ms
    table.add_row(
        "teacher",
        f"{0:.4f}",
        "" if latency is None else f"{latency:.2f}",
        "1.00x",
        f"{run.teacher_parameters / 1e6:.2f}M",
        f"{run.reward.score(0.0, 1.0):.4f}",
        teacher_title(run.options.teacher),
    )
    return table


def _cells(record: Record) -> tuple[str, ...]:
    latency = record.evaluation.latency
    assert latency is not None
    return (
        f"{record.reward.loss:.4f}",
        f"{latency.median_ms:.2f}",
        f"{record.reward.speedup:.2f}x",
        f"{record.evaluation.parameters / 1e6:.2f}M",
        f"{record.reward.reward:.4f}",
        str(record.evaluation.config),
    )


def _print_warnings(console: SafeConsole, run: SearchRun, stage: str) -> None:
    ended = run.outcomes
    if ended.harmed:
        console.say(
            f"{ended.harmed} of {ended.usable} students have a higher loss after training than before; give more text, "
            f"or set --{stage}epochs 0",
            "warning",
        )
    for count, what in (
        (ended.stopped, "were stopped early"),
        (ended.infeasible, "break a limit, and were not distilled"),
        (ended.broke, "break a limit after their distillation"),
        (ended.failed, "failed; results.json says why"),
    ):
        if count:
            console.say(f"{count} of {ended.students} students {what}")
