"""``kdnas distill``: the best students of a search, distilled for long."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.corpus_notes import say_corpus
from kdnas_env.cli.searched import (
    Chosen,
    check_as_searched,
    choose,
    corpus_options,
    fingerprints,
    finished_search,
    full_recipe,
    is_kept,
    mini_kd_student,
)
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.embeddings import EmbeddingBasis, embedding_basis
from kdnas_env.distillation.student.folder import Lineage, read_lineage, save_student
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.text.training_text import TrainingText, prepare_text
from kdnas_env.distillation.training.full_kd import FullKDResult, FullKDSettings, distil
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import Recipe
from kdnas_env.envs.render import draw_curve, save_figure
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.cards.student import distilled_card
from kdnas_env.pipeline.distill import DistillOptions
from kdnas_env.pipeline.search import SearchOptions
from kdnas_env.pipeline.work import Work, working
from kdnas_env.searching.run_folder import CONFIG, STUDENT, RunFolder, package_versions
from kdnas_env.support.atomic import expanded, read_json, write_json
from kdnas_env.support.child_processes import is_main_process
from kdnas_env.support.progress import TaskProgress
from kdnas_env.support.shell import command, default_of

DISTILLED, CURVE_PICTURE = "distilled.json", "curve.png"

_README = """# A run of `kdnas distill`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the run, versions, machine |
| `NAME/student/` | a distilled student: weights, configuration, tokenizer, projection, lineage and a model card |
| `NAME/distilled.json`, `NAME/curve.png` | its learning curve |
| `NAME/checkpoints/` | what an interrupted training goes on from |

Go on with an interrupted training by the same command again.
"""


def run_distill(options: DistillOptions, go_on: str | None = None) -> int:
    """Distil, and say where the students are; the exit status of the command.

    Args:
        options: What is asked for.
        go_on: The command that goes on with it, to be named when it is interrupted; by default its own.

    Raises:
        KDNASError: For bad input.
    """
    main_process = is_main_process()
    console = SafeConsole(quiet=not main_process)
    run = expanded(options.run)
    search, chosen = finished_search(run), choose(run, options.family, options.students)
    if len(corpus_options(options, search)["text_columns"] or ()) == 2:
        _check_pairs(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    missing = _missing(options, chosen, run)
    # What can be refused is refused before a folder is made.
    teacher = _teacher(options, search, missing, run) if missing else None
    folder = _open_folder(options) if main_process else None
    with working(folder, go_on or _command(options)) as work:
        if teacher is not None:
            _distill_all(console, work, options, search, missing, run, teacher, main_process)
        results = {one.name: read_json(options.folder / one.name / DISTILLED) for one in chosen}
    if main_process:
        print_distilled(console, options.folder, results)
    return 0


def _check_pairs(options: DistillOptions) -> None:
    """Refuse a share of pairs for a text that is of pairs.

    Raises:
        KDNASError: If one was given.
    """
    if options.corpus.pair_fraction not in (0.0, default_of(type(options), "corpus.pair_fraction")):
        raise KDNASError("pair_fraction has no effect on a text of sentence pairs, as the search has it; leave it out")


def _missing(options: DistillOptions, chosen: list[Chosen], run: Path) -> list[Chosen]:
    """Return those that are yet to be distilled.

    Raises:
        RunError: If another student, or one of another teacher, lies where one of them belongs.
    """
    missing = []
    for one in chosen:
        folder = options.folder / one.name
        if not (folder / DISTILLED).exists():
            missing.append(one)
            continue
        lineage = read_lineage(folder / STUDENT)
        if lineage is None or lineage.student != one.config:
            held = "a student that does not say what it is" if lineage is None else lineage.student
            raise RunError(
                f"{str(folder)!r} holds {held}, where {one.config} is to be distilled; give another folder with --out"
            )
        check_as_searched(run, {"teacher": lineage.teacher_fingerprint})
    return missing


def _teacher(options: DistillOptions, search: SearchOptions, missing: list[Chosen], run: Path) -> Teacher:
    """Return the teacher of a search.

    Raises:
        RunError: If teacher or text are not what the search was made with.
    """
    teacher = load_teacher(search.teacher, device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    again = options.start == "mini-kd" and not all(is_kept(run, one.config) for one in missing)
    check_as_searched(run, fingerprints(search, teacher, text=options.corpus.source is None or again))
    return teacher


def _distill_all(
    console: Console,
    work: Work,
    options: DistillOptions,
    search: SearchOptions,
    missing: list[Chosen],
    run: Path,
    teacher: Teacher,
    main_process: bool,
) -> None:
    with TaskProgress(console) as progress:
        text = _text(options, search, teacher, progress)
        work.begin({"teacher": teacher.fingerprint, "corpus": text.workload.corpus.fingerprint})
        recipe = full_recipe(
            search.recipe,
            options.batch_size,
            learning_rate=options.learning_rate,
            train_embeddings=options.train_embeddings,
        )
        basis = None
        if options.start == "closed-form":
            basis = embedding_basis(text.workload, recipe.embeddings)
        for one in missing:
            _distill_one(console, progress, options, search, one, run, text, recipe, basis, main_process)
    say_corpus(console, text.workload.corpus, teacher.tokenizer, options)


def _distill_one(
    console: Console,
    progress: TaskProgress,
    options: DistillOptions,
    search: SearchOptions,
    one: Chosen,
    run: Path,
    text: TrainingText,
    recipe: Recipe,
    basis: EmbeddingBasis | None,
    main_process: bool,
) -> None:
    folder = options.folder / one.name
    progress.begin(f"preparing student {one.name}: {one.config}")
    start, projection = None, None
    if options.start == "mini-kd":
        start, projection = mini_kd_student(run, one.config, search, options)
    workload = text.workload
    seed = search.seed if options.seed is None else options.seed
    precision = "bfloat16" if workload.device.type == "cuda" else "float32"
    kd = MiniKD(workload, one.config, recipe, text.start(seed), basis=basis, precision=precision, start=start)
    carried = projection is not None and kd.carry_over(projection)
    settings = FullKDSettings(
        epochs=None if text.streaming else options.epochs,
        max_steps=options.max_steps,
        evaluations=options.evaluations,
        patience=options.patience,
    )
    checkpoints = folder / "checkpoints"
    progress.begin(f"distilling {one.name}: {one.config}")
    try:
        result = distil(
            kd,
            text.samples,
            settings,
            checkpoints,
            teacher_in_loop=text.teacher_in_loop,
            carried=carried,
            on_progress=progress.advance,
            on_evaluation=lambda point: progress.note(f"loss {point['unexplained']:.4f}"),
            say=lambda message: console.print(escape(message), style="yellow", highlight=False),
        )
    except FloatingPointError as error:
        raise RunError(
            f"{one.config}: {error}; what was written before it is kept in {str(checkpoints)!r}; distil into another "
            f"folder (--out) with a smaller --learning-rate, it was {recipe.learning_rate:.4g}"
        ) from error
    if main_process:
        keep(folder, one, result, _lineage(one, options, search, text, recipe, result, seed), text.workload.teacher)
        shutil.rmtree(checkpoints)


def keep(folder: Path, one: Chosen, result: FullKDResult, lineage: Lineage, teacher: Teacher) -> None:
    """Write a distilled student's folder, its curve and the picture of it; the record last, which says that all is."""
    save_student(
        folder / STUDENT,
        result.model,
        teacher.tokenizer,
        distilled_card(lineage, teacher, result.projection, result.best["unexplained"]),
        lineage,
        result.projection,
    )
    save_figure(draw_curve(result.curve, title=f"Distilling {one.config}"), folder / CURVE_PICTURE)
    write_json(
        folder / DISTILLED,
        {
            "student": one.config.to_dict(),
            "unexplained": result.best["unexplained"],
            "started_at": result.curve[0]["unexplained"],
            "seconds": result.curve[-1]["seconds"],
            "stopped_early": result.stopped_early,
            "accumulation": result.accumulation,
            "curve": result.curve,
        },
    )


