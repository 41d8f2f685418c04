"""What is taken from a finished search to distil for long: students, how they start, the recipe and the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdnas_env.cli.search import mini_kd_settings
from kdnas_env.core.architecture import FAMILIES, StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.folder import load_student, read_lineage, read_projection
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.text_files import LAYOUT_OPTIONS
from kdnas_env.distillation.training.recipe import Recipe, resolve_recipe
from kdnas_env.errors import RunError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, as_taught, read_text
from kdnas_env.pipeline.distill import DistillOptions
from kdnas_env.pipeline.search import SearchOptions
from kdnas_env.searching.run_folder import RESULTS, STUDENT, read_run, recorded_options
from kdnas_env.support.atomic import read_json
from kdnas_env.support.identity import check_same
from kdnas_env.support.places import local_path
from kdnas_env.support.shell import command

_LARGEST_SCALED_BATCH = 32


@dataclass(frozen=True)
class Chosen:
    """A student of a search that is to be distilled.

    Attributes:
        name: ``best``, its family, or itself in words that make a folder's name.
        config: Its architecture.
    """

    name: str
    config: StudentConfig


def finished_search(run: Path) -> SearchOptions:
    """Return the settings of a search that is finished.

    Raises:
        RunError: If it is not, or the folder is of something else.
    """
    search = recorded_options(run, SearchOptions)
    if read_run(run).get("state") != "finished":
        raise RunError(
            f"the search in {str(run)!r} is not finished; go on with it by {command('search', '--resume', run)}, then "
            "distil"
        )
    return search


def fingerprints(search: SearchOptions, teacher: Teacher, *, text: bool) -> dict[str, str]:
    """Return fingerprints of what a search was made with, as they are now.

    Args:
        search: Its settings.
        teacher: Its teacher.
        text: Whether its text is wanted too; it is read where it is at hand, in a local file or folder.

    Raises:
        CorpusError: If the text cannot be read.
    """
    found = {"teacher": teacher.fingerprint}
    if text and local_path(search.corpus.source) is not None:
        settings = mini_kd_settings(search)
        corpus = as_taught(read_text(settings, teacher.tokenizer), resolve_recipe(settings.recipe), teacher.tokenizer)
        found["corpus"] = corpus.fingerprint
    return found


def check_as_searched(run: Path, now: Mapping[str, str]) -> None:
    """Refuse to build on a search with a teacher or text that is not what it was made with.

    Args:
        run: Folder of the search.
        now: Their fingerprints.

    Raises:
        RunError: Naming what has changed.
    """
    check_same(
        read_run(run).get("fingerprints", {}),
        now,
        f"the search in {str(run)!r} cannot be built on",
        "put back what was there, or search again",
    )


def is_kept(run: Path, config: StudentConfig) -> bool:
    """Whether the folder of a search holds a student as it was distilled there.

    Raises:
        RunError: If its lineage is malformed.
    """
    lineage = read_lineage(run / STUDENT)
    return lineage is not None and lineage.student == config


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
        RunError: If it cannot be distilled, or not from what the search was made with.
    """
    if is_kept(run, config):
        return load_student(run / STUDENT), read_projection(run / STUDENT)
    evaluator = MiniKDEvaluator(
        replace(mini_kd_settings(search), cache_dir=options.cache_dir, device=options.device, threads=options.threads)
    )
    workload = evaluator.workload
    check_as_searched(run, {"teacher": workload.teacher.fingerprint, "corpus": workload.corpus.fingerprint})
    distilled = evaluator.distil(config, Fidelity(search.epochs, search.data_fraction, search.seed))
    if distilled.model is None:
        raise RunError(f"{config} could not be distilled as in the search: {distilled.evaluation.error}")
    return distilled.model, distilled.projection


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
        **{name: getattr(corpus, name) for name in LAYOUT_OPTIONS},
    }
