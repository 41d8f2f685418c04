"""Exported graphs compute what the models compute, and reports state the error of int8."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
from tiny_students import STUDENTS
from transformers import AutoModel, AutoTokenizer
from written_graphs import WrittenGraphs

from kdnas_env.errors import DependencyError, ExportError
from kdnas_env.exporting import quantisation_cost
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.writing import write_export
from kdnas_env.latency import LatencySettings
from kdnas_env.latency.quantise import SCHEMES

StudentDir = Callable[[str], Path]
Exported = Callable[[str], ExportReport]

SHORT = LatencySettings(max_rounds=5, sequence_length=12)


def run_graph(folder: str, name: str, encoded: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(Path(folder) / name, providers=["CPUExecutionProvider"])
    return session.run(None, {key: np.asarray(value) for key, value in encoded.items()})[0]


def run_torch(folder: str | Path, encoded: Any) -> Any:
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    with torch.inference_mode():
        return model(**encoded).last_hidden_state.numpy()


@pytest.mark.parametrize("name", STUDENTS)
def test_the_graph_computes_what_the_student_computes(student_dir: StudentDir, exported: Exported, name: str) -> None:
    folder = exported(name).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for texts in (tiny_teachers.sentences()[:9], ["critics"], [" ".join(["the audience"] * 40)]):
        encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        real = encoded["attention_mask"].bool().numpy()
        expected = run_torch(student_dir(name), encoded)[real]
        np.testing.assert_allclose(run_graph(folder, "onnx/model.onnx", encoded)[real], expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(run_torch(folder, encoded)[real], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STUDENTS)
def test_int8_is_smaller_and_costs_what_is_said(exported: Exported, name: str) -> None:
    report = exported(name)
    cost = report.int8
    assert cost is not None
    assert (cost.sentences, Path(cost.text).name) == (210, "sentences.jsonl")
    assert report.notes == ()
    assert 0 < cost.unexplained < 0.05
    assert 0.98 < cost.cosine < 1
    tokenizer = AutoTokenizer.from_pretrained(report.folder)
    encoded = tokenizer(tiny_teachers.sentences(), padding=True, return_tensors="np")
    real = encoded["attention_mask"].astype(bool)
    expected = run_graph(report.folder, "onnx/model.onnx", encoded)[real]
    found = run_graph(report.folder, "onnx/model_quantized.onnx", encoded)[real]
    unexplained = np.square(found - expected).sum() / np.square(expected - expected.mean(axis=0)).sum()
    # Only approximately: scales of activations depend on how sentences are batched.
    assert unexplained == pytest.approx(cost.unexplained, rel=0.5)


@pytest.mark.parametrize("name", STUDENTS)
def test_weights_are_quantised(exported: Exported, name: str) -> None:
    """Only biases, norms, other small vectors and tables of few rows stay in float."""
    import onnx

    graph = onnx.load(Path(exported(name).folder) / "onnx/model_quantized.onnx").graph
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) >= 12
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(tensor.dims)) for tensor in floats if len(tensor.dims) == 2 and tensor.dims[1] > 1) < 512


@pytest.mark.slow
def test_int8_that_costs_an_encoder_too_much_gives_way_to_what_costs_less(
    flat_teacher: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each limit is just below the cost of the scheme used before, so the next one is used, until none is left."""
    limit = 1.0
    for place, scheme in enumerate(SCHEMES):
        monkeypatch.setattr(quantisation_cost, "LARGEST_UNEXPLAINED", limit)
        out = tmp_path / str(place)
        report = write_export(flat_teacher("bert"), out, int8=True, latency=None, format="onnx")
        assert report.scheme == scheme
        assert [tried.scheme for tried in report.tried] == list(SCHEMES[: place + 1])
        assert [tried.accepted for tried in report.tried] == [*[False] * place, True]
        assert report.int8 == report.tried[-1].cost
        assert report.int8 is not None
        assert 0 < report.int8.unexplained <= limit
        refused = [note for note in report.notes if "was refused: unexplained variance" in note]
        assert len(refused) == place
        written = json.loads((out / "export.json").read_text())
        assert written["tried"][-1]["cost"]["unexplained"] == report.int8.unexplained
        assert report.files["onnx/model_quantized.onnx"] == report.tried[-1].bytes < report.files["onnx/model.onnx"]
        limit = 0.99 * report.int8.unexplained
    monkeypatch.setattr(quantisation_cost, "LARGEST_UNEXPLAINED", limit)
    with pytest.raises(ExportError, match=rf"may leave 0% of the variance.*{SCHEMES[-1]} was refused: unexplained"):
        write_export(flat_teacher("bert"), tmp_path / "none", int8=True, latency=None, format="onnx")
    assert not (tmp_path / "none").exists()


