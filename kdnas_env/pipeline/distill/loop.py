"""The distillation of the students of a finished search."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from kdnas_env.core.architecture import FULL, StudentConfig
from kdnas_env.distillation.student.folder import Lineage, read_lineage, save_student
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.text.corpus_report import report_corpus
from kdnas_env.distillation.training.embeddings import EmbeddingBases
from kdnas_env.distillation.training.full_kd import FullKDResult, FullKDSettings, distil
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import Recipe, changed, full_recipe, resolve_recipe
from kdnas_env.distillation.training.resuming import report_resumption
from kdnas_env.distillation.training.training_text import TrainingText, prepare_text
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.cards.student import distilled_card
from kdnas_env.exporting.record import ClassifierRecord, EmbedderRecord
from kdnas_env.pipeline.distill.chosen import Chosen, choose, mini_kd_student
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.distill.products import product_of
from kdnas_env.pipeline.distill.products.product import Product
from kdnas_env.pipeline.distill.result import (
    DISTILLED,
    DistilledClassifier,
    DistilledEmbedder,
    DistilledStudent,
    DistillRun,
)
from kdnas_env.pipeline.distill.text import corpus_options
from kdnas_env.pipeline.search.finished import check_as_searched, fingerprints, finished_search, is_kept
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import STUDENT, RunFolder, package_versions
from kdnas_env.support.atomic import expanded, read_json, write_json
from kdnas_env.support.child_processes import is_main_process
from kdnas_env.support.figures import BLUE, GREY, ORANGE, save_figure
from kdnas_env.support.progress import Progress, enter_step
from kdnas_env.support.shell import call, default_of, non_defaults
from kdnas_env.tasks.encoding import resolve_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_PICTURE = "curve.png"

DISTILLING = "distilling"
"""First word of the names of progress steps in which students are distilled."""

_README = """# A run of `kdnas distill` or `kdnas_env.distill`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the run, versions, machine |
| `evaluated.jsonl` | with a task other than that of the search: the evaluated texts of both, excluded from training |
| `NAME/student/` | a distilled student: weights, configuration, tokenizer, projection, lineage and a model card |
| `NAME/distilled.json`, `NAME/curve.png` | its learning curve |
| `NAME/classifier/` | with a task: the student with a head for it, as transformers loads it, and its scores |
| `NAME/embedder/` | with the task embedding: the student with a head for the teacher's vectors, and its scores |
| `NAME/checkpoints/`, `NAME/classifier-checkpoints/`, `NAME/embedder-checkpoints/` | of an interrupted training |

