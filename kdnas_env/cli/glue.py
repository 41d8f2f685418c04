"""``kdnas glue``: how well a student does on tasks, beside whatever tells what that is worth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.envs.render import save_figure
from kdnas_env.errors import KDNASError
from kdnas_env.latency import LatencySettings
from kdnas_env.pipeline.score import GlueOptions
from kdnas_env.pipeline.work import Work, working
from kdnas_env.searching.run_folder import RESULTS, RunFolder, new_run_path
from kdnas_env.support.atomic import write_json
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.progress import Pace
from kdnas_env.support.settings import parse_value
from kdnas_env.support.shell import command
from kdnas_env.tasks.comparison import Cell, CellStore, Comparison
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.rows import STUDENT, TEACHER, build_rows, lineage_teacher, load_model, teacher_name
from kdnas_env.tasks.scores import TaskScore, glue_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, GLUE_TASKS, TaskData, task_spec
from kdnas_env.tasks.summary import Statistic, Summary, draw_comparison, summarise

CELLS, PICTURE = "cells", "glue.png"

_TASKS_BESIDE = 2
_README = """# A run of `kdnas glue`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run, versions, machine, fingerprints of models and tasks |
| `cells/` | every score (row, task, seed) and latency, written as it was found; a checkpoint of an unfinished one |
| `results.json` | the table: means and standard deviations over seeds, and every score |
| `glue.png` | score against speed-up in a picture |

Files that are missing are written at the end. Go on with an interrupted run, or see a finished one again, with

    kdnas glue --resume {{folder}}

Scores are by {method}.
"""


def run_glue(options: GlueOptions, go_on: str | None = None) -> int:
    """Score a model and what it is compared with; the exit status of the command: 1 if the model has no score.

    An interrupted run (Ctrl-C, SIGTERM, SIGKILL) goes on with ``--resume``: what was scored is kept, and what was not
    is scored as it would have been.

    Args:
        options: What is asked for.
        go_on: The command that goes on with it, to be named when it is interrupted; by default its own.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    if options.threads is None:
        options = replace(options, threads=torch.get_num_threads())
    # What is cheap to check is checked before a folder is made.
    if options.model is None:
        raise KDNASError("no model is named; give the folder of a student, such as runs/.../student, or a hub name")
    names = _task_names(options)
    glue_metric(names[0])
    resolve_device(options.device)
    settings = _finetune_settings(options, names)
    latency = LatencySettings(**asdict(options.latency))
    comparison = _comparison(options, names, settings)
    folder = _open_folder(options, comparison.method)
    comparison = replace(comparison, store=CellStore(folder.path / CELLS))
    again = command("glue", "--resume", folder.path, *options.place_flags("out", "resume"))
    with (
        working(folder, go_on or again) as work,
        pinned_threads(options.threads or torch.get_num_threads()),
    ):
        _begin(work, comparison)
        scores = _compute(console, comparison)
        summaries = summarise(comparison.rows, names, scores, comparison.latencies(latency))
        _write_results(folder.path, options, comparison, scores, summaries)
    print_summaries(console, summaries, names, comparison.method, len(comparison.seeds))
    if not options.rows and all(row.name != TEACHER for row in comparison.rows):
        console.print("no teacher is known, beside whom models are timed; name it with --teacher", style="yellow")
    console.print(f"run folder: {escape(str(folder.path))}", highlight=False, soft_wrap=True)
    console.print(f"picture:    {escape(str(folder.path / PICTURE))}", highlight=False, soft_wrap=True)
    return _verdict(console, scores)


def _verdict(console: Console, scores: Mapping[Cell, TaskScore]) -> int:
    """Say where the model has no score at all; the exit status."""
    own = [score for cell, score in scores.items() if cell.row == STUDENT]
    if not own or any(score.ok for score in own):
        return 0
    console.print(f"the model has no score: {escape(own[0].error)}", style="bold red", soft_wrap=True)
    return 1


def print_summaries(
    console: Console, summaries: Sequence[Summary], tasks: Sequence[str], method: str, seeds: int
) -> None:
    """Print the table of a comparison.

    Args:
        console: Where.
        summaries: Its rows.
        tasks: Names of the tasks.
        method: How models were scored.
        seeds: Seeds per score.
    """
    heading = f"Scores by {method}, % (mean and standard deviation of {seeds} seed{'s' if seeds > 1 else ''})"
    average = ("average",) if len(tasks) > 1 else ()
    # Many tasks have a table of their own: both fit into 80 columns.
    beside = tasks if len(tasks) <= _TASKS_BESIDE else ()
    table = _table(heading, ("params", "speed", *beside, *average, "kept"))
    by_task = _table("Task by task", tasks)
    for row in summaries:
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
        by_task.add_row(title, *(_cell(row.tasks.get(task), deviation=False) for task in tasks), style=style)
    if any(row.average is not None and row.average.kept is not None for row in summaries):
        table.caption, table.caption_justify = "kept: share of the teacher's score", "left"
    console.print(table)
    if not beside:
        console.print(by_task)
    failed = sum(row.failed for row in summaries)
    if failed:
        console.print(f"{failed} scores are missing; results.json says why", style="red")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cell(statistic: Statistic | None, *, deviation: bool) -> str:
    if statistic is None:
        return "failed"
    spread = f" ± {100 * statistic.sd:.1f}" if deviation and statistic.sd is not None else ""
    return f"{100 * statistic.mean:.1f}{spread}"


