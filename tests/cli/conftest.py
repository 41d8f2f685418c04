"""A search small enough for tests: a tiny teacher, a tiny corpus, modelled latency."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdnas_env.cli import main


@pytest.fixture
def space_file(small_space: dict[str, list[Any]], tmp_path: Path) -> Path:
    path = tmp_path / "space.json"
    path.write_text(json.dumps(small_space))
    return path


@pytest.fixture
def flags(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, space_file: Path, tmp_path: Path
) -> Callable[..., list[str]]:
    """Return the command line of a small search. Keyword arguments change flags; None omits a flag."""

    def make(**changes: Any) -> list[str]:
        values = {
            "teacher": tiny_teacher_dirs["bert"],
            "corpus.source": tiny_corpus_file,
            "space.file": space_file,
            "speedup": 0,
            "budget": 6,
            "round_size": 3,
            "data_fraction": 1.0,
            "latency.runtime": "analytic",
            "device": "cpu",
            "cache_dir": tmp_path / "cache",
            "out": tmp_path / "run",
        }
        values |= {name.replace("__", "."): value for name, value in changes.items()}
        given = {name: value for name, value in values.items() if value is not None}
        return ["search", *(text for name, value in given.items() for text in (_flag(name), str(value)))]

    return make


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.fixture(scope="session")
def finish_search(tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path) -> Callable[..., Path]:
    """Return a function that runs a small search to its end and returns the run folder.

    Call it as ``finish_search(root, space, budget=8)``. The hidden states are cached in ``root / "cache"``.
    """

    def run(root: Path, space: dict[str, list[Any]], **changes: Any) -> Path:
        (root / "space.json").write_text(json.dumps(space))
        values = {
            "teacher": tiny_teacher_dirs["bert"],
            "corpus.source": tiny_corpus_file,
            "space.file": root / "space.json",
            "speedup": 0,
            "data_fraction": 1.0,
            "latency.runtime": "analytic",
            "threads": 1,
            "cache_dir": root / "cache",
            "out": root / "run",
            **changes,
        }
        assert main(["search", *(text for name, value in values.items() for text in (_flag(name), str(value)))]) == 0
        return root / "run"

    return run
