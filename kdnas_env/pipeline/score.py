"""Scores of students on tasks, beside their teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.errors import KDNASError
from kdnas_env.latency import LatencySettings
from kdnas_env.pipeline.distilled import Students, student_folders
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.score_options import ScoreOptions
from kdnas_env.pipeline.work import Finished, working
from kdnas_env.searching.run_folder import RESULTS, RunFolder, check_is_no_run, new_run_path
from kdnas_env.support.atomic import expanded, write_json
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.shell import call
from kdnas_env.tasks.data import check_task, load_task
from kdnas_env.tasks.scores import TaskScore, task_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdnas_env.pipeline.score_files import Exports, FileScore, FormatMean
    from kdnas_env.pipeline.score_vectors import Embedders
    from kdnas_env.tasks.comparison import Cell, Comparison
    from kdnas_env.tasks.summary import Summary
    from kdnas_env.tasks.vector_scores import EmbeddingScore

_FINETUNED = ("learning_rate", "batch_size", "epochs", "max_length", "pooling", "dropout", "device")
"""Options that are settings of fine-tuning."""


CELLS, PICTURE = "cells", "scores.png"
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


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Finished):
    """Models scored side by side.

    Attributes:
        path: Its run folder.
        options: Its settings.
        tasks: Names of the tasks.
        method: How models were scored.
        seeds: Number of seeds per score.
        rows: Models and baselines, with means over seeds.
        scores: All single scores.
        vectors: Agreement of the vectors of embedding students with the teacher's, by row; empty if tasks are named.
        files: Measurements of exported files; exports have no ``rows``.
        means: Averages over several exported classifiers, one per format.
    """

    path: Path
    options: ScoreOptions
    tasks: tuple[str, ...]
    method: str
    seeds: int
    rows: tuple[Summary, ...]
    scores: Mapping[Cell, TaskScore]
    vectors: Mapping[str, EmbeddingScore] = field(default_factory=dict)
    files: tuple[FileScore, ...] = ()
    means: tuple[FormatMean, ...] = ()

    def about(self) -> dict[str, object]:
        """Return what its representation shows beside the folder."""
        return {"tasks": list(self.tasks), "rows": [row.name for row in self.rows]}

    @property
    def failure(self) -> str | None:
        """The error, if all scores of the model failed; else None."""
        own = [score for cell, score in self.scores.items() if cell.row == "student"]
        return own[0].error if own and not any(score.ok for score in own) else None

    def table(self) -> list[dict[str, Any]]:
        """Return one row per model or baseline: size, speed, mean score on each task, and the average of the tasks.

        Rows of embedding students also have their scores without labels. Exports have one row per file.
        """
        from kdnas_env.pipeline.score_files import file_columns

        if self.files:
            return [file_columns(score) for score in self.files]
        return [
            {
                **{name: getattr(row, name) for name in ("name", "title", "parameters", "speedup", "latency_ms")},
                **{task: row.tasks[task].mean if task in row.tasks else None for task in self.tasks},
                "average": None if row.average is None else row.average.mean,
                "kept": None if row.average is None else row.average.kept,
                "failed": row.failed,
                **({} if row.name not in self.vectors else self.vectors[row.name].columns()),
            }
            for row in self.rows
        ]

    def plot(self) -> Figure:
        """Draw the rows: score against speed-up, or against parameters if no speed was measured."""
        from kdnas_env.tasks.summary import draw_comparison

        title = self.tasks[0] if len(self.tasks) == 1 else f"average of {len(self.tasks)} tasks"
        return draw_comparison(self.rows, title=title, method=self.method)


def score(model: Students | ScoreOptions | None = None, *, progress: Progress = SILENT, **settings: Any) -> Scores:
    """Score a model on tasks beside its teacher, undistilled baselines, and the majority class.

    Every score is saved in a run folder as soon as it is measured. ``resume`` resumes an interrupted run.

    Args:
        model: Folder of a student (or of any encoder in hub layout), or a name on the hub; or the result of a search or
            a distillation, whose students are all scored; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`ScoreOptions` by name, such as ``tasks=["rte"]``, ``seeds=1`` or
            ``resume="runs/..."``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    import torch

    from kdnas_env.exporting.record import read_embedder_record
    from kdnas_env.pipeline.score_files import is_scored_by_files
    from kdnas_env.tasks.comparison import CellStore
    from kdnas_env.tasks.encoding import resolve_device
    from kdnas_env.tasks.summary import summarise

    if not (model is None or isinstance(model, ScoreOptions)):
        model, *others = student_folders(model)
        if others:
            settings["models"] = [*others, *settings.get("models", ())]
    progress = checked(progress)
    options = options_of(ScoreOptions, settings, model=model)
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
    """Open exports to ONNX for scoring; None if the first folder is no export with a record.

    Raises:
        KDNASError: If they are not of one kind, or their task, teacher or text is not available.
    """
    from kdnas_env.exporting.folder import EMBEDDER, TASK
    from kdnas_env.pipeline.score_classifier_files import ClassifierExports
    from kdnas_env.pipeline.score_embedder_files import EmbedderExports
    from kdnas_env.pipeline.score_files import is_export

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
    from kdnas_env.exporting.record import read_classifier_record, read_embedder_record, recorded_task
    from kdnas_env.pipeline.score_vectors import Embedders, scored_by_vectors
    from kdnas_env.tasks.comparison import CellStore, Comparison
    from kdnas_env.tasks.finetuning import FinetuneSettings
    from kdnas_env.tasks.rows import STUDENT, TEACHER, build_rows, default_tasks, lineage_teacher, load_model
    from kdnas_env.tasks.similarity import similarity_task

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
