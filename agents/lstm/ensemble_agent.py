"""A controller with uncertainty estimates: an ensemble of LSTMs with Bayesian heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.lstm.common import Features, PredictorConfig, random_count, until_last_retraining
from kdnas_env.agents.predicting import (
    WHOLE_SPACE,
    Scale,
    candidate_pool,
    choose_one_by_one,
    replay_indices,
    with_exploring,
)
from kdnas_env.agents.ranking import Ranking
from kdnas_env.support.arrays import Bools, Floats, Ints
from kdnas_env.support.cpu_lock import pinned_threads

if TYPE_CHECKING:
    from torch import Tensor

    from kdnas_env.agents.lstm.ensemble import Ensemble

_TRAINING = 1
"""Key of the random streams for training."""


@dataclass(frozen=True)
class LSTMEnsembleConfig(PredictorConfig):
    """Hyper-parameters of the ensemble of LSTMs, in addition to those of all reward predictors.

    Attributes:
        design: Number of initial candidates, which are spread over the space; at least the first round.
        members: Number of LSTMs.
        features: Features that the heads see: the LSTM's hidden state (``deep``), the positions of the choices and
            their squares (``wide``, a control without an LSTM), or ``both``.
        steps: Training steps before each round; 0 leaves the LSTMs untrained, as a control.
    """

    embedding_size: int = 8
    hidden_size: int = 16
    learning_rate: float = 0.02
    epsilon_start: float = 0.2
    epsilon_min: float = 0.0
    weight_decay: float = 0.02
    pool_size: int = 2_000
    design: int = 10
    members: int = 5
    features: Features = "both"
    steps: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("design", "steps", at_least=0)
        self.check_numbers("members", at_least=1)


class LSTMEnsembleAgent(AskTellAgent[LSTMEnsembleConfig]):
    """Proposes the candidates with the highest expected improvement, and a decreasing share of exploring ones.

    In KD-NAS (Trivedi et al. 2023, arXiv:2303.09639), one LSTM predicts rewards and the highest predictions are chosen.
    Here small LSTMs, which read a candidate choice by choice, feed Bayesian linear heads (Snoek et al. 2015,
    arXiv:1502.05700). The uncertainty combines that of the heads and the disagreement of the members
    (Lakshminarayanan et al. 2017, arXiv:1612.01474). A search begins with candidates spread over the space; later
    exploring candidates extend this design. Before each round the ensemble is trained from scratch on all evaluations
    (in a long search, the newest). It scores all unevaluated points (in a large space, a pool of random points and
    neighbours of the best ones) by the mean of the members' expected improvements. The candidates of a round are chosen
    one by one, assuming that earlier and pending candidates earn their expected rewards, which keeps a round diverse
    (Ginsbourger et al. 2010).

    The ensemble is derived from the ranking and the seed, and not saved. It runs on the CPU.
    """

    Config = LSTMEnsembleConfig

    def _start(self) -> None:
        self._ensemble: Ensemble | None = None
        self._trained_rounds = 0

    def _propose(self, n: int) -> Proposal:
        config, seen = self.config, self.seen
        pool = candidate_pool(self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=config.pool_size)
        ratio = config.exploration(self.spent // self.round_size, self.rounds)
        explored = min(n, max(random_count(ratio, n), config.design - len(seen)))
        if self.ranking.global_best is None:
            explored = n
        known = np.concatenate([self._replay(self.ranking)[0], self.pending])
        chosen, predicted = np.empty(0, dtype=np.int64), np.full(len(pool), np.nan)
        if explored < n:
            chosen, predicted = self._promising(pool, known, n - explored)
        places = with_exploring(pool, chosen, known, self.grid.nvec, explored, self.rng)
        return Proposal.of_model(
            pool[places],
            len(chosen),
            predicted=predicted[places],
            exploration=explored / n,
        )

    @pinned_threads(1)  # more threads are slower on such small tensors
    def _promising(self, pool: Ints, known: Ints, n: int) -> tuple[Ints, Floats]:
        """Choose up to ``n`` candidates of the pool by expected improvement.

        Returns:
            Indices of the candidates in the pool, int64 ``(m,)``, and the predicted reward of each point of the pool,
            float64 ``(points,)``.
        """
        import torch

        from kdnas_env.agents.lstm.ensemble import expected_improvement, features_of

        ensemble = self._trained_ensemble()
        actions, targets, scale = self._training_data(self.ranking)
        posterior = ensemble.posterior(features_of(ensemble, actions), targets)
        posterior = posterior.believing(features_of(ensemble, torch.from_numpy(self.pending)))
        features = features_of(ensemble, torch.from_numpy(pool))
        mean = posterior.mean(features)
        chosen = choose_one_by_one(
            pool,
            known,
            self.grid.nvec,
            n,
            posterior,
            acquisition=lambda belief: (
                expected_improvement(mean, belief.deviation(features), targets.max()).mean(dim=0).numpy()
            ),
            believing=lambda belief, place: belief.believing(features[:, place : place + 1]),
        )
        return chosen, scale.restore(mean.mean(dim=0).double().numpy())

    def _trained_ensemble(self) -> Ensemble:
        """Return the trained ensemble, retrained when enough evaluations are new (:func:`until_last_retraining`)."""
        import torch

        from kdnas_env.agents.lstm.ensemble import Ensemble, fit

        config, known = self.config, until_last_retraining(self.ranking, self.round_size)
        rounds = len(known.rounds)
        if self._ensemble is None or self._trained_rounds != rounds:
            generator = torch.Generator().manual_seed(int(self._stream(_TRAINING, rounds).integers(2**63)))
            self._ensemble = Ensemble(
                self.grid.nvec,
                members=config.members,
                embedding_size=config.embedding_size,
                hidden_size=config.hidden_size,
                features=config.features,
                generator=generator,
            )
            actions, targets, _ = self._training_data(known)
            fit(
                self._ensemble,
                actions,
                targets,
                steps=config.steps,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
            )
            self._ensemble.requires_grad_(False)
            self._trained_rounds = rounds
        return self._ensemble

    def _training_data(self, ranking: Ranking) -> tuple[Tensor, Tensor, Scale]:
        """Return actions, int64 ``(n, dims)``, their rewards in units of the scale, float32 ``(n,)``, and the scale."""
        import torch

        replayed, earned, usable = self._replay(ranking)
        scale = Scale.of(earned, usable)
        return torch.tensor(replayed), torch.tensor(scale.standardise(earned, usable), dtype=torch.float32), scale

    def _replay(self, ranking: Ranking) -> tuple[Ints, Floats, Bools]:
        """Return the replay: actions, int64 ``(n, dims)``, rewards, float64 ``(n,)``, and usability, bool ``(n,)``."""
        positions = replay_indices(ranking, self.config.replay_size)
        actions = ranking.column("actions").reshape(-1, len(self.grid.nvec))
        return actions[positions], ranking.rewards[positions], ranking.usable[positions]
