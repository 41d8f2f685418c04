"""The model card: the hub can read it, its code runs, and it says how the student was made."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
from huggingface_hub import ModelCard
from tiny_students import STUDENTS

from kdnas_env.distillation.student.folder import imitated_width, load_student, read_projection
from kdnas_env.exporting.cards.export import export_card
from kdnas_env.exporting.cards.template import PLACEHOLDER, torch_code
from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.source import Source, load_source
from kdnas_env.exporting.timing import Timing

StudentDir = Callable[[str], Path]
Exported = Callable[[str], ExportReport]


def code_blocks(card: str, folder: str) -> list[str]:
    assert PLACEHOLDER in card
    return [block.replace(PLACEHOLDER, folder) for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL)]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_code_runs_and_either_way_gives_the_same(exported: Exported, name: str) -> None:
    folder = exported(name).folder
    vectors, imitations = [], []
    shown = code_blocks((Path(folder) / "README.md").read_text(), folder)
    quantised: dict[str, Any] = {}
    exec(shown[0], quantised)
    assert quantised["vectors"].shape == (2, 16)
    for code in (shown[0].replace(INT8_GRAPH, GRAPH), shown[1]):
        names: dict[str, Any] = {}
        exec(code, names)
        vectors.append(np.asarray(names["vectors"]))
        imitations.append(np.asarray(names["imitation"]))
    with_onnx, with_torch = vectors
    assert with_onnx.shape == (2, 16)
    np.testing.assert_allclose(with_onnx, with_torch, atol=1e-4)
    assert imitations[0].shape == (2, tiny_teachers.HIDDEN)
    np.testing.assert_allclose(imitations[0], imitations[1], atol=1e-3)


def test_an_imitation_is_what_the_last_layer_makes_of_the_last_layer_of_the_teacher(student_dir: StudentDir) -> None:
    folder = student_dir("bert of bert")
    student, projection = load_student(folder), read_projection(folder)
    assert projection is not None
    width = imitated_width(projection, "uniform+last")
    assert width == tiny_teachers.HIDDEN
    names: dict[str, Any] = {}
    exec(code_blocks(torch_code(f"folder = {PLACEHOLDER!r}", "bert", 16, width), str(folder))[0], names)
    with torch.inference_mode():
        states = student(**names["inputs"]).last_hidden_state
    imitated = (states @ projection["projection.weight"][1] + projection["projection.bias"][1])[..., width:]
    mask = names["inputs"]["attention_mask"][..., None]
    torch.testing.assert_close(names["imitation"], (imitated * mask).sum(1) / mask.sum(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("mapping", "width"), [("uniform", 64), ("last", 64), ("tinybert", 64), ("uniform+last", 32), ("skip", None)]
)
def test_a_projection_to_a_lower_layer_gives_no_vectors_of_the_teacher(mapping: str, width: int | None) -> None:
    assert imitated_width({"projection.weight": torch.zeros(1, 16, 64)}, mapping) == width
    assert imitated_width({}, mapping) is None
    assert imitated_width(None, mapping) is None


def test_it_says_what_the_vectors_are(student_dir: StudentDir, exported: Exported) -> None:
    card = (Path(exported("bert of bert").folder) / "README.md").read_text()
    assert "16 wide, in a space of the student's own. Similarities between them are not those of the teacher." in card
    assert "(`projection.safetensors`): `imitation` predicts the teacher's vectors, 32 wide" in card
    source = load_source(student_dir("bert of bert"))
    bare = export_card(replace(source, projection=None), exported("bert of bert"))
    assert "No projection to the teacher's last layer is kept." in bare
    assert "imitation" not in bare
    plain = export_card(replace(source, lineage=None), exported("bert of bert"))
    assert "averaged over the tokens of a sentence. Inputs are" in plain
    assert "teacher" not in plain


def test_the_hub_can_read_it(exported: Exported) -> None:
    data: Any = ModelCard((Path(exported("bert of bert").folder) / "README.md").read_text()).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "feature-extraction"
    assert {"kdnas", "knowledge-distillation", "onnx"} <= set(data.tags)
    # The teacher is a local folder, not a name on the hub, and no licence is known.
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
    data: Any = ModelCard(card).data
    assert data.base_model == base_model
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
    assert "| model | runtime | median | IQR | speed against the teacher in torch |" in card
    assert "| student | onnxruntime | 2.00 ms | 0.10 ms | 4.00x |" in card


def test_its_code_loads_the_file_that_was_asked_for(student_dir: StudentDir, exported: Exported) -> None:
    report, source = exported("bert of bert"), load_source(student_dir("bert of bert"))
    card = export_card(source, report)
    assert f'InferenceSession(f"{{folder}}/{INT8_GRAPH}"' in card
    assert f"The float graph is used alike: `{GRAPH}`" in card
    assert f"| parameters without head | {report.parameters:,} |" in card
    plain = export_card(source, replace(report, scheme=None))
    assert f'InferenceSession(f"{{folder}}/{GRAPH}"' in plain
    assert "is used alike" not in plain


def test_what_a_name_holds_is_not_taken_for_a_field(student_dir: StudentDir, exported: Exported) -> None:
    source = load_source(student_dir("bert of bert"))
    assert source.lineage is not None
    source = Source(source.encoder, replace(source.lineage, teacher="/models/$shape-{title}"))
    assert "distilled from **$shape-{title}** on" in export_card(source, exported("bert of bert"))
