"""``kdnas run``: its output."""

from __future__ import annotations

from rich.table import Table

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.cli.distill import print_distilled
from kdnas_env.cli.export import print_report
from kdnas_env.cli.flags import FlagProgress
from kdnas_env.cli.score import print_scores
from kdnas_env.cli.search import print_search
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.exporting.report import ExportReport
from kdnas_env.pipeline.distill.products import product_of
from kdnas_env.pipeline.distill.result import DistillRun
from kdnas_env.pipeline.limits import HEADINGS, score_rows
from kdnas_env.pipeline.run import run
from kdnas_env.pipeline.run.candidates import Candidate
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.pipeline.run.result import PICTURE, PipelineRun, more_candidates
from kdnas_env.pipeline.run.stages import Result
from kdnas_env.pipeline.score.result import Scores
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.searching.run_folder import REPORT


def run_all(options: PipelineOptions) -> int:
    """Run the missing stages, and print the result of each; return the exit status.

    Raises:
        KDNASError: For bad input. Results of earlier stages are kept.
    """
    console = SafeConsole()
    with FlagProgress(console, options) as progress:
        done = run(options, progress=progress, on_result=lambda result: _print_result(console, result))
    if options.task.name is None:
        print_summary(console, done)
        return int(any(_is_missing(result) for result in done.results))
    print_candidates(console, done)
    return int(not done.keeps_limits)


def _print_result(console: SafeConsole, result: Result) -> None:
    match result:
        case Candidate():
            console.print(_lines(result))
        case SearchRun():
            print_search(console, result, hints=False)  # the run itself takes the next steps
        case DistillRun():
            print_distilled(console, result)
        case Scores():
            print_scores(console, result)
        case ExportReport():
            print_report(console, result)


def _is_missing(result: Result) -> bool:
    """Return whether a stage ended without a student, or without a score of the model."""
    match result:
        case SearchRun():
            return result.best is None
        case Scores():
            return result.failure is not None
        case _:
            return False


def _lines(candidate: Candidate) -> Table:
    """Return the requested limits with the measured values of a candidate, and its scores with the teacher's."""
    title = f"\nCandidate {candidate.place}: {candidate.config}"
    lines = grid("", *HEADINGS, title=title, caption=candidate.measured.conditions)
    for line in candidate.lines:
        lines.add_row(*line.cells, style="red" if line.kept is False else None)
    for row in score_rows(candidate.measured):
        lines.add_row(*row)
    return lines


def print_candidates(console: SafeConsole, done: PipelineRun) -> None:
    """Print which candidate meets the limits, and its files."""
    best, product = done.best, product_of(done.options.task)
    assert product is not None
    if best is not None:
        if best not in done.results[-1:]:  # it was not printed just now
            console.print(_lines(best))
        if best.measured.warning is not None:
            console.say(best.measured.warning, "warning")
        for kind, file in done.products.items():
            console.say(f"{kind + ':':<12}{file}")
        console.say(f"{'picture:':<12}{done.path / PICTURE}")
    console.say(f"{'page:':<12}{done.path / REPORT}")
    console.say(f"{'run folder:':<12}{done.path} (README.md describes its files)")
    tried = len(done.candidates)
    if best is None:
        console.say("no student of the search keeps the limits, so none was distilled; see above", "bad")
    elif not best.chosen:
        if best.costly_int8 is not None:
            console.say(
                f"its int8 file has only {best.costly_int8} in int8, so it is slower or larger than usual: converting "
                "more changed the model too much. Train it for longer (--distill.epochs, --task.epochs), or choose "
                "float32",
                "warning",
            )
        more = more_candidates(done)
        try_more = "" if more is None else f"try more ({more}), "
        console.say(
            f"no {product.words} keeps all limits; of {tried} candidate(s) the nearest is {best.place}, "
            f"{best.config}. Widen the limits, {try_more}or search more (--search.budget)",
            "bad",
        )
    elif not done.keeps_limits:
        console.say(
            f"the {product.words} keeps the limits on the data that it was chosen on, but not on the scored data", "bad"
        )


def print_summary(console: SafeConsole, done: PipelineRun) -> None:
    """Print a summary of the results of a run."""
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
    console.say(f"page:       {done.path / REPORT}")
    console.say(f"run folder: {done.path} (README.md describes its files)")
