"""The texts of a study, for distillation and for evaluation, each in its own file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS, TextLayout
from kdnas_env.distillation.text.sources import open_source
from kdnas_env.errors import CorpusError
from kdnas_env.support.atomic import replacing
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.splits import text_keys

TRAINING, JUDGING = "training.jsonl", "judging.jsonl"

_CHUNK = 4096
_MIN_JUDGED = 32
_JUDGED_SHARE = 0.5

Texts = tuple[list[str], ...]
"""One list of texts per column."""


@dataclass(frozen=True)
class StudyText:
    """Source and amount of text.

    Attributes:
        source: Arguments of :func:`kdnas_env.distillation.text.corpus.load_corpus` for the location and layout of the
            source.
        samples: Maximum number of texts for distillation.
        judged: Maximum number of texts for evaluation; at most half of the available texts.
        seed: Seed of the sampling.
    """

    source: Mapping[str, Any]
    samples: int
    judged: int
    seed: int


def write_texts(folder: Path, text: StudyText, tasks: Sequence[TaskData]) -> None:
    """Sample the texts of a study and write them to its folder, unless they exist already.

    The two files share no text, and contain no text of any split of the tasks; case is ignored.

    Raises:
        CorpusError: If the source cannot be read, has other columns than the tasks, or too little text remains.
        RunError: If it cannot be written.
    """
    if (folder / JUDGING).exists():
        return
    rows = list(_sampled_rows(text, tasks))
    judged = min(text.judged, int(_JUDGED_SHARE * len(rows)))
    if judged < _MIN_JUDGED:
        raise CorpusError(
            f"the text {text.source['source']!r} has {len(rows)} rows beside those of the tasks; expected at least "
            f"{2 * _MIN_JUDGED}; give more text with `text.source`"
        )
    _write(folder / TRAINING, rows[judged:])
    _write(folder / JUDGING, rows[:judged])


def read_texts(path: Path) -> Texts:
    """Return the texts of a study's file."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return tuple([row[name] for row in rows] for name in rows[0])


def _sampled_rows(text: StudyText, tasks: Sequence[TaskData]) -> Iterator[tuple[str, ...]]:
    """Yield distinct rows in random order, as many as requested."""
    seen = {key for task in tasks for split in (task.train, *task.evaluation.values()) for key in text_keys(split)}
    left = text.samples + text.judged
    options = dict(text.source)
    layout = TextLayout(**{name: options.pop(name, None) for name in LAYOUT_OPTIONS})
    with open_source(options.pop("source"), layout=layout, **options) as rows:
        columns = len(rows.columns)
        for task in tasks:
            if len(task.spec.columns) != columns:
                raise CorpusError(
                    f"the text {text.source['source']!r} has {columns} columns, the task {task.name!r} "
                    f"{len(task.spec.columns)}; name a text with as many with `text.source`"
                )
        order = np.random.default_rng(text.seed).permutation(len(rows))
        for start in range(0, len(order), _CHUNK):
            taken = [row for row in rows.take(order[start : start + _CHUNK]) if all(row)]
            drawn = [tuple(str(value) for value in row) for row in taken]
            keys = text_keys(Split(tuple(list(column) for column in zip(*drawn, strict=True)), np.zeros(len(drawn))))
            for row, key in zip(drawn, keys, strict=True):
                if key not in seen and left:
                    seen.add(key)
                    left -= 1
                    yield row


def _write(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    names = ("text",) if len(rows[0]) == 1 else ("first", "second")
    with replacing(path) as file:
        for row in rows:
            file.write((json.dumps(dict(zip(names, row, strict=True))) + "\n").encode())
