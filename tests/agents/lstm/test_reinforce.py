from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from large_space import chance_of_luck
from scipy.stats import chisquare

from kdnas_env.agents.lstm import reinforce as reinforce_module
from kdnas_env.agents.lstm.policy import Policy, reinforce
from kdnas_env.agents.lstm.reinforce import ReinforceAgent, ReinforceConfig, moving_average
from kdnas_env.errors import KDNASError
from kdnas_env.testing.bowl import BowlEnv

NVEC = np.array([3, 1, 4])
POINTS = np.stack(np.unravel_index(np.arange(12), (3, 1, 4)), axis=-1)


def policy(seed: int = 0) -> Policy:
    return Policy(NVEC, embedding_size=6, hidden_size=12, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def probabilities(model: Policy) -> np.ndarray:
    chances: np.ndarray = model(torch.from_numpy(POINTS))[0].exp().numpy().astype(np.float64)
    return chances


def trained(weights: np.ndarray, entropy_weight: float, steps: int = 200) -> Policy:
    """Return a policy trained on all points at once, each with its weight as advantage."""
    model = policy()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        # Weights are multiplied by the probabilities of the points, so that the gradient estimate is exact.
        advantages = weights * probabilities(model) * len(POINTS)
        reinforce(model, optimizer, POINTS, advantages, entropy_weight=entropy_weight)
    return model


# The policy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_samples_are_as_frequent_as_they_are_likely(train: bool) -> None:
    model = trained(np.linspace(-1, 1, 12), 0.5, steps=20) if train else policy()
    expected = probabilities(model)
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)
    assert expected.std() > 0.002
    drawn = model.sample(np.random.default_rng(0).random((5000, 3)))
    counts = np.bincount(np.ravel_multi_index(tuple(drawn.T), (3, 1, 4)), minlength=12)
    assert chisquare(counts, 5000 * expected / expected.sum()).pvalue > 1e-3


def test_the_entropies_add_up_to_that_of_the_policy() -> None:
    model = trained(np.linspace(-1, 1, 12), 0.5, steps=20)
    likely = probabilities(model)
    with torch.no_grad():
        along_the_way = model(torch.from_numpy(POINTS))[1].numpy()
    assert (likely * along_the_way).sum() == pytest.approx(-(likely * np.log(likely)).sum(), rel=1e-4)


def test_the_policy_learns_what_earns_most() -> None:
    weights = np.zeros(12)
    weights[7] = 1.0
    before, after = probabilities(policy()), probabilities(trained(weights - weights.mean(), 0.0))
    assert before[7] < 0.2
    assert after[7] > 0.95


def test_entropy_keeps_the_policy_open() -> None:
    weights = np.eye(12)[7] - 1 / 12
    spread = [-(p * np.log(p)).sum() for p in (probabilities(trained(weights, bonus)) for bonus in (0.02, 2.0))]
    assert spread[0] < 0.5 * np.log(12)
    assert spread[1] > 0.9 * np.log(12)


def test_weights_follow_from_the_generator() -> None:
    torch.manual_seed(1)
    one = probabilities(policy(3))
    torch.manual_seed(2)
    assert (probabilities(policy(3)) == one).all()
    assert (probabilities(policy(4)) != one).any()


# The agent ------------------------------------------------------------------------------------------------------


def test_it_learns() -> None:
    assert chance_of_luck(ReinforceAgent()) < 0.01


def test_it_needs_its_training() -> None:
    assert chance_of_luck(ReinforceAgent(ReinforceConfig(learning_rate=1e-9))) > 0.1


def test_the_scale_of_the_reward_does_not_matter() -> None:
    def search(scale: float) -> list[list[int]]:
        env = BowlEnv([8] * 4)
        env.answer = lambda step, action: (scale * env.reward(np.array(action)), {})
        proposed: list[list[int]] = ReinforceAgent().search(env, budget=64).actions.tolist()
        return proposed

    assert search(1.0) == search(2.0**20)


def test_what_reward_is_usual_is_told_by_the_youngest(monkeypatch: pytest.MonkeyPatch) -> None:
    def search() -> list[list[int]]:
        agent = ReinforceAgent(ReinforceConfig(hidden_size=8))
        actions: list[list[int]] = agent.search(BowlEnv([6, 6, 6]), budget=48, round_size=8).actions.tolist()
        return actions

    everything = search()
    monkeypatch.setattr(reinforce_module, "_BASELINE_SIZE", 48)
    assert search() == everything
    monkeypatch.setattr(reinforce_module, "_BASELINE_SIZE", 2)  # fewer than the evaluations of a round
    assert search() != everything


@pytest.mark.parametrize(
    ("values", "decay", "expected"),
    [([5.0], 0.9, 5.0), ([1.0, 2.0, 4.0], 0.0, 4.0), ([1.0, 2.0], 0.5, 5 / 3), ([3.0] * 2000, 0.9, 3.0)],
)
def test_the_moving_average_has_no_bias(values: list[float], decay: float, expected: float) -> None:
    assert moving_average(np.array(values), decay) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_size": 0}, "embedding_size is 0; expected a whole number, at least 1"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"tries": 0}, "tries is 0; expected a whole number, at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0.0; expected a number above 0"),
        ({"entropy_weight": -0.1}, "entropy_weight is -0.1; expected a number at least 0"),
        ({"entropy_weight": float("nan")}, "entropy_weight is nan"),
        ({"baseline_decay": 1.0}, r"baseline_decay is 1.0; expected a number at least 0 and below 1"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        ReinforceConfig(**options)
