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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import tyro
from landscapes import SPACE
from machine import machine_facts
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kdnas_env.architecture import StudentConfig
from kdnas_env.cores import pinned_threads
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.evaluation import Evaluation, Fidelity
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.files import replacing, write_json
from kdnas_env.registry import agent_class, agent_names, make_agent
from kdnas_env.space import SearchSpace
from kdnas_env.testing.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.workers.asynchronous import search_asynchronously
from kdnas_env.workers.backend import Message, Ready, Task
from kdnas_env.workers.journal import Journal
from kdnas_env.workers.pool import WorkerPool
from kdnas_env.workers.simulated import SimulatedBackend

LARGE_SPACE = {**SPACE, "intermediate_size": list(range(100, 2100))}
"""Four million students: a million random ones are still less than half of them."""

SAMPLERS = ("tpe", "random")
"""Samplers of the Optuna agent that are measured, each as an agent of its own."""

SHORTEST = 125
"""Evaluations of the first search of an agent; the next is twice as long, and so on."""

PENDING = 8
"""Students that are pending while the growth of an agent is followed."""

LONGEST = 64_000
"""Evaluations at which the growth of an agent is no longer followed; the landscape has 95,000 students."""

EVALUATIONS_PER_WORKER = 5
"""Evaluations per worker of a search whose idle share is measured."""

KEPT = ("nothing", "store", "store and journal")
"""What a search keeps on disk."""


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


class Enough(Exception):
    """The time for a search is over."""


class NoStore:
    """Keeps nothing."""

    def find(self, config: StudentConfig, fidelity: Fidelity) -> None:
        """Know nothing."""

    def add(self, evaluation: Evaluation) -> Evaluation:
        """Return what there is to keep."""
        return evaluation


class ThinkingBackend:
    """Simulated workers whose clock runs on with another one while the driver works, evaluations taken off.

    Args:
        inner: The workers.
        clock: Seconds of the driver; one that stands still makes decisions cost nothing.

    Attributes:
        ready: When the last worker so far was first given work, in simulated seconds.
        assigned: When work was given last.
    """

    def __init__(self, inner: SimulatedBackend, clock: Callable[[], float]) -> None:
        self.ready = self.assigned = 0.0
        self._inner = inner
        self._clock = clock
        self._left = clock()
        self._known: set[int] = set()
        self._began: dict[int, float] = {}
        self._spans: list[tuple[float, float]] = []
        self._heard: list[tuple[int, Message]] = []

    def start(self, worker: int) -> None:
        """Begin to start a worker."""
        self._inner.start(worker)

    def assign(self, worker: int, task: Task) -> None:
        """Hand a task to a worker, as late as the driver thought of it."""
        self._catch_up()
        self._began[worker] = self.assigned = self.now()
        if worker not in self._known:
            self._known.add(worker)
            self.ready = self.now()
        self._inner.assign(worker, task)
        self._left = self._clock()

    def answer(self, worker: int, stop: bool) -> None:
        """Say whether a worker stops."""
        self._inner.answer(worker, stop)

    def kill(self, worker: int) -> None:
        """End a worker."""
        self._inner.kill(worker)

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return what was said while the driver worked; if that is nothing, what is said next."""
        self._catch_up()
        if not self._heard:
            self._hear(seconds)
        heard, self._heard = self._heard, []
        self._left = self._clock()
        return heard

    def now(self) -> float:
        """Return seconds of the simulated clock."""
        return self._inner.now()

    def close(self) -> None:
        """End all workers."""
        self._inner.close()

    def idle_share(self, begin: float = 0.0, end: float | None = None) -> float | None:
        """Return the share of the workers' time between two moments (by default all) that none of them worked in."""
        end = self.now() if end is None else end
        if end <= begin:
            return None
        spans = np.array([*self._spans, *((began, self.now()) for began in self._began.values())])
        busy = np.clip(spans, begin, end) @ (-1.0, 1.0)
        return max(0.0, 1.0 - float(busy.sum()) / (len(self._known) * (end - begin)))

    @property
    def steady_idle_share(self) -> float | None:
        """The idle share from when all had work for the first time until the last was given some; None: never."""
        return self.idle_share(self.ready, self.assigned)

    def _catch_up(self) -> None:
        end = self.now() + self._clock() - self._left
        while end - self.now() > 1e-9:
            self._hear(end - self.now())

    def _hear(self, seconds: float | None) -> None:
        for worker, message in self._inner.wait(seconds):
            self._heard.append((worker, message))
            if not isinstance(message, Ready):
                self._spans.append((self._began.pop(worker), self.now()))


