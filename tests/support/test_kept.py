"""What is kept of what was computed: a failure to keep it is no failure to make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas_env.errors import CacheError, RunError
from kdnas_env.support.kept import kept


def _read(path: Path) -> str:
    raise CacheError(f"{path} is not there")


def test_what_cannot_be_made_is_tried_once(tmp_path: Path) -> None:
    calls = []

    def make() -> str:
        calls.append(1)
        raise RunError("a checkpoint cannot be read")

    with pytest.raises(RunError, match="a checkpoint cannot be read"):
        kept("value", _read, make, lambda value, path: None, folder=tmp_path / "cache")
    assert len(calls) == 1


def test_what_cannot_be_kept_is_returned(tmp_path: Path) -> None:
    def write(value: str, path: Path) -> None:
        raise OSError("no space")

    with pytest.warns(RuntimeWarning, match="cannot be cached for other processes: no space"):
        made = kept("value", _read, lambda: "made", write, folder=tmp_path)
    assert made == "made"
