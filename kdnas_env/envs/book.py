"""The book of an episode: answers, costs, and the end of the search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Fidelity
from kdnas_env.core.reward import RewardComponents
from kdnas_env.envs.answers import Answer, Answers, can_be_best
from kdnas_env.envs.budget import Budget
from kdnas_env.support.arrays import Bools, Ints

DUPLICATES = ("charge", "free", "reject")
"""Policies for the cost of repeated actions."""

STEPS_PER_EVALUATION = 10
"""An episode is truncated after this many answers per unit of the budget."""


class Stopping(Protocol):
    """Early stopping: receives the report of every epoch, and every finished evaluation."""

    def begin(self) -> None:
        """Reset the state for a new search."""
        ...

    def __call__(self, report: EpochReport) -> bool:
        """Receive an epoch report; return whether to stop the student."""
        ...

    def learn(self, evaluation: Evaluation) -> None:
        """Receive the evaluation of a finished, failed or stopped student."""
        ...


class Record(NamedTuple):
    """One answered action.

    Attributes:
        action: The action, one index per dimension.
        evaluation: The evaluation; for a duplicate, the earlier one.
        reward: The returned reward, with its components.
        round: Number of the action's round, from 0.
        counted: Whether the action was charged to the budget.
        duplicate: Whether the architecture was already answered at the same fidelity.
    """

    action: tuple[int, ...]
    evaluation: Evaluation
    reward: RewardComponents
    round: int
    counted: bool
    duplicate: bool

    @property
    def usable(self) -> bool:
        """Whether the evaluation succeeded, the latency is known, and the student keeps all limits."""
        return can_be_best(self.evaluation, self.reward)

    def broken_limits(self, limits: Constraints) -> str:
        """Return a description of the limits that the student breaks."""
        return limits.describe(self.evaluation, self.reward.quality if self.evaluation.ok else None)


class Book(Sequence[Record]):
    """All answers of one search, in order, with budget, duplicates, rounds and best students.

    ``round_size`` counted answers form a round. Only usable students can be best; the first of equal rewards stays
    best.

    Args:
        budget: Budget of the search.
        round_size: Counted answers per round.
        duplicates: One of ``DUPLICATES``.
        failure: Reward of a rejected duplicate.
        steps: Maximum number of answers; then the search is truncated.
        least: Minimum cost of the next step. A budget that is not in seconds counts as spent if less than this remains.
        stop: Early stopping.

    Attributes:
        budget: Budget of the search.
        round_size: Counted answers per round.
        evaluations: Number of answers charged to the budget.
        spent: Total cost in the unit of the budget.
        left: Remaining budget in its unit.
        round: Round in progress, from 0; also the number of finished rounds.
        progress: Spent fraction of the budget, from 0 to 1.
        improved: Whether the last answer is the best student of the search; for scalar steps.
        terminated: Whether the budget is spent.
        truncated: Whether the search ended early, after too many answers.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        round_size: int,
        duplicates: str,
        failure: float,
        steps: int,
        least: int = 1,
        stop: Stopping | None = None,
    ) -> None:
        self.budget = budget
        self.round_size = round_size
        self.evaluations = self.round = 0
        self.spent: float = 0
        self.left = budget.amount
        self.progress = 0.0
        self.improved = self.terminated = self.truncated = False
        self._charges, self._rejects = duplicates == "charge", duplicates == "reject"
        self._failure = failure
        self._steps = steps
        self._enough = 0 if budget.unit == "seconds" else least
        self._stop = stop
        self._length = 0
        self._rounds: list[tuple[Answers, Ints, Bools, Bools]] = []  # not yet in the log
        self._log: list[tuple[Answer, bool, bool]] = []
        self._best: tuple[float, int] = (-np.inf, -1)  # reward and index in the log
        self._records: list[Record] = []
        self._counted = 0  # of the records
        self._first: dict[StudentConfig, Record] = {}
        self._indexed = 0

    # Writing

    def add(self, answer: Answer, answers: Answers) -> tuple[float, bool, bool]:
        """Record the answer to one action.

        Args:
            answer: The answer.
            answers: The cache that contains it.

        Returns:
            The reward, whether the answer is counted, and whether it is a duplicate.
        """
        duplicate = answers.give(answer)
        counted = self._charges if duplicate else answer.charged
        value = self._enter(answer, counted, duplicate)
        if self._stop is not None:
            self._stop.learn(answer.evaluation)
        self._advance(1, int(counted), answer.cost if counted else 0)
        return value, counted, duplicate

    def add_round(self, rows: Ints, answers: Answers) -> tuple[npt.NDArray[np.float64], Bools, Bools]:
        """Record the answers to a whole round.

        Args:
            rows: Rows of the answers in the cache, int64 ``(round_size,)``.
            answers: The cache that contains them.

        Returns:
            Rewards (float64), whether each is counted, and whether each is a duplicate (bool), each ``(round_size,)``.
        """
        columns = answers.columns
        duplicates = answers.give_all(rows)
        counted = np.where(duplicates, self._charges, columns.charged.take(rows))
        rewards = columns.rewards.take(rows)
        if self._rejects:
            rewards[duplicates] = self._failure
        self._rounds.append((answers, rows, counted.copy(), duplicates.copy()))
        if self._stop is not None:
            for row in rows.tolist():
                self._stop.learn(answers.rows[row].evaluation)
        charged = int(np.count_nonzero(counted))
        cost = charged if self.budget.unit == "evaluations" else float(columns.costs.take(rows)[counted].sum())
        self._advance(len(rows), charged, cost)
        return rewards, counted, duplicates

    def listener(self, on_epoch: EpochCallback | None) -> EpochCallback | None:
        """Return the epoch callback: early stopping, ``on_epoch``, both combined, or None without either."""
        stop = self._stop
        if stop is None or on_epoch is None:
            return stop or on_epoch

        def both(report: EpochReport) -> bool:
            unwanted = bool(on_epoch(report))
            return stop(report) or unwanted

        return both

    def _advance(self, answers: int, charged: int, cost: float) -> None:
        self._length += answers
        self.evaluations += charged
        self.spent += cost
        self.round = self.evaluations // self.round_size
        self.left = left = self.budget.amount - self.spent
        self.progress = self.spent / self.budget.amount if left > 0 else 1.0
        self.terminated = left <= 0 or left < self._enough
        self.truncated = not self.terminated and self._length >= self._steps

    def _enter(self, answer: Answer, counted: bool, duplicate: bool) -> float:
        """Append an answer to the log; return its reward."""
        value = self._failure if duplicate and self._rejects else answer.value
        self.improved = value > self._best[0] and answer.usable
        if self.improved:
            self._best = value, len(self._log)
        self._log.append((answer, counted, duplicate))
        return value

    # Reading

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self._written()[index]

    def find(self, config: StudentConfig) -> Record | None:
        """Return the first answer for an architecture, or None."""
        for record in self._written()[self._indexed :]:
            self._first.setdefault(record.evaluation.config, record)
        self._indexed = self._length
        return self._first.get(config)

    def affordable(self, fidelity: Fidelity, reserved: float = 0) -> Fidelity | None:
        """Return the affordable fidelity of one more evaluation; None if the budget does not allow one.

        Args:
            fidelity: The wanted fidelity.
            reserved: Budget reserved for evaluations in progress; see :meth:`~kdnas_env.envs.budget.Budget.reserved`.
        """
        spent = self.spent + reserved
        return self.budget.affordable(fidelity, spent) if spent < self.budget.amount else None

    @property
    def over(self) -> bool:
        """Whether the search has ended."""
        return self.terminated or self.truncated

    @property
    def last(self) -> Record | None:
        """The latest answer."""
        return self[-1] if self._length else None

    @property
    def best(self) -> Record | None:
        """The best student of the search."""
        written = self._written()
        return written[self._best[1]] if self._best[1] >= 0 else None

    @property
    def previous_round(self) -> list[Record]:
        """The counted records of the last finished round; empty before the first round ends."""
        finished = self.round - 1
        counted = takewhile(lambda record: record.round >= finished, reversed(self._written()))
        return [record for record in counted if record.counted and record.round == finished][::-1]

    @property
    def previous_best(self) -> Record | None:
        """The best student of the last finished round."""
        return best_of(self.previous_round)

    def _written(self) -> list[Record]:
        """Return the records; they are created on first access."""
        for answers, rows, *flags in self._rounds:
            for row, counted, duplicate in zip(rows.tolist(), *(flag.tolist() for flag in flags), strict=True):
                self._enter(answers.rows[row], counted, duplicate)
        self._rounds.clear()
        for answer, counted, duplicate in self._log[len(self._records) :]:
            rejected = duplicate and self._rejects
            reward = replace(answer.reward, reward=self._failure) if rejected else answer.reward
            finished = self._counted // self.round_size
            self._records.append(Record(answer.action, answer.evaluation, reward, finished, counted, duplicate))
            self._counted += counted
        return self._records


def best_of(records: Iterable[Record]) -> Record | None:
    """Return the usable record with the highest reward (the first in case of ties), or None."""
    return max((record for record in records if record.usable), key=lambda record: record.reward.reward, default=None)
