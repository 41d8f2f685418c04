"""How far a search without rounds scales: evaluations per second, idle workers, memory, and what agents ask for it.

    python benchmarks/scale_out.py --json FILE --picture FILE.png

The driver, the pool, the store and the agents are real; the workers and their clock are simulated, and students are
answered by the planted landscape. Four questions, in this order:

- memory: what a search holds per evaluation, up to a million of them, and which module allocated it;
- driver: evaluations per second of a whole search with 1 to 1,024 workers, with a store on disk and without one;
- growth: seconds of `ask` and `tell` as a search gets longer, per agent, and the power of its length that they follow;
- idle: the share of the workers' time that is lost while the agent thinks, if an evaluation takes 30 seconds. For that
  the simulated clock runs on with the real seconds of the driver, the evaluations themselves taken off.

Agents and driver are timed in seconds of the processor, of one thread, so that other programs hardly count; searches
with a store in seconds of the clock, since they wait for the disk.
"""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from kdnas_env.workers.pool import WorkerPool
from kdnas_env.workers.simulated import SimulatedBackend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGE_SPACE = {**SPACE, "intermediate_size": list(range(100, 2100))}
"""Four million students: a million random ones are still less than half of them."""

SAMPLERS = ("tpe", "random")
"""Samplers of the Optuna agent that are measured, each as an agent of its own."""

FIRST_MARK = 125
"""Evaluations after which an agent's seconds are first read; then after twice as many, and so on."""

LONGEST = 64_000
"""Evaluations at which the growth of an agent is no longer followed; the landscape has 95,000 students."""

ROUNDS_OF_WORKERS = 20
"""Evaluations per worker of a search whose idle share is measured, if there is time for so many."""


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
        memory: Evaluations of the search whose memory is measured; 0 for none.
        memory_agent: Agent of that search.
        memory_seconds: Longest time for it; what it held until then is reported.
        growth_seconds: Longest time to follow the growth of an agent.
        idle_seconds: Longest time for one agent and one number of workers.
        folder: Where stores are made; the folder of temporary files by default.
        quick: Spend about a tenth of the time, for figures that are as much rougher.
    """

    json: str | None = None
    picture: str | None = None
    workers: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    agents: tuple[str, ...] = ()
    duration: float = 30.0
    budget: int = 5000
    memory: int = 1_000_000
    memory_agent: str = "random"
    memory_seconds: float = 400.0
    growth_seconds: float = 12.0
    idle_seconds: float = 1.5
    folder: str | None = None
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
    """

    def __init__(self, inner: SimulatedBackend, clock: Callable[[], float]) -> None:
        self.ready = 0.0
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
        self._began[worker] = self.now()
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

    def idle_share(self, begin: float = 0.0) -> float:
        """Return the share of the workers' time since a moment that none of them worked in."""
        end = self.now()
        spans = np.array([*self._spans, *((began, end) for began in self._began.values())])
        busy = np.clip(spans, begin, end) @ (-1.0, 1.0)
        return 1.0 - float(busy.sum()) / (len(self._known) * (end - begin))

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
    """An agent whose seconds in ``ask`` and ``tell`` are counted."""

    def __init__(self, agent: Any) -> None:
        self.ask_seconds = self.tell_seconds = 0.0
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def ask(self, n: int) -> Any:
        """Propose."""
        began = time.thread_time()
        proposal = self._agent.ask(n)
        self.ask_seconds += time.thread_time() - began
        return proposal

    def tell(self, *arguments: Any) -> None:
        """Learn."""
        began = time.thread_time()
        self._agent.tell(*arguments)
        self.tell_seconds += time.thread_time() - began


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
        duration: Seconds of an evaluation.
        clock: What the simulated clock runs on with.
        on_answer: Called with the number of evaluations after each.
        large: Whether the space is the large one.
    """

    agent: Any
    workers: int
    budget: int
    seconds: float = float("inf")
    store: Any = field(default_factory=NoStore)
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
            search_asynchronously(self.agent, self.env, self.store, pool, on_answer=self._answered)

    @property
    def evaluations(self) -> int:
        """Evaluations that the agent was told of."""
        return len(self.env.history)

    def _answered(self, env: KDNASEnv) -> None:
        self.on_answer(len(env.history))
        if time.thread_time() > self._end:
            raise Enough


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
    # The first marks tell what a million needs; a machine that has less shall not be brought down.
    room = 0.7 * psutil.virtual_memory().available

    def note(evaluations: int) -> None:
        if evaluations % 1000 == 0:
            progress.update(task, completed=evaluations)
        if evaluations % step and evaluations != 1:
            return
        rows.append(
            {
                "evaluations": evaluations,
                "rss_bytes": process.memory_info().rss,
                "seconds": time.perf_counter() - began,
                "processor_seconds": time.thread_time() - processor_began,
            }
        )
        if rows[-1]["seconds"] > options.memory_seconds or rows[-1]["rss_bytes"] - rows[0]["rss_bytes"] > room:
            raise Enough

    gc.collect()
    processor_began = time.thread_time()
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
    """Return evaluations per second and idle shares of whole searches by numbers of workers, decisions for nothing."""
    task = progress.add_task("driver", total=2 * len(options.workers))
    rows = []
    for workers in options.workers:
        for kept in (False, True):
            with _store(options.folder if kept else None, kept) as store:
                search = Search(named("random"), workers, options.budget, store=store, duration=options.duration)
                began, processor_began = time.perf_counter(), time.thread_time()
                search.run()
                seconds, processor_seconds = time.perf_counter() - began, time.thread_time() - processor_began
            rows.append(
                {
                    "workers": workers,
                    "store": kept,
                    "evaluations": search.evaluations,
                    "evaluations_per_second": search.evaluations / seconds,
                    "evaluations_per_processor_second": search.evaluations / processor_seconds,
                    "idle": search.backend.idle_share(),
                }
            )
            progress.advance(task)
    return rows


@contextmanager
def _store(folder: str | None, kept: bool) -> Any:
    if not kept:
        yield NoStore()
        return
    with (
        tempfile.TemporaryDirectory(dir=folder) as made,
        StoredEvaluator(landscape(), Path(made) / "store.sqlite") as store,
    ):
        yield store


def measure_growth(options: Options, agents: Sequence[str], progress: Progress) -> dict[str, dict[str, Any]]:
    """Return seconds of `ask` and `tell` by the length of the search, with 64 students pending."""
    task = progress.add_task("growth", total=len(agents))
    rows: dict[str, dict[str, Any]] = {}
    for name in agents:
        agent = TimedAgent(named(name))
        marks: list[dict[str, float]] = []

        def note(evaluations: int, agent: TimedAgent = agent, marks: list[dict[str, float]] = marks) -> None:
            times, rest = divmod(evaluations, FIRST_MARK)
            if not rest and times & (times - 1) == 0:
                marks.append({"evaluations": evaluations, "ask": agent.ask_seconds, "tell": agent.tell_seconds})

        search = Search(agent, 64, LONGEST, options.growth_seconds, duration=options.duration, on_answer=note)
        search.run()
        last = marks[-1] if marks else {"evaluations": 0, "ask": 0.0, "tell": 0.0}
        since = {"evaluations": search.evaluations, "ask": agent.ask_seconds, "tell": agent.tell_seconds}
        # Of the second half where there is one, which is what a decision costs at that length.
        before = last if since["evaluations"] > 1.5 * last["evaluations"] else (marks[-2] if marks[1:] else _NOTHING)
        decision = (_total(since) - _total(before)) / max(1, since["evaluations"] - before["evaluations"])
        rows[name] = {
            "marks": marks,
            "evaluations": search.evaluations,
            "exponent": exponent([int(mark["evaluations"]) for mark in marks], [_total(mark) for mark in marks]),
            "decision_seconds": decision,
            "workers_kept_busy": options.duration / decision,
            "idle_without_thinking": search.backend.idle_share(search.backend.ready),
        }
        progress.advance(task)
    return rows


_NOTHING = {"evaluations": 0, "ask": 0.0, "tell": 0.0}


def _total(mark: dict[str, Any]) -> float:
    return float(mark["ask"] + mark["tell"])


def measure_idle(options: Options, agents: Sequence[str], progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Return the idle share by agent and number of workers, from when all of them had work for the first time.

    It is None where the time was too short for three evaluations per worker.
    """
    task = progress.add_task("idle", total=len(agents) * len(options.workers))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in agents}
    for name in agents:
        for workers in options.workers:
            budget = max(200, ROUNDS_OF_WORKERS * workers)
            search = Search(
                named(name),
                workers,
                budget + workers,
                options.idle_seconds,
                duration=options.duration,
                clock=time.thread_time,
                on_answer=lambda evaluations, most=budget: _stop(evaluations >= most),
            )
            search.run()
            enough = search.evaluations >= 3 * workers
            share = search.backend.idle_share(search.backend.ready) if enough else None
            rows[name].append({"workers": workers, "evaluations": search.evaluations, "idle": share})
            progress.advance(task)
    return rows


def _stop(over: bool) -> None:
    # Before the last proposals, after which workers are idle for want of a budget.
    if over:
        raise Enough


