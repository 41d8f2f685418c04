from __future__ import annotations

from pathlib import Path

import pytest
from written_graphs import WrittenGraphs


@pytest.fixture(scope="session", autouse=True)
def operators(operators_are_read_once: None) -> None:
    """Tests of this folder export many models."""


@pytest.fixture
def timed_graphs_are_written_once(graphs_are_written_once: WrittenGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is done with graphs that are only timed, not of the graphs."""
    monkeypatch.setattr("kdnas_env.latency.onnx_runtime.write_graph", graphs_are_written_once.write)


@pytest.fixture(autouse=True)
def own_cores_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of the test's own: no test waits for a search on the same machine, nor the other way round."""
    path = tmp_path_factory.mktemp("lock") / "cores.lock"
    monkeypatch.setenv("KDNAS_LOCK", str(path))
    return path
