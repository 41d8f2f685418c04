"""What worker processes bring, and what it costs when they die, on the main job.

    python benchmarks/workers.py --json workers.json

Students of the demo teacher's derived space are distilled as `kdnas search` does it, on one worker with one thread, one
with two, and two with one each, in turn. Workers are started, and have evaluated a student each, before the clock runs.
Latency is modelled by default: a real probe wants the machine for itself, so that workers wait for one another.

Then workers are killed at random instants of a search into a store on disk, and the store is counted. Recovery is the
time from a kill to the replacement that is ready for its first student: a new process, teacher and corpus included.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from machine import machine_facts
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.teacher.loading import load_teacher_architecture
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.evaluators.parallel import ParallelEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.backend import Message, Ready
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.support.atomic import write_json

FIDELITY = Fidelity(epochs=1, data_fraction=0.2)
ARRANGEMENTS = ((1, 1), (1, 2), (2, 1))
"""Workers, and threads of each."""


@dataclass(frozen=True)
class Arguments:
    """Measure what workers bring on the main job, and kill some.

    Attributes:
        json: File to write: machine, settings and every figure.
        students: Students per batch.
        max_parameters: Largest of them, in parameters.
        rounds: Batches per arrangement of workers and threads.
        runtime: What measures latencies: analytic, torch or onnxruntime.
        kills: Workers to kill; 0 for none.
        seconds_between_kills: Mean of the time from one kill to the next.
        seed: Seed of the choice of students and of the kills.
    """

    json: Path
    students: int = 12
    max_parameters: int = 8_000_000
    rounds: int = 5
    runtime: str = "analytic"
    kills: int = 50
    seconds_between_kills: float = 6.0
    seed: int = 0


def some_students(count: int, max_parameters: int, seed: int) -> list[StudentConfig]:
    """Draw different students of the demo teacher's derived space."""
    space = SearchSpace.from_teacher(load_teacher_architecture("demo"), max_parameters=max_parameters)
    drawn = np.random.default_rng(seed).permutation(space.valid_indices)[:count]
    return [space.decode(space.from_index(index)) for index in drawn.tolist()]


@contextmanager
def ready_workers(settings: MiniKDSettings, workers: int, warm: StudentConfig) -> Iterator[ParallelEvaluator]:
    """Start workers that have each evaluated a student."""
    with ParallelEvaluator.local(partial(MiniKDEvaluator, settings), workers) as evaluator:
        evaluator.evaluate([warm] * 3 * workers, FIDELITY)
        yield evaluator


def measure_speed(arguments: Arguments, progress: Progress) -> dict[str, list[float]]:
    """Return seconds of each batch by arrangement, which take turns."""
    students = some_students(arguments.students, arguments.max_parameters, arguments.seed)
    seconds: dict[str, list[float]] = {f"{workers} x {threads}": [] for workers, threads in ARRANGEMENTS}
    task = progress.add_task("speed", total=arguments.rounds * len(ARRANGEMENTS))
    for _ in range(arguments.rounds):
        for workers, threads in ARRANGEMENTS:
            settings = MiniKDSettings(latency=arguments.runtime, device="cpu", threads=threads)
            with ready_workers(settings, workers, students[0]) as evaluator:
                began = time.perf_counter()
                evaluator.evaluate(students, FIDELITY)
                seconds[f"{workers} x {threads}"].append(time.perf_counter() - began)
            progress.advance(task)
    return seconds


class WatchedBackend(LocalBackend):
    """Notes when workers are ready, and lets one be killed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ready: dict[int, float] = {}

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Note who is ready."""
        heard = super().wait(seconds)
        for worker, message in heard:
            if isinstance(message, Ready):
                self.ready[worker] = time.perf_counter()
        return heard

    def victims(self) -> list[int]:
        """Return the workers that are ready and alive."""
        return [worker for worker in list(self.ready) if self.process_id(worker) is not None]


