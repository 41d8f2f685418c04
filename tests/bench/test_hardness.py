from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import planted_table

from kdnas_env.agents.classic.local_search import LocalSearchConfig
from kdnas_env.bench.hardness import (
    Landscape,
    hardness,
    hardness_rows,
    landscape_report,
    local_search_evaluations,
    moves_to_best,
    optimum_depths,
    rewards_of_table,
    steepest_ascent,
    walk_autocorrelation,
)
from kdnas_env.bench.truth import TARGETS
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.grid import Grid
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import TableError
from kdnas_env.evaluators.planted import PLANTED_TEACHER
from kdnas_env.support.statistics import expected_hit, median_hit
from kdnas_env.tables.table import LATENCIES

TABLE = planted_table(noise=0.02)


def _line(rewards: list[float]) -> Landscape:
    space = SearchSpace.from_dict({"intermediate_size": list(range(1, len(rewards) + 1))}, PLANTED_TEACHER)
    return Landscape.of(space.grid, np.arange(len(rewards)), np.array(rewards, dtype=np.float64), reach=1)


@pytest.mark.parametrize("cap", [None, 60_000_000])
def test_neighbours_are_those_of_local_search(cap: int | None) -> None:
    space = SearchSpace.from_dict(
        {
            "num_hidden_layers": [3, 6, 9, 12],
            "num_attention_heads": [4, 5, 12],
            "hidden_size": [384, 768],
            "hidden_act": ["gelu", "relu", "silu"],
            "max_parameters": cap,
        },
        PLANTED_TEACHER,
    )
    index = np.sort(space.valid_indices)
    found = Landscape.of(space.grid, index, np.zeros(len(index))).neighbours
    reach = LocalSearchConfig().reach
    for row, here in enumerate(index.tolist()):
        around = space.grid.numbers(space.grid.neighbours(space.from_index(here), reach))
        assert set(index[found[row][found[row] >= 0]].tolist()) == set(around) & set(index.tolist())


@pytest.mark.parametrize(
    ("rewards", "depths"),
    [
        ([0, 1, 2, 3], [math.inf]),
        ([3, 1, 2, 0], [math.inf, 1]),
        ([5, 1, 4, 3, 4.5, 0], [math.inf, 3.5, 1]),
        # A plateau counts as one optimum, or as none if a neighbour is better.
        ([0, 2, 2, 2, 0, 3], [math.inf, 2]),
        ([0, 2, 2, 3, 0], [math.inf]),
        ([3, 1, 3], [math.inf, 2]),
        ([1, 1, 1], [math.inf]),
    ],
)
def test_depths_of_optima(rewards: list[float], depths: list[float]) -> None:
    assert sorted(optimum_depths(_line(rewards)).tolist()) == sorted(depths)


