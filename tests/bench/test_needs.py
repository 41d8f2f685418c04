"""How many evaluations agents need to find the best student of a task."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from small_tables import planted_table

from kdnas_env.bench.needs import MODELS, evaluations_needed
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.tables.storage import write_table


@pytest.fixture
def task(tmp_path: Path) -> Task:
    write_table(planted_table(noise=0.05), tmp_path / "planted.npz")
    return Task(str(tmp_path / "planted.npz"))


def test_what_is_needed_is_the_place_of_the_best_without_noise(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, scratch = Truth.of(task), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    place = 1 + int(truth.reward.argmax())
    found = evaluations_needed(task, ["exhaustive"], searches=3, budget=place)["exhaustive"]
    assert found["top_1_percent"] == {"median": place, "reached": 1.0}
    ties = 1 + int((truth.reward >= truth.best - truth.tolerance).argmax())
    assert found["optimum"] == {"median": ties, "reached": 1.0}
    missed = evaluations_needed(task, ["exhaustive"], searches=2, budget=place - 1)["exhaustive"]
    assert missed["top_1_percent"] == {"median": None, "reached": 0.0}
    assert not [*scratch.iterdir()]


def test_the_models_search(task: Task) -> None:
    found = evaluations_needed(task, searches=1, budget=15)
    assert tuple(found) == MODELS
    for targets in found.values():
        reached, median = targets["optimum"]["reached"], targets["optimum"]["median"]
        assert reached in (0, 1)
        assert (median is not None) == (reached == 1)
        assert median is None or 1 <= median <= 15


def test_agents_are_checked_first(task: Task) -> None:
    with pytest.raises(KDNASError, match="unknown agent 'nobody'"):
        evaluations_needed(task, ["nobody"], searches=1, budget=5)
