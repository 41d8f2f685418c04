"""The meta-learnt controller: trained on other tasks, it makes informed proposals before any evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np

from kdnas_env.agents.ask_tell import Proposal
from kdnas_env.agents.environment import action_counts
from kdnas_env.agents.lstm.common import random_count
from kdnas_env.agents.predicting import (
    WHOLE_SPACE,
    Scale,
    candidate_pool,
    choose_one_by_one,
    replay_indices,
    with_exploring,
)
from kdnas_env.agents.transfer.base import TaskAgent
from kdnas_env.agents.transfer.examples import examples_of
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.progress import Progress
from kdnas_env.support.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from kdnas_env.agents.lstm.meta import Belief, MetaController, Unit

SHIPPED = Path(__file__).parent / "data" / "meta.safetensors"
"""The controller in the package, trained on the training tasks of ``kdnas/Tasks-v0``."""

_WEIGHTS = 1
"""Key of the random stream for the initial weights of an untrained controller."""


@dataclass(frozen=True)
class LSTMMetaConfig(Settings):
    """Hyper-parameters of the meta-learnt controller.

    Attributes:
        controller: Path of a trained controller (see ``kdnas bench train``). None for the controller in the package, if
            it was trained on spaces with the same number of choices per dimension; in other spaces, a controller with
            random weights, which learns only from the search.
        exploration: Fraction of a round that is spread over the space, in [0, 1], in case the task differs from all
            training tasks.
        adapt: Whether the controller learns from the search. If not, it is a control that uses only knowledge from
            other tasks.
        pool_size: Number of random candidates to score, in addition to neighbours of the best ones, if the space is too
            large to score completely.
        replay_size: Number of newest evaluations to learn from, plus the best.
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


class LSTMMetaAgent(TaskAgent[LSTMMetaConfig]):
    """Proposes the candidates with the highest expected improvement, predicted by an LSTM trained on other tasks.

    The LSTM reads the description of the task, if the environment has the attribute ``task_features``, as tables do,
    and then a candidate choice by choice. It was trained on simulated searches of the training tasks to predict rewards
    from few known ones (:class:`kdnas_env.agents.lstm.meta.MetaController`). So its first proposals are already good
    candidates of similar tasks. A search does not train the LSTM further. Evaluations only update the posterior of its
    linear head, in closed form, and the scale of the rewards.
    """

    Config = LSTMMetaConfig
    setting: ClassVar[str] = "controller"

    @classmethod
    def train_across(
        cls, env: gym.Env[Any, Any], names: Sequence[str], path: Path, *, steps: int, seed: int, progress: Progress
    ) -> float:
        """Train a controller on tasks, or continue an interrupted training; see ``TaskAgent.train_across``.

        Returns:
            Moving average of the loss over the last steps, in nats.
        """
        from kdnas_env.agents.lstm.meta_training import MetaTraining, train

        examples = examples_of(env, names, (seed,), progress)
        progress.begin("training the controller")
        last_loss = math.nan

        def on_step(done: int, total: int, loss: float) -> None:
            nonlocal last_loss
            last_loss = loss
            progress.advance(done, total)
            progress.note(f"loss {loss:.3f}")

        train(examples, action_counts(env), MetaTraining(steps=steps, seed=seed), path, on_step)
        return last_loss

    def _start(self) -> None:
        super()._start()
        trained = self._if_fits_space(self._stored_controller, self.config.controller)
        self._is_trained = trained is not None
        self._controller = trained or self._untrained_controller()

    @cached_property
    def _stored_controller(self) -> MetaController | None:
        """The controller in the configured file, or in the package; read once. None if the package has none.

        Raises:
            RunError: If the file does not contain a controller.
            KDNASError: If the controller reads another number of task features.
        """
        from kdnas_env.agents.lstm.meta import load_controller

        path = self.config.controller
        if path is None and not SHIPPED.exists():
            return None
        controller = load_controller(SHIPPED if path is None else path)
        if controller.task.in_features != len(FEATURES):
            raise KDNASError(
                f"controller {path!r} reads {controller.task.in_features} task features, but tasks now have "
                f"{len(FEATURES)}; train another one with kdnas bench train"
            )
        return controller

    def _untrained_controller(self) -> MetaController:
        import torch

        from kdnas_env.agents.lstm.meta import MetaController

        generator = torch.Generator().manual_seed(int(self._stream(_WEIGHTS).integers(2**63)))
        return MetaController(self.grid.nvec, len(FEATURES), generator=generator).requires_grad_(False).eval()

    @pinned_threads(1)  # more threads are slower on such small tensors
    def _propose(self, n: int) -> Proposal:
        from kdnas_env.agents.lstm.ensemble import expected_improvement

        config, seen = self.config, self.seen
        pool = candidate_pool(self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=config.pool_size)
        known = np.concatenate([self._evaluated, self.pending])
        mean, phi = self._read(pool)
        posterior, unit, best = self._posterior()
        noise = self._controller.noise.double()
        if len(self.pending):
            posterior = posterior.believing(self._read(self.pending)[1])
        expected, _ = posterior.predict(mean, phi)

        def acquisition(belief: Belief) -> Floats:
            _, deviation = belief.predict(mean, phi)
            # The noise is added, because most of what the features do not explain is a property of the candidate,
            # rather than a difference between seeds.
            deviation = unit.surprise * (deviation**2 + noise).sqrt()
            values = expected + deviation if best is None else expected_improvement(expected, deviation, best)
            return np.asarray(values.numpy(), dtype=np.float64)

        explored = random_count(config.exploration, n)
        chosen = choose_one_by_one(
            pool,
            known,
            self.grid.nvec,
            n - explored,
            posterior,
            acquisition=acquisition,
            believing=lambda belief, place: belief.believing(phi[place : place + 1]),
        )
        places = with_exploring(pool, chosen, known, self.grid.nvec, explored, self.rng)
        return Proposal.of_model(
            pool[places],
            len(chosen),
            predicted=unit.offset + unit.scale * expected.numpy()[places],
            exploration=explored / n,
        )

    def _posterior(self) -> tuple[Belief, Unit, Tensor | None]:
        """Return the posterior after the evaluations, the scale of the rewards, and the best reward in units of it."""
        import torch

        from kdnas_env.agents.lstm.meta import Belief, Unit

        noise, usual = self._controller.noise.double(), float(self._controller.usual)
        if not self.config.adapt or self.ranking.global_best is None:
            mean, phi = self._read(self._evaluated[:0])
            return Belief.of(mean, phi, mean, noise), Unit(0.0, usual), None
        positions = replay_indices(self.ranking, self.config.replay_size)
        rewards, usable = self.ranking.rewards[positions], self.ranking.usable[positions]
        scale = Scale.of(rewards, usable)
        clipped = torch.from_numpy(scale.clipped(rewards, usable))
        mean, phi = self._read(self._evaluated[positions])
        unit = Unit.of(mean, phi, clipped, noise, usual if self._is_trained else scale.deviation)
        targets = (clipped - unit.offset) / unit.scale
        return Belief.of(mean, phi, targets, noise), unit, targets.max()

    def _read(self, actions: Ints) -> tuple[Tensor, Tensor]:
        """Return prior means, float64 ``(n,)``, and features, float64 ``(n, features)``, of candidates."""
        import torch

        mean, phi = self._controller.read(torch.from_numpy(self._task), torch.tensor(actions))
        return mean.double(), phi.double()
