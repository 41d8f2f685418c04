"""Whether a long search leaks: memory and open handles over 200,000 evaluations, as many as 8 simulated hours hold.

    python benchmarks/soak.py --json FILE --picture FILE.png

One process, one pool of 200 simulated workers that die now and then, one environment and one store on disk go through
a hundred searches, each with an agent and a journal of its own. What a search holds by design (the environment's
history, the agent's ranking) goes when the next one begins, so that memory and handles are read between two searches,
where they are to stay flat. A store commits every evaluation to the disk, which waits for it: after some time the
store moves to memory (``/dev/shm``), where the same calls return at once. A last search that is longer than the others
tells what a search holds by design, and some searches on real processes that die tell whether their pipes are closed.

The exit status is 1 if something grows: memory by more than 16 bytes an evaluation (less than any Python object takes),
by a line through the readings after the first fifth that half of the pairs of readings are above; or handles at all.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from landscapes import SPACE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.simulated import SimulatedBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.searching.journal import Journal
from kdnas_env.searching.registry import make_agent
from kdnas_env.support.atomic import replacing, write_json

BYTES_PER_EVALUATION = 16.0
"""Growth that is still called flat: no Python object is that small, and a page now and then is no leak."""

WARM_UP = 0.2
"""Share of the searches after which readings count."""

IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Options:
    """See whether a long search leaks.

    Attributes:
        json: File for the figures.
        picture: File for a picture, such as soak.png.
        evaluations: Evaluations in all.
        budget: Evaluations of a search.
        workers: Simulated workers.
        duration: Simulated seconds of an evaluation, on average.
        deaths: Share of the evaluations of which a worker dies.
        agents: Agents that take turns.
        disk_seconds: Seconds after which the store is moved from the disk to memory, if there is such a folder.
        seconds: Seconds after which no search is begun any more.
        long_search: Length of the last search, in times of the others; at least 2.
        processes: Searches on real processes; 0 for none.
        leak: Bytes to keep of each evaluation, to see that it is noticed.
    """

    json: str | None = None
    picture: str | None = None
    evaluations: int = 200_000
    budget: int = 2000
    workers: int = 200
    duration: float = 28.8
    deaths: float = 0.01
    agents: tuple[str, ...] = ("random", "evolution", "local-search")
    disk_seconds: float = 480.0
    seconds: float = 540.0
    long_search: int = 5
    processes: int = 6
    leak: int = 0


@dataclass(frozen=True)
class Reading:
    """What the process holds between two searches.

    Attributes:
        evaluations: Evaluations so far.
        seconds: Seconds so far.
        simulated_hours: Hours of the simulated clock.
        place: Where the store is: disk or memory.
        rss_bytes: Resident memory.
        handles: Open file handles.
        threads: Threads.
        objects: Objects that the garbage collector knows of.
    """

    evaluations: int
    seconds: float
    simulated_hours: float
    place: str
    rss_bytes: int
    handles: int
    threads: int
    objects: int


@dataclass(frozen=True)
class Mortal:
    """The planted landscape, in a process that kills itself every so many evaluations; a maker of itself.

    Attributes:
        space: The space.
        life: Evaluations of a life; the last is not answered any more.
    """

    space: SearchSpace
    life: int

    deterministic = True

    def __call__(self) -> Mortal:
        """Return an evaluator at the start of its life."""
        object.__setattr__(self, "_lived", 0)
        return self

    @property
    def fingerprint(self) -> str:
        """Identity of the workload."""
        return PlantedEvaluator(self.space).fingerprint

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Evaluate a batch, or die."""
        object.__setattr__(self, "_lived", self._lived + 1)  # type: ignore[attr-defined]
        if self._lived >= self.life:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        return PlantedEvaluator(self.space).evaluate(configs, fidelity, on_epoch=on_epoch)


