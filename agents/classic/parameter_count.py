"""Search by parameter count: a training-free baseline that evaluates the largest students first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.agents.classic.exhaustive import OrderedAgent
from kdnas_env.agents.environment import Environment
from kdnas_env.core.architecture import count_parameters
from kdnas_env.core.grid import Grid
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.support.settings import Settings

_TIES, _SAMPLE = 1, 2
"""Keys of the random streams: for the order of ties, and for the sample of a large space."""

_SAMPLED = 10_000
"""Minimum number of students sampled from a space that is too large to list; the number is at least four budgets."""


@dataclass(frozen=True)
class ParameterCountConfig(Settings):
    """Hyper-parameters of the search by parameter count.

    Attributes:
        largest_first: Whether the largest students are evaluated first, rather than the smallest.
    """

    largest_first: bool = True


class ParameterCountAgent(OrderedAgent[ParameterCountConfig]):
    """Proposes the largest points first, regardless of rewards; the seed orders ties.

    The number of parameters ranks language models well without training (Javaheripi et al. 2022, arXiv:2203.02094). It
    is read from the environment's attribute ``parameter_counts``, int64 of shape ``(n,)``, one number for each of its
    ``valid_action_indices``. If a ``search_space`` of students is too large to list, the agent sorts a random sample of
    its valid students. If the environment has neither attribute, the size of a point is the sum of its choices'
    indices, each divided by the highest index of its dimension; this assumes that higher choices give larger students.
    """

    Config = ParameterCountConfig

    def reset(
        self,
        nvec: npt.ArrayLike,
        *,
        budget: int,
        round_size: int,
        seed: int = 0,
        candidates: npt.ArrayLike | None = None,
        parameter_counts: npt.ArrayLike | None = None,
    ) -> None:
        """Start a new search; see :meth:`kdnas_env.agents.ask_tell.AskTellAgent.reset`.

        Args:
            nvec: Choices per dimension, integers of shape ``(dims,)``.
            budget: Evaluations of the whole search.
            round_size: Candidates per round.
            seed: Seed for the order of ties.
            candidates: Flat indices of the allowed points (last dimension fastest); None for all.
            parameter_counts: Parameters of the candidates in the same order, shape ``(n,)``; None if unknown.

        Raises:
            KDNASError: If an argument is malformed.
        """
        super().reset(nvec, budget=budget, round_size=round_size, seed=seed, candidates=candidates)
        self._rank(candidates, parameter_counts)

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment (as ``AskTellAgent`` does) with its parameter counts."""
        super().start(env, budget=budget, round_size=round_size, seed=seed)
        space = env_attribute(env, "search_space")
        if (counts := env_attribute(env, "parameter_counts")) is not None:
            self._rank(env_attribute(env, "valid_action_indices"), counts)
        elif isinstance(space, SearchSpace) and np.array_equal(space.nvec, self.grid.nvec):
            numbers, counts = self._sample(space)
            self.reset(
                self.grid.nvec,
                budget=self.budget,
                round_size=self.round_size,
                seed=seed,
                candidates=numbers,
                parameter_counts=counts,
            )

    def _sample(self, space: SearchSpace) -> tuple[list[int], list[int]]:
        """Draw students of a space; return the flat indices of the valid ones, and their parameters."""
        drawn = self.grid.draw(self._stream(_SAMPLE), max(_SAMPLED, 4 * self.budget), ())
        counts = {
            number: count_parameters(config, space.teacher)
            for number, config in zip(self.grid.numbers(drawn), map(space.decode, drawn), strict=True)
            if space.is_valid(config)
        }
        return [*counts], [*counts.values()]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the parameter counts."""
        return {**super().state_dict(), "parameter_counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self._rank(state["allowed"], state["parameter_counts"])

    def _rank(self, candidates: npt.ArrayLike | None, counts: npt.ArrayLike | None) -> None:
        self._counts = None if counts is None else _checked_counts(self.grid, candidates, counts)
        self._order: Ints | _BySum | None = None

    def _points(self, places: range) -> Ints:
        if self._order is None:
            self._order = self._ordered()
        if isinstance(self._order, _BySum):
            return self._order[places]
        return self.grid.actions(self._order[places.start : places.stop])

    def _ordered(self) -> Ints | _BySum:
        ties, grid = self._stream(_TIES), self.grid
        if not grid.listable:
            return _BySum(grid.nvec, ties, largest_first=self.config.largest_first)
        points = grid.remaining(())
        sizes = _normalised_sum(grid.actions(points), grid.nvec - 1) if self._counts is None else self._counts
        return points[np.lexsort((ties.random(len(points)), -sizes if self.config.largest_first else sizes))]


class _BySum:
    """The points of a grid too large to list, in the order of the sum of their choices' normalised indices."""

    def __init__(self, nvec: Ints, ties: np.random.Generator, *, largest_first: bool) -> None:
        self._top = nvec - 1
        self._ties = ties
        self._largest_first = largest_first
        self._points: list[Ints] = []
        self._frontier: list[tuple[float, float, tuple[int, ...]]] = []
        self._push((0,) * len(nvec))

    def __getitem__(self, places: range) -> Ints:
        while len(self._points) < places.stop:
            _, _, moved = heapq.heappop(self._frontier)
            steps = np.array(moved, dtype=np.int64)
            self._points.append(self._top - steps if self._largest_first else steps)
            # Only from the last advanced dimension on, so that each point is reached in exactly one way.
            last = int(np.flatnonzero(steps)[-1]) if any(moved) else 0
            for axis in range(last, len(moved)):
                if moved[axis] < self._top[axis]:
                    self._push((*moved[:axis], moved[axis] + 1, *moved[axis + 1 :]))
        return np.array(self._points[places.start : places.stop], dtype=np.int64)

    def _push(self, moved: tuple[int, ...]) -> None:
        # All points of one sum are on the frontier when the first is taken, so random keys shuffle them.
        total = float(_normalised_sum(np.array(moved, dtype=np.int64), self._top))
        heapq.heappush(self._frontier, (total, self._ties.random(), moved))


def _normalised_sum(indices: Ints, highest: Ints) -> Floats:
    # Rounded, so that the order of summation does not matter.
    sums: Floats = np.sum(indices / np.maximum(highest, 1), axis=-1)
    return sums.round(9)


def _checked_counts(grid: Grid, candidates: npt.ArrayLike | None, counts: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return the counts in the order of the grid's points.

    Raises:
        KDNASError: If the counts are not one finite number per candidate.
    """
    array = np.asarray(counts)
    numeric = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    if array.shape != (grid.size,) or not numeric or not np.isfinite(array).all():
        raise KDNASError(
            f"parameter_counts are {array.dtype} of shape {array.shape}; expected a finite number for each of the "
            f"{grid.size} points that may be proposed, in the order of valid_action_indices"
        )
    return array if candidates is None else array[np.argsort(np.asarray(candidates))]
