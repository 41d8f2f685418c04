"""Undocumented names of Stable-Baselines3 and sb3-contrib; each test says what would break without the name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from sb3_contrib import QRDQN, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common import logger
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer

from kdnas_env.agents.sb3.episodes import LastChoice, OneByOne, OneShot, SpacesEnv
from kdnas_env.core.grid import Grid

EPISODES = {MaskablePPO: OneByOne, RecurrentPPO: LastChoice, DQN: OneByOne, QRDQN: OneByOne}
SMALL: dict[Any, dict[str, Any]] = {
    **{kind: {"n_steps": 2, "batch_size": 2} for kind in (PPO, TRPO, MaskablePPO, RecurrentPPO)},
    A2C: {"n_steps": 2},
    **{kind: {"buffer_size": 1} for kind in (DQN, QRDQN)},
}


def made(kind: Any) -> Any:
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    return kind(policy, SpacesEnv(EPISODES.get(kind, OneShot)(Grid.of([3, 2]).nvec)), device="cpu", **SMALL[kind])


@pytest.mark.parametrize("kind", [A2C, PPO, TRPO, MaskablePPO, RecurrentPPO])
def test_rollout_buffer(kind: Any) -> None:
    """An on-policy algorithm would train on an empty buffer instead of on its proposals."""
    model = made(kind)
    assert isinstance(model.rollout_buffer, RolloutBuffer)
    assert "rollout_buffer" in inspect.getsource(kind.train)
    assert hasattr(model, "gae_lambda")


@pytest.mark.parametrize("kind", [PPO, TRPO, MaskablePPO, RecurrentPPO])
def test_batch_size(kind: Any) -> None:
    """An epoch would no longer be one gradient step on all proposals."""
    assert made(kind).batch_size == 2
    assert "self.batch_size" in inspect.getsource(kind.train)


@pytest.mark.parametrize("kind", [DQN, QRDQN])
def test_replay_buffer_and_exploration(kind: Any) -> None:
    """Q-learning would train on an empty buffer, and would not explore less as the budget is spent."""
    model = made(kind)
    assert "self.replay_buffer" in inspect.getsource(kind.train)
    assert model.exploration_schedule(1.0) > model.exploration_schedule(0.0)


@pytest.mark.parametrize(("kind", "net"), [(DQN, "q_net"), (QRDQN, "quantile_net")])
def test_networks_of_values(kind: Any, net: str) -> None:
    """Choices could not be compared by their expected rewards."""
    assert callable(getattr(made(kind), net))


def test_returns_over_several_steps() -> None:
    """Values would be learnt from other values instead of from the rewards of candidates."""
    assert {"n_steps", "gamma"} <= inspect.signature(NStepReplayBuffer).parameters.keys()


def test_masks_of_the_policy() -> None:
    """Masked PPO would propose points that are known or not allowed."""
    policy = made(MaskablePPO).policy
    assert "action_masks" in inspect.signature(policy.forward).parameters
    assert "action_masks" in inspect.signature(policy.evaluate_actions).parameters


def test_states_of_the_recurrent_policy() -> None:
    """Recurrent PPO could not choose step by step, nor train on these choices."""
    policy = made(RecurrentPPO).policy
    assert len(policy.lstm_hidden_state_shape) == 3
    assert [*inspect.signature(policy.get_distribution).parameters] == ["obs", "lstm_states", "episode_starts"]


def test_new_episodes_of_a_training() -> None:
    """Training searches would continue from one update to the next instead of restarting."""
    assert "self._last_obs is None" in inspect.getsource(BaseAlgorithm._setup_learn)


def test_writer_of_tensorboard() -> None:
    """Without TensorBoard a search would fail at its end instead of at its start."""
    assert hasattr(logger, "SummaryWriter")
