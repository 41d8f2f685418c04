"""The controller of KD-NAS: an LSTM that predicts the rewards of candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.lstm.common import NONE, PredictorConfig, context_positions, random_count, until_last_retraining
from kdnas_env.agents.predicting import Scale, candidate_pool, replay_indices
from kdnas_env.agents.ranking import Ranking
from kdnas_env.core.wide_dimensions import best_apart
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Bools, Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor

    from kdnas_env.agents.lstm.controller import Contexts, Controller

WHOLE_SPACE = 100_000
"""Spaces up to this many points are scored completely; for larger spaces, a pool is scored."""

_TRAINING = 1
"""Key of the random streams for training."""


@dataclass(frozen=True)
class LSTMConfig(PredictorConfig):
    """Hyper-parameters of the LSTM controller, in addition to those of all reward predictors.

    Attributes:
        context: Input of the controller before a candidate: the global best and the previous round's best (``bests``),
            or additionally all candidates of the previous round (``candidates``).
        min_random: Minimum number of random candidates per round; at least one is left to the controller.
        ordinal: Fraction of an embedding's initial variance that is linear in the choice's index, in [0, 1]; use more
            than 0 if neighbouring choices have similar rewards.
        context_dropout: Probability that a context is hidden in a training step, in [0, 1]; prevents the controller
            from memorising the few contexts.
        epochs: Passes over the replay before each round; 0 leaves the controller untrained, as a control.
        batch_size: Evaluations per training step.
        device: Device of the controller.
    """

    context: Literal["candidates", "bests"] = "candidates"
    min_random: int = 1
    ordinal: float = 0.5
    context_dropout: float = 0.5
    epochs: int = 25
    batch_size: int = 32
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("ordinal", "context_dropout", at_least=0, at_most=1)
        self.check_numbers("min_random", "epochs", at_least=0)
        self.check_numbers("batch_size", at_least=1)


class LSTMAgent(AskTellAgent[LSTMConfig]):
    """Proposes the candidates with the highest rewards predicted by an LSTM, and a decreasing share of random ones.

    The controller of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639) reads the global best, the previous round's best
    and the previous round's candidates, each with its reward, then a candidate; its output is the candidate's reward.
    Before each round (or every few small rounds) it is trained from scratch on all evaluations (in a long search, the
    newest), each with the context of its proposal. It scores all unevaluated points (in a large space, a pool of random
    points and neighbours of the best ones). All candidates are random until an evaluation is usable.

    The controller is derived from the ranking and the seed, and not saved.
    """

    Config = LSTMConfig

    def _start(self) -> None:
        import torch

        try:
            torch.empty(1, device=self.config.device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
            raise KDNASError(f"device is {self.config.device!r}, which cannot be used here: {error}") from error
        self._predict: Callable[[Ints], Floats] | None = None
        self._trained_rounds = 0

    def _propose(self, n: int) -> Proposal:
        config, seen = self.config, self.seen
        ratio = config.exploration(self.spent // self.round_size, self.rounds)
        randoms = random_count(ratio, n, least=min(config.min_random, n - 1))
        if randoms == n or self.ranking.global_best is None:
            return self._fill([], n, exploration=ratio)

        predict = self._predictor()
        pool = candidate_pool(self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=config.pool_size)
        scores = predict(pool)
        top = best_apart(pool, scores, self._known(), self.grid.nvec, n - randoms)
        drawn = self.grid.draw(self.rng, randoms, seen.union(self.grid.numbers(pool[top])))
        return Proposal.of_model(
            np.concatenate([pool[top], drawn]),
            len(top),
            predicted=np.concatenate([scores[top], predict(drawn)]),
            exploration=ratio,
        )

    def _known(self) -> Ints:
        """Return the replayed evaluations and the pending candidates, int64 ``(n, dims)``."""
        return np.concatenate([self._evaluated[replay_indices(self.ranking, self.config.replay_size)], self.pending])

    def _predictor(self) -> Callable[[Ints], Floats]:
        """Return the reward predictor, retrained when enough evaluations are new (:func:`until_last_retraining`)."""
        known = until_last_retraining(self.ranking, self.round_size)
        if self._predict is None or self._trained_rounds != len(known.rounds):
            self._predict, self._trained_rounds = self._train_on(known), len(known.rounds)
        return self._predict

    def _train_on(self, ranking: Ranking) -> Callable[[Ints], Floats]:
        """Train on the replay of a search, and return a reward predictor under the search's last context."""
        import torch

        from kdnas_env.agents.lstm.controller import Contexts, predict

        device = torch.device(self.config.device)
        replay, now = replay_indices(ranking, self.config.replay_size), len(ranking.rounds)
        known, rows = np.unique(np.append(ranking.column("known_rounds")[replay], now), return_inverse=True)
        positions, roles = context_positions(ranking, known, with_candidates=self.config.context == "candidates")
        # The best candidates and those of the previous round may be older than the replay.
        known_positions = np.union1d(replay, positions[roles != NONE])
        earned, usable = self._targets(ranking, known_positions)
        scale = Scale.of(earned, usable)
        candidates = ranking.column("actions")
        actions = torch.tensor(candidates[known_positions], device=device)
        rewards = torch.tensor(scale.standardise(earned, usable), dtype=torch.float32, device=device)
        places, parts = (
            torch.tensor(array, device=device) for array in (np.searchsorted(known_positions, positions), roles)
        )
        contexts = Contexts(actions[places], rewards[places].masked_fill(parts == NONE, 0.0), parts)

        _, first = np.unique(candidates[replay], axis=0, return_index=True)
        unique = np.sort(first)
        examples = torch.tensor(np.searchsorted(known_positions, replay[unique]), device=device)
        context_rows = torch.tensor(rows[unique], device=device)
        controller = self._trained(now, contexts, context_rows, actions[examples], rewards[examples])

        def predict_rewards(candidates: Ints) -> Floats:
            return scale.restore(predict(controller, contexts[-1:], torch.tensor(candidates, device=device)))

        return predict_rewards

    def _targets(self, ranking: Ranking, positions: Ints) -> tuple[Floats, Bools]:
        """Return the rewards at some positions, float64 ``(n,)``, and whether each is usable, bool ``(n,)``."""
        return ranking.rewards[positions], ranking.usable[positions]

    def _trained(
        self, rounds: int, contexts: Contexts, context_rows: Tensor, actions: Tensor, targets: Tensor
    ) -> Controller:
        """Return a new controller, trained on unique evaluations with the context of their proposals."""
        import torch

        from kdnas_env.agents.lstm.controller import Controller, fit

        config, stream = self.config, self._stream(_TRAINING, rounds)
        generator = torch.Generator().manual_seed(int(stream.integers(2**63)))
        controller = Controller(
            self.grid.nvec,
            embedding_size=config.embedding_size,
            hidden_size=config.hidden_size,
            ordinal=config.ordinal,
            generator=generator,
        ).to(config.device)
        fit(
            controller,
            contexts,
            context_rows,
            actions,
            targets,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            context_dropout=config.context_dropout,
            generator=generator,
        )
        return controller
