"""Maskable PPO trained across tasks: it chooses dimension by dimension; only choices that lead to a new candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from kdnas_env.agents.base import Capabilities
from kdnas_env.agents.sb3.episodes import OneByOne, build_candidates, closed_points, open_choices
from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.agents.transfer.history import RecordedSearchEnv, history_width
from kdnas_env.agents.transfer.ppo import TransferPPOAgent, draw_choices
from kdnas_env.envs.task_features import Features
from kdnas_env.support.arrays import Bools, Ints
from kdnas_env.support.cpu_lock import pinned_threads


class MaskedSearchEnv(RecordedSearchEnv):
    """Search recorded tasks: a step chooses one dimension, and the last step of a candidate evaluates it.

    Choices that do not lead to a new candidate are masked. The observation is that of the search, followed by that of
    :class:`kdnas_env.agents.sb3.episodes.OneByOne`.
    """

    def __init__(self, experience: Experience, evaluations: int) -> None:
        super().__init__(experience, evaluations)
        self._episodes = OneByOne(experience.nvec)
        width = history_width(experience.nvec, experience.tasks.shape[1]) + self._episodes.width
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = self._episodes.action_space
        self._chosen = np.zeros((1, len(experience.nvec)), dtype=np.int64)
        self._step = 0

    @property
    def steps(self) -> int:
        """Steps per evaluation: as many as dimensions."""
        return len(self.experience.nvec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Begin a search of a random task."""
        self._chosen[:], self._step = 0, 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Features, float, bool, bool, dict[str, Any]]:
        """Choose one dimension, by the index of the choice; after the last one, look up the candidate."""
        self._chosen[0, self._step] = int(action)
        self._step += 1
        if self._step < self.steps:
            return self.observe(), 0.0, False, False, {}
        chosen, self._step = self._chosen[0].copy(), 0
        self._chosen[:] = 0
        return super().step(chosen)

    def observe(self) -> Features:
        """Return the observation of the search and of the choices so far, float32 ``(width,)``."""
        return np.concatenate([super().observe(), self._episodes.observe(self._chosen, self._step)[0]])

    def action_masks(self) -> Bools:
        """Return which choices lead to a new candidate, bool of shape ``(max(nvec),)``."""
        taken = self.grid.numbers(np.array(self.actions, dtype=np.int64).reshape(-1, self.steps))
        mask: Bools = open_choices(self.grid, self._chosen, self._step, closed_points(self.grid, taken))[0]
        return mask


class TransferMaskablePPOAgent(TransferPPOAgent):
    """Proposes samples of a masked policy that was trained across tasks; a search does not train it.

    The policy observes the task, the best and the last candidate. It chooses one dimension after the other, among the
    choices that lead to a new candidate. See :class:`kdnas_env.agents.transfer.ppo.TransferPPOAgent`.
    """

    algorithm = "MaskablePPO"
    capabilities = Capabilities(action_space="Discrete, one dimension per step")

    @staticmethod
    def recorded(experience: Experience, evaluations: int) -> RecordedSearchEnv:
        """Return the environment of the training: a step chooses one dimension."""
        return MaskedSearchEnv(experience, evaluations)

    @pinned_threads(1)
    def _sampled(self, n: int) -> Ints:
        import torch

        assert self._policy is not None
        network, episodes = self._policy.network, OneByOne(self._policy.nvec)
        history = self._observed(len(self.ranking.rounds))

        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            rows = np.repeat(history[None], len(actions), axis=0)
            observed = torch.from_numpy(np.concatenate([rows, episodes.observe(actions, step)], axis=1))
            with torch.no_grad():
                distribution = network.get_distribution(observed, action_masks=masks).distribution
            choices: Ints = draw_choices(distribution.probs.double().numpy(), 1, self.rng)[0]
            return choices

        return build_candidates(self.grid, n, closed_points(self.grid, self.seen), choose, at_once=n)
