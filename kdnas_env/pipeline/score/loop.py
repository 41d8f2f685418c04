"""How models are scored in a run folder: by comparison on tasks, by their vectors, or file by file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kdnas_env.errors import KDNASError
from kdnas_env.exporting.folder import EMBEDDER, TASK
from kdnas_env.exporting.record import read_classifier_record, read_embedder_record, recorded_task
from kdnas_env.latency import LatencySettings
from kdnas_env.pipeline.score.classifier_files import ClassifierExports
from kdnas_env.pipeline.score.embedder_files import EmbedderExports
from kdnas_env.pipeline.score.files import Exports, is_export, is_scored_by_files
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.score.result import PICTURE, Scores
from kdnas_env.pipeline.score.vectors import Embedders, scored_by_vectors
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import RESULTS, RunFolder, check_is_no_run, new_run_path
from kdnas_env.support.atomic import expanded, write_json
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import Progress
from kdnas_env.support.shell import call
from kdnas_env.tasks.comparison import CellStore, Comparison
from kdnas_env.tasks.data import check_task, load_task
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.rows import STUDENT, TEACHER, build_rows, default_tasks, lineage_teacher, load_model
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.similarity import similarity_task
from kdnas_env.tasks.specs import EMBEDDED_TASK, TASKS
from kdnas_env.tasks.summary import summarise

_FINETUNED = ("learning_rate", "batch_size", "epochs", "max_length", "pooling", "dropout", "device")
"""Options that are settings of fine-tuning."""

CELLS = "cells"
SERVED = "exported files in ONNX Runtime"

_README = """# A run of `kdnas score` or `kdnas_env.score`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run, versions, machine, fingerprints of models and tasks |
| `cells/` | every score (row, task, seed) and latency, written when measured; a checkpoint of an unfinished one |
| `results.json` | the table: means and standard deviations over seeds, and every score |
| `scores.png` | plot of score against speed-up; not written for exported files |

Missing files are written at the end. Resume an interrupted run, or see a finished one again, with

    kdnas score --resume {{folder}}
    kdnas_env.score(resume={{path}})  # in Python

