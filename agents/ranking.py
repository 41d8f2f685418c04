"""The ranking state of a search: what was tried, round by round, and what was best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_COLUMNS = ("actions", "rewards", "usable", "random", "predicted", "known_rounds")
"""Fields of the round records with one entry per candidate, from which the bests follow."""


@dataclass(frozen=True)
class Best:
    """A best candidate.

    Attributes:
        action: Its action.
        reward: Its reward.
        index: Its position in the order of evaluation, from 0.
    """

    action: tuple[int, ...]
    reward: float
    index: int


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """One round: the candidates that were evaluated together, and the bests around them.

    Attributes:
        index: Number of the round, from 0.
        exploration: Share of the round that was to be random when it was proposed, in [0, 1].
        actions: The candidates, int64 of shape ``(n, dims)``.
        rewards: What they earned, float64 of shape ``(n,)``.
        usable: Which of them can be best: the reward is finite and the evaluation did not fail; bool ``(n,)``.
        random: Which were drawn at random, not chosen by the agent; bool ``(n,)``.
        predicted: Rewards that the agent predicted, float64 ``(n,)``; NaN where it predicted none.
        known_rounds: Rounds that had ended when each candidate was proposed, int64 ``(n,)``.
        best: Best of this round, or None if nothing in it is usable.
        previous_best: Best of the round before.
        global_best: Best so far, this round included.
    """

    index: int
    exploration: float
    actions: Ints
    rewards: Floats
    usable: Bools
    random: Bools
    predicted: Floats
    known_rounds: Ints
    best: Best | None
    previous_best: Best | None
    global_best: Best | None


@dataclass(frozen=True, eq=False)
class Ranking:
    """Every candidate of every round, the best of the previous round and the best of all. Of equals the first wins.

    Attributes:
        rounds: The finished rounds, oldest first.
    """

    rounds: tuple[RoundRecord, ...] = ()

    @property
    def global_best(self) -> Best | None:
        """Best of all rounds, or None before the first usable candidate."""
        return self.rounds[-1].global_best if self.rounds else None

    @property
    def previous_best(self) -> Best | None:
        """Best of the last finished round, or None."""
        return self.rounds[-1].best if self.rounds else None

    @cached_property
    def evaluations(self) -> int:
        """Candidates so far."""
        return sum(len(record.rewards) for record in self.rounds)

    @cached_property
    def rewards(self) -> Floats:
        """Rewards of all candidates in the order of evaluation, float64 of shape ``(evaluations,)``."""
        return self.column("rewards").astype(np.float64)

    @cached_property
    def usable(self) -> Bools:
        """Which of all candidates can be best, bool of shape ``(evaluations,)``."""
        return self.column("usable").astype(np.bool_)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return an array field of :class:`RoundRecord` for all candidates, in the order of evaluation."""
        columns = [getattr(record, name) for record in self.rounds]
        return np.concatenate(columns) if columns else np.empty(0)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of the candidates, and length and exploration of each round, for :meth:`from_arrays`."""
        return {
            **{name: self.column(name) for name in _COLUMNS},
            "round_lengths": np.array([len(record.rewards) for record in self.rounds], dtype=np.int64),
            "exploration": np.array([record.exploration for record in self.rounds], dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Ranking:
        """Build the ranking that :meth:`to_arrays` wrote down.

        Raises:
            KeyError: If an array is missing.
            ValueError: If the arrays disagree in length.
        """
        columns, lengths = {name: arrays[name] for name in _COLUMNS}, arrays["round_lengths"]
        if {len(column) for column in columns.values()} != {int(lengths.sum())}:
            raise ValueError("the rounds and the columns of their candidates disagree in length")
        ranking, ends = cls(), np.cumsum(lengths)
        for begin, end, exploration in zip(ends - lengths, ends, arrays["exploration"], strict=True):
            ranking = ranking.update(
                **{name: column[begin:end] for name, column in columns.items()}, exploration=exploration
            )
        return ranking

    def update(
        self,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        *,
        usable: npt.ArrayLike | None = None,
        exploration: float = 0.0,
        random: npt.ArrayLike | None = None,
        predicted: npt.ArrayLike | None = None,
        known_rounds: npt.ArrayLike | None = None,
    ) -> Ranking:
        """Return the ranking after one more round; the arguments are those of :class:`RoundRecord`.

        A candidate is usable only if its reward is finite, whatever ``usable`` says (default: all). By default none
        is random, nothing is predicted, and all were proposed with every earlier round known.
        """
        actions = _frozen(actions, np.int64)
        rewards = _frozen(rewards, np.float64)
        n = len(rewards)
        can_be_best = np.isfinite(rewards) & (True if usable is None else np.asarray(usable, dtype=np.bool_))
        best = None
        if can_be_best.any():
            position = int(np.argmax(np.where(can_be_best, rewards, -np.inf)))
            best = Best(tuple(actions[position].tolist()), float(rewards[position]), self.evaluations + position)
        improved = best is not None and (self.global_best is None or best.reward > self.global_best.reward)
        record = RoundRecord(
            index=len(self.rounds),
            exploration=float(exploration),
            actions=actions,
            rewards=rewards,
            usable=_frozen(can_be_best, np.bool_),
            random=_frozen(np.zeros(n) if random is None else random, np.bool_),
            predicted=_frozen(np.full(n, np.nan) if predicted is None else predicted, np.float64),
            known_rounds=_frozen(np.full(n, len(self.rounds)) if known_rounds is None else known_rounds, np.int64),
            best=best,
            previous_best=self.previous_best,
            global_best=best if improved else self.global_best,
        )
        return Ranking((*self.rounds, record))


def _frozen(values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
