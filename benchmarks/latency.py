"""How far repeated latency probes of one student agree, on an idle machine and beside a busy process.

    python benchmarks/latency.py --json latency.json --runtime torch

Spread is the interquartile range of the student/teacher ratio over the probes, divided by its median. Every probe
times a newly built student. Anything else that runs on the machine is in the figures: its load is reported with them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from command import check_writable, run_command
from machine import machine_facts
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Latency
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.support.atomic import write_json

STUDENTS = (StudentConfig(2, 4, 192, 768), StudentConfig(3, 12, 384, 1536))


@dataclass(frozen=True)
class Arguments:
    """Measure the spread of the student/teacher latency ratio over repeated probes of the demo teacher's students.

    Attributes:
        json: File to write: machine, settings, every probe and the summary.
        runtime: What runs the models.
        probes: Probes per student and condition.
    """

    json: Path
    runtime: Literal["torch", "onnxruntime"] = "torch"
    probes: int = 20


@dataclass(frozen=True)
class Summary:
    """Probes of one student under one condition.

    Attributes:
        student: The architecture.
        condition: ``idle`` or ``one core busy``.
        ratio: Median of the probes' ratios.
        spread: Their interquartile range over their median.
        extent: Largest less smallest ratio, over the median.
        median_ms: Median latency of the student, in milliseconds.
        teacher_median_ms: Median latency of the teacher, in milliseconds.
        seconds: Median wall seconds of one probe, an export included.
        others_percent: Share of all cores that was busy before the first probe, benchmark excluded.
    """

    student: str
    condition: str
    ratio: float
    spread: float
    extent: float
    median_ms: float
    teacher_median_ms: float
    seconds: float
    others_percent: float


@contextmanager
def one_core_busy() -> Iterator[None]:
    """Run a process that never sleeps."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def repeat(probe: LatencyProbe, teacher: Teacher, student: StudentConfig, probes: int) -> tuple[list[Latency], float]:
    """Probe new instances of a student; return the records and the median wall seconds of one."""
    records, seconds = [], []
    for seed in track(range(probes), description=str(student), transient=True):
        model = build_student(student, teacher.architecture, seed=seed)
        start = time.perf_counter()
        records.append(probe.measure(model, student))
        seconds.append(time.perf_counter() - start)
    return records, float(np.median(seconds))


def summarise(student: StudentConfig, condition: str, records: list[Latency], seconds: float, others: float) -> Summary:
    """Reduce the probes of one student under one condition to its row."""
    ratios = np.array([record.ratio for record in records])
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return Summary(
        student=str(student),
        condition=condition,
        ratio=float(middle),
        spread=float((high - low) / middle),
        extent=float(np.ptp(ratios) / middle),
        median_ms=float(np.median([record.median_ms for record in records])),
        teacher_median_ms=float(np.median([record.teacher_median_ms for record in records])),
        seconds=seconds,
        others_percent=others,
    )


def table(summaries: list[Summary], title: str) -> Table:
    """Lay the summaries out for a terminal."""
    columns = ("student", "condition", "ratio", "spread", "max-min", "ms", "teacher ms", "s/probe", "others' load")
    rows = Table(*columns, title=title)
    for row in summaries:
        rows.add_row(
            row.student,
            row.condition,
            f"{row.ratio:.4f}",
            f"{row.spread:.2%}",
            f"{row.extent:.2%}",
            f"{row.median_ms:.2f}",
            f"{row.teacher_median_ms:.2f}",
            f"{row.seconds:.2f}",
            f"{row.others_percent:.0f} %",
        )
    return rows


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If the JSON file cannot be written.
        KDNASError: If the teacher or the runtime is missing.
    """
    check_writable(arguments.json)
    teacher = load_teacher("demo")
    settings = LatencySettings(runtime=arguments.runtime)
    probe = LatencyProbe(teacher.model, teacher.architecture, settings)
    summaries: list[Summary] = []
    probes: list[dict[str, Any]] = []
    for condition, load in (("idle", nullcontext), ("one core busy", one_core_busy)):
        for student in STUDENTS:
            others = psutil.cpu_percent(interval=1.0)
            with load():
                records, seconds = repeat(probe, teacher, student, arguments.probes)
            summaries.append(summarise(student, condition, records, seconds, others))
            probes += [{"student": str(student), "condition": condition, **asdict(record)} for record in records]
    facts = machine_facts()
    write_json(
        arguments.json,
        {
            "machine": facts,
            "settings": asdict(settings),
            "summaries": [asdict(summary) for summary in summaries],
            "probes": probes,
        },
    )
    title = f"{arguments.runtime}, {arguments.probes} probes each, {facts['processor']}, {facts['cores']} cores"
    Console().print(table(summaries, title))


if __name__ == "__main__":
    run_command(main, Arguments)
