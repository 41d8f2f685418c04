"""Students around the best of a space, where a surrogate should be accurate."""

from __future__ import annotations

import numpy as np

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import TableError
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.tables.surrogates.storage import TableNames, fitted, load_source
from kdnas_env.tables.surrogates.surrogate import PREDICTED_LATENCIES
from kdnas_env.tables.table import CURVES

DRAWN = 100
"""Number of random points per selected student: the students are about the best 1 % of the space."""

_BATCH = 64


def students_around(
    space: SearchSpace, names: TableNames, sample: int, *, reward: KDReward | None = None
) -> list[StudentConfig]:
    """Return the best of many random students, as predicted by a surrogate, in random order.

    A table of them improves the surrogate where agents search. They are not a uniform sample of the space, so they need
    their own table. Fit the surrogate to this table and to that of the uniform sample.

    Args:
        space: The space.
        names: A surrogate, or tables to fit one to.
        sample: Number of students; ``DRAWN`` times as many points are drawn.
        reward: The reward; None for the default.

    Raises:
        TableError: If the surrogate cannot be read or fitted, or the space has fewer students.
        SpaceError: If the surrogate cannot answer for the space.
    """
    evaluator = SurrogateEvaluator(fitted(load_source(names)), search_space=space)
    surrogate, scored, rng = evaluator.surrogate, reward or KDReward(), np.random.default_rng(1)
    drawn = np.unique(space.canonical(space.grid.flat(space.grid.draw(rng, DRAWN * sample, ()))))
    students = [space.decode(space.from_index(index)) for index in drawn.tolist()]
    students = [student for student in students if space.is_valid(student)]
    if len(students) < sample:
        raise TableError(f"sample is {sample}; {len(drawn)} points of the space give only {len(students)} students")
    loss, ratio = CURVES.index("heldout_unexplained"), PREDICTED_LATENCIES.index("ratio")
    last = surrogate.metadata.epochs
    wanted = [surrogate.output("heldout_unexplained", last), surrogate.output("ratio", 0)]
    rewards: list[float] = []
    for first in range(0, len(students), _BATCH):
        batch = students[first : first + _BATCH]
        predicted = surrogate.mean(surrogate.features(batch), wanted)
        pairs = zip(predicted.curves[:, -1, loss].tolist(), predicted.latencies[:, 0, ratio].tolist(), strict=True)
        rewards += [scored.score(*pair) for pair in pairs]
    best = np.argsort(-np.array(rewards), kind="stable")[:sample]
    return [students[place] for place in rng.permutation(best).tolist()]
