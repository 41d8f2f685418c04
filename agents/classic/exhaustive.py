"""Exhaustive search: evaluate every point in order, for small spaces and tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import ConfigT, NoSettings
from kdnas_env.support.arrays import Ints


class OrderedAgent(AskTellAgent[ConfigT]):
    """An agent that evaluates the points of the space in a fixed order.

    Subclasses define the order. The saved state adds only the current position in the order.
    """

    def _start(self) -> None:
        self._place = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the current position in the order."""
        return {**super().state_dict(), "place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self._place = state["place"]

    def _propose(self, n: int) -> Proposal:
        proposed = np.empty((0, len(self.grid.nvec)), dtype=np.int64)
        while len(proposed) < n and self._place < self.grid.size:
            places = range(self._place, min(self._place + n - len(proposed), self.grid.size))
            proposed = np.concatenate([proposed, self.grid.fresh(self._points(places), self.seen)])
            self._place = places.stop
        return Proposal(proposed)

    @abstractmethod
    def _points(self, places: range) -> Ints:
        """Return the points at some positions in the order, int64 of shape ``(n, dims)``."""


class ExhaustiveAgent(OrderedAgent[NoSettings]):
    """Proposes every point in order, the last dimension fastest; the seed changes nothing."""

    def _points(self, places: range) -> Ints:
        if self.grid.allowed is not None:
            return self.grid.actions(self.grid.allowed[places.start : places.stop])
        return np.array([self.grid.action(number) for number in places], dtype=np.int64)
