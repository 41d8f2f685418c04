"""Texts that a task is validated and tested on, which students of its search are not distilled on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdnas_env.distillation.text.demo import is_demo
from kdnas_env.distillation.text.records import read_keys
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.searching.run_folder import EVALUATED, RunFolder
from kdnas_env.support.atomic import replacing
from kdnas_env.tasks.data import load_task


def leaving_out_evaluated(options: SearchOptions, folder: RunFolder) -> SearchOptions:
    """Return the options of a search with the validation and test texts of its task excluded from the corpus.

    These texts are written to the folder of a new search. The corpus does not change if it is an embedded one, or if
    ``corpus.without`` is given.

    Args:
        options: New or recorded options.
        folder: Folder of the search.

    Raises:
        KDNASError: If the task cannot be read.
    """
    if not options.task.has_labels:
        return options
    file = folder.path / EVALUATED
    is_new = not folder.read_run().get("fingerprints")  # they are recorded after the text is read
    if is_new:
        write_evaluated(options.task, file)
    if is_demo(options.corpus.source) or options.corpus.without is not None or not file.exists():
        return options
    options = replace(options, corpus=replace(options.corpus, without=str(file)))
    if is_new:
        folder.write_options(options)
    return options


def write_evaluated(options: TaskOptions, file: Path, others: Path | None = None) -> None:
    """Write the validation and test texts of a task to a file, one JSON object per text.

    Args:
        options: The task.
        file: The file.
        others: Such a file of another task; its texts are added.

    Raises:
        KDNASError: If the task cannot be read.
    """
    assert options.name is not None
    task = load_task(options.name, options.data, options.own)
    write_texts(file, [text for split in task.evaluation.values() for column in split.texts for text in column], others)


def write_texts(file: Path, texts: Sequence[str], others: str | os.PathLike[str] | None = None) -> None:
    """Write texts to leave out to a file, one JSON object per text.

    Args:
        file: The file.
        texts: The texts.
        others: Source of further texts, such as another such file.

    Raises:
        CorpusError: If the source cannot be read.
    """
    more = [] if others is None else sorted(read_keys(others))
    with replacing(file) as written:
        for text in (*texts, *more):
            written.write((json.dumps({"text": text}) + "\n").encode())
