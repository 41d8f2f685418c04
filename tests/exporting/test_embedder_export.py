"""Exports of embedding students: graphs that compute the vectors, and code without torch and transformers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers

from kdnas_env.distillation.student.folder import read_lineage
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import ExportError
from kdnas_env.exporting import quantisation_cost
from kdnas_env.exporting.embedder import save_embedder
from kdnas_env.exporting.record import read_embedder_record
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.writing import write_export
from kdnas_env.latency.quantise import DYNAMIC, SCHEMES, quantise
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.tasks.embedding import EmbeddingSettings, distil_embedder
from kdnas_env.tasks.vectors import embedding_teacher, open_embedder, vectors

GRAPH, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"
TEXTS = tiny_teachers.sentences()

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "sentence_transformers")))
{code}
import json
print(json.dumps(vectors.tolist()))
"""


@pytest.fixture(scope="module")
def embedder(
    student_dir: Callable[[str], Path], flat_teacher: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of an embedding student whose head is solved in closed form. Do not write into it."""
    root = tmp_path_factory.mktemp("embedder")
    teacher = embedding_teacher(load_teacher(flat_teacher("bert")))
    settings = EmbeddingSettings(epochs=0, max_length=12)
    student = student_dir("bert of bert")
    made = distil_embedder(load_teacher(student), teacher, TEXTS, settings, cache_dir=root, device="cpu")
    lineage = read_lineage(student)
    assert lineage is not None
    save_embedder(
        root / "it", made, teacher, settings, made_from="x", source="sentences.jsonl", seed=0, lineage=lineage
    )
    return root / "it"


@pytest.fixture(scope="module")
def exported(embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """The export of ``embedder`` to ONNX and int8. Do not write into its folder."""
    latency = LatencySettings(max_rounds=5, sequence_length=12)
    out = tmp_path_factory.mktemp("export") / "out"
    return write_export(embedder, out, int8=True, latency=latency, format="onnx")


def run_graph(folder: Path, name: str, inputs: Any) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {key: np.asarray(value) for key, value in inputs.items()}), strict=True))


def test_graphs_make_the_vectors(embedder: Path, exported: ExportReport) -> None:
    from transformers import AutoModel, AutoTokenizer

    out = Path(exported.folder)
    texts = [*TEXTS[:8], "critics", " ".join(["the audience"] * 40)]  # the last text is truncated
    inputs = AutoTokenizer.from_pretrained(out)(texts, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 12
    made, expected = run_graph(out, GRAPH, inputs), vectors(open_embedder(embedder), texts)
    assert list(made) == ["token_embeddings", "sentence_embedding"]
    np.testing.assert_allclose(made["sentence_embedding"], expected, atol=1e-5)
    states = AutoModel.from_pretrained(out)(**inputs).last_hidden_state.detach().numpy()
    real = inputs["attention_mask"].bool().numpy()
    np.testing.assert_allclose(made["token_embeddings"][real], states[real], atol=1e-5)
    small = run_graph(out, INT8, inputs)["sentence_embedding"]
    np.testing.assert_allclose(np.linalg.norm(small, axis=1), 1, atol=1e-5)
    cosines = (small * expected).sum(axis=1)
    assert exported.vectors is not None
    assert cosines.mean() == pytest.approx(exported.vectors.cosine, abs=0.01)
    assert exported.vectors.spearman > 0.99
    assert (exported.scheme, exported.vectors.texts, exported.int8) == (DYNAMIC, len(TEXTS), None)
    assert exported.checks[GRAPH].max_abs_error < 1e-4


def test_the_folder_has_the_layout_that_others_read(embedder: Path, exported: ExportReport) -> None:
    out = Path(exported.folder)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    theirs = {path.relative_to(embedder).as_posix() for path in embedder.rglob("*") if path.is_file()}
    assert written == theirs | {"export.json", GRAPH, INT8}
    np.testing.assert_allclose(
        vectors(open_embedder(out), TEXTS[:9]), vectors(open_embedder(embedder), TEXTS[:9]), atol=1e-6
    )
    assert read_embedder_record(out) == read_embedder_record(embedder)
    assert json.loads((out / "export.json").read_text())["vectors"]["texts"] == len(TEXTS)
    assert [(timing.model, timing.runtime) for timing in exported.timings] == [
        *(("teacher", runtime) for runtime in ("torch", "onnxruntime")),
        *(("student", runtime) for runtime in ("torch", "onnxruntime", "onnxruntime int8")),
    ]
    again = write_export(out, out.with_name("again"), format="safetensors", latency=None)
    assert again.files == {name: size for name, size in exported.files.items() if name.endswith(".safetensors")}


def test_the_code_of_the_card_runs_without_torch(exported: ExportReport) -> None:
    folder = Path(exported.folder)
    card = (folder / "README.md").read_text()
    for expected in (
        "library_name: sentence-transformers",
        "- onnx",
        "## Scores",
        "Spearman's correlation",
        "vectors dev",
    ):
        assert expected in card
    code, with_torch = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 15
    assert "SentenceTransformer" in with_torch
    assert f"/{INT8}" in code
    code = code.replace(INT8, GRAPH)
    long = "the audience never bores " * 9
    code = code.replace("path/to/this/folder", str(folder)).replace("The audience leaves early.", long)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(code=code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(made, vectors(open_embedder(folder), ["A quiet film.", long]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_the_head_in_float32_keeps_vectors_nearer(
    embedder: Path, exported: ExportReport, tmp_path: Path, scheme: str
) -> None:
    graph, model = Path(exported.folder) / GRAPH, open_embedder(embedder)
    inputs = model.tokenizer(TEXTS[:64], padding=True, return_tensors="np")
    wanted = run_graph(graph.parent, graph.name, inputs)["sentence_embedding"]
    cosines = []
    for exact_head in (False, True):
        quantise(graph, tmp_path / "int8.onnx", scheme, exact_head=exact_head)
        made = run_graph(tmp_path, "int8.onnx", inputs)["sentence_embedding"]
        cosines.append((made * wanted).sum(axis=1).mean())
    assert 1 - cosines[1] < 0.7 * (1 - cosines[0])


def test_int8_that_turns_vectors_too_much_is_refused(
    embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation_cost, "LARGEST_SIMILARITY_LOSS", 0.0)
    with pytest.raises(
        ExportError,
        match=rf"int8 changes the embedding student too much.*{SCHEMES[-1]} was refused: mean cosine of vec",
    ):
        write_export(embedder, tmp_path / "out", int8=True, latency=None, format="onnx")
    assert not (tmp_path / "out").exists()
