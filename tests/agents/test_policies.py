"""Shared behaviour of agents whose policy makes the proposals: REINFORCE and those of Stable-Baselines3."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdnas_env.agents.ask_tell import AskTellAgent
from kdnas_env.agents.lstm.reinforce import ReinforceAgent
from kdnas_env.agents.sb3.agent import (
    A2CAgent,
    DQNAgent,
    MaskablePPOAgent,
    PPOAgent,
    QRDQNAgent,
    RecurrentPPOAgent,
    TRPOAgent,
)
from kdnas_env.testing.bowl import BowlEnv

ON_POLICY: tuple[type[AskTellAgent[Any]], ...] = (
    ReinforceAgent,
    PPOAgent,
    A2CAgent,
    TRPOAgent,
    MaskablePPOAgent,
    RecurrentPPOAgent,
)
every = pytest.mark.parametrize("cls", [*ON_POLICY, DQNAgent, QRDQNAgent], ids=lambda cls: cls.__name__)


def make(cls: Any, **options: Any) -> Any:
    return cls(cls.Config(**options))


def weights(agent: Any) -> list[Tensor]:
    policy = agent._policy if isinstance(agent, ReinforceAgent) else agent.model.policy
    return [*policy.parameters()]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(left, right) for left, right in zip(weights(one), weights(other), strict=True))


@every
def test_failures_are_learned_to_be_avoided(cls: Any) -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return (np.nan, {"status": "out_of_memory"}) if action[0] >= 4 else (float(action[1]), {"status": "ok"})

    result = cls().search(BowlEnv([8, 8, 8, 8], answer), budget=120)
    failed = result.actions[:, 0] >= 4
    assert failed[:24].mean() > 0.25
    assert failed[-40:].mean() < 0.2


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (ReinforceAgent, {"learning_rate": 0.1, "entropy_weight": 0.0, "tries": 2}),
        *((cls, {"tries": 1}) for cls in (PPOAgent, A2CAgent, TRPOAgent)),
    ],
)
def test_what_is_sampled_again_and_again_gives_way_to_random_points(cls: Any, options: dict[str, Any]) -> None:
    result = make(cls, **options).search(BowlEnv([6, 6]), budget=36)
    shares = [record.random.mean() for record in result.rounds]
    assert shares[0] < 0.5
    assert shares[-1] > 0.5
    assert len(np.unique(result.actions, axis=0)) == 36


@pytest.mark.parametrize("cls", ON_POLICY, ids=lambda cls: cls.__name__)
def test_random_points_teach_a_policy_nothing(cls: Any) -> None:
    agent, other, env = cls(), cls(), BowlEnv([6, 6])
    for one in (agent, other):
        one.reset([6, 6], budget=36, round_size=12)
    actions = agent.ask(12)
    agent.tell(actions, [env.reward(action) for action in actions])
    assert not same(agent, other)
    agent.load_state_dict({**agent.state_dict(), "random": np.ones(12, dtype=np.bool_)})
    assert same(agent, other)


@every
def test_loading_learns_the_same_again(cls: Any) -> None:
    agent, loaded, env = cls(), cls(), BowlEnv([7, 7])
    agent.reset([7, 7], budget=49, round_size=8, seed=3)
    for _ in range(2):
        batches = [agent.ask(5), agent.ask(3)]
        for actions in batches[::-1]:
            agent.tell(actions, [env.reward(action) for action in actions])
    loaded.load_state_dict(agent.state_dict())
    assert same(agent, loaded)
    pickled = pickle.loads(pickle.dumps(agent))
    expected = agent.ask(8).tolist()
    assert loaded.ask(8).tolist() == expected
    assert pickled.ask(8).tolist() == expected