def _task_names(options: GlueOptions) -> tuple[str, ...]:
    assert options.model is not None
    if options.tasks:
        names = tuple(dict.fromkeys(options.tasks))
    elif options.data is None and "demo" in (options.model, teacher_name(options.model, options.teacher)):
        names = (EMBEDDED_TASK,)
    else:
        names = GLUE_TASKS
    for name in names:
        task_spec(name)
    return names


def _finetune_settings(options: GlueOptions, tasks: Sequence[str]) -> dict[str, FinetuneSettings]:
    common = FinetuneSettings(
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        epochs=options.epochs,
        max_length=options.max_length,
        pooling=options.pooling,
        dropout=options.dropout,
        device=options.device,
    )
    changes: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    for setting in options.task_settings:
        place, equals, value = setting.partition("=")
        task, dot, name = place.strip().partition(".")
        if not (equals and dot):
            raise KDNASError(f"task setting {setting!r} is malformed; write it as TASK.NAME=VALUE, as in rte.epochs=10")
        if task not in changes:
            raise KDNASError(f"task setting {setting!r} is of no task of this run; its tasks are {list(tasks)}")
        if name in changes[task]:
            raise KDNASError(f"task setting {task}.{name} is given twice; keep one of them")
        changes[task][name] = parse_value(value)
    return {task: common.changed(changes[task]) for task in tasks}


def _comparison(options: GlueOptions, tasks: Sequence[str], settings: dict[str, FinetuneSettings]) -> Comparison:
    assert options.model is not None
    models = [load_model(name) for name in (options.model, *options.models)]
    teacher = None
    if not options.rows or TEACHER in options.rows:
        teacher = load_model(options.teacher) if options.teacher is not None else lineage_teacher(models[0])
    rows = build_rows(models, teacher, options.rows, cache_dir=options.cache_dir, device=options.device)
    return Comparison(
        rows=rows,
        tasks=[load_task(name, options.data).limited(options.max_samples, options.seed) for name in tasks],
        seeds=range(options.seed, options.seed + options.seeds),
        settings=settings if options.finetune else None,
        store=CellStore(Path(os.devnull)),
        max_length=options.max_length,
        pooling=options.pooling,
        device=options.device,
    )


def _open_folder(options: GlueOptions, method: str) -> RunFolder:
    if options.resume is not None:
        return RunFolder.reopen(options.resume)
    name = Path(str(options.model)).name or "model"
    return RunFolder.create(options.out or new_run_path(name, "glue"), options, _README.format(method=method))


def _begin(work: Work, comparison: Comparison) -> None:
    """Begin, unless it is with other models or data under the same names.

    Raises:
        RunError: If one has changed.
    """
    fingerprints = {
        **{f"row {row.name}": row.identity for row in comparison.rows},
        **{f"tokenizer of row {row.name}": row.tokenizer_identity for row in comparison.rows if row.tokenizer},
        **{f"task {task.name}": task.fingerprint for task in comparison.tasks},
    }
    work.begin(fingerprints, tasks=[_described(task) for task in comparison.tasks])


def _described(task: TaskData) -> dict[str, Any]:
    return {
        "name": task.name,
        "source": task.source,
        "train": len(task.train),
        **{name: len(split) for name, split in task.evaluation.items()},
        "skipped_rows": task.skipped,
    }


def _compute(console: Console, comparison: Comparison) -> dict[Cell, TaskScore]:
    scores: dict[Cell, TaskScore] = {}
    titles = {row.name: row.title for row in comparison.rows}
    pace = Pace(console)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        cells = progress.add_task("scores", total=len(comparison.cells))
        steps = progress.add_task("steps", total=None)

        def begin(cell: Cell) -> None:
            description = f"{titles[cell.row]}, {cell.task}, seed {cell.seed}"
            progress.reset(steps, description=escape(description))
            pace.begin(f"{description} ({len(scores)} of {len(comparison.cells)} scores are there)")

        def advance(done: int, total: int) -> None:
            progress.update(steps, completed=done, total=total)
            pace.tell(done, total)

        for cell, score in comparison.run(begin, advance):
            scores[cell] = score
            progress.update(cells, completed=len(scores))
            console.print(_line(titles[cell.row], cell, score), style=None if score.ok else "red", highlight=False)
    return scores


def _line(title: str, cell: Cell, score: TaskScore) -> str:
    value = f"{100 * score.score:6.2f}" if score.ok else f"{score.status} ({score.error})"
    return escape(f"{cell.task:<16} seed {cell.seed}  {value}  {title}")


def _write_results(
    path: Path,
    options: GlueOptions,
    comparison: Comparison,
    scores: Mapping[Cell, TaskScore],
    summaries: Sequence[Summary],
) -> None:
    tasks = [task.name for task in comparison.tasks]
    write_json(
        path / RESULTS,
        {
            "model": options.model,
            "method": comparison.method,
            "finetuned": comparison.settings is not None,
            "seeds": list(comparison.seeds),
            "tasks": [_described(task) for task in comparison.tasks],
            "rows": [summary.to_dict() for summary in summaries],
            "scores": [
                {**asdict(cell), "score": score.score if score.ok else None, **score.to_dict()}
                for cell, score in scores.items()
            ],
        },
    )
    title = tasks[0] if len(tasks) == 1 else f"average of {len(tasks)} tasks"
    save_figure(draw_comparison(summaries, title=title, method=comparison.method), path / PICTURE)