@given(st.lists(st.integers(0, 4), min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_optima_are_the_plateaus_without_an_exit(values: list[int]) -> None:
    space = SearchSpace.from_dict(
        {"num_hidden_layers": [1, 2, 3, 4], "intermediate_size": [1, 2, 3, 4]}, PLANTED_TEACHER
    )
    landscape = Landscape.of(space.grid, np.arange(16), np.array(values, dtype=np.float64))
    neighbours = [[other for other in row if other >= 0] for row in landscape.neighbours.tolist()]
    seen: set[int] = set()
    optima = 0
    for row in range(16):
        if row in seen:
            continue
        plateau, waiting = {row}, [row]
        while waiting:
            equals = [other for other in neighbours[waiting.pop()] if values[other] == values[row]]
            waiting += [other for other in equals if other not in plateau]
            plateau |= set(equals)
        seen |= plateau
        optima += all(values[other] <= values[row] for one in plateau for other in neighbours[one])
    assert len(optimum_depths(landscape)) == optima
    ends = steepest_ascent(landscape)
    assert len(np.unique(ends)) == optima
    assert (landscape.rewards[ends] >= landscape.rewards).all()


def test_ascents_take_the_steepest_way() -> None:
    landscape = _line([4, 3, 2, 1, 2.5, 3.5])
    assert steepest_ascent(landscape).tolist() == [0, 0, 0, 5, 5, 5]
    report = landscape_report(landscape, np.random.default_rng(0), starts=20)
    assert (report["local_optima"], report["basin"]) == (2, 0.5)
    tolerant = landscape_report(landscape, np.random.default_rng(0), tolerance=2.5, starts=20)
    assert (tolerant["optima_beyond_noise"], tolerant["basin_beyond_noise"]) == (1, 1)


def test_fitness_distance_correlation_and_distances() -> None:
    easy = landscape_report(_line([5, 4, 3, 2, 1, 0]), np.random.default_rng(0), starts=5)
    assert easy["fitness_distance_correlation"] == pytest.approx(-1)
    assert moves_to_best(_line([0, 5, 0, 0, 5, 0, 0, 0])).tolist() == [1, 0, 1, 1, 0, 1, 2, 3]
    apart = Landscape.of(Grid.of([6]), np.array([0, 1, 4, 5]), np.array([1.0, 2, 0, 0]), reach=2)
    assert moves_to_best(apart).tolist() == [1, 0, -1, -1]


def test_the_autocorrelation_is_that_of_a_simulated_walk() -> None:
    rng = np.random.default_rng(0)
    table = rewards_of_table(TABLE, KDReward())
    landscape = Landscape.of(TABLE.space.grid, TABLE.index, table)
    row, seen = 0, []
    for _ in range(40_000):
        seen.append(landscape.rewards[row])
        around = landscape.neighbours[row]
        row = int(rng.choice(around[around >= 0]))
    walk = np.array(seen) - np.mean(seen)
    found = walk_autocorrelation(landscape, 3)
    assert found == pytest.approx([(walk[lag:] * walk[:-lag]).mean() / walk.var() for lag in (1, 2, 3)], abs=0.04)
    assert walk_autocorrelation(_line([1, 1, 1]), 3) == []


def test_local_search_is_exact_where_it_can_be_counted() -> None:
    # On a rising line, the search evaluates each point from the start on, and the neighbour before the start.
    count = 12
    landscape = _line(list(range(count)))
    hit = {"optimum": landscape.rewards == count - 1}
    found = local_search_evaluations(landscape, hit, np.random.default_rng(0), 4000)["optimum"]
    # If the start is next to the optimum, the neighbour before it comes after the optimum half of the time.
    exact = [1 if s == count - 1 else count - s + (s > 0) - (0.5 if s == count - 2 else 0) for s in range(count)]
    assert found["mean"] == pytest.approx(np.mean(exact), rel=0.03)


def test_local_search_without_neighbours_is_random_search() -> None:
    space = SearchSpace.from_dict({"intermediate_size": list(range(1, 65))}, PLANTED_TEACHER)
    index = np.arange(0, 64, 2)
    landscape = Landscape.of(space.grid, index, np.arange(32.0), reach=1)
    hit = {"best": landscape.rewards >= 29}
    found = local_search_evaluations(landscape, hit, np.random.default_rng(0), 4000)["best"]
    assert found["mean"] == pytest.approx(expected_hit(32, 3), rel=0.05)


def test_the_report_of_a_table() -> None:
    report = hardness(TABLE, np.random.default_rng(0), starts=100)
    assert (report["table"], report["points"]) == ("planted", 24)
    means = rewards_of_table(TABLE, KDReward())
    seeds = np.stack([rewards_of_table(TABLE, KDReward(), seed) for seed in (0, 1, 2)], axis=1)
    assert report["noise"]["deviation"] == pytest.approx(np.sqrt(seeds.var(axis=1, ddof=1).mean()))
    assert report["tolerance"] == report["noise"]["resolution"] == report["noise"]["deviation"] * np.sqrt(2 / 3)
    assert 1 <= report["optima_beyond_noise"] <= report["local_optima"]
    assert report["basin"] <= report["basin_beyond_noise"] <= 1
    assert report["optima"] == (means >= means.max() - report["noise"]["deviation"]).sum() > 1
    assert report["random_search"]["optimum"] == {
        "mean": expected_hit(24, report["optima"]),
        "median": median_hit(24, report["optima"]),
    }
    assert report["feasible"] is None
    assert report["r2"]["additive"] > 0.8
    assert 1 <= report["local_search"]["optimum"]["median"] <= 24
    assert report["random_search"]["top_1_percent"] == {"mean": 12.5, "median": 12}
    assert hardness(TABLE, np.random.default_rng(0), starts=100) == report
    top = np.sort(means)[-3:]
    apart = np.array([top[1] - top[0], top[2] - top[0], top[2] - top[1]])
    share = (apart < 1.959964 * report["noise"]["resolution"]).mean()
    assert report["noise"]["indistinct_top_pairs"] == pytest.approx(share)


def test_limits_leave_out_what_breaks_them() -> None:
    ratios = TABLE.latencies[:, 0, LATENCIES.index("ratio")]
    speedup = float(np.median(1 / ratios))
    kept = ratios <= 1 / speedup
    task = Task("planted", limits=Constraints(speedup=speedup))
    report = hardness(TABLE, np.random.default_rng(0), task=task, starts=5)
    assert report["points"] == kept.sum() < 24
    assert report["feasible"] == kept.mean()
    rewarded = hardness(TABLE, np.random.default_rng(0), task=Task("planted", alpha=-0.5), starts=5)
    assert rewarded["noise"]["deviation"] != report["noise"]["deviation"]


def test_noise_hides_differences_at_the_top() -> None:
    shares = [
        hardness(planted_table(noise=noise), np.random.default_rng(0), starts=5)["noise"]["indistinct_top_pairs"]
        for noise in (1e-5, 0.5)
    ]
    assert shares == [0, 1]
    single = hardness(planted_table(seeds=(0,)), np.random.default_rng(0), starts=5)
    assert set(single["noise"].values()) == {None}
    assert single["tolerance"] == 0


def test_the_rows_of_a_report() -> None:
    report: dict[str, Any] = hardness(TABLE, np.random.default_rng(0), starts=5)
    rows = dict(hardness_rows(report))
    assert rows["points"] == "24"
    assert rows["random search to the top 1 percent, mean evaluations"] == "12.5"
    assert rows["random search to the top 1 percent, median evaluations"] == "12"
    found = {"some-agent": {name: {"median": None, "reached": 0.25} for name in TARGETS}}
    searched = dict(hardness_rows({**report, "searches": found}))
    assert searched["some-agent to the optimum, median evaluations"] == "- (25% reach it)"
    assert all(isinstance(value, str) for value in rows.values())
    without = dict(hardness_rows({name: value for name, value in report.items() if name != "noise"}))
    assert "deviation between seeds" not in without


def test_bad_landscapes_are_refused() -> None:
    with pytest.raises(TableError, match="expected two or more numbers"):
        _line([0.0, math.nan, 1.0])
