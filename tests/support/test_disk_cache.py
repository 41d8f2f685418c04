"""The cache on disk: a value that cannot be stored is still returned."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas_env.errors import CacheError, RunError
from kdnas_env.support.disk_cache import cached


def _read(path: Path) -> str:
    raise CacheError(f"{path} is not there")


def test_a_failed_computation_is_not_repeated(tmp_path: Path) -> None:
    calls = []

    def make() -> str:
        calls.append(1)
        raise RunError("a checkpoint cannot be read")

    with pytest.raises(RunError, match="a checkpoint cannot be read"):
        cached("value", _read, make, lambda value, path: None, folder=tmp_path / "cache")
    assert len(calls) == 1


def test_a_value_that_cannot_be_stored_is_returned(tmp_path: Path) -> None:
    def write(value: str, path: Path) -> None:
        raise OSError("no space")

    with pytest.warns(RuntimeWarning, match="cannot be cached for other processes: no space"):
        made = cached("value", _read, lambda: "made", write, folder=tmp_path)
    assert made == "made"
