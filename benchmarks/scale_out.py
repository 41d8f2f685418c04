"""How far a search without rounds scales: evaluations per second, idle workers, memory, and what agents ask for it.

    python benchmarks/scale_out.py --json FILE --picture FILE.png

The driver, the pool, the store and the agents are real; the workers and their clock are simulated, and students are
answered by the planted landscape. Four questions, in this order:

- memory: what a search holds per evaluation, up to a million of them, and which module allocated it;
- driver: evaluations per second of a whole search with 1 to 1,024 workers, with and without store and journal on disk;
- growth: seconds of `ask` and `tell` as a search gets longer, per agent, and the power of its length that they follow;
- idle: the share of the workers' time that is lost while the agent thinks, if an evaluation takes 30 seconds. For that
  the simulated clock runs on with the real seconds of the driver, the evaluations themselves taken off. What would take
  too long to simulate follows from the seconds of a decision: an agent keeps as many workers busy as it makes decisions
  while an evaluation takes.

Agents are timed in seconds of the processor, of one thread, so that other programs hardly count; the driver in those of
the clock, since a store and a journal wait for the disk.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import tyro
from machine import machine_facts
from rich.console import Console
from rich.progress import Progress
from scale_out_report import KEPT, PENDING, draw, driver_table, growth_table, idle_table, memory_tables
from simulated_searches import Enough, NoStore, Search, TimedAgent, askable, landscape, named, stop_at

from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.searching.journal import Journal
from kdnas_env.support.atomic import write_json
from kdnas_env.support.cpu_lock import pinned_threads

SHORTEST = 125
"""Evaluations of the first search of an agent; the next is twice as long, and so on."""

LONGEST = 64_000
"""Evaluations at which the growth of an agent is no longer followed; the landscape has 95,000 students."""

EVALUATIONS_PER_WORKER = 5
"""Evaluations per worker of a search whose idle share is measured."""


@dataclass(frozen=True)
class Options:
    """Measure how far a search without rounds scales.

    Attributes:
        json: File for the figures.
        picture: File for a picture, such as scale.png.
        workers: Numbers of simulated workers.
        agents: Names of agents with ask and tell, "optuna:SAMPLER" for one sampler; all by default.
        duration: Seconds of an evaluation, on average; from half to one and a half times as many.
        budget: Evaluations of a search whose driver is timed.
        driver_seconds: Longest time for one such search.
        memory: Evaluations of the search whose memory is measured.
        memory_agent: Agent of that search.
        memory_seconds: Longest time for it; what it held until then is reported.
        growth_seconds: Longest time to follow the growth of an agent.
        idle_seconds: Longest time for one agent and one number of workers.
        folder: Where stores are made; the folder of temporary files by default.
        parts: What is measured.
        quick: Spend about a tenth of the time, for figures that are as much rougher.
    """

    json: str | None = None
    picture: str | None = None
    workers: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    agents: tuple[str, ...] = ()
    duration: float = 30.0
    budget: int = 5000
    driver_seconds: float = 5.0
    memory: int = 1_000_000
    memory_agent: str = "random"
    memory_seconds: float = 400.0
    growth_seconds: float = 10.0
    idle_seconds: float = 2.0
    folder: str | None = None
    parts: tuple[Literal["memory", "driver", "growth", "idle"], ...] = ("memory", "driver", "growth", "idle")
    quick: bool = False


def exponent(marks: Sequence[int], totals: Sequence[float]) -> float | None:
    """Return the power of the marks that totals follow, over the last four; None where there are less than three."""
    if len(marks) < 3:
        return None
    slope, _ = np.polyfit(np.log(marks[-4:]), np.log(totals[-4:]), 1)
    return float(slope)


def measure_memory(options: Options, progress: Progress) -> dict[str, Any]:
    """Return what a long search holds, by its length, and per evaluation by the module that allocated it."""
    task = progress.add_task("memory", total=options.memory)
    process, began = psutil.Process(), time.perf_counter()
    step = max(1, options.memory // 20)
    rows: list[dict[str, float]] = []
    # A machine that has less than a million need shall not be brought down.
    room = 0.7 * psutil.virtual_memory().available

    def note(evaluations: int) -> None:
        if evaluations % 1000 and evaluations != 1:
            return
        progress.update(task, completed=evaluations)
        seconds, held = time.perf_counter() - began, process.memory_info().rss
        over = seconds > options.memory_seconds or (evaluations > 1 and held - rows[0]["rss_bytes"] > room)
        if over or evaluations == 1 or evaluations % step == 0:
            rows.append({"evaluations": evaluations, "rss_bytes": held, "seconds": seconds})
        if over:
            raise Enough

    gc.collect()
    Search(named(options.memory_agent), 64, options.memory, on_answer=note, large=True).run()
    for row in rows[1:]:
        row["bytes_per_evaluation"] = (row["rss_bytes"] - rows[0]["rss_bytes"]) / row["evaluations"]
    return {"agent": options.memory_agent, "rows": rows[1:], "modules": measure_modules(options)}


def measure_modules(options: Options, skip: int = 2000, count: int = 4000) -> dict[str, float]:
    """Return the bytes per evaluation that a search holds, by the module that allocated them, largest first."""
    snapshots: list[tracemalloc.Snapshot] = []

    def note(evaluations: int) -> None:
        if evaluations in (skip, skip + count):
            gc.collect()
            snapshots.append(tracemalloc.take_snapshot())

    tracemalloc.start()
    try:
        Search(named(options.memory_agent), 64, skip + count + 1, on_answer=note, large=True).run()
    finally:
        tracemalloc.stop()
    before, after = snapshots
    differences = after.compare_to(before, "filename")
    found = {_module(entry.traceback[0].filename): entry.size_diff / count for entry in differences}
    return {name: size for name, size in sorted(found.items(), key=lambda item: -item[1]) if size >= 8}


def _module(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def measure_driver(options: Options, progress: Progress) -> list[dict[str, Any]]:
    """Return evaluations per second and idle shares of whole searches by number of workers, decisions for nothing."""
    task = progress.add_task("driver", total=len(KEPT) * len(options.workers))
    rows = []
    for workers in options.workers:
        row: dict[str, Any] = {"workers": workers}
        for kept in KEPT:
            with _on_disk(kept, options.folder) as (store, journal):
                began = time.perf_counter()
                search = Search(
                    named("random"),
                    workers,
                    options.budget,
                    store=store,
                    journal=journal,
                    duration=options.duration,
                    on_answer=stop_at(seconds=began + options.driver_seconds),
                )
                search.run()
                row[kept] = search.evaluations / (time.perf_counter() - began)
            progress.advance(task)
            if kept == "nothing":
                whole = search.evaluations == options.budget
                row["idle"] = search.backend.idle_share() if whole else None
                row["steady_idle"] = search.backend.steady_idle_share
        rows.append(row)
    return rows


@contextmanager
def _on_disk(kept: str, folder: str | None) -> Iterator[tuple[Any, Journal | None]]:
    if kept == "nothing":
        yield NoStore(), None
        return
    with (
        tempfile.TemporaryDirectory(dir=folder) as made,
        StoredEvaluator(landscape(), Path(made) / "store.sqlite") as store,
    ):
        if kept == "store":
            yield store, None
            return
        with Journal(Path(made) / "journal.jsonl") as journal:
            yield store, journal


def measure_growth(options: Options, agents: Sequence[str], progress: Progress) -> dict[str, dict[str, Any]]:
    """Return seconds of `ask` and `tell` by the length of the search, with some students pending.

    Every length is a search of its own, since agents explore by the share of the budget that is spent. What a decision
    costs is that of the second half of the longest one.
    """
    task = progress.add_task("growth", total=len(agents))
    rows: dict[str, dict[str, Any]] = {}
    for name in agents:
        marks: list[dict[str, Any]] = []
        end, budget, decision = time.thread_time() + options.growth_seconds, SHORTEST, math.nan
        while budget <= LONGEST and (left := end - time.thread_time()) > 0:
            agent = TimedAgent(named(name))
            search = Search(agent, PENDING, budget, left, duration=options.duration)
            search.run()
            if search.evaluations < budget:
                # Of an agent that cannot even end the shortest search, what it got done has to do.
                decision = decision if marks else agent.seconds[-1] / len(agent.seconds)
                break
            decision = (agent.seconds[-1] - agent.seconds[budget // 2]) / (budget - budget // 2)
            row = {"evaluations": budget, "ask_seconds": agent.ask_seconds, "tell_seconds": agent.tell_seconds}
            idle = search.backend.steady_idle_share
            marks.append({**row, "seconds": agent.seconds[-1], "steady_idle_without_thinking": idle})
            budget *= 2
        rows[name] = {
            "marks": marks,
            "exponent": exponent([mark["evaluations"] for mark in marks], [mark["seconds"] for mark in marks]),
            "decision_seconds": decision,
            "workers_kept_busy": options.duration / decision,
        }
        progress.advance(task)
    return rows


def measure_idle(options: Options, agents: Sequence[str], progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Return the idle share by agent and number of workers, from when all of them had work until the last was given.

    It is None where the time was too short for the whole search, of some evaluations per worker.
    """
    task = progress.add_task("idle", total=len(agents) * len(options.workers))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in agents}
    for name in agents:
        enough = True
        for workers in options.workers:
            share = None
            if enough:
                search = Search(
                    named(name),
                    workers,
                    budget := max(100, EVALUATIONS_PER_WORKER * workers),
                    options.idle_seconds,
                    duration=options.duration,
                    clock=time.thread_time,
                )
                search.run()
                enough = search.evaluations == budget
                share = search.backend.steady_idle_share if enough else None
            rows[name].append({"workers": workers, "idle": share})
            progress.advance(task)
    return rows


