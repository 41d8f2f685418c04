"""Which types of encoders teach, and what a small student of each learns.

    python benchmarks/teachers.py --json teachers.json
    python benchmarks/teachers.py --json teachers.json --folders path/to/my-encoder --corpus texts.txt

Makes a tiny encoder of random weights of every type, loads it, and distils a student from it. Prints a row for each:
whether it loads, or why not; whether its layers are sliced; and how much of its states' variance the student leaves
unexplained before the first step and after every epoch. Random teachers show that a type works, not how well students
of a trained one learn.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import check_writable, run_command
from machine import machine_facts
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.layers import SLICED_TYPES
from kdnas_env.errors import KDNASError, TeacherError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.support.atomic import write_json
from kdnas_env.testing.tiny_encoders import TINY_ENCODERS, save_tiny_encoder, tiny_texts


@dataclass(frozen=True)
class Arguments:
    """Distil a student from an encoder of every type.

    Attributes:
        json: File to write: machine, and a row for each teacher.
        types: Types of tiny encoders.
        folders: Encoders of your own, in place of tiny ones.
        corpus: Text; None for a few sentences of the package.
        student: The student, as it is printed.
        epochs: Epochs of the distillation.
    """

    json: Path
    types: tuple[str, ...] = tuple(TINY_ENCODERS)
    folders: tuple[Path, ...] = ()
    corpus: str | None = None
    student: str = "bert 1L/32h/2a/48f/gelu"
    epochs: int = 1


def distil(folder: Path, corpus: str, student: StudentConfig, epochs: int, cache: Path) -> dict[str, Any]:
    """Return the row of a teacher.

    Raises:
        KDNASError: If the text or the student cannot be used.
    """
    settings = MiniKDSettings(
        teacher=str(folder),
        corpus={"source": corpus, "proxy_fraction": 1.0},
        latency="analytic",
        cache_dir=cache,
        device="cpu",
    )
    try:
        evaluator = MiniKDEvaluator(settings)
    except TeacherError as error:
        return {"type": folder.name, "refused": str(error)}
    evaluation = evaluator.distil(student, Fidelity(epochs=epochs)).evaluation
    if not evaluation.ok:
        raise KDNASError(f"the distillation from {str(folder)!r} ended as {evaluation.status}: {evaluation.error}")
    teacher = evaluator.workload.teacher
    return {
        "type": teacher.architecture.family,
        "sliced": teacher.architecture.family in SLICED_TYPES and student.family != "albert",
        "notes": list(teacher.notes),
        "unexplained": list(evaluation.heldout_unexplained),
    }


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If the JSON file cannot be written.
        KDNASError: If an encoder cannot be made, or the text or the student cannot be used.
    """
    check_writable(arguments.json)
    student = StudentConfig.parse(arguments.student)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "texts.txt").write_text("\n".join(tiny_texts()), encoding="utf-8")
        corpus = arguments.corpus or str(place / "texts.txt")
        folders = arguments.folders or [save_tiny_encoder(place / kind, kind) for kind in arguments.types]
        rows = [
            distil(folder, corpus, student, arguments.epochs, place / "cache")
            for folder in track(folders, description="teachers", transient=True)
        ]
    write_json(arguments.json, {"machine": machine_facts(), "student": str(student), "teachers": rows})
    heads = ("start", *(f"epoch {epoch + 1}" for epoch in range(arguments.epochs)))
    table = Table("teacher", "loaded", "layers", *heads, title=f"Unexplained variance of {student}")
    for row in rows:
        if "refused" in row:
            table.add_row(row["type"], f"no: {row['refused'].partition('cannot teach: ')[2] or row['refused']}")
        else:
            layers = "sliced" if row["sliced"] else "random"
            table.add_row(row["type"], "yes", layers, *(f"{loss:.3f}" for loss in row["unexplained"]))
    Console().print(table)


if __name__ == "__main__":
    run_command(main, Arguments)
