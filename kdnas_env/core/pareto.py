"""Pareto fronts of two costs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pareto_front(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the points that no other point beats in both costs (smaller is better).

    Of points with equal costs only the earliest is returned.

    Args:
        first: One cost per point, finite, shape ``(n,)``.
        second: The other cost, finite, shape ``(n,)``.

    Returns:
        Indices of the front, int64, by rising ``first`` and therefore falling ``second``.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"costs have shapes {x.shape} and {y.shape}; expected two of one shape (n,)")
    order = np.lexsort((y, x))  # stable: of equal points the earliest comes first
    lowest_before = np.minimum.accumulate(np.concatenate([[np.inf], y[order]]))[:-1]
    front: npt.NDArray[np.int64] = order[y[order] < lowest_before]
    return front
