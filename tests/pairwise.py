"""Pairwise testing: every pair of parameter values is tested, not every combination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

Place = tuple[int, Any]


def all_pairs(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return a few rows of the product of axes that contain every pair of values of different axes; deterministic.

    Rows are chosen greedily: each is the first in the product with the most pairs that no earlier row has.
    """
    rows = list(product(*axes))
    pairs = {row: {*combinations(enumerate(row), 2)} for row in rows}
    missing: set[tuple[Place, Place]] = set().union(*pairs.values())
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return chosen
