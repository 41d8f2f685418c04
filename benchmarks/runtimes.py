"""Whether runtimes rank students alike: what a search that times one of them says of another.

    python benchmarks/runtimes.py --json runtimes.json

Draws students of the demo teacher's space, finds the speed-up of each over the teacher in every runtime, and prints
Kendall's tau between runtimes with its 95 % bootstrap interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from command import check_writable, run_command
from machine import machine_facts
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.latency.settings import RUNTIMES
from kdnas_env.support.atomic import write_json
from kdnas_env.support.statistics import correlate


@dataclass(frozen=True)
class Arguments:
    """Compare the speed-ups of students between runtimes.

    Attributes:
        json: File to write: machine, settings, and every speed-up.
        students: Students to draw.
        seed: Seed of the draw.
    """

    json: Path
    students: int = 40
    seed: int = 0


def draw(space: SearchSpace, count: int, seed: int) -> list[StudentConfig]:
    """Draw different students that can be built."""
    indices = np.random.default_rng(seed).permutation(space.valid_indices)[:count]
    return [space.decode(space.from_index(int(index))) for index in indices]


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If the JSON file cannot be written.
        KDNASError: If the teacher or a runtime is missing.
    """
    check_writable(arguments.json)
    teacher = load_teacher("demo")
    students = draw(SearchSpace.from_teacher(teacher.architecture), arguments.students, arguments.seed)
    probes = {
        runtime: LatencyProbe(teacher.model, teacher.architecture, LatencySettings(runtime=runtime))
        for runtime in RUNTIMES
    }
    measured = []
    for student in track(students, description="students", transient=True):
        model = build_student(student, teacher.architecture, seed=0)
        measured.append({runtime: probe.measure(model, student) for runtime, probe in probes.items()})
    facts = machine_facts()
    rows = [
        {"student": str(student), **{runtime: asdict(latency) for runtime, latency in latencies.items()}}
        for student, latencies in zip(students, measured, strict=True)
    ]
    write_json(arguments.json, {"machine": facts, "students": rows})
    ratios = {runtime: [latencies[runtime].ratio for latencies in measured] for runtime in RUNTIMES}
    title = f"Kendall's tau of {len(students)} students, {facts['processor']}, {facts['cores']} cores"
    table = Table("", "speed-up", "teacher, ms", *RUNTIMES, title=title)
    rng = np.random.default_rng(arguments.seed)
    for runtime in RUNTIMES:
        speedups = 1 / np.array(ratios[runtime])
        taus = [correlate(ratios[runtime], ratios[other], rng) for other in RUNTIMES]
        table.add_row(
            runtime,
            f"{speedups.min():.1f} to {speedups.max():.1f}",
            f"{np.median([latencies[runtime].teacher_median_ms for latencies in measured]):.1f}",
            *("" if tau is None else f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]" for tau in taus),
        )
    Console().print(table)


if __name__ == "__main__":
    run_command(main, Arguments)
