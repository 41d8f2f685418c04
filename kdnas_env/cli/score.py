"""``kdnas score``: scores of a student on tasks, compared with its teacher and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.exporting.cards.embedder import NEIGHBOURS, TITLES
from kdnas_env.exporting.measuring import SIMILARITY, Measured
from kdnas_env.pipeline.score import score
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.score.result import PICTURE, Scores
from kdnas_env.support.progress import ConsoleProgress
from kdnas_env.tasks.rows import TEACHER
from kdnas_env.tasks.scores import COSINE, Share
from kdnas_env.tasks.summary import Statistic

_TASKS_BESIDE = 2


def run_score(options: ScoreOptions) -> int:
    """Score a model and its comparisons; return the exit status: 1 if the model has no score."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        scores = score(options, progress=progress)
    if scores.files:
        print_files(console, scores)
    elif scores.vectors:
        print_vectors(console, scores)
    else:
        print_scores(console, scores)
    return 0 if scores.failure is None else 1


def print_scores(console: SafeConsole, scores: Scores) -> None:
    """Print the table of a comparison, and the paths of its files."""
    seeds = f"{scores.seeds} seed{'s' if scores.seeds > 1 else ''}"
    average = ("average",) if len(scores.tasks) > 1 else ()
    # For many tasks, a second table shows the single tasks, so that both fit into 80 columns.
    beside = scores.tasks if len(scores.tasks) <= _TASKS_BESIDE else ()
    kept = any(row.average is not None and row.average.kept is not None for row in scores.rows)
    table = grid(
        "",
        *("params", "speed", *beside, *average, "kept"),
        title=f"Scores by {scores.method}, % (mean and standard deviation of {seeds})",
        caption="kept: share of the teacher's score" if kept else None,
    )
    by_task = grid("", *scores.tasks, title="Task by task")
    for row in scores.rows:
        title = f"{row.name}: {row.title}" if row.name.startswith("student") else row.title
        style = "bold" if row.name == "student" else None
        table.add_row(
            title,
            f"{row.parameters / 1e6:.2f}M" if row.parameters else "",
            "" if row.speedup is None else f"{row.speedup:.2f}x",
            *(_cell(row.tasks.get(task), deviation=True) for task in beside),
            *(_cell(row.average, deviation=True) for _ in average),
            "" if row.average is None or row.average.kept is None else f"{100 * row.average.kept:.1f}%",
            style=style,
        )
        by_task.add_row(title, *(_cell(row.tasks.get(task), deviation=False) for task in scores.tasks), style=style)
    console.print(table)
    if not beside:
        console.print(by_task)
    if scores.method == COSINE:
        print_intervals(console, scores)
    failed = sum(row.failed for row in scores.rows)
    if failed:
        console.say(f"{failed} scores are missing; results.json says why", "bad")
    if not scores.options.rows and all(row.name != TEACHER for row in scores.rows):
        console.say("no teacher is known, so speeds are missing; name it with --teacher", "warning")
    console.say(f"run folder: {scores.path}")
    console.say(f"picture:    {scores.path / PICTURE}")
    if scores.failure is not None:
        console.say(f"the model has no score: {scores.failure}", "bad")


def print_vectors(console: SafeConsole, scores: Scores) -> None:
    """Print how well the vectors of embedding students can replace the teacher's, and the paths of the files."""
    texts = next(iter(scores.vectors.values())).texts
    columns = [scores.vectors[row.name] for row in scores.rows if row.name in scores.vectors]
    rows = [row for row in scores.rows if row.name in scores.vectors]
    table = grid("", *(row.name for row in rows), title=f"Vectors beside the teacher's, {texts} texts (95 % interval)")
    table.add_row("params", *(f"{row.parameters / 1e6:.2f}M" for row in rows))
    table.add_row("speed", *("" if row.speedup is None else f"{row.speedup:.2f}x" for row in rows))
    for name, title in TITLES.items():
        table.add_row(title, *(_interval(getattr(column, name)) for column in columns))
    for size in columns[0].truncated:
        title = f"Spearman's correlation, first {size} dimensions"
        table.add_row(title, *(_interval(column.truncated[size]) for column in columns))
    console.print(table)
    console.say(f"run folder: {scores.path}")


