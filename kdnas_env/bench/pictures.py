"""Pictures of a race, drawn from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#555555", "#8c6bb1", "#a6761d", "#1b7837"
)  # fmt: skip
"""Colours of agents, in their order: those of Okabe and Ito (2008) first, told apart by all eyes."""

_LEAST = 1e-3
"""Lowest regret of a logarithmic axis."""


def draw_curves(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Figure:
    """Draw the regret along the budget, with bands, and beside it random search's exact median.

    Args:
        summary: A summary of :func:`kdnas_env.bench.summary.summarise`.
        view: One of its views.
    """
    figure, axes = _figure(8.0, 5.0)
    x = summary["spent"]
    for agent, colour in _coloured(summary["agents"]):
        curve = view["agents"][agent]["curve"]
        value, low, high = (np.maximum(curve[name], _LEAST) for name in ("value", "low", "high"))
        axes.plot(x, value, color=colour, label=agent)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, np.maximum(view["random"], _LEAST), color="black", linestyle=":", label="random search, exact median")
    axes.set(
        yscale="log",
        xlabel=f"{summary['unit']} spent",
        ylabel="normalised regret (IQM)",
        title=f"{view['title']}: {summary['seeds']} seeds, bands of {summary['confidence']:.0%}",
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_profiles(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Figure:
    """Draw which share of the searches ends with a regret of at most so much, with bands."""
    figure, axes = _figure(7.0, 4.5)
    for agent, colour in _coloured(summary["agents"]):
        profile = view["agents"][agent]["profile"]
        axes.plot(summary["thresholds"], profile["value"], color=colour, label=agent)
        axes.fill_between(summary["thresholds"], profile["low"], profile["high"], color=colour, alpha=0.15, linewidth=0)
    axes.set(
        ylim=(0, 1.02),
        xlabel="normalised regret in the end, at most",
        ylabel="share of the searches",
        title=f"{view['title']}: performance profile",
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_targets(summary: Mapping[str, Any], view: Mapping[str, Any], target: str) -> Figure:
    """Draw which share of the searches has reached a target when so much was spent."""
    figure, axes = _figure(7.0, 4.5)
    for agent, colour in _coloured(summary["agents"]):
        told = view["agents"][agent]["targets"][target]
        axes.step(summary["spent"], told["ecdf"], where="post", color=colour, label=agent)
    axes.set(
        ylim=(0, 1.02),
        xlabel=f"{summary['unit']} spent",
        ylabel="share of the searches",
        title=f"{view['title']}: searches that have reached the {target.replace('_', ' ').replace(' percent', ' %')}",
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_improvement(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Figure:
    """Draw how likely the agent of the row ends with less regret than that of the column."""
    agents = summary["agents"]
    side = 2.5 + 0.8 * len(agents)
    figure, axes = _figure(side, side)
    cells = np.array([[view["improvement"][x].get(y, {"value": np.nan})["value"] for y in agents] for x in agents])
    axes.imshow(cells, cmap="RdBu", vmin=0, vmax=1)
    for row, x in enumerate(agents):
        for column, y in enumerate(agents):
            if x != y:
                cell = view["improvement"][x][y]
                text = f"{cell['value']:.2f}\n{cell['low']:.2f}-{cell['high']:.2f}"
                colour = "white" if abs(cell["value"] - 0.5) > 0.3 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(agents)), agents, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(agents)), agents, fontsize=8)
    axes.grid(visible=False)
    axes.set_title(f"{view['title']}: probability that the row beats the column", fontsize=10)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _coloured(agents: Sequence[str]) -> list[tuple[str, str]]:
    return [(agent, COLOURS[place % len(COLOURS)]) for place, agent in enumerate(agents)]
