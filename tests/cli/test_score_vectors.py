"""Scores of embedding students: without labels, against the teacher; and on pairs of texts with a similarity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import tiny_teachers
from complaints import complaint
from scipy.stats import pearsonr, spearmanr

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.exporting.record import read_embedder_record
from kdnas_env.tasks.vectors import embedding_teacher, open_embedder, vectors

TEXTS = tiny_teachers.sentences()
Score = Callable[..., kdnas_env.Scores]

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_pictures")


@pytest.fixture(scope="module")
def student(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("student")
    return small_tasks.save_tiny_student(root / "student", tiny_teacher_dirs["bert"], tiny_corpus_file, root)


@pytest.fixture(scope="module")
def embedder(student: Path) -> Path:
    """An embedding student. Do not write into it."""
    folder = student.with_name("embedder")
    task = {"name": "embedding", "epochs": 1}
    kdnas_env.distill(student, task=task, out=str(folder), cache_dir=str(student.parent), threads=1, device="cpu")
    return folder


@pytest.fixture
def score(embedder: Path, tmp_path: Path) -> Score:
    """Return a function that scores the embedding student with the settings of these tests."""

    def run(**settings: Any) -> kdnas_env.Scores:
        given = {"latency": {"runtime": "analytic"}, "device": "cpu", "cache_dir": str(embedder.parent), "threads": 1}
        return kdnas_env.score(embedder, out=str(tmp_path / "run"), **{**given, **settings})

    return run


def pairs(folder: Path, teacher: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Write pairs of texts whose label is the teacher's cosine, scaled to 0 to 5; return the file and its rows."""
    first, second = TEXTS[:60], TEXTS[60:120]
    model = embedding_teacher(load_teacher(teacher)).model
    cosines = (vectors(model, first) * vectors(model, second)).sum(axis=1)
    rows = [
        {"sentence1": a, "sentence2": b, "label": 2.5 + 2.5 * float(c)}
        for a, b, c in zip(first, second, cosines, strict=True)
    ]
    return small_tasks.write_rows(folder / "pairs.csv", rows), rows


def test_what_was_held_out_is_scored_again_without_labels(
    embedder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_embedder_record(embedder)
    assert record is not None
    flags = ["--latency.runtime", "analytic", "--device", "cpu", "--cache-dir", str(embedder.parent), "--threads", "1"]
    assert main(["score", str(embedder), "--out", str(tmp_path / "run"), *flags]) == 0
    printed = capsys.readouterr().out
    assert "Vectors beside the teacher's, 40 texts" in printed
    assert f"{record.score.spearman[0]:.3f}" in printed
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["vectors"]["student"]["spearman"][0] == pytest.approx(record.score.spearman[0], abs=1e-6)
    assert found["vectors"]["student"]["recall_in_teachers"] == pytest.approx(record.score.recall_in_teachers)
    assert found["scores"] == []
    assert main(["score", "--resume", str(tmp_path / "run")]) == 0


def test_other_text_is_scored_too(score: Score, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:100]))
    made = score(text=str(text))
    assert made.vectors["student"].texts == 100
    row = next(row for row in made.table() if row["name"] == "student")
    assert row["spearman"] == made.vectors["student"].spearman[0]
    assert row["speedup"] > 1


def test_pairs_with_a_number_are_scored_by_cosine(
    score: Score, embedder: Path, tiny_teacher_dirs: dict[str, Path], tmp_path: Path
) -> None:
    """All rows of the file are scored, because nothing is trained. The labels are the teacher's own, so it scores 1."""
    path, rows = pairs(tmp_path, tiny_teacher_dirs["bert"])
    made = score(tasks=[str(path)], task={"text_columns": ["sentence1", "sentence2"]})
    scores = {cell.row: value for cell, value in made.scores.items()}
    assert set(scores) == {"teacher", "student", "majority"}
    assert scores["teacher"].score == pytest.approx(1, abs=1e-4)
    student = scores["student"]
    assert (student.method, made.method, made.seeds) == ("cosine similarity", "cosine similarity", 1)
    model = open_embedder(embedder)
    first, second = (vectors(model, [row[name] for row in rows]) for name in ("sentence1", "sentence2"))
    cosines = (first * second).sum(axis=1)
    labels = [row["label"] for row in rows]
    assert student.score == pytest.approx(spearmanr(cosines, labels).statistic, abs=1e-4)
    assert student.reported["all"]["pearson"] == pytest.approx(pearsonr(cosines, labels).statistic, abs=1e-4)
    low, high = student.intervals["all"]["spearman"]
    assert low < student.score < high < 1
    assert made.rows[1].tasks["pairs"].kept == pytest.approx(student.score / scores["teacher"].score)


def test_stsb_is_scored_on_its_validation_split(
    score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small_tasks.write_hub_layout(tmp_path / "glue")
    made = score(tasks=["stsb"], data=str(data))
    student = next(value for cell, value in made.scores.items() if cell.row == "student")
    assert list(student.metrics) == ["validation"]
    assert list(student.metrics["validation"]) == ["spearman"]
    assert main(["score", "--resume", str(made.path)]) == 0
    printed = capsys.readouterr().out
    low, high = student.intervals["validation"]["spearman"]
    assert f"{low:.3f} - {high:.3f}" in printed
    assert "Scores by cosine similarity" in printed


def test_what_does_not_fit(embedder: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_tasks.write_hub_layout(tmp_path / "glue")
    out = ["--out", str(tmp_path / "run")]
    said = complaint(["score", str(embedder), "--tasks", "stsb", "rte", "--data", str(data), *out], capsys)
    assert "scored on ['stsb'] by its vectors; other tasks train its encoder: score them separately" in said
    said = complaint(["score", str(student), "--tasks", "rte", "--data", str(data), "--text", "x", *out], capsys)
    assert "text has no effect with --tasks" in said
    said = complaint(["score", str(student), "--text", "x", "--data", str(data), *out], capsys)
    assert "is no embedding student; --text applies only to those" in said
    said = complaint(["score", str(embedder), "--rows", "random", *out], capsys)
    assert "row 'random' cannot be scored by vectors" in said
    said = complaint(["score", str(embedder), "--models", str(student), *out], capsys)
    assert "is no embedding student like" in said
    record = json.loads((embedder / "embedder.json").read_text())
    older = Path(shutil.copytree(embedder, tmp_path / "older"))
    (older / "embedder.json").write_text(json.dumps({**record, "drawn": {}}))
    said = complaint(["score", str(older), "--latency.runtime", "analytic", *out], capsys)
    assert "an earlier version made it; name text to score on with" in said
    (older / "embedder.json").write_text(json.dumps({**record, "drawn": {"count": "many"}}))
    said = complaint(["score", str(older), "--latency.runtime", "analytic", *out], capsys)
    assert "{'count': 'many'}, is malformed" in said