class TimedAgent:
    """An agent whose seconds in ``ask`` and ``tell`` are counted.

    Args:
        agent: The agent.

    Attributes:
        ask_seconds: Seconds of ``ask`` so far.
        tell_seconds: Seconds of ``tell`` so far.
        seconds: Both, before each ``ask`` and after the last call.
    """

    def __init__(self, agent: Any) -> None:
        self.ask_seconds = self.tell_seconds = 0.0
        self.seconds = [0.0]
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def ask(self, n: int) -> Any:
        """Propose."""
        began = time.thread_time()
        proposal = self._agent.ask(n)
        self.ask_seconds += time.thread_time() - began
        self.seconds.append(self.ask_seconds + self.tell_seconds)
        return proposal

    def tell(self, *arguments: Any) -> None:
        """Learn."""
        began = time.thread_time()
        self._agent.tell(*arguments)
        self.tell_seconds += time.thread_time() - began
        self.seconds[-1] = self.ask_seconds + self.tell_seconds


@cache
def landscape(large: bool = False) -> PlantedEvaluator:
    """Return the planted landscape, whose points take some tenths of a second to list, so that it is made once."""
    return PlantedEvaluator(SearchSpace.from_dict(LARGE_SPACE if large else SPACE, PLANTED_TEACHER))


def named(label: str) -> Any:
    """Make an agent, or the Optuna agent of a sampler."""
    name, _, sampler = label.partition(":")
    return make_agent(name, **({"sampler": sampler} if sampler else {}))


def askable() -> list[str]:
    """Return the names of all agents with ask and tell."""
    names = [name for name in agent_names() if callable(getattr(agent_class(name), "ask", None))]
    return [label for name in names for label in ([f"optuna:{s}" for s in SAMPLERS] if name == "optuna" else [name])]


def simulated(planted: PlantedEvaluator, duration: float) -> SimulatedBackend:
    """Return workers that take so long on average."""
    rng = np.random.default_rng(0)
    return SimulatedBackend(planted, lambda evaluation, worker: duration * (0.5 + rng.random()))


@dataclass(eq=False)
class Search:
    """A search on simulated workers.

    Attributes:
        agent: The agent.
        workers: How many.
        budget: Evaluations.
        seconds: Seconds of the processor after which it is cut short.
        store: The store.
        journal: The journal.
        duration: Seconds of an evaluation.
        clock: What the simulated clock runs on with.
        on_answer: Called with the number of evaluations after each.
        large: Whether the space is the large one.
    """

    agent: Any
    workers: int
    budget: int
    seconds: float = math.inf
    store: Any = field(default_factory=NoStore)
    journal: Journal | None = None
    duration: float = 30.0
    clock: Callable[[], float] = lambda: 0.0
    on_answer: Callable[[int], object] = lambda evaluations: None
    large: bool = False

    def run(self) -> None:
        """Search."""
        planted = landscape(self.large)
        self.backend = ThinkingBackend(simulated(planted, self.duration), self.clock)
        self.env = KDNASEnv(planted.space, planted, budget=self.budget)
        self._end = time.thread_time() + self.seconds
        with WorkerPool(self.backend, self.workers) as pool, suppress(Enough):
            search_asynchronously(
                self.agent, self.env, self.store, pool, journal=self.journal, on_answer=self._answered
            )

    @property
    def evaluations(self) -> int:
        """Evaluations that the agent was told of."""
        return len(self.env.history)

    def _answered(self, env: KDNASEnv) -> None:
        self.on_answer(len(env.history))
        if time.thread_time() > self._end:
            raise Enough


