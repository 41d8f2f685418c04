"""The regression agents: what they learn, how they predict, and what they propose."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm, wilcoxon

import kdnas_env
from kdnas_env.agents.regression.base import RegressionConfig, expected_improvement
from kdnas_env.agents.regression.bayesian_linear import BayesianLinearAgent, _Prior, _Similarity
from kdnas_env.agents.regression.least_squares import LeastSquaresAgent
from kdnas_env.agents.regression.posterior import Posterior
from kdnas_env.core.grid import Grid
from kdnas_env.core.wide_dimensions import bumps
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.searching import registry
from kdnas_env.testing.bowl import BowlEnv

RIVALS = ("least-squares", "bayesian-linear", "random-forest")
rivals = pytest.mark.parametrize("name", RIVALS)


@cache
def found(name: str) -> np.ndarray:
    """Return the best rewards of twelve searches of a space that is too large for random search."""
    env, settings = BowlEnv([20] * 5), {"random-forest": {"trees": 20}}.get(name, {})
    agent = kdnas_env.make_agent(name, **settings)
    return np.array([agent.search(env, budget=80, round_size=10, seed=seed).best_reward for seed in range(12)])


@rivals
def test_they_learn(name: str) -> None:
    assert wilcoxon(found(name), found("random"), alternative="greater").pvalue < 0.01


@rivals
def test_a_search_begins_at_random_and_goes_on_by_the_model(name: str) -> None:
    result = kdnas_env.make_agent(name, initial=11).search(BowlEnv([6, 6, 6]), budget=24, round_size=8, seed=2)
    random = np.concatenate([record.random for record in result.rounds])
    assert random.sum() == 11
    assert random[:8].all()
    assert not random[16:].any()
    predicted = np.concatenate([record.predicted for record in result.rounds])
    assert (np.isnan(predicted) == random).all()


@rivals
def test_predictions_are_in_units_of_the_reward(name: str) -> None:
    """Rewards around 500 are predicted like rewards around 0."""

    def far(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return 500.0 + 10 * action[0] + action[1], {}

    result = kdnas_env.make_agent(name).search(BowlEnv([8, 8], far), budget=48, round_size=8, seed=0)
    last = result.rounds[-1]
    assert np.abs(last.predicted - last.rewards)[~last.random].max() < 25


@rivals
def test_failures_are_learned_to_be_avoided(name: str) -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return (np.nan, {"status": "out_of_memory"}) if action[0] >= 4 else (float(sum(action[1:])), {"status": "ok"})

    result = kdnas_env.make_agent(name).search(BowlEnv([8, 8, 8, 8], answer), budget=80, seed=1)
    failed = result.actions[:, 0] >= 4
    assert failed[-40:].mean() < 0.35, "half of random candidates fail"


@pytest.mark.parametrize("setting", ["initial", "pool_size", "replay_size"])
def test_malformed_settings_are_named(setting: str) -> None:
    with pytest.raises(KDNASError, match=f"{setting} is 0; expected a whole number, at least 1"):
        kdnas_env.make_agent("least-squares", **{setting: 0})


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"trees": 1}, "trees is 1; expected a whole number, at least 2"), ({"features": 0.0}, "features is 0.0")],
)
def test_malformed_settings_of_the_forest_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(KDNASError, match=said):
        kdnas_env.make_agent("random-forest", **settings)


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    monkeypatch.delitem(sys.modules, "kdnas_env.agents.regression.random_forest", raising=False)
    with pytest.raises(DependencyError, match=r"sklearn.*pip install 'kdnas\[all\]'"):
        registry.agent_class("random-forest")


# Least squares --------------------------------------------------------------------------------------------------------


def grid(nvec: list[int]) -> np.ndarray:
    return Grid.of(nvec).actions(np.arange(np.prod(nvec)))


def test_a_sum_of_parabolas_is_predicted_exactly_and_its_maximum_found() -> None:
    nvec, points = [9, 7, 5], grid([9, 7, 5])
    rewards = -(((points - [6, 2, 3]) * [1.0, 2.0, 0.5]) ** 2).sum(axis=1)
    order = np.random.default_rng(0).permutation(np.flatnonzero(rewards < -5))
    agent = LeastSquaresAgent()
    agent.reset(nvec, budget=200, round_size=8)
    places, predicted = agent._choose(points[order[:30]], rewards[order[:30]], points, 5)
    assert_allclose(predicted, np.sort(rewards)[::-1][:5], atol=1e-9)
    assert points[places[0]].tolist() == [6, 2, 3]


# The Bayesian linear model --------------------------------------------------------------------------------------------


def features(actions: np.ndarray, nvec: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return explicit features: those of single choices (one-hot, or bumps if there are many), and of pairs."""
    tables = [bumps(count) if count > 64 else np.eye(count) for count in nvec]
    rows = [table[actions[:, axis]] for axis, table in enumerate(tables)]
    pairs = [
        (rows[i][:, :, None] * rows[j][:, None, :]).reshape(len(actions), -1)
        for i in range(len(nvec))
        for j in range(i + 1, len(nvec))
    ]
    return np.concatenate(rows, axis=1), np.concatenate([*pairs, np.zeros((len(actions), 1))], axis=1)


