"""``kdnas distill``: what it prints."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.cli.flags import print_notes
from kdnas_env.pipeline.distill import DistillOptions, DistillRun, distill
from kdnas_env.support.child_processes import is_main_process
from kdnas_env.support.progress import TaskProgress


def run_distill(options: DistillOptions) -> int:
    """Distil, and say where the students are; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole(quiet=not is_main_process())
    with TaskProgress(console) as progress:
        run = distill(options, progress=progress)
    print_distilled(console, run)
    return 0


def print_distilled(console: SafeConsole, run: DistillRun) -> None:
    """Print what a distillation made of the students."""
    print_notes(console, run.notes, run.options)
    table = grid("", "loss before", "after", "minutes", left=["student"], title="Distilled students")
    for student in run.students:
        losses = f"{student.started_at:.4f}", f"{student.unexplained:.4f}"
        table.add_row(student.name, *losses, f"{student.seconds / 60:.1f}", str(student.config))
    console.print(table)
    for student in run.students:
        if student.unexplained >= student.started_at:
            after = f"{student.curve[-1]['unexplained']:.4g}"
            console.say(
                f"{student.name}: training made the student no better (its loss ended at {after}), so it is kept as it "
                "was before; distil it into another folder (--out) with a smaller --learning-rate",
                "warning",
            )
        console.say(f"student: {student.folder}")