@dataclass(eq=False)
class Soak:
    """Searches one after the other, on one store, one pool and one environment.

    Attributes:
        options: The options.
        folder: Folder of the store and the journals.
        readings: What was read between the searches.
    """

    options: Options
    folder: Path
    readings: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        options, rng = self.options, np.random.default_rng(0)
        self.planted = PlantedEvaluator(SearchSpace.from_dict(SPACE, PLANTED_TEACHER))
        self.store = StoredEvaluator(self.planted, self.folder / "store.sqlite")
        self.backend = SimulatedBackend(
            self.planted,
            lambda evaluation, worker: options.duration * (0.5 + rng.random()),
            start_seconds=10.0,
            dies=lambda job, worker: bool(rng.random() < options.deaths),
        )
        self.pool = WorkerPool(self.backend, options.workers, attempts=10)
        self.env = KDNASEnv(self.planted.space, self.store, budget=options.budget)
        self.place = "disk"
        self.evaluations = self.searches = 0
        self.began = time.perf_counter()
        self.disk_bytes = {"store": 0, "journal": 0}
        self._process = psutil.Process()
        self._kept: list[bytearray] = []

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began

    def search(self, budget: int) -> None:
        """Search, under a seed of its own, so that nothing is known yet."""
        options, path = self.options, self.folder / "journal.jsonl"
        agent = make_agent(options.agents[self.searches % len(options.agents)])
        self.env.budget = budget
        self.env.fidelity = replace(self.env.fidelity, seed=self.searches)
        with Journal(path) as journal:
            search_asynchronously(
                agent, self.env, self.store, self.pool, seed=self.searches, journal=journal, on_answer=self._answered
            )
        self.searches += 1
        self.disk_bytes["journal"] += path.stat().st_size
        path.unlink()

    def read(self) -> Reading:
        """Let go of what the last search holds by design, and read."""
        self.env.reset(seed=0)
        gc.collect()
        return Reading(
            self.evaluations,
            self.seconds,
            self.backend.now() / 3600,
            self.place,
            self._process.memory_info().rss,
            handles(self._process),
            self._process.num_threads(),
            len(gc.get_objects()),
        )

    def move(self, folder: Path) -> None:
        """Go on with the store in another folder."""
        self.store.close()
        for path in self.folder.iterdir():
            shutil.move(path, folder)
        self.folder, self.place = folder, "memory"
        self.store = StoredEvaluator(self.planted, folder / "store.sqlite")
        self.env = KDNASEnv(self.planted.space, self.store, budget=self.options.budget)

    def close(self) -> None:
        """End."""
        self.pool.close()
        self.store.close()

    def _answered(self, env: KDNASEnv) -> None:
        self.evaluations += 1
        if self.options.leak:
            self._kept.append(bytearray(self.options.leak))


