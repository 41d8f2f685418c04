"""Sampling students from all parts of a search space."""

from __future__ import annotations

import itertools

import numpy as np

from kdnas_env.core.architecture import StudentConfig, forward_flops
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError

_LENGTH = 50


def stratified_sample(
    space: SearchSpace, count: int, rng: np.random.Generator, *, least_speedup: float = 1.0
) -> list[StudentConfig]:
    """Draw students of all sizes: one from each of several strata of the space sorted by operations.

    Args:
        space: The space; it must be small enough to enumerate.
        count: Number of students.
        rng: Random generator.
        least_speedup: Excludes students that need more than 1 / ``least_speedup`` of the teacher's operations.

    Returns:
        Distinct students, in ascending order of operations.

    Raises:
        SpaceError: If there are fewer students.
    """
    teacher = space.teacher
    limit = forward_flops(teacher.as_student(), teacher, batch=1, length=_LENGTH) / least_speedup
    students = {config for config in space if space.is_valid(config)}
    costs = {config: forward_flops(config, teacher, batch=1, length=_LENGTH) for config in students}
    ranked = sorted((config for config in students if costs[config] <= limit), key=lambda c: (costs[c], c))
    if len(ranked) < count:
        raise SpaceError(
            f"{count} students are requested, but the space holds {len(ranked)} that need at most one over "
            f"{least_speedup:g} of the teacher's operations; request fewer, or widen the space"
        )
    borders = np.linspace(0, len(ranked), count + 1).astype(int)
    return [ranked[int(rng.integers(begin, end))] for begin, end in itertools.pairwise(borders)]
