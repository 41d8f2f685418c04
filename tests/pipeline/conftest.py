"""A search small enough for tests: a tiny teacher, a tiny corpus, modelled latency."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small_in(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, small_space: dict[str, list[Any]]
) -> Callable[[Path], dict[str, Any]]:
    """Return arguments of a small search in a folder."""

    def make(folder: Path) -> dict[str, Any]:
        (folder / "space.json").write_text(json.dumps(small_space))
        return {
            "teacher": str(tiny_teacher_dirs["bert"]),
            "corpus": {"source": str(tiny_corpus_file)},
            "space": {"file": str(folder / "space.json")},
            "limits": {"speedup": 0},
            "latency": {"runtime": "analytic"},
            "budget": 4,
            "round_size": 2,
            "data_fraction": 1.0,
            "device": "cpu",
            "threads": 1,
            "cache_dir": str(folder / "cache"),
            "out": str(folder / "run"),
        }

    return make


@pytest.fixture
def small(small_in: Callable[[Path], dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """Arguments of a small search."""
    return small_in(tmp_path)