def test_the_folder_tells_what_was_found(exported: Exported) -> None:
    report = exported("bert of bert")
    folder = Path(report.folder)
    assert json.loads((folder / "export.json").read_text()) == json.loads(json.dumps(report.to_dict()))
    assert report.files == {name: (folder / name).stat().st_size for name in report.files}
    weights = {"model.safetensors", "projection.safetensors"}
    assert set(report.files) == {*weights, "onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert report.int8 is not None
    assert report.int8.int8_bytes == report.files["onnx/model_quantized.onnx"]
    assert report.checks["model.safetensors"].max_abs_error <= 1e-5
    assert 0 < report.checks["onnx/model.onnx"].max_abs_error < 1e-4
    assert (1, 1) in report.checks["onnx/model.onnx"].shapes
    assert report.parameters == sum(p.numel() for p in AutoModel.from_pretrained(folder).encoder.parameters()) + sum(
        p.numel() for p in AutoModel.from_pretrained(folder).embeddings.parameters()
    )
    assert {"README.md", "config.json", "kdnas.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    # The graph does not record the source lines of its nodes.
    assert b"site-packages" not in (folder / "onnx/model.onnx").read_bytes()


def test_an_encoder_that_was_not_distilled_is_exported_too(flat_teacher: Callable[[str], Path], tmp_path: Path) -> None:
    report = write_export(flat_teacher("bert"), tmp_path / "out", int8=True, latency=SHORT, format="onnx")
    assert [(timing.model, timing.runtime) for timing in report.timings] == [
        ("model", "torch"),
        ("model", "onnxruntime"),
        ("model", "onnxruntime int8"),
    ]
    assert report.int8 is not None
    assert report.int8.text == "random tokens"
    assert any("names no corpus" in note for note in report.notes)


def test_latencies_stand_beside_the_teachers(student_dir: StudentDir, tmp_path: Path) -> None:
    report = write_export(student_dir("bert of bert"), tmp_path / "out", latency=SHORT, format="onnx")
    assert [(timing.model, timing.runtime) for timing in report.timings] == [
        ("teacher", "torch"),
        ("teacher", "onnxruntime"),
        ("student", "torch"),
        ("student", "onnxruntime"),
    ]
    reference, *others = report.timings
    assert reference.speedup == 1
    assert all(timing.median_ms > 0 and timing.iqr_ms >= 0 and timing.count >= 5 for timing in report.timings)
    for timing in others:
        assert 1 / 3 < timing.speedup * timing.median_ms / reference.median_ms < 3  # five rounds, on a busy machine
    assert report.probe == {"batch_size": 1, "sequence_length": 12, "threads": 1}


def test_another_teacher_is_not_timed(student_dir: StudentDir, tmp_path: Path) -> None:
    import shutil

    student = tmp_path / "student"
    shutil.copytree(student_dir("bert of bert"), student)
    lineage = json.loads((student / "kdnas.json").read_text())
    (student / "kdnas.json").write_text(json.dumps({**lineage, "teacher_fingerprint": "0" * 64}))
    from kdnas_env.exporting.writing import write_export

    report = write_export(student, tmp_path / "out", latency=SHORT)
    assert {timing.model for timing in report.timings} == {"student"}
    assert "has changed since the student was distilled" in report.notes[0]


def test_a_graph_that_computes_something_else_is_refused(
    student_dir: StudentDir,
    graphs_are_written_once: WrittenGraphs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdnas_env.exporting import onnx as export_graphs

    def write_another(model: Any, *arguments: Any, **options: Any) -> None:
        other = copy.deepcopy(model)
        other.encoder.layer[1].output.dense.bias[0] += 0.01
        graphs_are_written_once.write(other, *arguments, **options)

    monkeypatch.setattr(export_graphs, "write_graph", write_another)
    with pytest.raises(ExportError, match=r"the graph does not compute what the model computes.*deviate by up to 0\.0"):
        write_export(student_dir("bert of bert"), tmp_path / "new" / "out", latency=None, format="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_the_missing_extra_is_named(
    student_dir: StudentDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r'pip install "kdnas\[onnx\]"'):
        write_export(student_dir("bert of bert"), tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []
