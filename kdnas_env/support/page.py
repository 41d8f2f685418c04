"""A self-contained, interactive HTML page for a race or a run, without network access or libraries.

Names and texts are data of the page, not markup, so that a submission cannot inject code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdnas_env.support.figures import line_styles

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = "{data}"


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        agent: The agent that the line belongs to.
        value: One number per point of the chart's ``x``; NaN where there is none.
        low: Lower end of its band, or None.
        high: Upper end of its band, or None.
    """

    agent: str
    value: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over one axis.

    Attributes:
        name: Short name, unique in its view.
        title: Title of the content.
        xlabel: Name of the horizontal axis.
        ylabel: Name of the vertical axis.
        x: Points of the horizontal axis, ascending.
        series: The lines.
        log: Whether the vertical axis is logarithmic.
        floor: Minimum of the vertical axis; None for the smallest value shown.
        ceiling: Maximum of the vertical axis; None for the largest value shown.
    """

    name: str
    title: str
    xlabel: str
    ylabel: str
    x: Sequence[float]
    series: Sequence[Series]
    log: bool = False
    floor: float | None = None
    ceiling: float | None = None


@dataclass(frozen=True)
class Cloud:
    """Points of a scatter chart.

    Attributes:
        agent: Name of the points, one of the page's ``agents``, which determines their colour.
        x: Horizontal positions; NaN hides a point.
        y: Vertical positions; NaN hides a point.
        labels: Tooltips of the points; empty for a line without points.
        joined: Type of the line that joins the points in order; empty for none.
    """

    agent: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    joined: Literal["", "line", "step"] = ""


@dataclass(frozen=True)
class Scatter:
    """Points over two axes.

    Attributes:
        name: Short name, unique in its view.
        title: Title of the content.
        xlabel: Name of the horizontal axis.
        ylabel: Name of the vertical axis.
        clouds: The points.
    """

    name: str
    title: str
    xlabel: str
    ylabel: str
    clouds: Sequence[Cloud]


@dataclass(frozen=True)
class Listing:
    """A sortable table of anything except agents.

    Attributes:
        name: Short name, unique in its view.
        title: Heading of the table.
        columns: Names of the columns.
        rows: Texts and numbers; None for an empty cell.
        about: Explanation of the content.
        sort: Column to sort by initially; None keeps the order of the rows.
        down: Whether to sort in descending order.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    about: str = ""
    sort: int | None = None
    down: bool = False


@dataclass(frozen=True)
class Standings:
    """A sortable table with one row per agent.

    Attributes:
        name: Short name, unique in its view.
        title: Title of the content.
        columns: Headings; the first column holds the agents' names.
        rows: One row per agent, starting with its name; None for an empty cell.
        sort: Column to sort by initially.
        down: Whether to sort in descending order.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    sort: int = 0
    down: bool = False


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Matrix:
    """Pairwise comparison of agents.

    Attributes:
        name: Short name, unique in its view.
        title: Title of the content.
        cells: Estimates by the agent of the row, then of the column.
    """

    name: str
    title: str
    cells: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class View:
    """The part of a page on one task, or on all tasks.

    Attributes:
        name: Text of the button that shows it.
        about: Explanation of the content.
        table: Its standings, or None.
        charts: Its charts.
        matrices: Its matrices.
        notes: Remarks, shown at the bottom.
        scatters: Its scatter charts, shown before the charts.
        listings: Its tables of anything except agents, shown below the charts.
    """

    name: str
    about: str
    table: Standings | None = None
    charts: Sequence[Chart] = ()
    matrices: Sequence[Matrix] = ()
    notes: Sequence[str] = ()
    scatters: Sequence[Scatter] = ()
    listings: Sequence[Listing] = ()


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: Its title.
        subtitle: One line below the title.
        agents: Names of the agents, or of other series, in the order of their colours.
        views: Views; the first is shown initially.
        facts: Names and values of facts on how the results were made.
        commands: Suggested next steps, each as text and as a command.
    """

    title: str
    subtitle: str
    agents: Sequence[str]
    views: Sequence[View]
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[tuple[str, str]] = ()

    def to_html(self) -> str:
        """Return the page as HTML."""
        before, after = _TEMPLATE.read_text(encoding="utf-8").split(_PLACE)
        return before + _embedded(self._data()) + after

    def _data(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "agents": list(self.agents),
            "styles": [vars(style) for style in line_styles(self.agents).values()],
            "facts": [list(fact) for fact in self.facts],
            "commands": [list(command) for command in self.commands],
            "views": [
                {
                    "name": view.name,
                    "about": view.about,
                    "table": None if view.table is None else {**vars(view.table)},
                    "charts": [
                        {**vars(chart), "series": [vars(line) for line in chart.series]} for chart in view.charts
                    ],
                    "matrices": [
                        {
                            "name": matrix.name,
                            "title": matrix.title,
                            "agents": list(self.agents),
                            "cells": {
                                row: {column: vars(cell) for column, cell in cells.items()}
                                for row, cells in matrix.cells.items()
                            },
                        }
                        for matrix in view.matrices
                    ],
                    "notes": list(view.notes),
                    "scatters": [
                        {**vars(scatter), "clouds": [vars(cloud) for cloud in scatter.clouds]}
                        for scatter in view.scatters
                    ],
                    "listings": [vars(listing) for listing in view.listings],
                }
                for view in self.views
            ],
        }


def _embedded(data: Any) -> str:
    """Return plain data as JSON that cannot end its HTML element."""
    return json.dumps(_plain(data), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _plain(data: Any) -> Any:
    """Return data with all sequences as lists, and None for numbers that are not finite."""
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, str) or data is None or isinstance(data, bool | int):
        return data
    if hasattr(data, "tolist"):
        return _plain(data.tolist())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return [_plain(value) for value in data]
