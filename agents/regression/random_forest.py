"""A random forest with expected improvement, the model of SMAC. Needs scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from kdnas_env.agents.regression.base import RegressionAgent, RegressionConfig, expected_improvement
from kdnas_env.core.wide_dimensions import best_apart
from kdnas_env.support.arrays import Floats, Ints


@dataclass(frozen=True)
class RandomForestConfig(RegressionConfig):
    """Hyper-parameters of the random forest, in addition to those of all regression agents.

    Attributes:
        trees: Number of trees.
        features: Fraction of the dimensions considered for a split, in (0, 1].
    """

    trees: int = 50
    features: float = 5 / 6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("trees", at_least=2)
        self.check_numbers("features", above=0, at_most=1)


class RandomForestAgent(RegressionAgent[RandomForestConfig]):
    """Proposes the points with the highest expected improvement of a random forest on the indices.

    As in SMAC (Hutter et al. 2011), the mean of the trees is the prediction, and their standard deviation the
    uncertainty. Ties are in random order.
    """

    Config = RandomForestConfig

    def _choose(self, known: Ints, targets: Floats, pool: Ints, n: int) -> tuple[Ints, Floats]:
        forest = RandomForestRegressor(
            self.config.trees, max_features=self.config.features, random_state=int(self.rng.integers(2**31))
        )
        forest.fit(known, targets)
        # Pass float32 to the trees, as the forest does, to skip input validation.
        predicted = np.stack([tree.tree_.predict(pool.astype(np.float32))[:, 0] for tree in forest.estimators_])
        mean = predicted.mean(axis=0)
        improvement = expected_improvement(mean, predicted.std(axis=0), targets.max())
        # A forest predicts equal values for whole blocks of points; their order in the pool must not matter.
        order = self.rng.permutation(len(pool))
        tried = np.concatenate([known, self.pending])
        places = order[best_apart(pool[order], improvement[order], tried, self.grid.nvec, n)]
        return places, mean[places]
