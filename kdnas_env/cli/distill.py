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
    if run.students:
        _print_students(console, run)
    if run.classifiers:
        _print_classifiers(console, run)


def _print_students(console: SafeConsole, run: DistillRun) -> None:
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


def _print_classifiers(console: SafeConsole, run: DistillRun) -> None:
    """Print how well students do on the task, beside its teacher."""
    columns = ("score", "95 % interval", "teacher", "minutes")
    table = grid(
        "", *columns, left=["metric, split"], title=f"Students of the task {run.classifiers[0].record.task['name']}"
    )
    for classifier in run.classifiers:
        score, teacher = classifier.record.score, classifier.record.teacher_score
        for split, metrics in score.metrics.items():
            for name, value in metrics.items():
                low, high = score.intervals[split][name]
                table.add_row(
                    classifier.name,
                    f"{100 * value:.1f}",
                    f"{100 * low:.1f} - {100 * high:.1f}",
                    "" if teacher is None else f"{100 * teacher.metrics[split][name]:.1f}",
                    f"{score.seconds / 60:.1f}",
                    f"{name.replace('_', ' ')}, {split}",
                )
    console.print(table)
    for classifier in run.classifiers:
        console.say(f"classifier: {classifier.folder} (README.md says how to use it)")
