from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.testing.bowl import BowlEnv


def test_every_point_is_as_likely_at_every_place_of_the_search() -> None:
    agent, counts = RandomAgent(), np.zeros((9, 24))
    for seed in range(600):
        result = agent.search(BowlEnv([4, 3, 2]), budget=9, round_size=3, seed=seed)
        counts[np.arange(9), np.ravel_multi_index(tuple(result.actions.T), (4, 3, 2))] += 1
    for place in counts:
        assert chisquare(place).pvalue > 1e-3


def test_it_says_that_all_is_random() -> None:
    result = RandomAgent().search(BowlEnv([4, 3]), budget=10, round_size=4)
    for record in result.rounds:
        assert record.exploration == 1.0
        assert record.random.all()
        assert np.isnan(record.predicted).all()
