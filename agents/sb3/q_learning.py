"""Off-policy Q-learning from a replay of the newest evaluations: DQN, QR-DQN."""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib import QRDQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer
from torch import Tensor

from kdnas_env.agents.ranking import Ranking
from kdnas_env.agents.sb3.episodes import OneByOne, build_candidates, ranked
from kdnas_env.agents.sb3.learners import Learner, undone_if_diverged
from kdnas_env.core.grid import Seen
from kdnas_env.support.arrays import Bools, Floats, Ints


class QLearner(Learner):
    """Chooses dimensions one by one: the open choice with the highest Q-value, or a random one (epsilon-greedy).

    It learns from a replay of the newest evaluations. Returns reach to the last step of a candidate, so Q-values are
    fitted to actual rewards, without bootstrapping.

    Args:
        arguments: Positional arguments of :class:`Learner`.
        gradient_steps: Training steps per ``update_every`` evaluations.
        replay_size: Number of newest evaluations to learn from.
        named: Keyword arguments of :class:`Learner`.
    """

    episodes_class = OneByOne

    def __init__(self, *arguments: Any, gradient_steps: int = 1, replay_size: int = 2_000, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._gradient_steps = gradient_steps
        self._replay_size = replay_size

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        exploration = self.model.exploration_schedule(1.0 - progress)

        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            values = self._values(self._observed(actions, step)).cpu().numpy()
            scores = np.where(rng.random((len(actions), 1)) < exploration, rng.random(values.shape), values)
            choices: Ints = np.where(masks, scores, -np.inf).argmax(axis=1)
            return choices

        return build_candidates(self._grid, n, self._closed_by(taken), choose, at_once=1)

    def _sizes(self, algorithm: type[BaseAlgorithm]) -> dict[str, int]:
        return {"buffer_size": 1}

    def _values(self, observations: Tensor) -> Tensor:
        """Return the Q-value of each choice, float32 of shape ``(n, max(nvec))``."""
        if isinstance(self.model, QRDQN):
            quantiles: Tensor = self.model.quantile_net(observations)
            return quantiles.mean(dim=1)
        values: Tensor = self.model.q_net(observations)
        return values

    def _train(self, ranking: Ranking) -> bool:
        actions, rewards, usable = (
            ranking.column(name)[-self._replay_size :] for name in ("actions", "rewards", "usable")
        )
        self.model.replay_buffer = self._replay(actions, ranked(rewards, usable))
        updates = (ranking.evaluations - self._used) // self._update_every
        with undone_if_diverged(self.model):
            self.model.train(gradient_steps=updates * self._gradient_steps, batch_size=self.model.batch_size)
        return True

    def _replay(self, actions: Ints, rewards: Floats) -> NStepReplayBuffer:
        """Return a new buffer with the episodes of all evaluations in parallel.

        A new buffer is needed for each update, because the ranks change with every round.
        """
        model, n, steps = self.model, len(actions), self._episodes.steps
        buffer = NStepReplayBuffer(
            steps * n,
            model.observation_space,
            model.action_space,
            device=self._device,
            n_envs=n,
            handle_timeout_termination=False,
            n_steps=steps,
            gamma=model.gamma,
        )
        for step in range(steps):
            observed, last = self._episodes.observe(actions, step), step == steps - 1
            after = observed if last else self._episodes.observe(actions, step + 1)
            earned = rewards if last else np.zeros(n)
            buffer.add(observed, after, self._episodes.chosen(actions, step), earned, np.full(n, last), [{}] * n)
        return buffer