@pytest.mark.parametrize("nvec", [[4], [3, 2], [3, 1, 4, 2], [3, 100, 5]])
def test_similarities_are_inner_products_of_the_features(nvec: list[int]) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(nvec, size=(6, len(nvec))), rng.integers(nvec, size=(5, len(nvec)))
    for similar, (ours, theirs) in zip(
        _Similarity.of(np.array(nvec))(left, right),
        zip(features(left, nvec), features(right, nvec), strict=True),
        strict=True,
    ):
        scale = max((ours[:1] @ ours[:1].T).item(), 1)
        assert_allclose(similar, ours @ theirs.T / scale, atol=1e-12)


def test_the_posterior_is_that_of_the_weights() -> None:
    """Regression over explicit features, with normal priors on their weights, predicts the same."""
    nvec, rng = [3, 4, 2], np.random.default_rng(1)
    points = grid(nvec)
    known, targets = points[rng.permutation(len(points))[:9]], rng.normal(size=9)
    prior = _Prior(_Similarity.of(np.array(nvec)), pairs=0.3, noise=0.05, amplitude=2.0)
    posterior = Posterior.of(prior, known, targets, points)

    def listed(actions: np.ndarray) -> Any:
        choices, pairs = features(actions, nvec)
        return np.hstack([np.ones((len(actions), 1)), choices * np.sqrt(0.7 / 3), pairs * np.sqrt(0.3 / 3)]) * np.sqrt(
            2
        )

    design = listed(known)
    precision = design.T @ design / 0.1 + np.eye(design.shape[1])
    weights = np.linalg.solve(precision, design.T @ targets / 0.1)
    assert_allclose(posterior.mean, listed(points) @ weights, atol=1e-9)
    assert_allclose(posterior.variance, (listed(points) @ np.linalg.inv(precision) * listed(points)).sum(1), atol=1e-9)


def test_believing_a_prediction_changes_no_other_and_is_that_of_one_more_observation() -> None:
    nvec, rng = [5, 4, 3], np.random.default_rng(2)
    points = grid(nvec)
    known, targets = points[:12], rng.normal(size=12)
    prior = _Prior(_Similarity.of(np.array(nvec)), pairs=0.3, noise=0.01)
    before = Posterior.of(prior, known, targets, points)
    believed = before.believing(40).believing(7)
    more = np.concatenate([known, points[[40, 7]]])
    expected = Posterior.of(prior, more, np.append(targets, before.mean[[40, 7]]), points)
    assert_allclose(expected.mean, before.mean, atol=1e-9)
    assert_allclose(believed.variance, expected.variance, atol=1e-9)


def test_an_effect_of_a_pair_is_found() -> None:
    """The reward depends on a pair of choices, not on single ones; a sum over dimensions cannot represent it."""
    points = grid([4, 4, 4])
    rewards = (points[:, 0] + points[:, 1]) % 4 == 1
    seen = np.random.default_rng(0).permutation(64)[:40]
    chosen = told([4, 4, 4], points[seen], rewards[seen]).ask(4)
    assert ((chosen[:, 0] + chosen[:, 1]) % 4 == 1).all()


def test_what_is_pending_counts_as_known() -> None:
    """Candidates asked one by one are the same as those of one round."""
    points = grid([6, 6])[::5]
    rewards = -np.square(points - 3).sum(axis=1)
    one_by_one = told([6, 6], points, rewards)
    chosen = np.concatenate([one_by_one.ask(1) for _ in range(4)])
    assert told([6, 6], points, rewards).ask(4).tolist() == chosen.tolist()


def told(nvec: list[int], actions: np.ndarray, rewards: np.ndarray) -> BayesianLinearAgent:
    agent = BayesianLinearAgent(RegressionConfig(initial=1))
    agent.reset(nvec, budget=200, round_size=8)
    agent.tell(actions, rewards.astype(float))
    return agent


# Expected improvement -------------------------------------------------------------------------------------------------


def test_expected_improvement_is_the_mean_of_what_exceeds_the_best() -> None:
    mean, deviation = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.5, 1.0, 2.0, 0.1])
    draws = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    expected = np.maximum(mean[:, None] + deviation[:, None] * draws - 0.3, 0).mean(axis=1)
    assert_allclose(expected_improvement(mean, deviation, 0.3), expected, atol=1e-5)


def test_without_doubt_the_improvement_is_what_is_predicted() -> None:
    assert_allclose(expected_improvement(np.array([0.2, 0.9]), np.zeros(2), 0.5), [0.0, 0.4], atol=1e-8)
