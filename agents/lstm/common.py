"""What the agents with LSTMs share: hyper-parameters, exploration, and when they learn again.

Light to import: networks stand in modules of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdnas_env.agents.base import DEFAULT_ROUND_SIZE
from kdnas_env.agents.ranking import Ints, Ranking
from kdnas_env.errors import KDNASError
from kdnas_env.support.settings import Settings

Decay = Literal["linear", "exponential", "step"]
"""How an exploration ratio falls: straight or by a constant factor to its minimum in the last round, or by a step."""

GLOBAL_BEST, PREVIOUS_BEST, PREVIOUS_CANDIDATE, QUERY, NONE = range(5)
"""Roles of the elements of a sequence. ``NONE`` stands where there is nothing yet."""

ROLES = 5
_OFTEN = 32
"""Share of the evaluations, at most, that is new when a controller learns again."""


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """Hyper-parameters of all agents with LSTMs.

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
    """Hyper-parameters of those that predict rewards.

    Attributes:
        epsilon_start: Share of exploring candidates in the first round, in [0, 1].
        epsilon_min: Least share of them, in [0, epsilon_start]; above 0 if the decay is ``exponential``.
        epsilon_decay: How the share falls: ``linear`` and ``exponential`` reach the least in the last round, ``step``
            subtracts ``epsilon_step`` per round.
        epsilon_step: Fall per round of the decay ``step``.
        weight_decay: Weight decay of the optimizer.
        pool_size: Random candidates that are scored where the space is too large to be scored whole.
        replay_size: Youngest evaluations that are learnt from, and the best, so that a round of a long search takes no
            longer than one before it.
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
        """Return the share of a round that explores; see :func:`exploration_ratio`."""
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
    """Return the share of a round that is random.

    Args:
        index: Number of the round, from 0. Rounds past the last have the ratio of the last.
        rounds: Rounds of the whole search.
        start: Ratio of round 0.
        minimum: Least ratio; that of the last round, unless ``decay`` is ``step``.
        decay: How the ratio falls.
        step: Fall per round of ``decay="step"``.
    """
    if decay == "step":
        return max(minimum, start - step * index)
    progress = min(index / (rounds - 1), 1.0) if rounds > 1 else 0.0
    if decay == "exponential" and start > 0:
        return float(start * (minimum / start) ** progress)
    return start + (minimum - start) * progress


def random_count(ratio: float, n: int, *, least: int = 0) -> int:
    """Return how many of ``n`` candidates are random: ``ratio * n``, halves rounded up, and at least ``least``."""
    # Rounded to 9 digits first: 0.7 * 5 may come as 3.4999999999999996, which is meant to be a half.
    return min(n, max(math.floor(round(ratio * n, 9) + 0.5), least))


def settled(ranking: Ranking, round_size: int) -> Ranking:
    """Return a search as of when a controller learns from it: after every round, or every few of small ones.

    Each further evaluation adds less information. In rounds of fewer than eight candidates a controller learns after
    every round up to 64 evaluations, then less and less often, and from 256 on after every eight. Evaluations since
    then are left out, unless none before was usable.
    """
    evaluations = ranking.evaluations
    power = 1 << max(0, evaluations.bit_length() - 1)
    step = max(round_size, min(DEFAULT_ROUND_SIZE, power // _OFTEN))
    whole = evaluations // step * step
    if not whole:
        return ranking
    taught = Ranking(ranking.rounds.until(int(np.searchsorted(ranking.rounds.ends, whole)) + 1))
    return ranking if taught.global_best is None else taught


def context_positions(ranking: Ranking, known_rounds: Ints, *, with_candidates: bool) -> tuple[Ints, Ints]:
    """Say which evaluations were known, and as what, after some numbers of rounds.

    Args:
        ranking: The search.
        known_rounds: Numbers of finished rounds, one per context, int64 ``(contexts,)``.
        with_candidates: Whether the candidates of the last known round belong to a context, beside the bests.

    Returns:
        Positions in the order of evaluation, 0 where there is nothing, and roles; both int64 of shape
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
