"""A search small enough for tests: a tiny teacher, a tiny corpus, modelled latency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def small(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, small_space: dict[str, list[Any]], tmp_path: Path
) -> dict[str, Any]:
    """Arguments of a small search."""
    (tmp_path / "space.json").write_text(json.dumps(small_space))
    return {
        "teacher": str(tiny_teacher_dirs["bert"]),
        "corpus": {"source": str(tiny_corpus_file)},
        "space": {"file": str(tmp_path / "space.json")},
        "limits": {"speedup": 0},
        "latency": {"runtime": "analytic"},
        "budget": 4,
        "round_size": 2,
        "data_fraction": 1.0,
        "device": "cpu",
        "threads": 1,
        "cache_dir": str(tmp_path / "cache"),
        "out": str(tmp_path / "run"),
    }
