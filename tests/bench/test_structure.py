"""The structure of rewards, and the differences between tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.bench.structure import (
    compare_tasks,
    comparison_rows,
    describe_rewards,
    explained_variance,
    reward_rows,
)
from kdnas_env.bench.truth import Truth
from kdnas_env.core.grid import Grid
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.tables.storage import write_table

NVEC = [4, 3, 5, 2]
COUNTS = np.array(NVEC)
POINTS = Grid.of(NVEC).actions(np.arange(np.prod(NVEC)))
RNG = np.random.default_rng(0)
SINGLES = np.sum([RNG.normal(size=count)[POINTS[:, axis]] for axis, count in enumerate(NVEC)], axis=0)
PAIR = RNG.normal(size=(4, 5))[POINTS[:, 0], POINTS[:, 2]]


def test_a_product_of_choices_is_additive_in_the_logarithm() -> None:
    assert explained_variance(POINTS, np.exp(SINGLES), COUNTS) == {
        "additive": pytest.approx(1),
        "pairwise": pytest.approx(1),
    }


def test_an_effect_of_a_pair_takes_a_model_of_pairs() -> None:
    found = explained_variance(POINTS, np.exp(SINGLES + PAIR), COUNTS)
    assert found["additive"] is not None
    assert 0.3 < found["additive"] < 0.95
    assert found["pairwise"] == pytest.approx(1)


def test_noise_is_not_explained_by_heart() -> None:
    """A model with more parameters fits more of the noise, but the adjusted share does not rise."""
    found = [explained_variance(POINTS, np.exp(RNG.normal(size=len(POINTS))), COUNTS) for _ in range(20)]
    for name in ("additive", "pairwise"):
        shares = [share for told in found if (share := told[name]) is not None]
        assert len(shares) == 20
        assert abs(np.mean(shares)) < 0.1


def test_failures_are_left_out() -> None:
    rewards = np.exp(SINGLES)
    rewards[::7] = -1.0
    assert explained_variance(POINTS, rewards, COUNTS)["additive"] == pytest.approx(1)


def test_a_wide_dimension_counts_by_section() -> None:
    """Few of its many choices occur more than once."""
    points = np.column_stack([RNG.integers(1_000, size=300), RNG.integers(3, size=300)])
    found = explained_variance(points, np.exp(points[:, 0] / 500 + points[:, 1]), np.array([1_000, 3]))
    assert found["additive"] is not None
    assert 0.98 < found["additive"] < 1


def test_what_cannot_be_told_is_none() -> None:
    few = np.sort(RNG.permutation(len(POINTS))[:40])
    found = explained_variance(POINTS[few], np.exp(SINGLES[few]), COUNTS)
    assert found["additive"] == pytest.approx(1)
    assert found["pairwise"] is None
    nothing = {"additive": None, "pairwise": None}
    assert explained_variance(POINTS, np.ones(len(POINTS)), COUNTS) == nothing
    assert explained_variance(POINTS, np.full(len(POINTS), -1.0), COUNTS) == nothing


def test_a_space_of_one_dimension_has_no_pairs() -> None:
    points = np.arange(4).repeat(3)[:, None]
    found = explained_variance(points, np.exp(points[:, 0].astype(float)), np.array([4]))
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
    """If latency counts for much in one task, the best student of each task ranks low in the other."""
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


def test_a_sample_says_about_what_the_whole_space_does(surrogate_file: Path) -> None:
    task = Task.parse(f"{surrogate_file}:speedup=2")
    whole = Truth.of(task)
    sample = Truth.sampled(task, 60, np.random.default_rng(0))
    assert sample.rewards_of(sample.index).tolist() == pytest.approx(whole.rewards_of(sample.index).tolist())
    found, true = describe_rewards(sample), describe_rewards(whole)
    assert found["points"] < true["points"]
    assert found["feasible"] == pytest.approx(true["feasible"], abs=0.2)
    assert found["r2"]["additive"] == pytest.approx(true["r2"]["additive"], abs=0.1)
    assert dict(reward_rows(found))["points that keep the limits"].endswith("%")
    again = Truth.sampled(Task(str(surrogate_file), alpha=-1.0), 60, np.random.default_rng(0))
    assert compare_tasks(sample, again)["points"] == len(sample.index)


def test_of_a_table_the_sample_is_all(table: str) -> None:
    assert (
        Truth.sampled(Task(table), 2, np.random.default_rng(0)).reward.tolist() == Truth.of(Task(table)).reward.tolist()
    )


def test_tasks_of_other_spaces_are_not_compared(table: str, tmp_path: Path) -> None:
    write_table(planted_table({"num_hidden_layers": [3, 6], "hidden_size": [384, 768]}), tmp_path / "other.npz")
    with pytest.raises(KDNASError, match=r"search different spaces; compare tasks of one space"):
        compare_tasks(Truth.of(Task(table)), Truth.of(Task(str(tmp_path / "other.npz"))))
