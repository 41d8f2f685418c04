from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.pareto import pareto_front

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
