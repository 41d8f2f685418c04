"""The ranking state of a search: candidates round by round, and the best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from kdnas_env.support.arrays import Bools, Floats, Ints

_CANDIDATES: dict[str, npt.DTypeLike] = {
    "actions": np.int64,
    "rewards": np.float64,
    "usable": np.bool_,
    "random": np.bool_,
    "predicted": np.float64,
    "known_rounds": np.int64,
}
"""Fields of the round records with one entry per candidate; they determine the best candidates."""

_ROUNDS: dict[str, npt.DTypeLike] = {
    "ends": np.int64,
    "exploration": np.float64,
    "best": np.int64,
    "global_best": np.int64,
}
"""Further values stored per round: number of candidates up to its end, exploration, and indices of the bests."""

_NOWHERE = -1
"""Index that means "no best candidate"."""


@dataclass(frozen=True)
class Best:
    """A best candidate.

    Attributes:
        action: Its action.
        reward: Its reward.
        index: Its index in the order of evaluation, from 0.
    """

    action: tuple[int, ...]
    reward: float
    index: int


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """One round: the candidates that were evaluated together, and the best candidates.

    Attributes:
        index: Number of the round, from 0.
        exploration: Intended random fraction of the round, in [0, 1].
        actions: The candidates, int64 of shape ``(n, dims)``.
        rewards: Rewards of the candidates, float64 of shape ``(n,)``.
        usable: Whether each candidate can be best: finite reward and no failure; bool ``(n,)``.
        random: Whether each candidate was drawn at random; bool ``(n,)``.
        predicted: The agent's predicted rewards, float64 ``(n,)``; NaN without prediction.
        known_rounds: Number of finished rounds when each candidate was proposed, int64 ``(n,)``.
        best: Best of this round, or None without a usable candidate.
        previous_best: Best of the previous round.
        global_best: Best so far, including this round.
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


