"""``kdnas distill``: its output."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.cli.flags import FlagProgress
from kdnas_env.exporting.cards.embedder import NEIGHBOURS
from kdnas_env.pipeline.distill import distill
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.distill.result import DistillRun
from kdnas_env.support.child_processes import is_main_process


def run_distill(options: DistillOptions) -> int:
    """Distil, and print the students; return the exit status.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole(quiet=not is_main_process())
    with FlagProgress(console, options) as progress:
        run = distill(options, progress=progress)
    print_distilled(console, run)
    return 0


def print_distilled(console: SafeConsole, run: DistillRun) -> None:
    """Print the results of a distillation."""
    if run.students:
        _print_students(console, run)
    if run.classifiers:
        _print_classifiers(console, run)
    if run.embedders:
        _print_embedders(console, run)


def _print_students(console: SafeConsole, run: DistillRun) -> None:
    table = grid("", "loss before", "after", "minutes", left=["student"], title="Distilled students")
    for student in run.students:
        losses = f"{student.started_at:.4f}", f"{student.unexplained:.4f}"
        table.add_row(student.name, *losses, f"{student.seconds / 60:.1f}", str(student.config))
    console.print(table)
    for student in run.students:
        after = f"{student.curve[-1]['unexplained']:.4g}"
        if student.unexplained >= student.started_at:
            console.say(
                f"{student.name}: training did not improve the student (its loss ended at {after}), so the initial "
                "student is kept; distil it into another folder (--out) with a smaller --learning-rate",
                "warning",
            )
        elif student.unstable:
            console.say(
                f"{student.name}: its loss rose again to {after}, so the student with loss "
                f"{student.unexplained:.4g} is kept; a smaller --learning-rate, with another --out, may improve it",
                "warning",
            )
        console.say(f"student: {student.folder}")


def _print_classifiers(console: SafeConsole, run: DistillRun) -> None:
    """Print the scores of students on the task, with its teacher's."""
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


def _print_embedders(console: SafeConsole, run: DistillRun) -> None:
    """Print how well the vectors of students can replace the teacher's."""
    columns = ("Spearman", "95 % interval", "before", "shared", "in index", "minutes")
    texts = run.embedders[0].record.score.texts
    caption = f"before: Spearman's correlation of the head in closed form\n{NEIGHBOURS}"
    table = grid("", *columns, title=f"Sentence vectors beside the teacher's, {texts} held-out texts", caption=caption)
    for embedder in run.embedders:
        score, before = embedder.record.score, embedder.record.closed_form
        value, low, high = score.spearman
        table.add_row(
            embedder.name,
            f"{value:.3f}",
            f"{low:.3f} - {high:.3f}",
            f"{before.spearman[0]:.3f}",
            f"{100 * score.overlap[0]:.0f} %",
            f"{100 * score.overlap_in_teachers[0]:.0f} %",
            f"{embedder.record.seconds / 60:.1f}",
        )
    console.print(table)
    for embedder in run.embedders:
        if embedder.record.is_closed_form:
            console.say(
                f"{embedder.name}: training did not improve the vectors, so the head in closed form is kept; give "
                "more text (--task.unlabelled-samples), or train for more epochs (--task.epochs)",
                "warning",
            )
        console.say(f"embedding student: {embedder.folder} (README.md says how to use it)")