def tables(figures: dict[str, Any], options: Options) -> list[Table]:
    """Return what was measured as tables."""
    made = []
    if figures["memory"]:
        rows = figures["memory"]["rows"]
        table = Table(title=f"Memory of a search ({figures['memory']['agent']})")
        for heading in ("evaluations", "RSS, MiB", "bytes per evaluation", "seconds"):
            table.add_column(heading, justify="right")
        for row in [*rows[1:-1:6], *rows[-1:]]:
            per = f"{row['bytes_per_evaluation']:,.0f}"
            table.add_row(f"{row['evaluations']:,}", f"{row['rss_bytes'] / 2**20:,.0f}", per, f"{row['seconds']:,.0f}")
        held = Table(title="Bytes per evaluation that are held, by the module that allocated them")
        held.add_column("module")
        held.add_column("bytes", justify="right")
        for name, size in figures["memory"]["modules"].items():
            held.add_row(name, f"{size:,.0f}")
        made += [table, held]
    table = Table(title=f"Whole searches of {options.budget:,} evaluations (random)")
    for heading in ("workers", "evaluations/s", "with a store", "idle at the end and on the way"):
        table.add_column(heading, justify="right")
    for without, with_store in zip(figures["driver"][::2], figures["driver"][1::2], strict=True):
        rates = [f"{row['evaluations_per_second']:,.0f}" for row in (without, with_store)]
        table.add_row(f"{without['workers']:,}", *rates, f"{without['idle']:.1%}")
    made.append(table)
    table = Table(title=f"Agents, 64 students pending; evaluations of {options.duration:g} s")
    table.add_column("agent")
    for heading in ("evaluations", "total s", "grows as n^", "ms a decision", "workers kept busy"):
        table.add_column(heading, justify="right")
    for workers in options.workers[2:]:
        table.add_column(f"idle of {workers:,}", justify="right")
    for name, row in figures["growth"].items():
        last = row["marks"][-1] if row["marks"] else _NOTHING
        power = "-" if row["exponent"] is None else f"{row['exponent']:.2f}"
        shares = ["-" if one["idle"] is None else f"{one['idle']:.1%}" for one in figures["idle"][name][2:]]
        table.add_row(
            name,
            f"{last['evaluations']:,}",
            f"{_total(last):.1f}",
            power,
            f"{1e3 * row['decision_seconds']:.2f}",
            f"{row['workers_kept_busy']:,.0f}",
            *shares,
        )
    return [*made, table]


def draw(figures: dict[str, Any], options: Options, path: str) -> None:
    """Draw what was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    memory, driver, growth, idle = figure.subplots(2, 2).ravel()
    _draw_memory(memory, figures["memory"])
    for kept, style in ((False, "o-"), (True, "s--")):
        rows = [row for row in figures["driver"] if row["store"] is kept]
        label = "store on disk" if kept else "no store"
        driver.plot(
            [row["workers"] for row in rows], [row["evaluations_per_second"] for row in rows], style, label=label
        )
    driver.set(xscale="log", yscale="log", xlabel="workers", ylabel="evaluations per second", title="driver")
    driver.legend()
    for place, (name, row) in enumerate(figures["growth"].items()):
        colour, marker = f"C{place % 10}", "os^"[place // 10]
        marks, power = row["marks"], row["exponent"]
        label = name if power is None else f"{name}, n^{power:.2f}"
        growth.plot(
            [mark["evaluations"] for mark in marks], [*map(_total, marks)], f"{marker}-", color=colour, label=label
        )
        shares = [(one["workers"], one["idle"]) for one in figures["idle"][name] if one["idle"] is not None]
        if shares:
            idle.plot(*zip(*shares, strict=True), f"{marker}-", color=colour, label=name)
    growth.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="seconds of ask and tell", title="growth")
    growth.legend(fontsize=7)
    title = f"workers that wait for decisions, {options.duration:g} s an evaluation"
    idle.set(xscale="log", xlabel="workers", ylabel="idle share", ylim=(-0.02, 1), title=title)
    idle.legend(fontsize=7)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format=Path(path).suffix.removeprefix(".") or "png")


def _draw_memory(axes: Axes, memory: dict[str, Any] | None) -> None:
    rows = memory["rows"] if memory else []
    axes.plot([row["evaluations"] for row in rows], [row["rss_bytes"] / 2**30 for row in rows], "o-")
    axes.set(xlabel="evaluations", ylabel="RSS, GiB", title="memory of a search", xlim=(0, None), ylim=(0, None))


def quickened(options: Options) -> Options:
    """Return options that take about a tenth of the time."""
    from dataclasses import replace

    return replace(
        options,
        budget=max(1, options.budget // 5),
        memory=options.memory // 20,
        growth_seconds=options.growth_seconds / 8,
        idle_seconds=options.idle_seconds / 8,
    )


def main(options: Options) -> None:
    """Measure, print, draw and write."""
    options = quickened(options) if options.quick else options
    console = Console()
    figures: dict[str, Any] = {"machine": machine_facts(), "options": asdict(options)}
    with Progress(console=console) as progress, pinned_threads(1):
        agents = list(options.agents) or askable()
        figures["memory"] = measure_memory(options, progress) if options.memory else None
        gc.collect()
        figures["driver"] = measure_driver(options, progress)
        figures["growth"] = measure_growth(options, agents, progress)
        figures["idle"] = measure_idle(options, agents, progress)
    for table in tables(figures, options):
        console.print(table)
    if options.json:
        write_json(options.json, figures)
    if options.picture:
        draw(figures, options, options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options))
