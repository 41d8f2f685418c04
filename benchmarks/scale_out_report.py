"""Tables and pictures of ``scale_out.py``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.table import Table
from simulated_searches import askable

from kdnas_env.support.atomic import replacing

KEPT = ("nothing", "store", "store and journal")
"""What a search keeps on disk."""

PENDING = 8
"""Students that are pending while the growth of an agent is followed."""


def memory_tables(memory: dict[str, Any]) -> list[Table]:
    """Return what a search holds as tables."""
    table = Table(title=f"Memory of a search ({memory['agent']})")
    for heading in ("evaluations", "RSS, MiB", "bytes per evaluation", "seconds"):
        table.add_column(heading, justify="right")
    rows = memory["rows"]
    for row in [*rows[1:-1:6], *rows[-1:]]:
        size = f"{row['rss_bytes'] / 2**20:,.0f}"
        table.add_row(f"{row['evaluations']:,}", size, f"{row['bytes_per_evaluation']:,.0f}", f"{row['seconds']:,.0f}")
    held = Table(title="Bytes per evaluation, by the module that allocated them")
    held.add_column("module")
    held.add_column("bytes", justify="right")
    for name, size in memory["modules"].items():
        held.add_row(name, f"{size:,.0f}")
    return [table, held]


def driver_table(rows: list[dict[str, Any]], budget: int) -> Table:
    """Return evaluations per second as a table."""
    table = Table(title=f"Evaluations per second of a search of {budget:,} (random)")
    for heading in ("workers", *KEPT, "idle on the way", "idle in all"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = [_percent(row[name]) for name in ("steady_idle", "idle")]
        table.add_row(f"{row['workers']:,}", *(f"{row[kept]:,.0f}" for kept in KEPT), *shares)
    return table


def growth_table(growth: dict[str, dict[str, Any]], duration: float) -> Table:
    """Return what agents cost as a table."""
    table = Table(title=f"Agents, {PENDING} students pending; evaluations of {duration:g} s")
    table.add_column("agent")
    for heading in ("evaluations", "seconds", "grows as n^", "ms a decision", "workers kept busy"):
        table.add_column(heading, justify="right")
    for name, row in growth.items():
        last = row["marks"][-1] if row["marks"] else {"evaluations": 0, "seconds": 0.0}
        power = "-" if row["exponent"] is None else f"{row['exponent']:.2f}"
        cells = (f"{last['evaluations']:,}", f"{last['seconds']:.2f}", power)
        table.add_row(name, *cells, f"{1e3 * row['decision_seconds']:.2f}", f"{row['workers_kept_busy']:,.0f}")
    return table


def idle_table(figures: dict[str, Any]) -> Table:
    """Return idle shares as a table, with a tilde what follows from the cost of a decision."""
    duration = figures["options"]["duration"]
    table = Table(title=f"Share of the workers' time that is lost to decisions, {duration:g} s an evaluation")
    table.add_column("agent")
    for workers in figures["options"]["workers"]:
        table.add_column(f"{workers:,}", justify="right")
    for name, shares in figures["idle"].items():
        capacity = figures["growth"][name]["workers_kept_busy"] if figures["growth"] else math.nan
        table.add_row(name, *(_share(one["idle"], capacity / one["workers"]) for one in shares))
    return table


def _share(idle: float | None, capacity: float) -> str:
    return _percent(idle) if idle is not None or math.isnan(capacity) else f"~{max(0.0, 1 - capacity):.0%}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def draw(figures: dict[str, Any], path: str) -> None:
    """Draw what was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    memory, driver, growth, idle = figure.subplots(2, 2).ravel()
    rows = figures["memory"]["rows"] if figures["memory"] else []
    memory.plot([row["evaluations"] for row in rows], [row["rss_bytes"] / 2**30 for row in rows], "o-")
    memory.set(xlabel="evaluations", ylabel="RSS, GiB", title="memory of a search", xlim=(0, None), ylim=(0, None))
    rows = figures["driver"] or []
    for kept in KEPT:
        driver.plot([row["workers"] for row in rows], [row[kept] for row in rows], "o-", label=f"{kept} on disk")
    driver.set(xscale="log", yscale="log", xlabel="workers", ylabel="evaluations per second", title="driver")
    for name, row in (figures["growth"] or {}).items():
        power, marks = row["exponent"], row["marks"]
        label = name if power is None else f"{name}, n^{power:.2f}"
        growth.plot(
            [mark["evaluations"] for mark in marks], [mark["seconds"] for mark in marks], **_style(name), label=label
        )
    growth.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="seconds of ask and tell", title="growth")
    for name, shares in (figures["idle"] or {}).items():
        found = [(one["workers"], one["idle"]) for one in shares if one["idle"] is not None]
        idle.plot([workers for workers, _ in found], [share for _, share in found], **_style(name), label=name)
        if figures["growth"]:
            capacity = figures["growth"][name]["workers_kept_busy"]
            expected = [max(0.0, 1 - capacity / workers) for workers in figures["options"]["workers"]]
            idle.plot(figures["options"]["workers"], expected, ":", color=_style(name)["color"])
    title = f"workers that wait for decisions, {figures['options']['duration']:g} s an evaluation"
    idle.set(xscale="log", xlabel="workers", ylabel="idle share", ylim=(-0.02, 1), title=title)
    for axes, part in ((memory, "memory"), (driver, "driver"), (growth, "growth"), (idle, "idle")):
        axes.set_visible(figures[part] is not None)
        if figures[part] and axes is not memory:
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if axes in (growth, idle) else {}
            axes.legend(fontsize=7, **beside)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format=Path(path).suffix.removeprefix(".") or "png")


def _style(name: str) -> dict[str, Any]:
    place = (askable().index(name) if name in askable() else 0) % 30
    return {"color": f"C{place % 10}", "marker": "os^"[place // 10]}
