"""What a search has seen: its evaluations, its rounds, and the best students so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation
from kdnas_env.core.reward import RewardComponents


class Record(NamedTuple):
    """One answered action.

    Attributes:
        action: The action, one index per dimension.
        evaluation: The evaluation, an earlier one where the action was a duplicate.
        reward: The reward that was answered, with its components.
        round: The round the action was answered in, from 0.
        counted: Whether it was charged to the budget.
        duplicate: Whether the architecture had been answered before, at the same effort.
    """

    action: tuple[int, ...]
    evaluation: Evaluation
    reward: RewardComponents
    round: int
    counted: bool
    duplicate: bool

    @property
    def usable(self) -> bool:
        """Whether there is a student: its evaluation succeeded and its latency is known."""
        return self.evaluation.ok and self.evaluation.latency is not None


class SearchHistory(Sequence[Record]):
    """All answers of one search, in order.

    Every ``round_size`` counted records make a round. Only usable records can be best; of equal rewards the first
    stays best.
    """

    def __init__(self, round_size: int) -> None:
        self.round_size = round_size
        self._records: list[Record] = []
        self._counted: list[Record] = []
        self._best: Record | None = None
        self._previous_best: Record | None = None
        self._first: dict[StudentConfig, Record] = {}
        self._indexed = 0

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self._records[index]

    def add(
        self,
        action: tuple[int, ...],
        evaluation: Evaluation,
        reward: RewardComponents,
        *,
        counted: bool,
        duplicate: bool,
    ) -> Record:
        """Append an answer and return its record."""
        record = Record(action, evaluation, reward, self.round, counted, duplicate)
        self._records.append(record)
        if record.usable and (self._best is None or reward.reward > self._best.reward.reward):
            self._best = record
        if counted:
            self._counted.append(record)
            if not len(self._counted) % self.round_size:
                self._previous_best = best_of(self.previous_round)
        return record

    def find(self, config: StudentConfig) -> Record | None:
        """Return the first answer for an architecture, or None."""
        for record in self._records[self._indexed :]:
            self._first.setdefault(record.evaluation.config, record)
        self._indexed = len(self._records)
        return self._first.get(config)

    @property
    def evaluations(self) -> int:
        """Evaluations charged to the budget."""
        return len(self._counted)

    @property
    def round(self) -> int:
        """Round in progress, from 0; also the number of finished rounds."""
        return len(self._counted) // self.round_size

    @property
    def last(self) -> Record | None:
        """The latest answer."""
        return self._records[-1] if self._records else None

    @property
    def best(self) -> Record | None:
        """The best student of the search."""
        return self._best

    @property
    def previous_round(self) -> list[Record]:
        """The counted records of the last finished round; empty before the first is finished."""
        end = self.round * self.round_size
        return self._counted[max(0, end - self.round_size) : end]

    @property
    def previous_best(self) -> Record | None:
        """The best student of the last finished round."""
        return self._previous_best


def best_of(records: Iterable[Record]) -> Record | None:
    """Return the usable record with the highest reward (the first, of equals), or None."""
    return max((record for record in records if record.usable), key=lambda record: record.reward.reward, default=None)