def handles(process: psutil.Process) -> int:
    """Return the number of open file handles, sockets and pipes included."""
    count = getattr(process, "num_handles", None) or process.num_fds  # by the operating system
    return int(count())


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the median slope between all pairs of points (Theil-Sen), which single steps do not change."""
    xs, ys = np.array(x, dtype=float), np.array(y, dtype=float)
    first, second = np.triu_indices(len(xs), 1)
    return float(np.median((ys[second] - ys[first]) / (xs[second] - xs[first])))


def verdict(readings: Sequence[Reading]) -> dict[str, Any]:
    """Say whether memory or handles grow after the warm-up."""
    counted = readings[int(WARM_UP * len(readings)) :]
    evaluations = [one.evaluations for one in counted]
    half = len(counted) // 2
    growth = slope(evaluations, [one.rss_bytes for one in counted])
    more = {
        name: max(getattr(one, name) for one in counted[half:]) - max(getattr(one, name) for one in counted[:half])
        for name in ("handles", "threads")
    }
    return {
        "readings": len(counted),
        "evaluations": evaluations[-1] - evaluations[0],
        "rss_bytes_per_evaluation": growth,
        "rss_bytes_range": max(one.rss_bytes for one in counted) - min(one.rss_bytes for one in counted),
        "objects_per_evaluation": slope(evaluations, [one.objects for one in counted]),
        "more_handles": more["handles"],
        "more_threads": more["threads"],
        "memory_is_flat": growth <= BYTES_PER_EVALUATION,
        "handles_are_flat": more["handles"] <= 0,
    }


def soak(options: Options, progress: Progress) -> dict[str, Any]:
    """Search until all evaluations are made or the time is over; return readings, rates and sizes."""
    task = progress.add_task("simulated workers", total=options.evaluations)
    with _folder(None) as disk, _folder(IN_MEMORY if IN_MEMORY.is_dir() else None) as memory:
        run = Soak(options, disk)
        run.readings.append(run.read())
        while run.evaluations < options.evaluations and run.seconds < options.seconds:
            if run.place == "disk" and run.seconds > options.disk_seconds and IN_MEMORY.is_dir():
                run.move(memory)
            run.search(options.budget)
            run.readings.append(run.read())
            progress.update(task, completed=run.evaluations)
        before = run.readings[-1]
        run.search(max(2, options.long_search) * options.budget)
        held = run._process.memory_info().rss - before.rss_bytes
        run.disk_bytes["store"] = sum(path.stat().st_size for path in run.folder.glob("store*"))
        after = run.read()
        run.close()
        return {
            "readings": [asdict(one) for one in run.readings],
            "verdict": verdict(run.readings),
            "searches": run.searches,
            "deaths": run.pool.replaced,
            "evaluations_per_second": rates(run.readings),
            "disk_bytes_per_evaluation": {name: size / run.evaluations for name, size in run.disk_bytes.items()},
            "long_search": {
                "evaluations": after.evaluations - before.evaluations,
                # The memory of a search as long as the others was there already.
                "held_bytes_per_evaluation": held / (after.evaluations - before.evaluations - options.budget),
            },
        }


def rates(readings: Sequence[Reading]) -> dict[str, float]:
    """Return evaluations per second by the place of the store."""
    found = {}
    for place in dict.fromkeys(one.place for one in readings):
        spans = [(a, b) for a, b in itertools.pairwise(readings) if b.place == place]
        if spans:
            evaluations = sum(b.evaluations - a.evaluations for a, b in spans)
            found[place] = evaluations / sum(b.seconds - a.seconds for a, b in spans)
    return found


def soak_processes(options: Options, progress: Progress, life: int = 60, budget: int = 300) -> dict[str, Any]:
    """Search on real processes that die, a pool for each search; return handles and children after each."""
    task = progress.add_task("real processes", total=options.processes)
    space, process = SearchSpace.from_dict(SPACE, PLANTED_TEACHER), psutil.Process()
    rows: list[dict[str, int]] = []
    deaths = 0
    for number in range(options.processes):
        with _folder(None) as folder, StoredEvaluator(PlantedEvaluator(space), folder / "store.sqlite") as store:
            env = KDNASEnv(space, store, budget=budget)
            with WorkerPool(LocalBackend(Mortal(space, life)), 2, attempts=10) as pool:
                search_asynchronously(make_agent("random"), env, store, pool, seed=number)
                deaths += pool.replaced
        gc.collect()
        rows.append({"handles": handles(process), "children": len(process.children())})
        progress.advance(task)
    first, last = rows[0], rows[-1]
    return {"deaths": deaths, "rows": rows, "handles_are_flat": all(last[name] <= first[name] for name in first)}


@contextmanager
def _folder(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def draw(figures: dict[str, Any], path: str) -> None:
    """Draw memory and handles over the evaluations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    memory, open_handles = figure.subplots(2, 1, sharex=True)
    readings = figures["simulated"]["readings"]
    evaluations = [one["evaluations"] for one in readings]
    memory.plot(evaluations, [one["rss_bytes"] / 2**20 for one in readings], ".-")
    growth = figures["simulated"]["verdict"]["rss_bytes_per_evaluation"]
    memory.margins(y=0.2)
    memory.set(ylabel="RSS between searches, MiB", title=f"{growth:+.1f} bytes an evaluation")
    open_handles.plot(evaluations, [one["handles"] for one in readings], ".-", label="open handles")
    open_handles.plot(evaluations, [one["threads"] for one in readings], ".-", label="threads")
    open_handles.margins(y=0.2)
    open_handles.set(xlabel="evaluations")
    for axes in (memory, open_handles):
        axes.set_ylim(bottom=0)
    open_handles.legend()
    warm = evaluations[int(WARM_UP * len(evaluations))]
    moved = [one["evaluations"] for one in readings if one["place"] == "memory"][:1]
    for axes in (memory, open_handles):
        axes.axvspan(0, warm, color="0.9")
        for at in moved:
            axes.axvline(at, color="0.6", linestyle=":")
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format=Path(path).suffix.removeprefix(".") or "png")


