"""A search of architecture and recipe together, through to its distilled student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kdnas_env
from kdnas_env.core.architecture import StudentConfig


@pytest.mark.usefixtures("blank_pictures")
def test_the_best_student_is_distilled_by_its_own_recipe(small: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "joint.yaml"
    file.write_text(
        "num_hidden_layers: [1, 2]\nhidden_size: [16, 32]\nrecipe.batch_size: [4, 16]\nrecipe.mapping: [last, uniform]"
    )
    run = kdnas_env.search(**{**small, "space": {"file": str(file)}})
    assert run.best is not None
    best = run.best.evaluation.config
    changes = dict(best.recipe)
    assert changes.keys() == {"batch_size", "mapping"}
    kept = json.loads((run.path / "student" / "kdnas.json").read_text())
    assert StudentConfig.from_dict(kept["student"]) == best
    assert kept["recipe"]["batch_size"] == changes["batch_size"]
    assert [record.evaluation for record in kdnas_env.load_run(run.path).records] == [r.evaluation for r in run.records]

    distilled = kdnas_env.distill(run, out=tmp_path / "long", epochs=1, batch_size=32)
    [student] = distilled.students
    assert student.config == best
    lineage = json.loads((tmp_path / "long" / "best" / "student" / "kdnas.json").read_text())
    assert lineage["recipe"]["mapping"] == changes["mapping"]
    assert lineage["recipe"]["batch_size"] == 32
