"""The learners of the algorithms.

- On-policy learners train on the policy's proposals since the last update: A2C, PPO, TRPO and variants.
- Q-learning is off-policy; it trains on a replay of the newest evaluations: DQN, QR-DQN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from sb3_contrib import QRDQN
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from torch import Tensor

from kdnas_env.agents.ranking import Ranking
from kdnas_env.agents.sb3.episodes import (
    Episodes,
    LastChoice,
    OneByOne,
    OneShot,
    build_candidates,
    close,
    closed_points,
    open_choices,
    ranked,
)
from kdnas_env.agents.sb3.learners import Learner, undone_if_diverged
from kdnas_env.core.grid import Seen
from kdnas_env.support.arrays import Bools, Floats, Ints

_RANKED = 10_000
"""Maximum number of newest evaluations among which rewards are ranked; limits the time of an update."""


class OnPolicyLearner(Learner):
    """Trains on the policy's proposals since the last update, with one batch of all of them per epoch.

    Args:
        arguments: Positional arguments of :class:`Learner`.
        tries: Number of samples per requested candidate, because taken candidates are rejected.
        named: Keyword arguments of :class:`Learner`.
    """

    episodes_class: ClassVar[type[Episodes]] = OneShot

    def __init__(self, *arguments: Any, tries: int = 1, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._tries = tries

    def _sizes(self, algorithm: type[BaseAlgorithm]) -> dict[str, int]:
        return {"n_steps": 2} if issubclass(algorithm, A2C) else {"n_steps": 2, "batch_size": 2}

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        blank = np.zeros((n * self._tries, len(self._grid.nvec)), dtype=np.int64)
        sampled, *_ = self.model.policy(self._observed(blank, 0))
        return self._grid.fresh(sampled.cpu().numpy(), taken)[:n]

    def _train(self, ranking: Ranking) -> bool:
        since = self._used
        proposed = ~ranking.column("random")[since:]
        if proposed.sum() < 2:  # the rank of a single candidate carries no information
            return False
        begin = max(0, min(since, ranking.evaluations - _RANKED))
        rewards = ranked(ranking.rewards[begin:], ranking.usable[begin:])[since - begin :][proposed]
        if np.ptp(rewards) > 0:
            actions = ranking.column("actions")
            self.model.rollout_buffer = self._rollouts(actions[since:][proposed], rewards, actions[:since])
            self.model.batch_size = len(rewards) * self._episodes.steps
            with undone_if_diverged(self.model):
                self.model.train()
        return True

    def _rollouts(self, actions: Ints, rewards: Floats, earlier: Ints) -> RolloutBuffer:
        """Return a buffer with the episodes of all candidates in parallel."""
        model, n, steps = self.model, len(actions), self._episodes.steps
        buffer: RolloutBuffer = type(model.rollout_buffer)(
            steps,
            model.observation_space,
            model.action_space,
            device=self._device,
            gae_lambda=model.gae_lambda,
            gamma=model.gamma,
            n_envs=n,
            **self._buffer_arguments(n),
        )
        model.policy.set_training_mode(False)
        with torch.no_grad():
            for step, (values, logs, extra) in enumerate(self._evaluated_steps(actions, earlier)):
                buffer.add(
                    self._episodes.observe(actions, step),
                    self._episodes.chosen(actions, step),
                    rewards if step == steps - 1 else np.zeros(n),
                    np.full(n, step == 0),
                    values,
                    logs,
                    **extra,
                )
        buffer.compute_returns_and_advantage(last_values=torch.zeros(n), dones=np.ones(n))
        return buffer

    def _buffer_arguments(self, n: int) -> dict[str, Any]:
        """Return further arguments of a buffer of ``n`` episodes."""
        return {}

    def _evaluated_steps(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Evaluate the policy on the steps of candidates.

        Args:
            actions: Proposals since the last update, int64 of shape ``(n, dims)``.
            earlier: Candidates evaluated before them, int64 of shape ``(earlier, dims)``.

        Yields:
            For each step the values and log-probabilities, float32 of shape ``(n,)`` or ``(n, 1)``, and further entries
            of the buffer.
        """
        for step in range(self._episodes.steps):
            values, logs, _ = self.model.policy.evaluate_actions(
                self._observed(actions, step), self._chosen(actions, step)
            )
            yield values, logs, {}


class MaskableLearner(OnPolicyLearner):
    """Chooses dimensions one by one, with a policy masked to the choices that lead to an open point."""

    episodes_class = OneByOne

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._closed_earlier: list[int] = []
        self._earlier = 0  # number of evaluations that are in the closed points

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            sampled, *_ = self.model.policy(self._observed(actions, step), action_masks=masks)
            choices: Ints = sampled.cpu().numpy()
            return choices

        return build_candidates(self._grid, n, self._closed_by(taken), choose, at_once=n)

    def _evaluated_steps(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        close(self._closed_earlier, closed_points(self._grid, self._grid.numbers(earlier[self._earlier :])))
        self._earlier = len(earlier)
        for step in range(self._episodes.steps):
            masks = open_choices(self._grid, actions, step, self._closed_earlier)
            # A proposed choice was possible, even if its point was already evaluated.
            masks[np.arange(len(actions)), actions[:, step]] = True
            values, logs, _ = self.model.policy.evaluate_actions(
                self._observed(actions, step), self._chosen(actions, step), action_masks=masks
            )
            yield values, logs, {"action_masks": masks}


class RecurrentLearner(OnPolicyLearner):
    """Chooses dimensions one by one, with an LSTM policy that sees only the last choice and remembers earlier ones.

    The policy does not support masks, so its probabilities are masked here to the choices that lead to an open point.
    """

    episodes_class = LastChoice
    policy_name = "MlpLstmPolicy"

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        policy = self.model.policy
        state: tuple[Tensor, Tensor]

        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            nonlocal state
            if step == 0:
                state = self._initial_state(len(actions))
            episode_starts = torch.zeros(len(actions), device=self._device)
            distribution, state = policy.get_distribution(self._observed(actions, step), state, episode_starts)
            is_open = torch.as_tensor(masks, device=self._device)
            probabilities = distribution.distribution.logits.masked_fill(~is_open, -torch.inf).softmax(dim=1)
            choices: Ints = torch.multinomial(probabilities, 1)[:, 0].cpu().numpy()
            return choices

        return build_candidates(self._grid, n, self._closed_by(taken), choose, at_once=n)

    def _buffer_arguments(self, n: int) -> dict[str, Any]:
        layers, _, size = self.model.policy.lstm_hidden_state_shape
        return {"hidden_state_shape": (self._episodes.steps, layers, n, size)}

    def _evaluated_steps(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        n = len(actions)
        states = RNNStates(self._initial_state(n), self._initial_state(n))
        for step in range(self._episodes.steps):
            observed = self._observed(actions, step)
            episode_starts = torch.full((n,), float(step == 0), device=self._device)
            values, logs, _ = self.model.policy.evaluate_actions(
                observed, self._chosen(actions, step), states, episode_starts
            )
            yield values, logs, {"lstm_states": states}
            *_, states = self.model.policy(observed, states, episode_starts)

    def _initial_state(self, n: int) -> tuple[Tensor, Tensor]:
        layers, _, size = self.model.policy.lstm_hidden_state_shape
        zeros = torch.zeros(layers, n, size, device=self._device)
        return zeros, zeros


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