class Rounds(Sequence[RoundRecord]):
    """Finished rounds, oldest first; records are created on access.

    Instances before and after a round share growing arrays, and each sees its own prefix. Adding a round takes
    constant time, and earlier instances stay valid.
    """

    def __init__(self) -> None:
        self._candidates = _Columns(_CANDIDATES)
        self._rounds = _Columns(_ROUNDS)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RoundRecord: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RoundRecord, ...]: ...

    def __getitem__(self, index: int | slice) -> RoundRecord | tuple[RoundRecord, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(self._count)[index])
        place = range(self._count)[index]
        ends = self.ends
        begin, end = int(ends[place - 1]) if place else 0, int(ends[place])
        return RoundRecord(
            index=place,
            exploration=float(self.exploration[place]),
            best=self.best("best", place),
            previous_best=self.best("best", place - 1) if place else None,
            global_best=self.best("global_best", place),
            **{name: self._candidates.view(name, end)[begin:] for name in _CANDIDATES},
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rounds) and self._rounds is other._rounds and self._count == other._count

    def __hash__(self) -> int:
        return hash((id(self._rounds), self._count))

    @property
    def ends(self) -> Ints:
        """Number of candidates up to the end of each round, int64 of shape ``(rounds,)``."""
        return self._rounds.view("ends", self._count)

    @property
    def exploration(self) -> Floats:
        """Exploration of each round, float64 of shape ``(rounds,)``."""
        return self._rounds.view("exploration", self._count)

    @property
    def evaluations(self) -> int:
        """Number of candidates in all rounds."""
        return int(self.ends[-1]) if self._count else 0

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return an array field of :class:`RoundRecord` for the candidates of all rounds, ``(evaluations, ...)``."""
        return self._candidates.view(name, self.evaluations)

    def best(self, name: Literal["best", "global_best"], place: int) -> Best | None:
        """Return the ``best`` or ``global_best`` of a round."""
        position = int(self._rounds.view(name, self._count)[place])
        if position == _NOWHERE:
            return None
        action, reward = self.column("actions")[position], self.column("rewards")[position]
        return Best(tuple(action.tolist()), float(reward), position)

    def until(self, count: int) -> Rounds:
        """Return the first ``count`` rounds."""
        rounds = copy(self)
        rounds._count = min(count, self._count)
        return rounds

    def followed_by(self, candidates: Mapping[str, npt.NDArray[Any]], **values: float) -> Rounds:
        """Return these rounds with one more appended; this instance does not change.

        Args:
            candidates: The array fields of the new record.
            values: Further values stored for the new round.
        """
        rounds, begin = copy(self), self.evaluations
        if len(self._rounds) > self._count:
            rounds._candidates = self._candidates.beginning(begin)
            rounds._rounds = self._rounds.beginning(self._count)
        values["ends"] = begin + len(candidates["rewards"])
        rounds._candidates.put(begin, candidates)
        rounds._rounds.put(self._count, {name: np.array([value]) for name, value in values.items()})
        rounds._count += 1
        return rounds


@dataclass(frozen=True, eq=False)
class Ranking:
    """All candidates of all rounds, the best of the previous round and the global best. Ties go to the first.

    Attributes:
        rounds: The finished rounds, oldest first.
    """

    rounds: Rounds = field(default_factory=Rounds)

    @property
    def global_best(self) -> Best | None:
        """Best of all rounds, or None before the first usable candidate."""
        return self.rounds.best("global_best", len(self.rounds) - 1) if self.rounds else None

    @property
    def previous_best(self) -> Best | None:
        """Best of the last finished round, or None."""
        return self.rounds.best("best", len(self.rounds) - 1) if self.rounds else None

    @property
    def evaluations(self) -> int:
        """Number of candidates so far."""
        return self.rounds.evaluations

    @property
    def rewards(self) -> Floats:
        """Rewards of all candidates in the order of evaluation, float64 of shape ``(evaluations,)``."""
        return self.column("rewards")

    @property
    def usable(self) -> Bools:
        """Whether each candidate can be best, bool of shape ``(evaluations,)``."""
        return self.column("usable")

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return an array field of :class:`RoundRecord` for all candidates, in the order of evaluation.

        The result is a read-only view of shape ``(evaluations, ...)``.
        """
        return self.rounds.column(name)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of the candidates, and length and exploration of each round, for :meth:`from_arrays`."""
        return {
            **{name: self.column(name) for name in _CANDIDATES},
            "round_lengths": np.diff(self.rounds.ends, prepend=0),
            "exploration": self.rounds.exploration,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Ranking:
        """Restore the ranking from :meth:`to_arrays`.

        Raises:
            KeyError: If an array is missing.
            ValueError: If the arrays disagree in length.
        """
        columns, lengths = {name: arrays[name] for name in _CANDIDATES}, arrays["round_lengths"]
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

        A candidate with a non-finite reward is never usable, regardless of ``usable`` (default: all). By default, none
        is random, there are no predictions, and all earlier rounds were known at the proposals.
        """
        n = len(np.asarray(rewards))
        columns = {
            "actions": actions,
            "rewards": rewards,
            "usable": np.ones(n) if usable is None else usable,
            "random": np.zeros(n) if random is None else random,
            "predicted": np.full(n, np.nan) if predicted is None else predicted,
            "known_rounds": np.full(n, len(self.rounds)) if known_rounds is None else known_rounds,
        }
        candidates = {name: np.asarray(values, dtype=_CANDIDATES[name]) for name, values in columns.items()}
        earned = candidates["rewards"]
        candidates["usable"] = can_be_best = candidates["usable"] & np.isfinite(earned)
        best, before = _NOWHERE, self.global_best
        if can_be_best.any():
            best = self.evaluations + int(np.argmax(np.where(can_be_best, earned, -np.inf)))
        improved = best != _NOWHERE and (before is None or earned[best - self.evaluations] > before.reward)
        rounds = self.rounds.followed_by(
            candidates,
            exploration=exploration,
            best=best,
            global_best=best if improved or before is None else before.index,
        )
        return Ranking(rounds)


class _Columns:
    """Append-only arrays of equal length.

    Appending takes amortised constant time. Existing entries never change, so views stay valid.

    Args:
        dtypes: Dtypes of the arrays, by name.
    """

    def __init__(self, dtypes: Mapping[str, npt.DTypeLike]) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {name: np.empty(0, dtype=dtype) for name, dtype in dtypes.items()}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def view(self, name: str, end: int) -> npt.NDArray[Any]:
        """Return a read-only view of the beginning of an array."""
        return self._arrays[name][:end]

    def put(self, begin: int, parts: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append parts at position ``begin``; an interrupted call may have left entries after it."""
        (length,) = {len(part) for part in parts.values()}
        end = begin + length
        for name, part in parts.items():
            array = self._arrays[name]
            if end > len(array):
                array = np.empty((max(end, 2 * begin), *part.shape[1:]), dtype=array.dtype)
                array[:begin] = self._arrays[name][:begin] if begin else 0
                self._arrays[name] = array
            # Views of a read-only array are also read-only.
            array.setflags(write=True)
            array[begin:end] = part if length else 0
            array.setflags(write=False)
        self._length = end

    def beginning(self, length: int) -> _Columns:
        """Return a copy of the first entries."""
        columns = _Columns({name: array.dtype for name, array in self._arrays.items()})
        columns.put(0, {name: self.view(name, length) for name in self._arrays})
        return columns