def quickened(options: Options) -> Options:
    """Return options that take about a tenth of the time."""
    return replace(
        options,
        budget=max(1, options.budget // 5),
        driver_seconds=options.driver_seconds / 5,
        memory=options.memory // 20,
        growth_seconds=options.growth_seconds / 8,
        idle_seconds=options.idle_seconds / 4,
    )


def main(options: Options) -> None:
    """Measure, print, draw and write."""
    options = quickened(options) if options.quick else options
    console = Console()
    figures: dict[str, Any] = {"machine": machine_facts(), "options": asdict(options)}
    with Progress(console=console) as progress, pinned_threads(1):
        agents = list(options.agents) or askable()
        measure: dict[str, Callable[[], Any]] = {
            "memory": lambda: measure_memory(options, progress),
            "driver": lambda: measure_driver(options, progress),
            "growth": lambda: measure_growth(options, agents, progress),
            "idle": lambda: measure_idle(options, agents, progress),
        }
        for part, measured in measure.items():
            figures[part] = measured() if part in options.parts else None
            gc.collect()
    tables = memory_tables(figures["memory"]) if figures["memory"] else []
    tables += [driver_table(figures["driver"], options.budget)] if figures["driver"] else []
    tables += [growth_table(figures["growth"], options.duration)] if figures["growth"] else []
    tables += [idle_table(figures)] if figures["idle"] else []
    for table in tables:
        console.print(table)
    if options.json:
        write_json(options.json, figures)
    if options.picture:
        draw(figures, options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options))
