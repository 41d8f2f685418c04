from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.pareto import hypervolume, hypervolume_curve, pareto_front
from kdnas_env.errors import KDNASError

small = st.integers(0, 6).map(float)


@given(st.lists(st.tuples(small, small), max_size=30))
def test_returns_exactly_the_undominated_points_once(points: list[tuple[float, float]]) -> None:
    front = pareto_front([x for x, _ in points], [y for _, y in points]).tolist()
    undominated = {(x, y) for x, y in points if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)}
    assert [points[index] for index in front] == sorted(undominated)
    assert front == [points.index(points[index]) for index in front]


def test_of_nothing_is_nothing() -> None:
    front = pareto_front([], [])
    assert front.shape == (0,)
    assert front.dtype == np.int64


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"costs have shapes \(2,\) and \(3,\)"):
        pareto_front([1, 2], [1, 2, 3])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_hypervolume_counts_the_cells_that_are_dominated(points: list[tuple[int, int]]) -> None:
    cells = itertools.product(range(5), repeat=2)
    dominated = sum(any(x <= a and y <= b for x, y in points) for a, b in cells)
    assert hypervolume(np.array(points, dtype=float).reshape(-1, 2), (5, 5)) == dominated


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_running_hypervolume_is_that_of_all_points_so_far(points: list[tuple[int, int]]) -> None:
    array = np.array(points, dtype=float).reshape(-1, 2)
    curve = hypervolume_curve(array, (5, 5))
    assert curve.tolist() == [hypervolume(array[: place + 1], (5, 5)) for place in range(len(array))]


def test_hypervolume_is_the_share_of_a_cloud_that_is_dominated() -> None:
    rng = np.random.default_rng(0)
    points, cloud = rng.random((20, 2)), rng.random((20000, 2))
    dominated = (points[:, None] <= cloud[None]).all(axis=2).any(axis=0).mean()
    assert hypervolume(points, (1, 1)) == pytest.approx(dominated, abs=0.02)


def test_failures_add_no_hypervolume() -> None:
    points = [[math.nan, 0.0], [0.0, math.inf], [1.0, 1.0], [3.0, 0.0]]
    assert hypervolume_curve(points, (2, 2)).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("measure", [hypervolume, hypervolume_curve])
def test_malformed_points_are_refused(measure: Callable[..., object]) -> None:
    with pytest.raises(KDNASError, match=r"points have shape \(2, 3\); expected \(n, 2\)"):
        measure([[1, 2, 3], [3, 2, 1]], (5, 5))
    with pytest.raises(KDNASError, match=r"reference is .* two finite numbers"):
        measure([[1, 2]], (5, math.inf))
