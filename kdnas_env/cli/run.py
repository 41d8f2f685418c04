"""``kdnas run``: what it prints."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.cli.distill import print_distilled
from kdnas_env.cli.export import print_report
from kdnas_env.cli.glue import print_scores
from kdnas_env.cli.search import print_search
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.pipeline.distill import DistillRun
from kdnas_env.pipeline.run import PipelineRun, Result, run
from kdnas_env.pipeline.score import Scores
from kdnas_env.pipeline.search import SearchRun
from kdnas_env.pipeline.stages import PipelineOptions
from kdnas_env.support.progress import TaskProgress


def run_all(options: PipelineOptions) -> int:
    """Do the stages that are wanted and not done, and say what came of each; the exit status of the command.

    Raises:
        KDNASError: For bad input. What earlier stages finished is kept.
    """
    console = SafeConsole()
    with TaskProgress(console) as progress:
        done = run(options, progress=progress, on_result=lambda result: _print_result(console, result))
    print_summary(console, done)
    return int(any(_came_to_nothing(result) for result in done.results))


def _print_result(console: SafeConsole, result: Result) -> None:
    match result:
        case SearchRun():
            print_search(console, result)
        case DistillRun():
            print_distilled(console, result)
        case Scores():
            print_scores(console, result)
        case _:
            print_report(console, result)


def _came_to_nothing(result: Result) -> bool:
    match result:
        case SearchRun():
            return result.best is None
        case Scores():
            return result.failure is not None
        case _:
            return False


def print_summary(console: SafeConsole, done: PipelineRun) -> None:
    """Print what a run made."""
    tasks, students = done.summary["tasks"], done.summary["students"]
    scored = tasks[0] if len(tasks) == 1 else f"average of {len(tasks)} tasks"
    caption = f"score: {scored}, %; kept: share of the teacher's score" if tasks else None
    columns = ("params", "speed", "loss", "score", "kept")
    table = grid("", *columns, left=["student"], title="\nStudents", caption=caption)
    for student in students:
        table.add_row(
            student["name"],
            f"{student['parameters'] / 1e6:.2f}M",
            f"{student['speedup']:.2f}x",
            "" if student["unexplained"] is None else f"{student['unexplained']:.4f}",
            "" if student["score"] is None else f"{100 * student['score']:.1f}",
            "" if student["kept"] is None else f"{100 * student['kept']:.1f}%",
            str(StudentConfig.from_dict(student["student"])),
        )
    console.print(table)
    for student in students:
        for kind, file in student["files"].items():
            console.say(f"{kind + ':':<12}{done.path / file}")
    console.say(f"run folder: {done.path} (README.md says what is where)")
