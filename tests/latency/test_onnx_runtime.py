from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_teachers import FAMILIES

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import DependencyError, LatencyError
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.latency.onnx_runtime import open_session
from kdnas_env.latency.settings import INT8
from kdnas_env.latency.torch_runtime import random_ids

SETTINGS = LatencySettings(runtime="onnxruntime", max_rounds=5, batch_size=2, sequence_length=12)


def check_session(model: Any, settings: LatencySettings) -> None:
    """Compare the graph with the model, on the tokens used in the export and on other tokens."""
    session = open_session(model, settings)
    assert [argument.name for argument in session.get_inputs()] == ["input_ids"]
    assert len(session.get_outputs()) == 1
    for seed in (settings.seed, settings.seed + 1):
        ids = random_ids(model, LatencySettings(batch_size=2, sequence_length=12, seed=seed))
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state
        (states,) = session.run(None, {"input_ids": ids.numpy()})
        np.testing.assert_allclose(states, expected.numpy(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_of_a_teacher_computes_what_the_teacher_computes(
    flat_teacher: Callable[[str], Path], family: str
) -> None:
    check_session(load_teacher(flat_teacher(family)).model, SETTINGS)


def test_the_graph_of_a_student_computes_what_the_student_computes(flat_teacher: Callable[[str], Path]) -> None:
    """The student has several layers, and another activation and family than its teacher."""
    architecture = load_teacher(flat_teacher("roberta")).architecture
    student = StudentConfig(2, 4, 16, 32, "silu", "albert")
    check_session(build_student(student, architecture, seed=0).eval(), SETTINGS)


@pytest.mark.usefixtures("timed_graphs_are_written_once")
def test_an_int8_graph_is_timed_as_it_would_be_exported(flat_teacher: Callable[[str], Path]) -> None:
    teacher = load_teacher(flat_teacher("bert"))
    settings = replace(SETTINGS, runtime=INT8)
    session, exact = (open_session(teacher.model, each) for each in (settings, SETTINGS))
    ids = random_ids(teacher.model, settings).numpy()
    (states,), (expected,) = (each.run(None, {"input_ids": ids}) for each in (session, exact))
    error = np.square(states - expected).sum() / np.square(expected - expected.mean()).sum()
    assert 0 < error < 0.01

    student = StudentConfig(1, 4, 32, 64)
    probe = LatencyProbe(teacher.model, teacher.architecture, settings)
    latency = probe.measure(build_student(student, teacher.architecture, seed=0), student)
    assert (latency.runtime, latency.count > 0, 0 < latency.ratio < 10) == (INT8, True, True)


@pytest.mark.parametrize("runtime", ["onnxruntime", INT8])
def test_nothing_is_printed_and_no_file_remains(
    runtime: str,
    flat_teacher: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if runtime == INT8:  # tests the output of quantising; the other case tests that of the exporter
        request.getfixturevalue("timed_graphs_are_written_once")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    teacher = load_teacher(flat_teacher("bert"))
    student = StudentConfig(1, 4, 32, 64)
    probe = LatencyProbe(teacher.model, teacher.architecture, replace(SETTINGS, runtime=runtime))
    probe.measure(build_student(student, teacher.architecture, seed=0), student)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


class _Unexportable(torch.nn.Module):
    """An encoder whose computation depends on the values of the tokens, which no graph can express."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config

    def get_input_embeddings(self) -> Any:
        return self.encoder.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.encoder(input_ids=input_ids[:, : int(input_ids.sum()) % 5 + 1])


def test_an_export_that_fails_is_explained(
    flat_teacher: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    teacher = load_teacher(flat_teacher("bert"))
    with pytest.raises(LatencyError, match=r"_Unexportable cannot be run by ONNX Runtime: .*runtime 'torch'"):
        LatencyProbe(_Unexportable(teacher.model), teacher.architecture, SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_extra_is_named(
    flat_teacher: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    teacher = load_teacher(flat_teacher("bert"))
    with pytest.raises(DependencyError, match=r'pip install "kdnas\[onnx\]"'):
        LatencyProbe(teacher.model, teacher.architecture, SETTINGS)