def show(figures: dict[str, Any], console: Console) -> None:
    """Print what was found."""
    found = figures["simulated"]
    result, readings = found["verdict"], found["readings"]
    table = Table(title=f"{found['searches']} searches, {found['deaths']:,} deaths of workers")
    for heading in ("evaluations", "simulated hours", "store in", "RSS, MiB", "handles", "threads", "objects"):
        table.add_column(heading, justify="right")
    for one in [*readings[:: max(1, len(readings) // 8)], readings[-1]]:
        place = [f"{one['evaluations']:,}", f"{one['simulated_hours']:.1f}", one["place"]]
        counts = [f"{one['handles']}", f"{one['threads']}", f"{one['objects']:,}"]
        table.add_row(*place, f"{one['rss_bytes'] / 2**20:,.1f}", *counts)
    console.print(table)
    where = {"disk": "on disk", "memory": "in memory"}
    for place, rate in found["evaluations_per_second"].items():
        console.print(f"store and journal {where[place]}: {rate:,.0f} evaluations a second")
    sizes = found["disk_bytes_per_evaluation"]
    console.print(
        f"by design: a search holds {found['long_search']['held_bytes_per_evaluation']:,.0f} bytes an evaluation until "
        f"the next begins, the store {sizes['store']:,.0f} on disk, the journal {sizes['journal']:,.0f}"
    )
    spread = result["rss_bytes_range"] / 2**20
    console.print(
        f"over {result['evaluations']:,} evaluations after the warm-up: memory "
        f"{result['rss_bytes_per_evaluation']:+.1f} bytes an evaluation (within {spread:.1f} MiB), objects "
        f"{result['objects_per_evaluation']:+.4f}, handles "
        f"{result['more_handles']:+d}, threads {result['more_threads']:+d}"
    )
    if processes := figures["processes"]:
        rows = processes["rows"]
        console.print(
            f"real processes, {processes['deaths']} deaths: handles {[row['handles'] for row in rows]}, children "
            f"{[row['children'] for row in rows]} after each search"
        )


def main(options: Options) -> int:
    """Measure, print, draw and write; return the exit status."""
    console = Console()
    with Progress(console=console) as progress:
        figures: dict[str, Any] = {"options": asdict(options), "simulated": soak(options, progress)}
        figures["processes"] = soak_processes(options, progress) if options.processes else None
    show(figures, console)
    result, processes = figures["simulated"]["verdict"], figures["processes"]
    flat = {
        "memory": result["memory_is_flat"],
        "handles": result["handles_are_flat"] and (processes is None or processes["handles_are_flat"]),
    }
    growing = [name for name, is_flat in flat.items() if not is_flat]
    console.print(
        f"[bold]what grows: {' and '.join(growing)}[/]" if growing else "[bold]memory and handles are flat[/]"
    )
    from machine import machine_facts  # which loads PyTorch, that the workers of this script would load too

    figures = {"machine": machine_facts(), **figures, "flat": not growing}
    if options.json:
        write_json(options.json, figures)
    if options.picture:
        draw(figures, options.picture)
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