Scores are by {method}.
"""


def score_models(options: ScoreOptions, progress: Progress) -> Scores:
    """Score models in a run folder; see :func:`kdnas_env.pipeline.score.score`.

    Raises:
        KDNASError: For bad input.
    """
    threads = options.threads or torch.get_num_threads()
    options = replace(options, threads=threads)
    # Run the cheap checks before a folder is created.
    if options.model is None:
        raise KDNASError("no model is named; give the folder of a student, such as runs/.../student, or a hub name")
    sources = tuple(dict.fromkeys(options.tasks))
    resolve_device(options.device)
    if options.text is not None and read_embedder_record(expanded(options.model)) is None:
        raise KDNASError(
            f"{options.model!r} is no embedding student; `text` applies only to those (kdnas distill --task embedding)"
        )
    latency = LatencySettings(**asdict(options.latency))
    if not (options.tasks or options.rows):
        exports = _exports(options, (options.model, *options.models))
        if exports is not None:
            return _score_files(options, exports, latency, progress)
    task_metric(TASKS[EMBEDDED_TASK])  # Check its availability now, not after the work.
    comparison, embedders = _comparison(options, sources)
    if is_scored_by_files(options.model):
        progress.say("the PyTorch weights are scored; to score the exported files, leave out `tasks` and `rows`")
    names = tuple(task.name for task in comparison.tasks)
    texts = [] if embedders is None or names else embedders.texts(options.text, options.seed)
    folder = _open_folder(options, comparison.method)
    comparison = replace(comparison, store=CellStore(folder.path / CELLS))
    again = call("score", resume=folder.path, **options.places("out", "resume"))
    with working(folder, again) as work, pinned_threads(threads):
        described = [task.describe() for task in comparison.tasks]
        work.begin(comparison.fingerprints, tasks=described)
        scores = comparison.run(progress)
        progress.begin("measuring latencies")
        rows = summarise(comparison.rows, names, scores, comparison.latencies(latency))
        progress.end()
        vectors = {}
        if embedders is not None and texts:
            progress.begin("comparing vectors")
            vectors = embedders.score(texts, options.seed, options.cache_dir)
        seeds = len(comparison.seeds) if any(row.trained for row in comparison.rows) else 1
        result = Scores(folder.path, options, names, comparison.method, seeds, tuple(rows), scores, vectors)
        write_json(
            folder.path / RESULTS,
            {
                "model": options.model,
                "method": result.method,
                "finetuned": options.finetune,
                "seeds": list(comparison.seeds),
                "tasks": described,
                "rows": [row.to_dict() for row in rows],
                "scores": [
                    {**asdict(cell), "score": cell_score.score if cell_score.ok else None, **cell_score.to_dict()}
                    for cell, cell_score in scores.items()
                ],
                "vectors": {name: asdict(values) for name, values in vectors.items()},
            },
        )
        if names:
            save_figure(result.plot(), folder.path / PICTURE)
    return result


def _exports(options: ScoreOptions, models: Sequence[str]) -> Exports | None:
    """Open exports to ONNX for scoring; None if the first folder is not an export with a record.

    Raises:
        KDNASError: If they are not of one kind, or their task, teacher or text is not available.
    """
    if is_export(models[0], EMBEDDER):
        return EmbedderExports.of(
            models, text=options.text, seed=options.seed, device=options.device, cache_dir=options.cache_dir
        )
    if is_export(models[0], TASK):
        return ClassifierExports.of(models, options.device, options.cache_dir)
    return None


def _score_files(options: ScoreOptions, exports: Exports, latency: LatencySettings, progress: Progress) -> Scores:
    """Score exports in their serving runtime."""
    folder = _open_folder(options, SERVED)
    again = call("score", resume=folder.path, **options.places("out", "resume"))
    with working(folder, again) as work, pinned_threads(options.threads or 1):
        described = [task.describe() for task in exports.tasks]
        work.begin(exports.fingerprints, tasks=described)
        files = exports.measure(latency, folder.path / CELLS, progress)
        means = exports.means(files)
        progress.end()
        write_json(
            folder.path / RESULTS,
            {
                "model": options.model,
                "method": SERVED,
                "tasks": described,
                "files": [{"model": score.model, **score.measured.to_dict()} for score in files],
                "means": [asdict(mean) for mean in means],
            },
        )
    names = tuple(task.name for task in exports.tasks)
    return Scores(folder.path, options, names, SERVED, 1, (), {}, files=files, means=means)


def _comparison(options: ScoreOptions, sources: Sequence[str]) -> tuple[Comparison, Embedders | None]:
    """Return the comparison to run, and its embedding students if they are scored by their vectors."""
    assert options.model is not None
    for name in sources:
        check_task(name)
    common = FinetuneSettings(**{name: getattr(options, name) for name in _FINETUNED})
    named = (options.model, *options.models)
    for model in (*named, *([] if options.teacher is None else [options.teacher])):
        check_is_no_run(model)
    records = [read_classifier_record(expanded(name)) for name in named]
    models = [
        load_model(name) if record is None else load_model(name).with_own_head()
        for name, record in zip(named, records, strict=True)
    ]
    teacher = None
    if not options.rows or TEACHER in options.rows:
        teacher = load_model(options.teacher) if options.teacher is not None else lineage_teacher(models[0])
    if not sources and records[0] is not None:
        read = [recorded_task(records[0])]
    elif not sources and read_embedder_record(expanded(options.model)) is not None:
        read = []
    else:
        names = sources or default_tasks(options.model, options.teacher, options.data)
        read = [load_task(name, options.data, options.task) for name in names]
    embedders = None
    if scored_by_vectors(options.model, read, bool(sources)):
        embedders, models, teacher = Embedders.of(named, models, teacher, options.rows)
        read = [similarity_task(task) for task in read]
    tasks = [task.limited(options.max_samples, options.seed) for task in read]
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise KDNASError(f"two tasks are called {twice!r}; rename a file or folder, or score them one after the other")
    settings = common.by_task(names, options.task_settings)
    wanted = options.rows
    if not wanted and models[0].as_it_is is not None:
        wanted = (STUDENT,) if teacher is None else (TEACHER, STUDENT)
    comparison = Comparison(
        rows=build_rows(models, teacher, wanted, cache_dir=options.cache_dir, device=options.device),
        tasks=tasks,
        seeds=range(options.seed, options.seed + options.seeds),
        settings=settings if options.finetune else None,
        store=CellStore(Path(os.devnull)),
        max_length=options.max_length,
        pooling=options.pooling,
        device=options.device,
    )
    return comparison, embedders


def _open_folder(options: ScoreOptions, method: str) -> RunFolder:
    readme = _README.format(method=method)
    if options.resume is not None:
        return RunFolder.reopen(options.resume, readme)
    name = Path(str(options.model)).name or "model"
    return RunFolder.create(options.out or new_run_path(name, "score"), options, readme)