def stop_at(evaluations: float = math.inf, seconds: float = math.inf) -> Callable[[int], None]:
    """Return what ends a search after so many evaluations, or at a time of the performance counter."""

    def check(made: int) -> None:
        if made >= evaluations or time.perf_counter() > seconds:
            raise Enough

    return check


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


def driver_table(rows: list[dict[str, Any]], options: Options) -> Table:
    """Return evaluations per second as a table."""
    table = Table(title=f"Evaluations per second of a search of {options.budget:,} (random)")
    for heading in ("workers", *KEPT, "idle on the way", "idle in all"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = [_percent(row[name]) for name in ("steady_idle", "idle")]
        table.add_row(f"{row['workers']:,}", *(f"{row[kept]:,.0f}" for kept in KEPT), *shares)
    return table


def growth_table(growth: dict[str, dict[str, Any]], options: Options) -> Table:
    """Return what agents cost as a table."""
    table = Table(title=f"Agents, {PENDING} students pending; evaluations of {options.duration:g} s")
    table.add_column("agent")
    for heading in ("evaluations", "seconds", "grows as n^", "ms a decision", "workers kept busy"):
        table.add_column(heading, justify="right")
    for name, row in growth.items():
        last = row["marks"][-1] if row["marks"] else {"evaluations": 0, "seconds": 0.0}
        power = "-" if row["exponent"] is None else f"{row['exponent']:.2f}"
        cells = (f"{last['evaluations']:,}", f"{last['seconds']:.2f}", power)
        table.add_row(name, *cells, f"{1e3 * row['decision_seconds']:.2f}", f"{row['workers_kept_busy']:,.0f}")
    return table


def idle_table(figures: dict[str, Any], options: Options) -> Table:
    """Return idle shares as a table, with a tilde what follows from the cost of a decision."""
    table = Table(title=f"Share of the workers' time that is lost to decisions, {options.duration:g} s an evaluation")
    table.add_column("agent")
    for workers in options.workers:
        table.add_column(f"{workers:,}", justify="right")
    for name, shares in figures["idle"].items():
        capacity = figures["growth"][name]["workers_kept_busy"] if figures["growth"] else math.nan
        table.add_row(name, *(_share(one["idle"], capacity / one["workers"]) for one in shares))
    return table


def _share(idle: float | None, capacity: float) -> str:
    return _percent(idle) if idle is not None or math.isnan(capacity) else f"~{max(0.0, 1 - capacity):.0%}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def draw(figures: dict[str, Any], options: Options, path: str) -> None:
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
            expected = [max(0.0, 1 - capacity / workers) for workers in options.workers]
            idle.plot(options.workers, expected, ":", color=_style(name)["color"])
    title = f"workers that wait for decisions, {options.duration:g} s an evaluation"
    idle.set(xscale="log", xlabel="workers", ylabel="idle share", ylim=(-0.02, 1), title=title)
    for axes, part in ((memory, "memory"), (driver, "driver"), (growth, "growth"), (idle, "idle")):
        axes.set_visible(figures[part] is not None)
        if figures[part] and axes is not memory:
            axes.legend(fontsize=7)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format=Path(path).suffix.removeprefix(".") or "png")


def _style(name: str) -> dict[str, Any]:
    place = (askable().index(name) if name in askable() else 0) % 30
    return {"color": f"C{place % 10}", "marker": "os^"[place // 10]}


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
    tables += [driver_table(figures["driver"], options)] if figures["driver"] else []
    tables += [growth_table(figures["growth"], options)] if figures["growth"] else []
    tables += [idle_table(figures, options)] if figures["idle"] else []
    for table in tables:
        console.print(table)
    if options.json:
        write_json(options.json, figures)
    if options.picture:
        draw(figures, options, options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options))
