"""What rewards are made of, and how tasks differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.bench.structure import compare_tasks, comparison_rows, explained_variance
from kdnas_env.bench.truth import Truth
from kdnas_env.core.grid import Grid
from kdnas_env.envs.task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.tables.storage import write_table

NVEC = [4, 3, 5, 2]
POINTS = Grid.of(NVEC).actions(np.arange(np.prod(NVEC)))
RNG = np.random.default_rng(0)
SINGLES = np.sum([RNG.normal(size=count)[POINTS[:, axis]] for axis, count in enumerate(NVEC)], axis=0)
PAIR = RNG.normal(size=(4, 5))[POINTS[:, 0], POINTS[:, 2]]


def test_a_product_of_choices_is_additive_in_the_logarithm() -> None:
    assert explained_variance(POINTS, np.exp(SINGLES)) == {"additive": pytest.approx(1), "pairwise": pytest.approx(1)}


def test_an_effect_of_a_pair_takes_a_model_of_pairs() -> None:
    found = explained_variance(POINTS, np.exp(SINGLES + PAIR))
    assert found["additive"] is not None
    assert 0.3 < found["additive"] < 0.95
    assert found["pairwise"] == pytest.approx(1)


def test_noise_is_not_explained_by_heart() -> None:
    """The more parameters, the more of it a model fits; the adjusted share does not rise for that."""
    found = [explained_variance(POINTS, np.exp(RNG.normal(size=len(POINTS)))) for _ in range(20)]
    for name in ("additive", "pairwise"):
        shares = [share for told in found if (share := told[name]) is not None]
        assert len(shares) == 20
        assert abs(np.mean(shares)) < 0.1


def test_failures_are_left_out() -> None:
    rewards = np.exp(SINGLES)
    rewards[::7] = -1.0
    assert explained_variance(POINTS, rewards)["additive"] == pytest.approx(1)


def test_what_cannot_be_told_is_none() -> None:
    few = np.sort(RNG.permutation(len(POINTS))[:40])
    found = explained_variance(POINTS[few], np.exp(SINGLES[few]))
    assert found["additive"] == pytest.approx(1)
    assert found["pairwise"] is None
    nothing = {"additive": None, "pairwise": None}
    assert explained_variance(POINTS, np.ones(len(POINTS))) == nothing
    assert explained_variance(POINTS, np.full(len(POINTS), -1.0)) == nothing


def test_a_space_of_one_dimension_has_no_pairs() -> None:
    points = np.arange(4).repeat(3)[:, None]
    found = explained_variance(points, np.exp(points[:, 0].astype(float)))
    assert found["additive"] == found["pairwise"] == pytest.approx(1)


@pytest.fixture
def table(tmp_path: Path) -> str:
    write_table(planted_table(noise=0.001), tmp_path / "planted.npz")
    return str(tmp_path / "planted.npz")


def test_a_task_is_like_itself(table: str) -> None:
    truth = Truth.of(Task(table))
    assert compare_tasks(truth, truth) == {
        "tasks": [table, table],
        "points": 24,
        "tau": pytest.approx(1),
        "top_overlap": 1.0,
        "first_optimum": 1,
        "other_optimum": 1,
    }


def test_tasks_of_other_rewards_differ(table: str) -> None:
    """Where latency counts for much, the best of the one is far from the best in the other."""
    tasks = [Truth.of(Task(table, alpha=alpha)) for alpha in (0.0, -3.0)]
    found = compare_tasks(*tasks)
    assert found["tau"] < 0.5
    assert found["top_overlap"] == 0
    rewards = [truth.reward for truth in tasks]
    assert found["first_optimum"] == 1 + (rewards[1] > rewards[1][rewards[0].argmax()]).sum() > 1
    assert found["other_optimum"] == 1 + (rewards[0] > rewards[0][rewards[1].argmax()]).sum() > 1
    rows = dict(comparison_rows(found))
    assert rows["overlap of the best 1 percent"] == "0%"


def test_tasks_are_compared_where_both_have_students(table: str) -> None:
    whole = Truth.of(Task(table))
    limited = Truth.of(Task.parse(f"{table}:speedup={np.median(1 / whole.costs[:, 1])}"))
    found = compare_tasks(whole, limited)
    assert found["points"] == len(limited.index) < 24
    assert found["tau"] == pytest.approx(1)


def test_tasks_of_other_spaces_are_not_compared(table: str, tmp_path: Path) -> None:
    write_table(planted_table({"num_hidden_layers": [3, 6], "hidden_size": [384, 768]}), tmp_path / "other.npz")
    with pytest.raises(KDNASError, match=r"search different spaces; compare tasks of one space"):
        compare_tasks(Truth.of(Task(table)), Truth.of(Task(str(tmp_path / "other.npz"))))
