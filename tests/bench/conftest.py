"""A small table and a small surrogate for races, and misbehaving agents."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from small_tables import planted_table

import kdnas_env.searching.registry
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.searching.registry import GROUP
from kdnas_env.tables.storage import write_table
from kdnas_env.tables.surrogates.storage import write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate

SPACE: dict[str, Any] = {
    "num_hidden_layers": [3, 4, 6, 12],
    "num_attention_heads": [4, 5, 12],
    "hidden_size": [384, 768],
    "intermediate_size": [384, 1536, 3072],
    "hidden_act": ["gelu", "relu"],
}
"""144 points; students with 5 heads cannot be built."""


@pytest.fixture(scope="session")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "small.npz"
    write_table(planted_table(SPACE, noise=0.01, failures=0.05), path)
    return path


@pytest.fixture(scope="session")
def surrogate_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a surrogate of some hundred students, with noise between seeds and a maximum parameter count."""
    path = tmp_path_factory.mktemp("surrogates") / "small.npz"
    space = {**SPACE, "num_attention_heads": [4, 12], "hidden_size": [720, 768], "intermediate_size": [3072]}
    write_surrogate(Surrogate.fit(planted_table(space, noise=0.01, max_parameters=66_000_000)), path)
    return path


@pytest.fixture(scope="session")
def task(table_file: Path) -> Task:
    return Task(str(table_file))


@pytest.fixture(scope="session")
def truth(task: Task) -> Truth:
    return Truth.of(task)


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the agents ``raises``, ``resets``, ``ponders`` and ``repeats``."""
    places = {name: f"misbehaving:{name.capitalize()}" for name in ("raises", "resets", "ponders", "repeats")}

    installed = kdnas_env.searching.registry._entry_points_of

    def offers(name: str) -> tuple[EntryPoint, ...]:
        place = places.get(name)
        return installed(name) if place is None else (EntryPoint(name, place, GROUP),)

    monkeypatch.setattr(kdnas_env.searching.registry, "_entry_points_of", offers)
