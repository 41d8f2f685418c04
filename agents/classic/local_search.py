"""Local search: hill climbing with restarts, a strong baseline on tables of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.ranking import RoundRecord
from kdnas_env.core.grid import REACH
from kdnas_env.support.arrays import Ints
from kdnas_env.support.settings import Settings


@dataclass(frozen=True)
class LocalSearchConfig(Settings):
    """Hyper-parameters of local search.

    Attributes:
        starts: Number of random candidates before each climb; the climb starts at the best one.
        move: When to move to the best improving neighbour: after all neighbours are evaluated (``best``), or after the
            first round with an improvement (``first``).
        reach: Largest distance of a neighbour's choice in the dimension in which it differs; None for any distance, as
            in the paper, which needs many more evaluations per move if dimensions have many choices. In a dimension
            with more than 64 choices, neighbours are 1, 8, 64, 512 and so on choices away, regardless of the reach.
    """

    starts: int = 16
    move: Literal["best", "first"] = "best"
    reach: int | None = REACH

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("starts", "reach", at_least=1)


class LocalSearchAgent(AskTellAgent[LocalSearchConfig]):
    """Evaluates the neighbours of a point, moves to the best one, and restarts at local optima.

    Local search as in White et al. 2021 (arXiv:2005.02960): neighbours differ in one dimension and are evaluated in
    random order. If too few neighbours remain for a round, the round is filled with neighbours of the currently best
    next point, then with random points. After a local optimum, the next climb starts at the best random point evaluated
    since the last climb began.
    """

    Config = LocalSearchConfig

    def _start(self) -> None:
        self._current: int | None = None
        self._climbing_since = 0
        self._positions: dict[int, int] = {}
        self._begin_drawing()

    def _begin_drawing(self) -> None:
        self._drawn = 0  # since the last climb began
        self._best_drawn: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the position of the climb."""
        return {**super().state_dict(), "current": self._current, "climbing_since": self._climbing_since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self._current, self._climbing_since = state["current"], state["climbing_since"]
        self._take_in(0)

    def _learn(self, record: RoundRecord) -> None:
        self._take_in(self.ranking.evaluations - len(record.rewards))

    def _take_in(self, begin: int) -> None:
        """Process the evaluations from a position on."""
        for position, number in enumerate(self.grid.numbers(self._evaluated[begin:]), start=begin):
            self._positions[number] = position
        since = max(begin, self._climbing_since)
        drawn = since + np.flatnonzero(self.ranking.column("random")[since:])
        self._drawn += len(drawn)
        self._best_drawn = self._best(drawn, self._best_drawn)

    def _propose(self, n: int) -> Proposal:
        self._move()
        seen = self.seen
        chosen = np.empty((0, len(self.grid.nvec)), dtype=np.int64)
        at = self._current
        while at is not None and len(chosen) < n:
            fresh = self.rng.permutation(self.grid.fresh(self._neighbours(at), seen))[: n - len(chosen)]
            seen.update(self.grid.numbers(fresh))
            chosen = np.concatenate([chosen, fresh])
            at = self._better_neighbour(at)
        return self._fill(chosen, n, exploration=float(self._current is None))

    def _move(self) -> None:
        """Climb as far as the known evaluations allow, or start a new climb."""
        while True:
            if self._current is None:
                self._current = self._next_start()
            if self._current is None:
                return
            left = self.grid.fresh(self._neighbours(self._current), self._positions.keys())
            better = self._better_neighbour(self._current)
            if len(left) and (better is None or self.config.move == "best"):
                return
            self._current = better

    def _next_start(self) -> int | None:
        start = self._best_drawn
        if self._drawn < self.config.starts or start is None:
            return None
        self._climbing_since = self.ranking.evaluations
        self._begin_drawing()
        return start

    def _better_neighbour(self, position: int) -> int | None:
        """Return the position of the best evaluated neighbour, or None if none is better than the point itself."""
        around = [self._positions.get(number) for number in self.grid.numbers(self._neighbours(position))]
        known = np.array([place for place in around if place is not None], dtype=np.int64)
        best = self._best(known, position)
        return None if best == position else best

    def _best(self, positions: Ints, best: int | None) -> int | None:
        """Return the usable position with the highest reward, or ``best`` if none has a higher reward."""
        usable = positions[self.ranking.usable[positions]]
        if not len(usable):
            return best
        rewards = self.ranking.rewards
        top = int(usable[np.argmax(rewards[usable])])
        return top if best is None or rewards[top] > rewards[best] else best

    def _neighbours(self, position: int) -> Ints:
        return self.grid.neighbours(self._evaluated[position], self.config.reach)
