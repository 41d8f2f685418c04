"""Least squares: the simplest model of rewards that has a maximum."""

from __future__ import annotations

import numpy as np

from kdnas_env.agents.regression.base import RegressionAgent, RegressionConfig
from kdnas_env.core.wide_dimensions import best_apart
from kdnas_env.support.arrays import Floats, Ints


class LeastSquaresAgent(RegressionAgent[RegressionConfig]):
    """Proposes the points with the highest predictions of ordinary least squares on the indices and their squares.

    A baseline without exploration after its random start: a sum of parabolas, one per dimension. If the system is
    underdetermined, the minimum-norm solution is used.
    """

    Config = RegressionConfig

    def _choose(self, known: Ints, targets: Floats, pool: Ints, n: int) -> tuple[Ints, Floats]:
        weights, *_ = np.linalg.lstsq(self._features(known), targets)
        predicted = self._features(pool) @ weights
        places = best_apart(pool, predicted, np.concatenate([known, self.pending]), self.grid.nvec, n)
        return places, predicted[places]

    def _features(self, actions: Ints) -> Floats:
        scaled = actions / np.maximum(self.grid.nvec - 1, 1)
        return np.column_stack([np.ones(len(actions)), scaled, scaled**2])
