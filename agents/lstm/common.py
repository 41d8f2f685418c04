"""Shared code of the LSTM agents: hyper-parameters, exploration and retraining schedule.

Fast to import: networks are in separate modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdnas_env.agents.environment import DEFAULT_ROUND_SIZE
from kdnas_env.agents.ranking import Ranking
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.settings import Settings

Decay = Literal["linear", "exponential", "step"]
"""Decay of the exploration ratio: linear or exponential to its minimum in the last round, or by a step per round."""

Features = Literal["both", "deep", "wide"]
"""Features of a candidate that the heads of an ensemble see."""

GLOBAL_BEST, PREVIOUS_BEST, PREVIOUS_CANDIDATE, QUERY, NONE = range(5)
"""Roles of the elements of a sequence. ``NONE`` marks an empty element."""

ROLES = 5
_EVALUATIONS_PER_NEW = 32
"""A controller retrains when one in this many evaluations is new."""


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """Hyper-parameters of all LSTM agents.

    Attributes:
        embedding_size: Width of the embedding of a choice.
        hidden_size: Width of an LSTM.
        learning_rate: Learning rate of the optimizer.
    """

    embedding_size: int = 16
    hidden_size: int = 64
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("embedding_size", "hidden_size", at_least=1)
        self.check_numbers("learning_rate", above=0)


@dataclass(frozen=True)
class PredictorConfig(NetworkConfig):
    """Hyper-parameters of the LSTM agents that predict rewards.

    Attributes:
        epsilon_start: Fraction of exploring candidates in the first round, in [0, 1].
        epsilon_min: Minimum fraction of exploring candidates, in [0, epsilon_start]; above 0 for ``exponential`` decay.
        epsilon_decay: Decay of the fraction: ``linear`` and ``exponential`` reach the minimum in the last round,
            ``step`` subtracts ``epsilon_step`` per round.
        epsilon_step: Decrease per round with the decay ``step``.
        weight_decay: Weight decay of the optimizer.
        pool_size: Number of random candidates to score if the space is too large to score completely.
        replay_size: Number of newest evaluations to learn from, plus the best; limits the time of a round.
    """

    epsilon_start: float = 1.0
    epsilon_min: float = 0.05
    epsilon_decay: Decay = "linear"
    epsilon_step: float = 0.05
    weight_decay: float = 0.1
    pool_size: int = 10_000
    replay_size: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("epsilon_start", "epsilon_min", at_least=0, at_most=1)
        self.check_numbers("epsilon_step", "weight_decay", at_least=0)
        self.check_numbers("pool_size", "replay_size", at_least=1)
        if self.epsilon_min > self.epsilon_start:
            raise KDNASError(
                f"epsilon_min is {self.epsilon_min:g}; expected at most epsilon_start, {self.epsilon_start:g}"
            )
        if self.epsilon_decay == "exponential" and self.epsilon_min == 0:
            raise KDNASError("epsilon_min is 0, which an exponential decay never reaches; expected more")
        if self.epsilon_decay != "step":
            self.check_idle("epsilon_step", because=f"epsilon_decay is {self.epsilon_decay!r}, not 'step'")

    def exploration(self, index: int, rounds: int) -> float:
        """Return the exploring fraction of a round; see :func:`exploration_ratio`."""
        return exploration_ratio(
            index,
            rounds,
            start=self.epsilon_start,
            minimum=self.epsilon_min,
            decay=self.epsilon_decay,
            step=self.epsilon_step,
        )


def exploration_ratio(
    index: int, rounds: int, *, start: float, minimum: float, decay: Decay = "linear", step: float = 0.0
) -> float:
    """Return the random fraction of a round.

    Args:
        index: Number of the round, from 0. Rounds past the last use the ratio of the last.
        rounds: Rounds of the whole search.
        start: Ratio of round 0.
        minimum: Minimum ratio; reached in the last round, unless ``decay`` is ``step``.
        decay: Type of decay.
        step: Decrease per round for ``decay="step"``.
    """
    if decay == "step":
        return max(minimum, start - step * index)
    progress = min(index / (rounds - 1), 1.0) if rounds > 1 else 0.0
    if decay == "exponential" and start > 0:
        return float(start * (minimum / start) ** progress)
    return start + (minimum - start) * progress


def random_count(ratio: float, n: int, *, least: int = 0) -> int:
    """Return the number of random candidates among ``n``: ``ratio * n``, halves rounded up, at least ``least``."""
    # Rounded to 9 digits first, because 0.7 * 5 may be 3.4999999999999996 instead of 3.5.
    return min(n, max(math.floor(round(ratio * n, 9) + 0.5), least))


def until_last_retraining(ranking: Ranking, round_size: int) -> Ranking:
    """Return the part of a search that a controller learns from: up to its last retraining.

    Later evaluations add less information, so retraining becomes less frequent. With rounds of fewer than eight
    candidates, a controller retrains after every round up to 64 evaluations, then less often, and from 256 on after
    every eight. Newer evaluations are ignored, unless no earlier evaluation was usable.
    """
    evaluations = ranking.evaluations
    power = 1 << max(0, evaluations.bit_length() - 1)
    step = max(round_size, min(DEFAULT_ROUND_SIZE, power // _EVALUATIONS_PER_NEW))
    whole = evaluations // step * step
    if not whole:
        return ranking
    known = Ranking(ranking.rounds.until(int(np.searchsorted(ranking.rounds.ends, whole)) + 1))
    return ranking if known.global_best is None else known


def context_positions(ranking: Ranking, known_rounds: Ints, *, with_candidates: bool) -> tuple[Ints, Ints]:
    """Return the known evaluations and their roles after some numbers of rounds.

    Args:
        ranking: The search.
        known_rounds: Numbers of finished rounds, one per context, int64 ``(contexts,)``.
        with_candidates: Whether a context includes the candidates of the last known round, in addition to the bests.

    Returns:
        Indices in the order of evaluation (0 for empty elements), and roles; both int64 of shape
        ``(contexts, length)``. The first two elements are the global best and the previous round's best.
    """
    rows = []
    for known in known_rounds.tolist():
        row = [(0, NONE), (0, NONE)]
        if known:
            record = ranking.rounds[known - 1]
            for place, role, best in ((0, GLOBAL_BEST, record.global_best), (1, PREVIOUS_BEST, record.best)):
                if best is not None:
                    row[place] = (best.index, role)
            if with_candidates:
                end = int(ranking.rounds.ends[known - 1])
                row += [(position, PREVIOUS_CANDIDATE) for position in range(end - len(record.rewards), end)]
        rows.append(row)
    length = max(map(len, rows))
    padded = np.array([row + [(0, NONE)] * (length - len(row)) for row in rows], dtype=np.int64)
    return padded[..., 0], padded[..., 1]
