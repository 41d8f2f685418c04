from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def operators(operators_are_read_once: None) -> None:
    """Tests of this folder export many models."""


@pytest.fixture(autouse=True)
def own_cores_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of the test's own: no test waits for a search on the same machine, nor the other way round."""
    path = tmp_path_factory.mktemp("lock") / "cores.lock"
    monkeypatch.setenv("KDNAS_LOCK", str(path))
    return path
