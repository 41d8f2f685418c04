"""One self-contained HTML page that a race or a run can be clicked through in: no network, no library.

Names and texts are data to the page, never markup, so that nothing a submission holds can act in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdnas_env.bench.plots import line_styles

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = "{data}"


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        agent: Whose.
        value: One number a point of the chart's ``x``; NaN where there is none.
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
        name: Short and unique in its view.
        title: What it shows, in words.
        xlabel: Name of the horizontal axis.
        ylabel: Name of the vertical axis.
        x: Points of the horizontal axis, rising.
        series: The lines.
        log: Whether the vertical axis is logarithmic.
        floor: Lowest value of the vertical axis; None: the least that is shown.
        ceiling: Highest value; None: the largest that is shown.
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
        agent: What they are called: one of the page's ``agents``, which gives them their colour.
        x: Where each stands on the horizontal axis; NaN: it is not shown.
        y: Where each stands on the vertical axis; NaN: it is not shown.
        labels: What each is, shown where it is pointed at; empty for what is a line alone.
        joined: Whether a line joins them in their order, straight or in steps.
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
        name: Short and unique in its view.
        title: What it shows, in words.
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
    """A table that can be sorted, of anything but agents.

    Attributes:
        name: Short and unique in its view.
        title: Its heading.
        columns: Names of the columns.
        rows: Texts and numbers; None where there is nothing.
        about: What it shows, in words.
        sort: Column that it is sorted by at first; None keeps the order of the rows.
        down: Whether the largest is first.
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
    """A table that can be sorted, one row an agent.

    Attributes:
        name: Short and unique in its view.
        title: What it shows, in words.
        columns: Headings; the first is of the agents' names.
        rows: One an agent, its name first; None where there is nothing.
        sort: Column that it is sorted by at first.
        down: Whether the largest is first.
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
    """Agents against each other.

    Attributes:
        name: Short and unique in its view.
        title: What it shows, in words.
        cells: By the agent of the row and that of the column.
    """

    name: str
    title: str
    cells: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class View:
    """What is seen of one task, or of all.

    Attributes:
        name: Name of the button that shows it.
        about: What it is of, in words.
        table: Its standings, or None.
        charts: Its charts.
        matrices: Its matrices.
        notes: Remarks below.
        scatters: Its scatter charts, before the charts.
        listings: Its tables of anything but agents, below the charts.
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
        subtitle: One line below.
        agents: Names of the agents, or of whatever else has a colour, in the order of their colours.
        views: Views, the first of which is seen first.
        facts: Name and value of what to know about how it was made.
        commands: What may be done next, each in words and as a command.
    """

    title: str
    subtitle: str
    agents: Sequence[str]
    views: Sequence[View]
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[tuple[str, str]] = ()

    def to_html(self) -> str:
        """Return the page as a text."""
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
    """Return plain data as JSON that cannot end the element it stands in."""
    return json.dumps(_plain(data), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _plain(data: Any) -> Any:
    """Return data with lists for all sequences, and None for numbers that are not finite."""
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, str) or data is None or isinstance(data, bool | int):
        return data
    if hasattr(data, "tolist"):
        return _plain(data.tolist())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return [_plain(value) for value in data]
