"""The text of a long distillation, and the file with the evaluated texts that it leaves out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdnas_env.distillation.text.demo import is_demo
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.search.finished import searched_text
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.searching.run_folder import EVALUATED
from kdnas_env.support.atomic import expanded
from kdnas_env.tasks.specs import EMBEDDING


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
