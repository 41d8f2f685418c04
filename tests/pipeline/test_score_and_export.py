"""Scores and exports from Python: results with rows for pandas and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_tasks

import kdnas_env
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.distill.result import DistilledStudent, DistillRun, student_folders
from kdnas_env.pipeline.export import export
from kdnas_env.pipeline.score import score

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds")


def test_a_model_is_scored(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = small_tasks.write_original_layout(tmp_path / "glue")
    settings: dict[str, Any] = {"data": str(data), "rows": ["student"], "seeds": 1, "finetune": False, "device": "cpu"}
    found = score(tiny_teacher_dirs["bert"], tasks=["rte", "mrpc"], out=tmp_path / "run", **settings)
    assert capfd.readouterr().out == ""
    assert found.path == tmp_path / "run"
    student, majority = found.table()
    assert (student["name"], student["title"], majority["name"]) == ("student", "bert", "majority")
    assert student["average"] == pytest.approx((student["rte"] + student["mrpc"]) / 2)
    assert found.failure is None
    assert found.plot().axes
    again = score(resume=tmp_path / "run")
    assert again.table() == found.table()
    with pytest.raises(KDNASError, match="unknown task"):
        score(tiny_teacher_dirs["bert"], tasks=["sst-2"])


def test_a_model_is_exported(tiny_teacher_dirs: dict[str, Path], tmp_path: Path) -> None:
    report = export(tiny_teacher_dirs["bert"], to="safetensors", out=tmp_path / "out", latency=False)
    (weights,) = report.table()
    assert weights["file"] == "model.safetensors"
    assert weights["max_abs_error"] <= weights["tolerance"]
    with pytest.raises(KDNASError, match="latencies"):
        export(tiny_teacher_dirs["bert"], latencies=True)


def test_what_a_distillation_returned_names_its_students(tmp_path: Path) -> None:
    students = tuple(
        DistilledStudent(tmp_path / name, StudentConfig(1, 2, 16, 16, "gelu"), 0.9, 0.1, 1.0, ())
        for name in ("best", "albert")
    )
    run = DistillRun(tmp_path, DistillOptions(run="run"), students)
    folders = tuple(str(tmp_path / name / "student") for name in ("best", "albert"))
    assert student_folders(run) == folders
    assert student_folders(students[1]) == folders[1:]
    assert student_folders("org/model") == ("org/model",)
    with pytest.raises(KDNASError, match="are several students; export one after the other"):
        kdnas_env.export(run)
    with pytest.raises(KDNASError, match="best/student"):
        kdnas_env.score(run, tasks=["rte"])