def print_files(console: SafeConsole, scores: Scores) -> None:
    """Print measurements of exported files as deployed, and the paths of the files."""
    of_vectors = scores.files[0].measured.vectors is not None
    splits = [share.split for share in scores.files[0].measured.scored]
    kept = "kept: share of the score of the task's teacher"
    if of_vectors:
        kept = f"{splits[0]}: {SIMILARITY}; {NEIGHBOURS}"
    several = len({file.model for file in scores.files}) > 1
    table = grid(
        *("", "MB", "ms", "speed"),
        *(splits if not of_vectors else ()),
        *(f"{split} (95 % interval)" for split in (splits if of_vectors else ["kept"])),
        *(("shared", "in index") if of_vectors else ()),
        title="Exported files in ONNX Runtime, beside the teacher's file of the same format",
        caption=f"{kept}. Means: largest size, median speed" if scores.means else kept,
    )
    for file in scores.files:
        measured = file.measured
        sizes = f"{measured.size_mb:.2f}", f"{measured.latency_ms:.2f}", f"{measured.speedup:.2f}x"
        name = f"{Path(file.model).name} {measured.format}" if several else measured.format
        scored = [] if of_vectors else _scored(measured.scored)
        table.add_row(name, *sizes, *scored, _kept_shares(measured.scored), *_shared(measured))
    for mean in scores.means:
        sizes = f"{mean.largest_mb:.2f}", "", f"{mean.speedup:.2f}x"
        shares = (*_scored(mean.scored), _kept_shares(mean.scored))
        table.add_row(f"mean of {mean.models}, {mean.format}", *sizes, *shares, style="bold")
    console.print(table)
    console.say(f"run folder: {scores.path}")


def _shared(measured: Measured) -> list[str]:
    """Return the cells of the neighbours that a file's vectors share with the teacher's; empty for a classifier."""
    vectors = measured.vectors
    return [] if vectors is None else [f"{100 * of[0]:.0f} %" for of in (vectors.overlap, vectors.overlap_in_teachers)]


def _scored(shares: Sequence[Share]) -> list[str]:
    """Return the cells of the scores of some splits."""
    return [f"{100 * share.score:.1f}" for share in shares]


def _kept_shares(shares: Sequence[Share]) -> str:
    """Return the cell of the shares of the teacher's scores."""
    return "\n".join(f"{100 * share.value:.1f} % ({100 * share.low:.1f} - {100 * share.high:.1f})" for share in shares)


def print_intervals(console: SafeConsole, scores: Scores) -> None:
    """Print the metrics of models that are scored without training, with their 95 % intervals."""
    table = grid("", "value", "95 % interval", left=["metric, split"], title="Bootstrap intervals over the samples")
    titles = {row.name: row.title for row in scores.rows}
    for cell, cell_score in scores.scores.items():
        for split, metrics in cell_score.metrics.items():
            for name, value in {**metrics, **cell_score.reported.get(split, {})}.items():
                low, high = cell_score.intervals[split][name]
                where = f"{name.replace('_', ' ')}, {split} of {cell.task}"
                table.add_row(titles[cell.row], f"{value:.3f}", f"{low:.3f} - {high:.3f}", where)
    console.print(table)


def _interval(values: tuple[float, float, float]) -> str:
    value, low, high = values
    return f"{value:.3f} ({low:.3f} - {high:.3f})"


def _cell(statistic: Statistic | None, *, deviation: bool) -> str:
    if statistic is None:
        return "failed"
    spread = f" ± {100 * statistic.sd:.1f}" if deviation and statistic.sd is not None else ""
    return f"{100 * statistic.mean:.1f}{spread}"