def _text(options: DistillOptions, search: SearchOptions, teacher: Teacher, progress: TaskProgress) -> TrainingText:
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


def _lineage(
    one: Chosen,
    options: DistillOptions,
    search: SearchOptions,
    text: TrainingText,
    recipe: Recipe,
    result: FullKDResult,
    seed: int,
) -> Lineage:
    before: tuple[dict[str, Any], ...] = ()
    if options.start == "mini-kd":
        before = (
            {"stage": "mini-kd", "epochs": search.epochs, "data_fraction": search.data_fraction, "seed": search.seed},
        )
    stage = {
        "stage": "full-kd",
        "samples": None if text.streaming else len(text.samples),
        "batch_size": recipe.batch_size,
        "steps": result.curve[-1]["step"],
        "epochs": result.curve[-1]["epoch"],
        "seed": seed,
        "seconds": result.curve[-1]["seconds"],
        "heldout_unexplained": [point["unexplained"] for point in result.curve],
    }
    corpus = text.workload.corpus
    asked = {**corpus_options(options, search), "max_length": corpus.report.max_length}
    return Lineage(
        student=one.config,
        teacher=search.teacher,
        teacher_fingerprint=text.workload.teacher.fingerprint,
        corpus={name: value for name, value in asked.items() if value is not None},
        recipe=recipe.to_dict(),
        stages=(*before, stage),
        versions=package_versions(),
        corpus_fingerprint=None if text.streaming else corpus.fingerprint,
    )


def print_distilled(console: Console, folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """Print what the distillation made of the students."""
    table = Table(title="Distilled students", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("student", overflow="fold")
    for name in ("loss before", "after", "minutes"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in results.items():
        config = StudentConfig.from_dict(row["student"])
        table.add_row(
            name, str(config), f"{row['started_at']:.4f}", f"{row['unexplained']:.4f}", f"{row['seconds'] / 60:.1f}"
        )
    console.print(table)
    for name, row in results.items():
        if row["unexplained"] >= row["started_at"]:
            after = f"{row['curve'][-1]['unexplained']:.4g}"
            console.print(
                f"{name}: training made the student no better (its loss ended at {after}), so it is kept as it was "
                "before; distil it into another folder (--out) with a smaller --learning-rate",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )
        console.print(f"student: {escape(str(folder / name / STUDENT))}", highlight=False, soft_wrap=True)


def _open_folder(options: DistillOptions) -> RunFolder:
    folder = options.folder
    if (folder / CONFIG).exists():
        return RunFolder.reopen(folder)
    return RunFolder.create(folder, options, _README)


def _command(options: DistillOptions) -> str:
    return command("distill", options.run, *options.place_flags("run"))
