"""``kdnas distill``: the best students of a search, distilled for long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdnas_env.architecture import FAMILIES, StudentConfig
from kdnas_env.cli.distill_options import DistillOptions
from kdnas_env.cli.interruption import working
from kdnas_env.cli.model_card import distilled_card
from kdnas_env.cli.options import SearchOptions
from kdnas_env.cli.run_folder import CONFIG, RESULTS, RUN, STUDENT, RunFolder, package_versions, recorded_options
from kdnas_env.cli.search import mini_kd_settings
from kdnas_env.cli.task_progress import TaskProgress
from kdnas_env.distill.full_kd import FullKDResult, FullKDSettings, distil
from kdnas_env.distill.initialise import EmbeddingBasis, embedding_basis
from kdnas_env.distill.mini_kd import MiniKD
from kdnas_env.distill.recipe import Recipe, resolve_recipe
from kdnas_env.distill.student_folder import Lineage, load_student, read_lineage, read_projection, save_student
from kdnas_env.distill.teacher import Teacher, load_teacher
from kdnas_env.distill.training_text import TrainingText, prepare_text
from kdnas_env.envs.render import draw_curve, save_figure
from kdnas_env.errors import RunError
from kdnas_env.evaluation import Fidelity
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.files import expanded, read_json, write_json

DISTILLED, CURVE_PICTURE = "distilled.json", "curve.png"

_LARGEST_SCALED_BATCH = 32

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


@dataclass(frozen=True)
class Chosen:
    """A student of a search that is to be distilled.

    Attributes:
        name: ``best``, its family, or itself in words that make a folder's name.
        config: Its architecture.
    """

    name: str
    config: StudentConfig


def run_distill(options: DistillOptions, go_on: str | None = None) -> int:
    """Distil, and say where the students are; the exit status of the command.

    Args:
        options: What is asked for.
        go_on: The command that goes on with it, to be named when it is interrupted; by default its own.

    Raises:
        KDNASError: For bad input.
    """
    main_process = int(os.environ.get("RANK", "0")) == 0
    console = Console(quiet=not main_process)
    run = expanded(options.run)
    search, chosen = _finished_search(run), choose(run, options.family, options.students)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder = _open_folder(options) if main_process else None
    with working(console, folder, go_on or _command(options)):
        results = _distill_all(console, options, search, chosen, run, main_process)
    if main_process:
        print_distilled(console, options.folder, results)
    return 0


def choose(run: Path, families: tuple[str, ...], students: tuple[str, ...] = ()) -> list[Chosen]:
    """Return the students of a finished search that are to be distilled, each once.

    Args:
        run: Folder of the search.
        families: ``best`` for the best of all, ``all`` for the best of every family, or names of families; ``best`` if
            nothing is named.
        students: Further students, as they are printed.

    Raises:
        RunError: If the search found no such student.
        SpaceError: If a student is malformed.
    """
    named = [Chosen(_folder_name(config), config) for config in map(StudentConfig.parse, students)]
    if named and not families:
        return list(dict.fromkeys(named))
    families = families or ("best",)
    try:
        ranked = sorted(
            (row for row in read_json(run / RESULTS)["students"] if row["status"] == "ok"),
            key=lambda row: -row["reward"],
        )
        found = [StudentConfig.from_dict(row["student"]) for row in ranked]
    except (KeyError, TypeError) as error:
        raise RunError(f"{str(run / RESULTS)!r} is not what a search writes ({error!r}); search again") from error
    if not found:
        raise RunError(f"the search in {str(run)!r} found no student that could be distilled; search again")
    bests = {family: next((config for config in found if config.family == family), None) for family in FAMILIES}
    chosen: list[Chosen] = []
    for family in families:
        wanted = [name for name in FAMILIES if bests[name]] if family == "all" else [family]
        for name in wanted:
            config = found[0] if name == "best" else bests[name]
            if config is None:
                searched = [known for known in FAMILIES if bests[known]]
                raise RunError(f"the search in {str(run)!r} has no {name} student; it has {searched}")
            if all(other.name != name for other in chosen):
                chosen.append(Chosen(name, config))
    return list(dict.fromkeys([*chosen, *named]))


def _folder_name(config: StudentConfig) -> str:
    return str(config).replace(" ", "-").replace("/", "-")


def _distill_all(
    console: Console,
    options: DistillOptions,
    search: SearchOptions,
    chosen: list[Chosen],
    run: Path,
    main_process: bool,
) -> dict[str, dict[str, Any]]:
    missing = [one for one in chosen if not (options.folder / one.name / DISTILLED).exists()]
    if missing:
        with TaskProgress(console) as progress:
            progress.stage("teacher", 0, 1)
            device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
            teacher = load_teacher(search.teacher, device=device)
            text = _text(options, search, teacher, progress)
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
    return {one.name: read_json(options.folder / one.name / DISTILLED) for one in chosen}


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
    progress.stage(f"student {one.name}: {one.config}", 0, 1)
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
        distilled_card(lineage, teacher, result.best["unexplained"]),
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


def full_recipe(
    recipe: str | Mapping[str, Any],
    batch_size: int,
    *,
    learning_rate: float | None = None,
    train_embeddings: bool = True,
) -> Recipe:
    """Return the recipe of a full distillation: that of the search, for larger batches and a longer training.

    The learning rate grows with the root of the batch size (Malladi et al. 2022, arXiv:2205.10287), up to batches of
    32: with the rate that the rule gives for 128, thousands of steps end in divergence.

    Args:
        recipe: Recipe of the search.
        batch_size: Samples per step, over all processes.
        learning_rate: Peak learning rate of a student 192 wide; None for that of the recipe, for this batch size.
        train_embeddings: Whether the embedding tables are trained.
    """
    short = resolve_recipe(recipe)
    scaled = min(batch_size, max(_LARGEST_SCALED_BATCH, short.batch_size))
    return replace(
        short,
        batch_size=batch_size,
        learning_rate=learning_rate or short.learning_rate * (scaled / short.batch_size) ** 0.5,
        train_embeddings=train_embeddings,
        heldout_samples=None,
    )


def mini_kd_student(
    run: Path, config: StudentConfig, search: SearchOptions, options: DistillOptions
) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """Return the student of a search and its projection: as the run keeps it, or distilled once more.

    Raises:
        RunError: If it cannot be distilled.
    """
    lineage = read_lineage(run / STUDENT)
    if lineage is not None and lineage.student == config:
        return load_student(run / STUDENT), read_projection(run / STUDENT)
    evaluator = MiniKDEvaluator(
        replace(mini_kd_settings(search), cache_dir=options.cache_dir, device=options.device, threads=options.threads)
    )
    distilled = evaluator.distil(config, Fidelity(search.epochs, search.data_fraction, search.seed))
    if distilled.model is None:
        raise RunError(f"{config} could not be distilled as in the search: {distilled.evaluation.error}")
    return distilled.model, distilled.projection


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
        on_stage=progress.stage,
    )


def corpus_options(options: DistillOptions, search: SearchOptions) -> dict[str, Any]:
    """Return the arguments of ``load_corpus``: the text that was asked for, or that of the search, all of it."""
    wanted = options.corpus
    text = searched_text(search)
    if wanted.source is not None:
        text = {name: getattr(wanted, name) for name in text}
    return {
        **text,
        "text_columns": text["text_columns"] or None,
        "max_length": wanted.max_length,
        "max_samples": wanted.max_samples,
        "pair_fraction": 0.0 if len(text["text_columns"]) == 2 else wanted.pair_fraction,
        "seed": search.seed if options.seed is None else options.seed,
    }


def searched_text(search: SearchOptions) -> dict[str, Any]:
    """Return what text a search distils on, as arguments of ``load_corpus``; of the embedded corpus, all there is."""
    corpus = search.corpus
    return {
        "source": "demo:all" if corpus.source == "demo" else corpus.source,
        "config_name": corpus.config_name,
        "split": corpus.split,
        "text_columns": corpus.text_columns,
    }


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
    return Lineage(
        student=one.config,
        teacher=search.teacher,
        teacher_fingerprint=text.workload.teacher.fingerprint,
        corpus={name: value for name, value in corpus_options(options, search).items() if value is not None},
        recipe=recipe.to_dict(),
        stages=(*before, stage),
        versions=package_versions(),
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


def _finished_search(run: Path) -> SearchOptions:
    search = recorded_options(run, SearchOptions)
    state = read_json(run / RUN).get("state") if (run / RUN).exists() else None
    if state != "finished":
        raise RunError(
            f"the search in {str(run)!r} is not finished; go on with it by kdnas search --resume {run}, then distil"
        )
    return search


def _open_folder(options: DistillOptions) -> RunFolder:
    folder = options.folder
    if (folder / CONFIG).exists():
        return RunFolder.reopen(folder)
    return RunFolder.create(folder, options, _README)


def _command(options: DistillOptions) -> str:
    return f"kdnas distill {options.run}" + ("" if options.out is None else f" --out {options.out}")
