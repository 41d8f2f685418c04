"""How the lines of agents are told apart, in pictures and on the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Those of Okabe and Ito (2008), told apart by all eyes, and two more."""

DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.5), (1.5, 1.5), (8, 2, 1.5, 2), (3, 1.5, 1.5, 1.5, 1.5, 1.5))
"""Lengths of strokes and gaps in widths of the line; none: a solid line."""


@dataclass(frozen=True)
class LineStyle:
    """The line of an agent.

    Attributes:
        colour: Of ``COLOURS``.
        dashes: Of ``DASHES``.
    """

    colour: str
    dashes: tuple[float, ...]


def line_styles(agents: Sequence[str]) -> dict[str, LineStyle]:
    """Return the lines of agents, in their order: all colours solid first; different for 40 agents."""
    return {
        agent: LineStyle(COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)])
        for place, agent in enumerate(agents)
    }
