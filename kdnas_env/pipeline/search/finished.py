"""Reads the folder of a finished search: its record, its text, and whether teacher and text are unchanged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.folder import read_lineage
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.distillation.training.workload import as_taught, read_text
from kdnas_env.envs.assemble import make_env
from kdnas_env.errors import RunError
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.searching.run_folder import RESULTS, STORE, STUDENT, read_run, recorded_options
from kdnas_env.support.atomic import expanded, read_json
from kdnas_env.support.identity import check_same
from kdnas_env.support.places import local_path
from kdnas_env.support.untrusted import shown
from kdnas_env.tabulation.build import RecordedEvaluator, read_evaluations


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
        "restore the former files, or search again",
    )


def is_kept(run: Path, config: StudentConfig) -> bool:
    """Whether the folder of a search holds the weights of a student.

    Raises:
        RunError: If its lineage is malformed.
    """
    lineage = read_lineage(run / STUDENT)
    return lineage is not None and lineage.student == config


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
