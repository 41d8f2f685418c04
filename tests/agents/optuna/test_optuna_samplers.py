"""Samplers of Optuna propose only unevaluated, allowed points."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pytest
from scipy.stats import wilcoxon

from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.optuna import OptunaConfig
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.agents.optuna.samplers import RemainingGPSampler
from kdnas_env.agents.optuna.storage import quiet
from kdnas_env.core.grid import Grid
from kdnas_env.testing.bowl import BowlEnv

NVEC = (6, 5, 1, 7)


@pytest.mark.parametrize("choices", ["ordinal", "categorical"])
def test_nothing_is_proposed_that_is_known_or_not_allowed(choices: Any) -> None:
    """Formerly, eight of ten proposals of the Gaussian process were, and random points replaced them."""
    allowed = np.random.default_rng(0).choice(np.prod(NVEC), size=24, replace=False).tolist()
    env, agent = BowlEnv([*NVEC]), OptunaAgent(OptunaConfig(sampler="gp", choices=choices))
    agent.reset([*NVEC], budget=24, round_size=4, seed=1, candidates=allowed)
    begun = []
    while len(actions := agent.ask(4)):
        agent.tell(actions, [env.reward(action) for action in actions])
        begun.append(len(agent.study.trials))
    assert sorted(agent.grid.numbers(agent.evaluated)) == sorted(allowed)
    # Optuna draws the first ten points at random, without knowing which are allowed: this takes three rounds.
    first, later = agent.study.trials[: begun[2]], agent.study.trials[begun[2] :]
    assert any("dismissed" in trial.user_attrs for trial in first)
    assert len(later) == 12
    assert not any({"dismissed", "drawn"} & trial.user_attrs.keys() for trial in later)


def test_it_learns() -> None:
    found = [
        [agent.search(BowlEnv([9, 9, 9]), budget=20, seed=seed).best_reward for seed in range(8)]
        for agent in (OptunaAgent(OptunaConfig(sampler="gp")), RandomAgent())
    ]
    assert wilcoxon(*found, alternative="greater").pvalue < 0.05


def test_the_point_with_the_highest_acquisition_is_chosen() -> None:
    """Its acquisition is at least that of the point that Optuna's own search finds."""
    names = ("width", "depth", "constant", "heads")  # Optuna sorts the names, and leaves out constant dimensions
    chosen: list[float] = []

    class Compared(RemainingGPSampler):
        def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
            own = optuna.samplers.GPSampler._optimize_acqf(self, acqf, best_params)
            ours = super()._optimize_acqf(acqf, best_params)
            chosen.extend(acqf.eval_acqf_no_grad(np.stack([own, ours])).tolist())
            return ours

    with quiet():
        sampler = Compared(names, Grid.of(NVEC), seed=0, n_startup_trials=5)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(12):
            trial = study.ask()
            point = [trial.suggest_int(name, 0, count - 1) for name, count in zip(names, NVEC, strict=True)]
            study.tell(trial, -float(np.square(np.array(point) - (4, 1, 0, 6)).sum()))
    pairs = [*pairwise(chosen)][::2]
    assert len(pairs) == 7
    assert all(ours >= own - 1e-9 for own, ours in pairs)
    assert study.best_value >= -2


@pytest.mark.parametrize("options", [{}, {"choices": "categorical"}, {"sampler_options": {"group": True}}], ids=str)
def test_tpe_takes_the_best_of_its_candidates_that_is_left(options: dict[str, Any]) -> None:
    """Formerly, it took the best of all candidates, which was known or not allowed half of the time."""
    nvec = [9, 9, 1, 9]
    allowed = np.random.default_rng(0).choice(729, size=300, replace=False)
    env, agent = BowlEnv(nvec), OptunaAgent(OptunaConfig(**options))
    agent.reset(nvec, budget=40, round_size=4, seed=1, candidates=allowed)
    begun = []
    for _ in range(10):
        actions = agent.ask(4)
        agent.tell(actions, [env.reward(action) for action in actions])
        begun.append(len(agent.study.trials))
    later = agent.study.trials[begun[2] :]
    assert sum("dismissed" in trial.user_attrs for trial in later) < len(later) / 10


def test_tpe_that_samples_one_by_one_is_asked_again() -> None:
    agent = OptunaAgent(OptunaConfig(sampler_options={"multivariate": False}))
    result = agent.search(BowlEnv([4, 4]), budget=16)
    assert len(np.unique(result.actions, axis=0)) == 16
