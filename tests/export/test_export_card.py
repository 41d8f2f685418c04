"""The model card: the hub can read it, its code runs, it says where the student comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from tiny_students import STUDENTS

from kdnas_env.export import ExportReport
from kdnas_env.export.card import PLACEHOLDER, export_card
from kdnas_env.export.source import Source, load_source
from kdnas_env.export.timing import Timing

StudentDir = Callable[[str], Path]
Exported = Callable[[str], ExportReport]


def code_blocks(card: str, folder: str) -> list[str]:
    assert PLACEHOLDER in card
    return [block.replace(PLACEHOLDER, folder) for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL)]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_code_runs_and_either_way_gives_the_same(exported: Exported, name: str) -> None:
    folder = exported(name).folder
    vectors = []
    for code in code_blocks((Path(folder) / "README.md").read_text(), folder):
        names: dict[str, Any] = {}
        exec(code, names)
        vectors.append(np.asarray(names["vectors"]))
    with_onnx, with_torch = vectors
    assert with_onnx.shape == (2, 16)
    np.testing.assert_allclose(with_onnx, with_torch, atol=1e-4)


def test_the_hub_can_read_it(exported: Exported) -> None:
    data = ModelCard((Path(exported("bert of bert").folder) / "README.md").read_text()).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "feature-extraction"
    assert {"kdnas", "knowledge-distillation", "onnx"} <= set(data.tags)
    # A folder is no name on the hub, and nobody said which terms hold.
    assert data.base_model is None
    assert data.license is None


@pytest.mark.parametrize(
    ("teacher", "base_model"),
    [("some-org/a-teacher", "some-org/a-teacher"), ("demo", "sentence-transformers/all-MiniLM-L6-v2"), ("/a/b", None)],
)
def test_the_teacher_is_the_base_model(
    student_dir: StudentDir, exported: Exported, teacher: str, base_model: str | None
) -> None:
    source = load_source(student_dir("bert of bert"))
    assert source.lineage is not None
    source = Source(source.encoder, replace(source.lineage, teacher=teacher))
    card = export_card(source, exported("bert of bert"), "me/student")
    assert ModelCard(card).data.base_model == base_model
    assert 'snapshot_download("me/student")' in card
    assert PLACEHOLDER not in card


def test_it_says_how_the_student_came_to_be(exported: Exported) -> None:
    report = exported("bert of bert")
    card = (Path(report.folder) / "README.md").read_text()
    assert report.int8 is not None
    for expected in (
        "distilled from **bert**",
        "**sentences.jsonl**",
        "learning rate 0.0026",
        "**Stage 1, mini-kd**: epochs 1, heldout unexplained 0.9 to 0.4",
        "**Stage 2, full-kd**: epochs 3",
        f"{report.checks['onnx/model.onnx'].max_abs_error:.2g}",
        f"unexplained variance of the hidden states {report.int8.unexplained:.4f}",
        f"onnxruntime {report.versions['onnxruntime']}",
    ):
        assert expected in card
    assert "## Latency" not in card


def test_it_has_a_table_of_latencies(student_dir: StudentDir, exported: Exported) -> None:
    timings = (Timing("teacher", "torch", 8.0, 0.5, 9, 1.0), Timing("student", "onnxruntime", 2.0, 0.1, 9, 4.0))
    probe = {"batch_size": 1, "sequence_length": 50, "threads": 1}
    report = replace(exported("bert of bert"), timings=timings, probe=probe)
    card = export_card(load_source(student_dir("bert of bert")), report)
    assert "Batch 1, 50 tokens, 1 CPU thread(s)" in card
    assert "| student | onnxruntime | 2.00 ms | 0.10 ms | 4.00x |" in card
