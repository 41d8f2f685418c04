"""Figures of a race, drawn from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas_env.support.figures import line_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
"""File formats of the figures."""

RANDOM_LABEL = "random search, exact median"

_MIN_REGRET = 1e-3
"""Minimum regret on a logarithmic axis."""


def draw_curves(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Figure:
    """Plot the regret against the spent budget, with bands, and random search's exact median.

    Args:
        summary: A summary of :func:`kdnas_env.bench.summary.summarise`.
        view: One of its views.
    """
    figure, axes = _line_figure(summary["agents"])
    x = summary["spent"]
    for agent, line in _lines(summary["agents"]):
        curve = view["agents"][agent]["curve"]
        value, low, high = (np.maximum(curve[name], _MIN_REGRET) for name in ("value", "low", "high"))
        axes.plot(x, value, **line)
        axes.fill_between(x, low, high, color=line["color"], alpha=_band(summary), linewidth=0)
    axes.plot(x, np.maximum(view["random"], _MIN_REGRET), color="black", linestyle=":", label=RANDOM_LABEL)
    axes.set(
        yscale="log",
        xlabel=f"{summary['unit']} spent",
        ylabel="normalised regret (IQM)",
        title=f"{_plain(view['title'])}: {summary['seeds']} seeds, bands of {summary['confidence']:.0%}",
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=4)
    return figure


def draw_profiles(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Figure:
    """Plot the share of searches with a final regret of at most each threshold, with bands."""
    figure, axes = _line_figure(summary["agents"])
    x = summary["thresholds"]
    for agent, line in _lines(summary["agents"]):
        profile = view["agents"][agent]["profile"]
        axes.plot(x, profile["value"], **line)
        axes.fill_between(x, profile["low"], profile["high"], color=line["color"], alpha=_band(summary), linewidth=0)
    axes.set(
        ylim=(0, 1.02),
        xlabel="normalised regret in the end, at most",
        ylabel="share of the searches",
        title=f"{_plain(view['title'])}: performance profile",
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=4)
    return figure


def draw_targets(summary: Mapping[str, Any], view: Mapping[str, Any], target: str) -> Figure:
    """Plot the share of searches that have reached a target against the spent budget."""
    figure, axes = _line_figure(summary["agents"])
    for agent, line in _lines(summary["agents"]):
        reached = view["agents"][agent]["targets"][target]
        axes.step(summary["spent"], reached["ecdf"], where="post", **line)
    words = target.replace("_", " ").replace(" percent", " %")
    axes.set(
        ylim=(0, 1.02),
        xlabel=f"{summary['unit']} spent",
        ylabel="share of the searches",
        title=f"{_plain(view['title'])}: searches that have reached the {words}",
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=4)
    return figure


def draw_improvement(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Figure:
    """Draw the probability that the agent of the row ends with less regret than the agent of the column."""
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
    axes.set_xticks(range(len(agents)), [_plain(agent) for agent in agents], rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(agents)), [_plain(agent) for agent in agents], fontsize=8)
    axes.grid(visible=False)
    axes.set_title(f"{_plain(view['title'])}: probability that the row beats the column", fontsize=10)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _line_figure(agents: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure with room for a legend beside the axes."""
    widest = max(len(agent) for agent in (*agents, RANDOM_LABEL))
    return _figure(7.5 + 0.065 * widest, max(4.5, 0.8 + 0.17 * len(agents)))


def _lines(agents: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return matplotlib's line arguments for each agent."""
    return [
        (
            agent,
            {
                "color": style.colour,
                "linestyle": (0, style.dashes) if style.dashes else "solid",
                "linewidth": 1.4,
                "label": _plain(agent),
            },
        )
        for agent, style in line_styles(agents).items()
    ]


def _plain(text: str) -> str:
    """Return a text in which matplotlib sees no mathematics."""
    return text.replace("$", r"\$")


def _band(summary: Mapping[str, Any]) -> float:
    """Return the opacity of bands, lower for many agents so that bands do not hide lines."""
    return min(0.15, 1 / len(summary["agents"]))
