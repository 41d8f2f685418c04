"""Scores and exports from Python: a record each, with rows for pandas and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_tasks

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.export import export
from kdnas_env.pipeline.score import score


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