Resume an interrupted training by the same command or call.
"""


def distil_chosen(options: DistillOptions, progress: Progress) -> DistillRun:
    """Distil the requested students, except finished ones; see :func:`kdnas_env.pipeline.distill.distill`.

    Raises:
        KDNASError: For bad input.
    """
    run, product = expanded(options.run), product_of(options.task)
    search, chosen = finished_search(run), choose(run, options.family, options.students)
    if len(corpus_options(options, search)["text_columns"] or ()) == 2:
        _check_pairs(options)
    if product is not None:
        _check_task(product, options)
    missing = _missing(options, chosen, run)
    folders: dict[str, Path] = {}
    untaught: list[str] = []
    if product is not None:
        folders = {student.name: options.folder / student.name / product.folder for student in chosen}
        untaught = [name for name, folder in folders.items() if product.record(folder) is None]
        if untaught:
            product.read(options.task)
    teacher = _teacher(options, search, missing, run) if missing or untaught else None
    notes: tuple[str, ...] = ()
    folder = RunFolder.enter(options.folder, options, _README) if is_main_process() else None
    # The other processes wait, because they write to the folder too: the main process must find only files of an
    # earlier run.
    PartialState(cpu=options.device == "cpu").wait_for_everyone()
    with working(folder, call("distill", options.run, **options.places("run"))) as work:
        if teacher is not None and missing:
            enter_step(progress, "distil")
            if product is not None:
                progress.begin("leaving out evaluated texts")
                product.leave_out(options, search)
            text = _text(options, search, teacher, progress)
            corpus = text.workload.corpus
            notes = (*teacher.notes, *corpus.report.notes(teacher.tokenizer.model_max_length))
            work.begin({"teacher": teacher.fingerprint, "corpus": corpus.fingerprint})
            if is_main_process():
                report_corpus(corpus.report, teacher.tokenizer.model_max_length, progress)
            distillation = _Distillation(options, search, text, progress)
            for student in missing:
                distillation.distil(student)
        if product is not None and teacher is not None and untaught:
            enter_step(progress, product.folder)
            seed = search.seed if options.seed is None else options.seed
            learning = product.learning(options, teacher, seed, progress)
            work.begin(learning.fingerprints)
            for name in untaught:
                learning.make(options.folder / name / STUDENT, folders[name], progress)
        progress.end()
        results = {student.name: read_json(options.folder / student.name / DISTILLED) for student in chosen}
        records = {} if product is None else {folder: product.record(folder) for folder in folders.values()}
    students = tuple(DistilledStudent.of(options.folder / name, result) for name, result in results.items())
    return DistillRun(options.folder, options, students, notes=notes, **_products(records))


def distil_task_alone(options: DistillOptions, progress: Progress) -> DistillRun:
    """Train the student of a folder on a task; see :func:`kdnas_env.pipeline.distill.distill`.

    Raises:
        KDNASError: For bad input.
    """
    product = product_of(options.task)
    if product is None:
        raise KDNASError(
            f"{options.run!r} is a model, no run; name the folder of a search, or name the task for the model with "
            "`task`"
        )
    _check_task(product, options)
    student = expanded(options.run)
    lineage = read_lineage(student)
    if lineage is None:
        raise RunError(f"{options.run!r} does not name its teacher; name the folder of a student of kdnas")
    given = non_defaults(options, ("seed", *(f"task.{field.name}" for field in fields(options.task))))
    with working(None, call("distill", options.run, **given, **options.places("run"))):
        teacher = load_teacher(lineage.teacher, device=str(resolve_device(options.device)))
        lineage.check_teacher(teacher.fingerprint)
        learning = product.learning(options, teacher, options.seed or 0, progress)
        learning.make(student, options.folder, progress)
        progress.end()
    return DistillRun(options.folder, options, (), **_products({options.folder: product.record(options.folder)}))


def _products(records: Mapping[Path, ClassifierRecord | EmbedderRecord | None]) -> dict[str, Any]:
    """Return the products of the students, by attribute of :class:`DistillRun`."""
    classifiers = [DistilledClassifier(at, made) for at, made in records.items() if isinstance(made, ClassifierRecord)]
    embedders = [DistilledEmbedder(at, made) for at, made in records.items() if isinstance(made, EmbedderRecord)]
    return {"classifiers": tuple(classifiers), "embedders": tuple(embedders)}


def _check_task(product: Product, options: DistillOptions) -> None:
    """Check a task before the work.

    Raises:
        KDNASError: If there is no such task, or several processes distil.
    """
    product.check(options.task)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KDNASError(
            "a task is learned in one process; distil the students in several processes without `task`, then distil "
            "the task into each student's folder in one process"
        )


def _check_pairs(options: DistillOptions) -> None:
    """Refuse a share of pairs for a text of sentence pairs.

    Raises:
        KDNASError: If one was given.
    """
    if options.corpus.pair_fraction not in (0.0, default_of(type(options), "corpus.pair_fraction")):
        raise KDNASError("pair_fraction has no effect on a text of sentence pairs, as the search has it; leave it out")


def _missing(options: DistillOptions, chosen: Sequence[Chosen], run: Path) -> list[Chosen]:
    """Return the students that are not distilled yet.

    Raises:
        RunError: If the folder of one of them holds another student, or a student of another teacher.
    """
    missing = []
    for student in chosen:
        folder = options.folder / student.name
        if not (folder / DISTILLED).exists():
            missing.append(student)
            continue
        lineage = read_lineage(folder / STUDENT)
        if lineage is None or lineage.student != student.config:
            held = "a student without a record of its architecture" if lineage is None else lineage.student
            raise RunError(
                f"{str(folder)!r} holds {held}, where {student.config} is to be distilled; give another folder with "
                "`out`"
            )
        check_as_searched(run, {"teacher": lineage.teacher_fingerprint})
    return missing


def _teacher(options: DistillOptions, search: SearchOptions, missing: Sequence[Chosen], run: Path) -> Teacher:
    """Return the teacher of a search.

    Raises:
        RunError: If teacher or text have changed since the search.
    """
    teacher = load_teacher(search.teacher, device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    again = options.start == "mini-kd" and not all(is_kept(run, student.config) for student in missing)
    check_as_searched(run, fingerprints(search, teacher, text=options.corpus.source is None or again))
    return teacher


def _text(options: DistillOptions, search: SearchOptions, teacher: Teacher, progress: Progress) -> TrainingText:
    return prepare_text(
        teacher,
        corpus_options(options, search),
        batch_size=options.batch_size,
        heldout_samples=options.corpus.heldout_samples,
        streaming=options.corpus.streaming,
        mode=options.teacher,
        largest_cache=options.cache_gib * 2**30,
        cache_dir=options.cache_dir,
        progress=progress,
    )


@dataclass(frozen=True, eq=False)
class _Distillation:
    """The shared inputs of the distillations of several students."""

    options: DistillOptions
    search: SearchOptions
    text: TrainingText
    progress: Progress

    def recipe_of(self, config: StudentConfig) -> Recipe:
        """Return the recipe of a student: that of the search with the student's changes, for a long distillation."""
        return full_recipe(
            changed(resolve_recipe(self.search.recipe), config.recipe),
            self.options.batch_size,
            learning_rate=self.options.learning_rate,
            train_embeddings=self.options.train_embeddings,
        )

    @cached_property
    def _bases(self) -> EmbeddingBases:
        return EmbeddingBases(self.text.workload)

    @property
    def seed(self) -> int:
        return self.search.seed if self.options.seed is None else self.options.seed

    def distil(self, student: Chosen) -> None:
        """Distil a student and write its folder."""
        options, text, workload = self.options, self.text, self.text.workload
        self.progress.begin(f"preparing student {student.name}: {student.config}")
        start, projection = None, None
        # With a smaller vocabulary, the weights of the search do not fit: this text chooses other tokens.
        closed_form = options.start == "closed-form" or student.config.vocabulary != FULL
        if not closed_form:
            start, projection = mini_kd_student(expanded(options.run), student.config, self.search, options)
        precision = "bfloat16" if workload.device.type == "cuda" else "float32"
        recipe = self.recipe_of(student.config)
        kd = MiniKD(
            workload,
            student.config,
            recipe,
            text.start(self.seed),
            basis=self._bases.of(recipe.embeddings) if closed_form else None,
            precision=precision,
            start=start,
        )
        carried = projection is not None and kd.carry_over(projection)
        settings = FullKDSettings(
            epochs=None if text.streaming else options.epochs,
            max_steps=options.max_steps,
            evaluations=options.evaluations,
            patience=options.patience,
        )
        folder = options.folder / student.name
        checkpoints = folder / "checkpoints"
        self.progress.begin(f"{DISTILLING} {student.name}: {student.config}")
        if is_main_process():
            report_resumption(checkpoints, self.progress)
        try:
            result = distil(
                kd,
                text.samples,
                settings,
                checkpoints,
                teacher_in_loop=text.teacher_in_loop,
                carried=carried,
                on_progress=self.progress.advance,
                on_evaluation=lambda point: self.progress.note(f"loss {point['unexplained']:.4f}"),
                say=lambda message: self.progress.say(message, "warning"),
            )
        except FloatingPointError as error:
            raise RunError(
                f"{student.config}: {error}; earlier checkpoints are kept in {str(checkpoints)!r}; distil into "
                f"another folder (`out`) with a smaller `learning_rate`; it was {recipe.learning_rate:.4g}"
            ) from error
        if is_main_process():
            self._keep(folder, student, result, kd.kept)
            shutil.rmtree(checkpoints)
        PartialState().wait_for_everyone()  # the other processes read the files of the main process

    def _keep(self, folder: Path, student: Chosen, result: FullKDResult, kept: NDArray[np.int64] | None) -> None:
        """Write a student's folder and plot its curve. Write the record last: it marks the student as complete."""
        lineage, teacher = self._lineage(student, result), self.text.workload.teacher
        card = distilled_card(lineage, teacher, result.projection, result.best["unexplained"])
        save_student(folder / STUDENT, result.model, teacher.tokenizer, card, lineage, result.projection, kept=kept)
        save_figure(draw_curve(result.curve, title=f"Distilling {student.config}"), folder / CURVE_PICTURE)
        write_json(
            folder / DISTILLED,
            {
                "student": student.config.to_dict(),
                "unexplained": result.best["unexplained"],
                "started_at": result.curve[0]["unexplained"],
                "seconds": result.curve[-1]["seconds"],
                "stopped_early": result.stopped_early,
                "accumulation": result.accumulation,
                "curve": result.curve,
            },
        )

    def _lineage(self, student: Chosen, result: FullKDResult) -> Lineage:
        search, text, corpus = self.search, self.text, self.text.workload.corpus
        before: dict[str, Any] = {
            "stage": "mini-kd",
            "epochs": search.epochs,
            "data_fraction": search.data_fraction,
            "seed": search.seed,
        }
        last, recipe = result.curve[-1], self.recipe_of(student.config)
        stage = {
            "stage": "full-kd",
            "samples": None if text.streaming else len(text.samples),
            "batch_size": recipe.batch_size,
            "steps": last["step"],
            "epochs": last["epoch"],
            "seed": self.seed,
            "seconds": last["seconds"],
            "heldout_unexplained": [point["unexplained"] for point in result.curve],
            "kept_unexplained": result.best["unexplained"],
        }
        given = {**corpus_options(self.options, search), "max_length": corpus.report.max_length}
        return Lineage(
            student=student.config,
            teacher=search.teacher,
            teacher_fingerprint=text.workload.teacher.fingerprint,
            corpus={name: value for name, value in given.items() if value is not None},
            recipe=recipe.to_dict(),
            stages=(before, stage) if self.options.start == "mini-kd" else (stage,),
            versions=package_versions(),
            corpus_fingerprint=None if text.streaming else corpus.fingerprint,
        )


def draw_curve(curve: Sequence[Mapping[str, float]], *, title: str = "") -> Figure:
    """Plot the learning curve of a distillation: unexplained variance against steps, on held-out and training text.

    Args:
        curve: Points with ``step``, ``unexplained`` and, if known, ``train_unexplained``.
        title: Title of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    steps = [point["step"] for point in curve]
    for name, label, colour in (("unexplained", "held-out", BLUE), ("train_unexplained", "training", GREY)):
        if all(name in point for point in curve):
            axes.plot(steps, [point[name] for point in curve], "o-", color=colour, markersize=3, label=label)
    best = min(curve, key=lambda point: point["unexplained"])
    axes.plot(best["step"], best["unexplained"], "o", color=ORANGE, label=f"kept: {best['unexplained']:.4f}")
    axes.set(xlabel="steps", ylabel="unexplained variance of the teacher's states", title=title)
    axes.legend(frameon=False)
    return figure
