from __future__ import annotations

from pathlib import Path

import pytest
from written_graphs import WrittenGraphs


@pytest.fixture(scope="session", autouse=True)
def operators(operators_are_read_once: None) -> None:
    """Read the exporter's operators once, because the tests in this folder export many models."""


@pytest.fixture
def timed_graphs_are_written_once(graphs_are_written_once: WrittenGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse exported graphs, for tests that time graphs but do not test their content."""
    monkeypatch.setattr("kdnas_env.latency.onnx_runtime.write_graph", graphs_are_written_once.write)


@pytest.fixture(autouse=True)
def own_cores_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own lock, so that tests and searches on the same machine do not wait for each other."""
    path = tmp_path_factory.mktemp("lock") / "cores.lock"
    monkeypatch.setenv("KDNAS_LOCK", str(path))
    return path
