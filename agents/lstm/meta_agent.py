"""A meta-learnt controller: trained on other tasks, it makes informed proposals before any evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.environment import Environment, action_counts, env_attribute
from kdnas_env.agents.lstm.common import random_count
from kdnas_env.agents.predicting import Scale, candidate_pool, remembered, spread
from kdnas_env.agents.ranking import Ints
from kdnas_env.core.wide_dimensions import Spacing
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.progress import Progress
from kdnas_env.support.settings import Settings

if TYPE_CHECKING:
    from kdnas_env.agents.lstm.meta import MetaController

WHOLE_SPACE = 10_000
"""Spaces up to this many points are scored whole; of larger ones a pool is scored."""

SHIPPED = Path(__file__).parent / "data" / "meta.safetensors"
"""The controller of the package, trained on the training tasks of ``kdnas/Tasks-v0``."""


@dataclass(frozen=True)
class LSTMMetaConfig(Settings):
    """Hyper-parameters of the controller that learnt on other tasks.

    Attributes:
        controller: File of a controller (``kdnas bench train``). None: that of the package, where the space has its
            numbers of choices; in other spaces one with random weights, which learns from the search alone.
        exploration: Share of a round that is spread over the space, in case that a task is unlike all others.
        adapt: Whether it learns from the search; a control proposes what the other tasks say, and nothing else.
        pool_size: Random candidates that are scored, beside the neighbours of the best, where the space is too large to
            be scored whole.
        replay_size: Youngest evaluations that it learns from, and the best.
    """

    controller: str | None = None
    exploration: float = 0.125
    adapt: bool = True
    pool_size: int = 2_000
    replay_size: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("pool_size", "replay_size", at_least=1)
        self.check_numbers("exploration", at_least=0, at_most=1)


class LSTMMetaAgent(AskTellAgent[LSTMMetaConfig]):
    """Proposes the candidates of the highest expected improvement, by an LSTM that was trained on other tasks.

    The LSTM reads the description of the task, if the environment has one (``task_features``, as tables have), and a
    candidate choice by choice. It was trained on many searches of the training tasks to predict rewards from few known
    ones (:class:`kdnas_env.agents.lstm.meta.MetaController`). A search does not train it further: evaluations update
    the posterior of its linear head in closed form, and the scale of the rewards is fitted to them. Its first proposals
    are therefore already good candidates of similar tasks.
    """

    Config = LSTMMetaConfig

    @classmethod
    def train_across(
        cls, env: gym.Env[Any, Any], names: Sequence[str], path: Path, *, steps: int, seed: int, progress: Progress
    ) -> float:
        """Train a controller on tasks, or go on with a training that was stopped.

        Args:
            env: ``kdnas/Tasks-v0``, with room for all candidates of its space.
            names: The tasks.
            path: File of the controller.
            steps: Steps of training.
            seed: Draws weights, tasks and evaluations.
            progress: Receives what is done.

        Returns:
            Mean loss of the last steps.

        Raises:
            KDNASError: If a task has no student that keeps its limits.
        """
        from kdnas_env.agents.lstm.meta_training import MetaTraining, lessons_of, train

        progress.begin("evaluating the training tasks")
        lessons = []
        for done, name in enumerate(names):
            progress.advance(done, len(names))
            lessons += lessons_of(env, [name], (seed,))
        progress.begin("training the controller")
        last = [math.nan]

        def on_step(done: int, total: int, loss: float) -> None:
            last[0] = loss
            progress.advance(done, total)
            progress.note(f"loss {loss:.3f}")

        train(lessons, action_counts(env), MetaTraining(steps=steps, seed=seed), path, on_step)
        return last[0]

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment; its description of the task is read."""
        super().start(env, budget=budget, round_size=round_size, seed=seed)
        described = env_attribute(env, "task_features")
        if described is not None:
            self._task = np.asarray(described, dtype=np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the description of the task included."""
        return {**super().state_dict(), "task": self._task}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self._task = np.asarray(state["task"], dtype=np.float32)

    def _start(self) -> None:
        self._task = np.zeros(len(FEATURES), dtype=np.float32)
        loaded = self._loaded()
        self._trained = loaded is not None
        self._controller = loaded or self._untrained()

    def _loaded(self) -> MetaController | None:
        """Return the controller that was trained for spaces like this; None if there is none."""
        from kdnas_env.agents.lstm.meta import load_controller

        nvec, named = tuple(self.grid.nvec.tolist()), self.config.controller
        if named is not None or SHIPPED.exists():
            controller = load_controller(SHIPPED if named is None else named)
            if controller.nvec == nvec:
                return controller
            if named is not None:
                raise KDNASError(
                    f"controller {named!r} was trained on spaces of {list(controller.nvec)} choices, and this one has "
                    f"{list(nvec)}; train another, by kdnas bench train"
                )
        return None

    def _untrained(self) -> MetaController:
        import torch

        from kdnas_env.agents.lstm.meta import MetaController

        generator = torch.Generator().manual_seed(int(self._stream(1).integers(2**63)))
        return MetaController(self.grid.nvec, len(FEATURES), generator=generator).requires_grad_(False).eval()

    @pinned_threads(1)  # over tensors this small more would only wait for each other
    def _propose(self, n: int) -> Proposal:
        import torch

        from kdnas_env.agents.lstm.ensemble import expected_improvement
        from kdnas_env.agents.lstm.meta import Belief, Unit

        config, seen = self.config, self.seen
        pool = candidate_pool(self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=config.pool_size)
        mean, phi = self._read(pool)
        unit, noise, best = Unit(0.0, float(self._controller.usual)), self._controller.noise.double(), None
        known = np.concatenate([self._evaluated, self.pending])
        belief = Belief.of(mean[:0], phi[:0], mean[:0], noise)
        if config.adapt and self.ranking.global_best is not None:
            positions = remembered(self.ranking, config.replay_size)
            rewards, usable = self.ranking.rewards[positions], self.ranking.usable[positions]
            scale = Scale.of(rewards, usable)
            earned = torch.from_numpy(scale.clipped(rewards, usable))
            known_mean, known_phi = self._read(self._evaluated[positions])
            usual = unit.scale if self._trained else scale.deviation
            unit = Unit.of(known_mean, known_phi, earned, noise, usual)
            targets = (earned - unit.offset) / unit.scale
            belief, best = Belief.of(known_mean, known_phi, targets, noise), targets.max()
        if len(self.pending):
            belief = belief.believing(self._read(self.pending)[1])
        spacing, free, places = Spacing(pool, known, self.grid.nvec), np.ones(len(pool), dtype=np.bool_), list[int]()
        expected, _ = belief.predict(mean, phi)
        explored = random_count(config.exploration, n)
        for _ in range(min(n - explored, len(pool))):
            _, deviation = belief.predict(mean, phi)
            # Of what the features do not say most is peculiar to the candidate, and not noise between seeds.
            deviation = unit.surprise * (deviation**2 + noise).sqrt()
            score = expected + deviation if best is None else expected_improvement(expected, deviation, best)
            place = int(torch.where(torch.from_numpy(spacing.keeping(free)), score, -torch.inf).argmax())
            free[place] = False
            spacing.take(place)
            places.append(place)
            belief = belief.believing(phi[place : place + 1])
        chosen = len(places)
        left = np.setdiff1d(np.arange(len(pool)), places)
        known = np.concatenate([known, pool[places]])
        places += left[spread(pool[left], known, self.grid.nvec, explored, self.rng)].tolist()
        return Proposal(
            actions=pool[places],
            random=np.arange(len(places)) >= chosen,
            predicted=unit.offset + unit.scale * expected.numpy()[places],
            exploration=explored / n,
        )

    def _read(self, actions: Ints) -> Any:
        """Return prior means, float64 ``(n,)``, and features, float64 ``(n, features)``, of candidates."""
        import torch

        mean, phi = self._controller.read(torch.from_numpy(self._task), torch.from_numpy(actions))
        return mean.double(), phi.double()
