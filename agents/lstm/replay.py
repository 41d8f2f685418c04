"""What the controller learns from: every evaluation, and what was known when it was proposed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdnas_env.agents.base import DEFAULT_ROUND_SIZE
from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking

GLOBAL_BEST, PREVIOUS_BEST, PREVIOUS_CANDIDATE, QUERY, NONE = range(5)
"""Roles of the elements of a sequence. ``NONE`` stands where there is nothing yet."""

ROLES = 5
_OFTEN = 32
"""Share of the evaluations, at most, that is new when a controller learns again."""
_WHISKER = 1.5
_ROUNDING = 1e-12
"""Relative deviation that equal rewards may show, since their mean is rounded."""


@dataclass(frozen=True)
class Scale:
    """The affine map between rewards and what the controller predicts.

    Attributes:
        mean: Reward that is predicted as 0.
        deviation: Reward that one unit stands for; positive.
        least: Rewards below it, and failed evaluations, count as this.
    """

    mean: float
    deviation: float
    least: float

    @classmethod
    def of(cls, rewards: Floats, usable: Bools) -> Scale:
        """Fit the scale to the usable rewards, of which there must be one.

        The least reward is Tukey's lower fence (1.5 interquartile ranges below the first quartile), or the worst
        usable reward above it: so neither a failure nor one dreadful candidate sets the scale of the others.
        """
        good = rewards[usable]
        lower, upper = np.quantile(good, (0.25, 0.75))
        fence = lower - _WHISKER * (upper - lower)
        least = float(good[good >= fence].min())
        kept = np.maximum(good, least)
        deviation = float(kept.std())
        all_equal = deviation <= _ROUNDING * float(np.abs(kept).max())
        return cls(float(kept.mean()), 1.0 if all_equal else deviation, least)

    def standardise(self, rewards: Floats, usable: Bools) -> Floats:
        """Return rewards in units of the controller; failures are as bad as the least."""
        kept = np.where(usable, rewards, self.least)
        standardised: Floats = (np.maximum(kept, self.least) - self.mean) / self.deviation
        return standardised

    def restore(self, predictions: Floats) -> Floats:
        """Return predictions in units of the reward."""
        return self.mean + self.deviation * predictions


def settled(ranking: Ranking, round_size: int) -> Ranking:
    """Return a search as of when a controller learns from it: after every round, or every few of small ones.

    The more was evaluated, the less another evaluation tells. In rounds of less than eight, as where each evaluation is
    told alone, a controller learns each time until there are 64 evaluations, and then less and less often, from 256
    on after every eight. What was evaluated since is left out, unless nothing before was usable.
    """
    evaluations = ranking.evaluations
    power = 1 << max(0, evaluations.bit_length() - 1)
    step = max(round_size, min(DEFAULT_ROUND_SIZE, power // _OFTEN))
    whole = evaluations // step * step
    if not whole:
        return ranking
    taught = Ranking(ranking.rounds.until(int(np.searchsorted(ranking.rounds.ends, whole)) + 1))
    return ranking if taught.global_best is None else taught


def remembered(ranking: Ranking, size: int) -> Ints:
    """Return the positions of the youngest evaluations, and before them that of the best, if it is older; int64."""
    begin, best = max(0, ranking.evaluations - size), ranking.global_best
    youngest = np.arange(begin, ranking.evaluations)
    return youngest if best is None or best.index >= begin else np.insert(youngest, 0, best.index)


def context_positions(ranking: Ranking, known_rounds: Ints, *, with_candidates: bool) -> tuple[Ints, Ints]:
    """Say which evaluations were known, and as what, after some numbers of rounds.

    Args:
        ranking: The search.
        known_rounds: Numbers of finished rounds, one per context, int64 ``(contexts,)``.
        with_candidates: Whether the candidates of the last known round belong to a context, beside the bests.

    Returns:
        Positions in the order of evaluation, 0 where there is nothing, and roles; both int64 of shape
        ``(contexts, length)``. The first two elements are the global best and the previous round's best.
    """
    rows = []
    for known in known_rounds.tolist():
        row = [(0, NONE), (0, NONE)]
        if known:
            record = ranking.rounds[known - 1]
            for place, role, best in ((0, GLOBAL_BEST, record.global_best), (1, PREVIOUS_BEST, record.best)):
                if best is not None:
                    row[place] = (best.index, role)
            if with_candidates:
                end = int(ranking.rounds.ends[known - 1])
                row += [(position, PREVIOUS_CANDIDATE) for position in range(end - len(record.rewards), end)]
        rows.append(row)
    length = max(map(len, rows))
    padded = np.array([row + [(0, NONE)] * (length - len(row)) for row in rows], dtype=np.int64)
    return padded[..., 0], padded[..., 1]
