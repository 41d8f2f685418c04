"""Proposals, and the candidates that were proposed and have no reward yet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from kdnas_env.core.grid import Grid
from kdnas_env.support.arrays import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Proposal:
    """Candidates of one round, with details of the proposal.

    Attributes:
        actions: int64 of shape ``(n, dims)``.
        random: Whether each candidate was drawn at random, bool ``(n,)``; None if none was.
        predicted: Predicted rewards, float64 ``(n,)``; None without predictions.
        exploration: Intended fraction of random candidates.
    """

    actions: Ints
    random: Bools | None = None
    predicted: Floats | None = None
    exploration: float = 0.0

    @classmethod
    def of_model(cls, actions: Ints, chosen: int, *, predicted: Floats, exploration: float) -> Proposal:
        """Return a proposal of a reward predictor: candidates that it has chosen, followed by random ones.

        Args:
            actions: int64 of shape ``(n, dims)``.
            chosen: Number of the chosen candidates.
            predicted: See :class:`Proposal`.
            exploration: See :class:`Proposal`.
        """
        return cls(actions, np.arange(len(actions)) >= chosen, predicted, exploration)


@dataclass(frozen=True)
class Origin:
    """How a candidate was proposed.

    Attributes:
        random: Whether it was drawn at random.
        predicted: Its predicted reward; NaN without prediction.
        known_rounds: Number of finished rounds at its proposal.
        exploration: Intended fraction of random candidates in its round.
    """

    random: bool
    predicted: float
    known_rounds: int
    exploration: float


class PendingCandidates:
    """Candidates that were proposed and have no reward yet, oldest first; iterates over their flat indices.

    Args:
        grid: The points of the action space.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._origins: dict[int, Origin] = {}

    def __len__(self) -> int:
        return len(self._origins)

    def __iter__(self) -> Iterator[int]:
        return iter(self._origins)

    @property
    def actions(self) -> Ints:
        """The candidates, int64 of shape ``(n, dims)``."""
        actions = [self._grid.action(number) for number in self._origins]
        return np.array(actions, dtype=np.int64).reshape(-1, len(self._grid.nvec))

    def add(self, proposal: Proposal, known_rounds: int) -> None:
        """Add the candidates of a proposal, made after a number of finished rounds."""
        n = len(proposal.actions)
        random = np.zeros(n, dtype=np.bool_) if proposal.random is None else np.asarray(proposal.random)
        predicted = np.full(n, np.nan) if proposal.predicted is None else np.asarray(proposal.predicted)
        for number, is_random, prediction in zip(
            self._grid.numbers(proposal.actions), random.tolist(), predicted.tolist(), strict=True
        ):
            self._origins[number] = Origin(is_random, prediction, known_rounds, proposal.exploration)

    def take(self, numbers: Sequence[int], known_rounds: int) -> list[Origin]:
        """Remove candidates by their flat indices, and return how they were proposed.

        A candidate that is not pending counts as proposed by the caller after ``known_rounds`` finished rounds.
        """
        unknown = Origin(False, math.nan, known_rounds, 0.0)
        return [self._origins.pop(number, unknown) for number in numbers]

    def to_state(self) -> dict[str, Any]:
        """Return the candidates and their origins as NumPy arrays and JSON values."""
        origins = [list(astuple(origin)) for origin in self._origins.values()]
        return {"pending": self.actions, "pending_details": origins}

    @classmethod
    def from_state(cls, grid: Grid, state: Mapping[str, Any]) -> PendingCandidates:
        """Restore a state of :meth:`to_state`.

        Raises:
            KDNASError: If a candidate is not on the grid.
        """
        pending = cls(grid)
        numbers = grid.numbers(grid.check(state["pending"]))
        pending._origins = {
            number: Origin(*details) for number, details in zip(numbers, state["pending_details"], strict=True)
        }
        return pending
