"""Tiny students and classifiers of every family, and their exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_classifiers
import tiny_teachers
import torch
from tiny_classifiers import TinyClassifier
from written_graphs import WrittenGraphs

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.student.folder import Lineage, save_student
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.writing import write_export


def make_projection() -> dict[str, torch.Tensor]:
    """Return a random projection in place of a fitted one: from each of two layers to two layers of the teacher."""
    generator = torch.Generator().manual_seed(0)
    width = 2 * tiny_teachers.HIDDEN
    return {
        "projection.weight": torch.randn(2, 16, width, generator=generator),
        "projection.bias": torch.randn(2, width, generator=generator),
    }


@pytest.fixture(scope="session", autouse=True)
def graphs(graphs_are_written_once: WrittenGraphs) -> None:
    """Share graphs between the tests of this folder, which export the same models repeatedly."""


@pytest.fixture(scope="session")
def student_dir(
    flat_teacher: Callable[[str], Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the folder of one of ``STUDENTS``: 2 layers, 16 wide. Do not write into it."""
    root = tmp_path_factory.mktemp("students")

    def make(name: str) -> Path:
        folder = root / name.replace(" ", "-")
        if not folder.exists():
            family, teacher_family = name.split(" of ")
            teacher_folder = flat_teacher(teacher_family)
            teacher = load_teacher(teacher_folder)
            student = StudentConfig(2, 4, 16, 32, "gelu", family)
            lineage = Lineage(
                student=student,
                teacher=str(teacher_folder),
                teacher_fingerprint=teacher.fingerprint,
                corpus={"source": str(tiny_corpus_file), "max_length": 20},
                recipe={"mapping": "uniform+last", "learning_rate": 0.0026},
                stages=(
                    {"stage": "mini-kd", "epochs": 1, "heldout_unexplained": [0.9, 0.5, 0.4]},
                    {"stage": "full-kd", "epochs": 3},
                ),
                versions={"kdnas": "0.1.0", "torch": "2.9"},
            )
            model = build_student(student, teacher.architecture, seed=0)
            save_student(folder, model, teacher.tokenizer, "a card", lineage, make_projection())
        return folder

    return make


@pytest.fixture(scope="session")
def exported(
    student_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ExportReport]:
    """Return the export of one of ``STUDENTS`` to ONNX and int8, without latencies. Do not write into it."""
    root = tmp_path_factory.mktemp("exports")
    reports: dict[str, ExportReport] = {}

    def make(name: str) -> ExportReport:
        if name not in reports:
            out = root / name.replace(" ", "-")
            reports[name] = write_export(student_dir(name), out, int8=True, latency=None, format="onnx")
        return reports[name]

    return make


@pytest.fixture(scope="session")
def classifier(
    flat_teacher: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], TinyClassifier]:
    """Return a student of a family, with one layer, that has learnt one of ``tiny_classifiers.TASKS``."""
    cache = tmp_path_factory.mktemp("cache")
    made: dict[tuple[str, str], TinyClassifier] = {}

    def make(family: str, kind: str) -> TinyClassifier:
        if (family, kind) not in made:
            task = tiny_classifiers.TASKS[kind]()
            made[family, kind] = tiny_classifiers.distil_classifier(flat_teacher(family), task, cache)
        return made[family, kind]

    return make
