"""On-policy learners, which learn from their policy's proposals since the last update: A2C, PPO, TRPO and variants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking
from kdnas_env.agents.sb3.episodes import (
    Episodes,
    OneByOne,
    OneShot,
    Remembered,
    close,
    closed_points,
    open_choices,
    put_together,
    ranked,
)
from kdnas_env.agents.sb3.learners import Learner, unbroken
from kdnas_env.core.grid import Seen

_RANKED = 10_000
"""Youngest evaluations among which rewards are ranked, so that an update takes no longer the more there were."""


class OnPolicyLearner(Learner):
    """Learns from its policy's proposals since the last update; an epoch is one step over all of them.

    Args:
        arguments: As of :class:`Learner`.
        tries: Candidates that are sampled for each that is wanted, since those taken are left out.
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
        if proposed.sum() < 2:  # one alone is neither better nor worse than the others
            return False
        begin = max(0, min(since, ranking.evaluations - _RANKED))
        rewards = ranked(ranking.rewards[begin:], ranking.usable[begin:])[since - begin :][proposed]
        if np.ptp(rewards) > 0:
            actions = ranking.column("actions")
            self.model.rollout_buffer = self._rollouts(actions[since:][proposed], rewards, actions[:since])
            self.model.batch_size = len(rewards) * self._episodes.steps
            with unbroken(self.model):
                self.model.train()
        return True

    def _rollouts(self, actions: Ints, rewards: Floats, earlier: Ints) -> RolloutBuffer:
        """Return a buffer with the episodes of all candidates, side by side."""
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
            for step, (values, logs, extra) in enumerate(self._judged(actions, earlier)):
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
        """Return what else a buffer of ``n`` episodes is made with."""
        return {}

    def _judged(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Yield for each step the values, the logarithms of the probabilities, and what else the buffer keeps.

        Args:
            actions: What was proposed since the last update.
            earlier: What was evaluated until then.
        """
        for step in range(self._episodes.steps):
            values, logs, _ = self.model.policy.evaluate_actions(
                self._observed(actions, step), self._chosen(actions, step)
            )
            yield values, logs, {}


class MaskableLearner(OnPolicyLearner):
    """Chooses one dimension after the other, by a policy that is masked to the choices which lead to an open point."""

    episodes_class = OneByOne

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._closed_earlier: list[int] = []
        self._earlier = 0  # how many evaluations these follow from

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            sampled, *_ = self.model.policy(self._observed(actions, step), action_masks=masks)
            choices: Ints = sampled.cpu().numpy()
            return choices

        return put_together(self._grid, n, self._closed_by(taken), choose, at_once=n)

    def _judged(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        close(self._closed_earlier, closed_points(self._grid, self._grid.numbers(earlier[self._earlier :])))
        self._earlier = len(earlier)
        for step in range(self._episodes.steps):
            masks = open_choices(self._grid, actions, step, self._closed_earlier)
            # What was proposed is possible, even if it was evaluated a second time.
            masks[np.arange(len(actions)), actions[:, step]] = True
            values, logs, _ = self.model.policy.evaluate_actions(
                self._observed(actions, step), self._chosen(actions, step), action_masks=masks
            )
            yield values, logs, {"action_masks": masks}


class RecurrentLearner(OnPolicyLearner):
    """Chooses one dimension after the other, by an LSTM that sees the last choice and remembers those before.

    Its policy knows no masks: a choice that does not lead to an open point is sampled anew.
    """

    episodes_class = Remembered
    policy_name = "MlpLstmPolicy"

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        policy = self.model.policy
        state: tuple[Tensor, Tensor]

        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            nonlocal state
            if step == 0:
                state = self._blank(len(actions))
            going_on = torch.zeros(len(actions), device=self._device)
            distribution, state = policy.get_distribution(self._observed(actions, step), state, going_on)
            is_open = torch.as_tensor(masks, device=self._device)
            likelihood = distribution.distribution.logits.masked_fill(~is_open, -torch.inf).softmax(dim=1)
            choices: Ints = torch.multinomial(likelihood, 1)[:, 0].cpu().numpy()
            return choices

        return put_together(self._grid, n, self._closed_by(taken), choose, at_once=n)

    def _buffer_arguments(self, n: int) -> dict[str, Any]:
        layers, _, size = self.model.policy.lstm_hidden_state_shape
        return {"hidden_state_shape": (self._episodes.steps, layers, n, size)}

    def _judged(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        n = len(actions)
        states = RNNStates(self._blank(n), self._blank(n))
        for step in range(self._episodes.steps):
            seen = self._observed(actions, step)
            begins = torch.full((n,), float(step == 0), device=self._device)
            values, logs, _ = self.model.policy.evaluate_actions(seen, self._chosen(actions, step), states, begins)
            yield values, logs, {"lstm_states": states}
            *_, states = self.model.policy(seen, states, begins)

    def _blank(self, n: int) -> tuple[Tensor, Tensor]:
        layers, _, size = self.model.policy.lstm_hidden_state_shape
        blank = torch.zeros(layers, n, size, device=self._device)
        return blank, blank
