"""Command lines of runs with a task, with small settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

Flags = Callable[..., list[str]]
"""Returns a command line for a run folder; keywords change flags."""


def small_settings(root: Path, teacher: Path, corpus: Path) -> dict[str, str]:
    """Return flags of a run that searches two students.

    Args:
        root: Folder for the file of the space and the cache of the run.
        teacher: Folder of a tiny teacher.
        corpus: File of the text.
    """
    space = {"num_hidden_layers": [1], "num_attention_heads": [2], "hidden_size": [16], "intermediate_size": [16, 32]}
    (root / "space.json").write_text(json.dumps(space))
    return {
        "--teacher": str(teacher),
        "--keep": "0.2",
        "--task.epochs": "1",
        "--search.corpus.source": str(corpus),
        "--search.space.file": str(root / "space.json"),
        "--search.agent": "exhaustive",
        "--search.budget": "2",
        "--search.round-size": "2",
        "--search.data-fraction": "1.0",
        "--search.latency.runtime": "analytic",
        "--distill.epochs": "2",
        "--device": "cpu",
        "--threads": "1",
        "--cache-dir": str(root / "cache"),
    }


def flags_of(given: Mapping[str, str]) -> Flags:
    """Return a function that makes command lines from some flags."""

    def make(out: Path, **changes: str) -> list[str]:
        changed = {f"--{name.replace('__', '.').replace('_', '-')}": value for name, value in changes.items()}
        values = {**given, "--out": str(out), **changed}
        return ["run", "--export.no-latency", *(word for pair in values.items() for word in pair)]

    return make