def measure_kills(arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Kill workers while students are evaluated until all kills are done; count what the store holds."""
    settings = MiniKDSettings(latency=arguments.runtime, device="cpu", threads=1)
    draw = random.Random(arguments.seed)
    backend = WatchedBackend(partial(MiniKDEvaluator, settings))
    kills: list[float] = []
    over = threading.Event()
    task = progress.add_task("kills", total=arguments.kills)

    def kill() -> None:
        while len(kills) < arguments.kills and not over.wait(draw.expovariate(1 / arguments.seconds_between_kills)):
            if victims := backend.victims():
                identity = backend.process_id(draw.choice(victims))
                if identity is not None and psutil.pid_exists(identity):
                    kills.append(time.perf_counter())
                    psutil.Process(identity).kill()
                    progress.advance(task)

    students = some_students(10_000, arguments.max_parameters, arguments.seed)
    asked: list[StudentConfig] = []
    with tempfile.TemporaryDirectory() as folder:
        pool = WorkerPool(backend, 2, attempts=arguments.kills + 1)
        with pool, StoredEvaluator(ParallelEvaluator(pool), Path(folder) / "store.sqlite") as store:
            pool.identity()
            thread = threading.Thread(target=kill)
            thread.start()
            try:
                seed = 0
                while thread.is_alive():
                    for start in range(0, len(students), 8):
                        batch = students[start : start + 8]
                        store.evaluate(batch, replace(FIDELITY, seed=seed))
                        asked += batch
                        if not thread.is_alive():
                            break
                    seed += 1
            finally:
                over.set()
                thread.join()
            records = store.records()
    counts = Counter((record.config, record.fidelity.seed) for record in records)
    recovery = recovery_seconds(kills, sorted(backend.ready.values()))
    return {
        "kills": len(kills),
        "evaluations": len(asked),
        "stored": len(records),
        "lost": len(asked) - len(counts),
        "duplicated": sum(count - 1 for count in counts.values()),
        "failed": sum(not record.ok for record in records),
        "recovery_seconds": {"median": statistics.median(recovery), "longest": max(recovery), "of": len(recovery)},
    }


def recovery_seconds(kills: Sequence[float], ready: Sequence[float]) -> list[float]:
    """Return, for each kill, the time to the next replacement that no earlier kill has claimed."""
    left = list(ready)
    found = []
    for killed in kills:
        later = [moment for moment in left if moment > killed]
        if later:
            found.append(later[0] - killed)
            left.remove(later[0])
    return found


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    console = Console()
    MiniKDEvaluator(MiniKDSettings(latency=arguments.runtime, device="cpu"))  # computes the hidden states
    with Progress(console=console) as progress:
        seconds = measure_speed(arguments, progress)
        kills = measure_kills(arguments, progress) if arguments.kills else None
    alone, threaded, pair = (seconds[f"{workers} x {threads}"] for workers, threads in ARRANGEMENTS)
    table = Table(title=f"{arguments.students} students, {arguments.rounds} times, in turn")
    for column in ("workers x threads", "seconds, median", "students/s", "two workers are faster by"):
        table.add_column(column, justify="right")
    for name, values in seconds.items():
        ratio = statistics.median(one / two for one, two in zip(values, pair, strict=True))
        median = statistics.median(values)
        table.add_row(name, f"{median:.2f}", f"{arguments.students / median:.2f}", f"{ratio:.2f}x")
    console.print(table)
    if kills:
        recovery = kills["recovery_seconds"]
        console.print(
            f"{kills['kills']} random kills, {kills['evaluations']} evaluations: {kills['lost']} lost, "
            f"{kills['duplicated']} duplicated, {kills['failed']} failed; a replacement was ready after "
            f"{recovery['median']:.1f} s (median), {recovery['longest']:.1f} s at most"
        )
    write_json(
        arguments.json,
        {
            "machine": machine_facts(),
            "arguments": {name: str(value) for name, value in vars(arguments).items()},
            "seconds": seconds,
            "two_workers_over_one_of_one_thread": statistics.median(
                one / two for one, two in zip(alone, pair, strict=True)
            ),
            "two_workers_over_one_of_two_threads": statistics.median(
                one / two for one, two in zip(threaded, pair, strict=True)
            ),
            "kills": kills,
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
