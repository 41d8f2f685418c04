"""Reads the folder of a finished search: its record, and the inputs of a long distillation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdnas_env.core.architecture import FAMILIES, StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.folder import load_student, read_lineage, read_projection
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.demo import is_demo
from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.distillation.training.workload import as_taught, read_text
from kdnas_env.envs.assemble import make_env
from kdnas_env.errors import NoStudentError, RunError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.pipeline.distill_options import DistillOptions
from kdnas_env.pipeline.search_options import SearchOptions
from kdnas_env.pipeline.search_run import SearchRun
from kdnas_env.searching.run_folder import EVALUATED, RESULTS, STORE, STUDENT, read_run, recorded_options
from kdnas_env.support.atomic import expanded, read_json
from kdnas_env.support.identity import check_same
from kdnas_env.support.places import local_path
from kdnas_env.support.untrusted import shown
from kdnas_env.tabulation.build import RecordedEvaluator, read_evaluations
from kdnas_env.tasks.specs import EMBEDDING


@dataclass(frozen=True)
class Chosen:
    """A student of a search that was chosen for a long distillation.

    Attributes:
        name: ``best``, its family, or a folder name made from its architecture.
        config: Its architecture.
    """

    name: str
    config: StudentConfig


def finished_search(run: Path) -> SearchOptions:
    """Return the settings of a finished search.

    Raises:
        RunError: If the search is not finished, or the folder is not that of a search.
    """
    search = recorded_options(run, SearchOptions)
    if read_run(run).get("state") != "finished":
        raise RunError(
            f"the search in {str(run)!r} is not finished; resume it with `kdnas_env.search(resume={str(run)!r})`, "
            "then distil"
        )
    return search


def load_run(path: str | os.PathLike[str]) -> SearchRun:
    """Open the folder of a finished search.

    Raises:
        RunError: If the search is not finished, or the folder is not that of a search.
        TeacherError: If its teacher does not exist any more.
    """
    if not isinstance(path, str | os.PathLike):
        raise RunError(f"{shown(path)} is no folder; name that of a search, or give what the search returned")
    folder = expanded(path)
    options, results = finished_search(folder), read_results(folder)
    settings, workload = options.settings, read_run(folder).get("fingerprints", {}).get("workload", "")
    stored = {evaluation.config: evaluation for evaluation in read_evaluations(folder, workload)}
    env = make_env(settings, RecordedEvaluator(workload))
    env.reset()
    for row in results["students"]:
        config = StudentConfig.from_dict(row["student"])
        evaluation = stored.get(config) or env.refused(config, settings.fidelity)
        if evaluation is None:
            raise RunError(f"{str(folder / STORE)!r} has no evaluation of {config}; search on with `resume`")
        env.record(env.search_space.encode(config), evaluation)
    return SearchRun(folder, options, env.history, results["rounds"], results["teacher"]["parameters"])


def breaks_limits(row: Mapping[str, Any]) -> bool:
    """Whether a student breaks a limit; ``row`` is one of the students that :func:`read_results` returns."""
    return bool(row.get("cost", 0) > 0)


def read_results(run: Path) -> dict[str, Any]:
    """Return the results of a search.

    Raises:
        RunError: If they are malformed.
    """
    results = read_json(run / RESULTS)
    try:
        for row in results["students"]:
            _ = StudentConfig.from_dict(row["student"]), row["status"], -row["reward"], breaks_limits(row)
        _ = results["rounds"], results["teacher"]["parameters"]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{str(run / RESULTS)!r} is not what a search writes ({error!r}); search again") from error
    return results


def fingerprints(search: SearchOptions, teacher: Teacher, *, text: bool) -> dict[str, str]:
    """Return the current fingerprints of the teacher, and of the text, of a search.

    Args:
        search: Its settings.
        teacher: Its teacher.
        text: Whether to include the text. Only a local file or folder is read.

    Raises:
        CorpusError: If the text cannot be read.
    """
    current = {"teacher": teacher.fingerprint}
    if text and local_path(search.corpus.source) is not None:
        recipe = resolve_recipe(search.recipe)
        corpus = read_text(search.settings.mini_kd.corpus, recipe, teacher.tokenizer)
        current["corpus"] = as_taught(corpus, recipe, teacher.tokenizer).fingerprint
    return current


def check_as_searched(run: Path, now: Mapping[str, str]) -> None:
    """Check that teacher and text are those of the search.

    Args:
        run: Folder of the search.
        now: Their current fingerprints.

    Raises:
        RunError: If one has changed; the message names it.
    """
    check_same(
        read_run(run).get("fingerprints", {}),
        now,
        f"the search in {str(run)!r} cannot be built on",
        "put back what was there, or search again",
    )


def is_kept(run: Path, config: StudentConfig) -> bool:
    """Whether the folder of a search holds the weights of a student.

    Raises:
        RunError: If its lineage is malformed.
    """
    lineage = read_lineage(run / STUDENT)
    return lineage is not None and lineage.student == config


def choose(run: Path, families: tuple[str, ...], students: tuple[str, ...] = ()) -> list[Chosen]:
    """Return the requested students of a finished search, each once.

    Args:
        run: Folder of the search.
        families: ``best`` for the best student, ``all`` for the best of every family, or names of families; ``best`` if
            both arguments are empty.
        students: Further students, in their printed form.

    Raises:
        NoStudentError: If no student of the search was distilled and keeps its limits.
        RunError: If the search has no such student of a family.
        SpaceError: If a student is malformed.
    """
    named = [Chosen(folder_name(config), config) for config in map(StudentConfig.parse, students)]
    if named and not families:
        return list(dict.fromkeys(named))
    families = families or ("best",)
    rows = read_results(run)["students"]
    usable = [row for row in rows if row["status"] == "ok" and not breaks_limits(row)]
    ranked = [StudentConfig.from_dict(row["student"]) for row in sorted(usable, key=lambda row: -row["reward"])]
    if not ranked:
        raise NoStudentError(f"the search in {str(run)!r} has no student: {_why_none(rows)}")
    bests = {family: next((config for config in ranked if config.family == family), None) for family in FAMILIES}
    chosen: list[Chosen] = []
    for family in families:
        wanted = [name for name in FAMILIES if bests[name]] if family == "all" else [family]
        for name in wanted:
            config = ranked[0] if name == "best" else bests[name]
            if config is None:
                searched = [known for known in FAMILIES if bests[known]]
                raise RunError(f"the search in {str(run)!r} has no {name} student; it has {searched}")
            if all(other.name != name for other in chosen):
                chosen.append(Chosen(name, config))
    return list(dict.fromkeys([*chosen, *named]))


def _why_none(rows: Sequence[Mapping[str, Any]]) -> str:
    broken = [row for row in rows if breaks_limits(row)]
    if not broken:
        return "none could be distilled; its results.json says why"
    nearest = min(broken, key=lambda row: float(row["cost"]))
    return (
        f"{len(broken)} of {len(rows)} break its limits, of which {StudentConfig.from_dict(nearest['student'])} comes "
        "nearest; search with wider limits, or a space of other students (`space.file`)"
    )


def folder_name(config: StudentConfig) -> str:
    """Return a folder name made from an architecture."""
    return str(config).replace(" ", "-").replace("/", "-")


def mini_kd_student(
    run: Path, config: StudentConfig, search: SearchOptions, options: DistillOptions
) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """Return a student of a search and its projection: loaded if the run holds them, else distilled again.

    Raises:
        RunError: If the distillation fails, or teacher or text have changed since the search.
    """
    if is_kept(run, config):
        return load_student(run / STUDENT), read_projection(run / STUDENT)
    # The task changes no student. A student that was named is distilled even if it breaks a limit of the search.
    settings = replace(search.settings.mini_kd, task=None, limits=None)
    evaluator = MiniKDEvaluator(
        replace(settings, cache_dir=options.cache_dir, device=options.device, threads=options.threads)
    )
    workload = evaluator.workload
    check_as_searched(run, {"teacher": workload.teacher.fingerprint, "corpus": workload.corpus.fingerprint})
    distilled = evaluator.distil(config, Fidelity(search.epochs, search.data_fraction, search.seed))
    if distilled.model is None:
        raise RunError(f"{config} could not be distilled as in the search: {distilled.evaluation.error}")
    return distilled.model, distilled.projection


def corpus_options(options: DistillOptions, search: SearchOptions) -> dict[str, Any]:
    """Return the arguments of ``load_corpus``: the text that was named, or all the text of the search."""
    wanted = options.corpus
    text = searched_text(search)
    if wanted.source is not None:
        text = {name: getattr(wanted, name) for name in text}
    return {
        **text,
        "text_columns": text["text_columns"] or None,
        "without": _without(options, search),
        "max_length": wanted.max_length,
        "max_samples": wanted.max_samples,
        "pair_fraction": 0.0 if len(text["text_columns"]) == 2 else wanted.pair_fraction,
        "seed": search.seed if options.seed is None else options.seed,
    }


def evaluated_file(options: DistillOptions, search: SearchOptions) -> Path | None:
    """Return the file with the texts on which a task is evaluated.

    It is that of the search, if the search has the same task, else a file of the distillation. None where it has no
    effect: if other texts to leave out were named, or with an embedded corpus, which contains none of these texts. With
    the task embedding, it is a file of the distillation, which also contains the texts that were named.
    """
    if options.task.name == EMBEDDING:
        return options.folder / EVALUATED
    of_search = evaluated_by_search(options)
    named = options.corpus.without or search.corpus.without
    if is_demo(options.corpus.source or search.corpus.source) or not (named is None or _is(of_search, named)):
        return None
    return options.folder / EVALUATED if of_search is None or _has_another_task(options, search) else of_search


def evaluated_by_search(options: DistillOptions) -> Path | None:
    """Return the file with the texts on which the task of the search is evaluated; None if it had no task."""
    file = expanded(options.run) / EVALUATED
    return file if file.exists() else None


def _is(file: Path | None, name: str) -> bool:
    return file is not None and os.path.exists(expanded(name)) and file.samefile(expanded(name))


def _has_another_task(options: DistillOptions, search: SearchOptions) -> bool:
    wanted, searched = ((task.name, task.data, task.own) for task in (options.task, search.task))
    return options.task.has_labels and wanted != searched


def _without(options: DistillOptions, search: SearchOptions) -> str | None:
    """Return the file with texts to leave out: the one that was named, or that of the evaluated texts."""
    file = evaluated_file(options, search)
    if file is None:
        return options.corpus.without or search.corpus.without
    return str(file) if file.exists() else None


def searched_text(search: SearchOptions) -> dict[str, Any]:
    """Return the text of a search as arguments of ``load_corpus``; for the embedded corpus, all its text."""
    corpus = search.corpus
    return {
        "source": "demo:all" if corpus.source == "demo" else corpus.source,
        "config_name": corpus.config_name,
        "split": corpus.split,
        "text_columns": corpus.text_columns,
        **{name: getattr(corpus, name) for name in LAYOUT_OPTIONS},
    }
