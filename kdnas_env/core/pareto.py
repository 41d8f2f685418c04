"""Pareto fronts of two costs, and their hypervolume."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Bools, Floats


def pareto_front(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the points that no other point dominates (smaller is better).

    Of points with equal costs, only the earliest is returned.

    Args:
        first: One cost per point, finite, shape ``(n,)``.
        second: The other cost, finite, shape ``(n,)``.

    Returns:
        Indices of the front, int64, in ascending order of ``first`` and therefore descending order of ``second``.

    Raises:
        KDNASError: If the costs do not have one shape ``(n,)``.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise KDNASError(f"costs have shapes {x.shape} and {y.shape}; expected two of one shape (n,)")
    order = np.lexsort((y, x))  # stable: of equal points the earliest comes first
    lowest_before = np.minimum.accumulate(np.concatenate([[np.inf], y[order]]))[:-1]
    front: npt.NDArray[np.int64] = order[y[order] < lowest_before]
    return front


def hypervolume(points: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Return the area that points dominate up to a reference point (smaller is better).

    Args:
        points: ``(n, 2)``; points that are not finite or beyond the reference do not count.
        reference: Worst value of each cost, finite.

    Raises:
        KDNASError: If the shape is not ``(n, 2)``, or the reference is not two finite numbers.
    """
    array = _checked_points(points, reference)
    return _dominated_area(array[_inside(array, reference)], reference)


def hypervolume_curve(points: npt.ArrayLike, reference: tuple[float, float]) -> Floats:
    """Return the :func:`hypervolume` of the first 1, 2, ... points, float64 ``(n,)``, which never decreases.

    Args:
        points: Evaluated points, in order, ``(n, 2)``; see :func:`hypervolume`.
        reference: Worst value of each cost, finite.

    Raises:
        KDNASError: If the shape is not ``(n, 2)``, or the reference is not two finite numbers.
    """
    array = _checked_points(points, reference)
    curve = np.zeros(len(array))
    front, area = np.empty((0, 2)), 0.0
    for place, (point, counts) in enumerate(zip(array, _inside(array, reference).tolist(), strict=True)):
        # Most points of a search change nothing, and the rest only what is still undominated.
        if counts and not (front <= point).all(axis=1).any():
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
            area = _dominated_area(front, reference)
        curve[place] = area
    return curve


def _inside(points: Floats, reference: tuple[float, float]) -> Bools:
    return np.asarray((np.isfinite(points) & (points < reference)).all(axis=1), dtype=np.bool_)


def _dominated_area(inside: Floats, reference: tuple[float, float]) -> float:
    area, height = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))].tolist():
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area


def _checked_points(points: npt.ArrayLike, reference: tuple[float, float]) -> Floats:
    array = np.asarray(points, dtype=np.float64)
    if not array.size:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise KDNASError(f"points have shape {array.shape}; expected (n, 2), one row per point")
    if np.shape(reference) != (2,) or not np.isfinite(reference).all():
        raise KDNASError(f"reference is {reference}; expected two finite numbers, the worst of either cost")
    return array
