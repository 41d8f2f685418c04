"""Students of a search, or one student alone, learn to embed texts like their teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
from complaints import complaint

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.exporting.record import read_embedder_record
from kdnas_env.pipeline.distill.embedders import held_out_texts

Searched = tuple[Path, str]

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_pictures")


@pytest.fixture(scope="module")
def searched(finish_search: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Searched:
    root = tmp_path_factory.mktemp("searched")
    space = {"num_hidden_layers": [1], "num_attention_heads": [2], "hidden_size": [16], "intermediate_size": [16, 32]}
    return finish_search(root, space, budget=2, round_size=2, speedup=0), str(root / "cache")


@pytest.fixture(scope="module")
def out(searched: Searched) -> Path:
    """The folder of a distillation with vectors. Do not write into it."""
    run, cache = searched
    folder = run.parent / "distill"
    flags = ["distill", str(run), "--task", "embedding", "--epochs", "1", "--task.epochs", "1", "--out", str(folder)]
    assert main([*flags, "--cache-dir", cache, "--threads", "1", "--device", "cpu"]) == 0
    return folder


def test_the_folder_is_a_model_of_sentence_transformers(searched: Searched, out: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = out / "best" / "embedder"
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    made = model.encode(tiny_teachers.sentences()[:3])
    assert made.shape == (3, tiny_teachers.HIDDEN)  # the teacher's width, not the student's
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert load_teacher(folder).architecture.hidden_size == 16  # transformers loads the encoder
    record = json.loads((folder / "embedder.json").read_text())
    assert record["texts"] + 2 * record["score"]["texts"] <= len(tiny_teachers.sentences())
    assert record["score"]["spearman"][0] > 0.3
    # The student is distilled neither on the texts that score its vectors, nor on those that choose the epoch.
    left_out = [json.loads(line)["text"] for line in (out / "evaluated.jsonl").read_text().splitlines()]
    assert len(left_out) == 2 * record["score"]["texts"]
    assert json.loads((folder / "kdnas.json").read_text())["corpus"]["without"] == str(out / "evaluated.jsonl")
    scored, choosing = held_out_texts(read_embedder_record(folder), str(folder))  # type: ignore[arg-type]
    assert sorted(left_out) == sorted((*scored, *choosing))
    stages = json.loads((folder / "kdnas.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["mini-kd", "full-kd", "embedding distillation"]
    card = (folder / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert f"{record['score']['spearman'][0]:.3f}" in card


def test_again_it_does_nothing_and_says_the_same(
    searched: Searched, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cache = searched
    before = {path: path.stat().st_mtime_ns for path in (out / "best").rglob("*")}
    assert main(["distill", str(run), "--out", str(out), "--cache-dir", cache]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "best").rglob("*")} == before
    printed = capsys.readouterr().out
    assert "Sentence vectors beside the teacher's, 40 held-out texts" in printed
    assert f"embedding student: {out / 'best' / 'embedder'}" in printed


def test_a_student_alone(searched: Searched, tiny_corpus_file: Path, tmp_path: Path) -> None:
    run, cache = searched
    compute: dict[str, Any] = {"cache_dir": cache, "threads": 1, "device": "cpu", "out": str(tmp_path / "made")}
    task = {"name": "embedding", "unlabelled": str(tiny_corpus_file), "epochs": 1}
    made = kdnas_env.distill(run / "student", task=task, **compute)
    (embedder,) = made.embedders
    assert (made.students, made.classifiers, embedder.folder) == ((), (), tmp_path / "made")
    assert embedder.record.source == str(tiny_corpus_file)
    assert len(embedder.model().encode("a text")) == tiny_teachers.HIDDEN
    assert kdnas_env.distill(run / "student", task=task, **compute).embedders[0].record == embedder.record
    with pytest.raises(kdnas_env.KDNASError) as said:
        kdnas_env.distill(run / "student", task={**task, "epochs": 2}, **compute)
    assert "holds an embedding student of another student, text or settings" in str(said.value)


def test_what_is_named_is_left_out_too(searched: Searched, tmp_path: Path) -> None:
    run, cache = searched
    named = tmp_path / "named.txt"
    named.write_text("\n".join(tiny_teachers.sentences()[:5]))
    compute: dict[str, Any] = {"cache_dir": cache, "threads": 1, "device": "cpu", "out": str(tmp_path / "out")}
    kdnas_env.distill(run, task={"name": "embedding", "epochs": 1}, corpus={"without": str(named)}, epochs=1, **compute)
    left_out = (tmp_path / "out" / "evaluated.jsonl").read_text().splitlines()
    assert len(left_out) == 80 + 5


def test_what_is_refused(searched: Searched, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, _ = searched
    said = complaint(["score", str(run / "student"), "--tasks", "embedding", "--out", str(tmp_path / "x")], capsys)
    assert "has no labels to score; it makes embedding models (kdnas run --task embedding, or" in said
    said = complaint(["distill", str(run), "--task", "embedding", "--task.unlabelled", "none"], capsys)
    assert "--task.unlabelled is none, but an embedding model learns from text" in said
    few = tmp_path / "few.txt"
    few.write_text("one text .\nanother text .")
    out = str(tmp_path / "few")
    said = complaint(["distill", str(run), "--task", "embedding", "--task.unlabelled", str(few), "--out", out], capsys)
    assert "there are 2 distinct texts; expected at least 120" in said
    assert not Path(out).exists()
    said = complaint(["distill", str(run), "--task", "embedding", "--task.teachers", "2"], capsys)
    assert "--task.teachers has no effect on the task embedding" in said
