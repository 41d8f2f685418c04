"""From a teacher and limits to an embedding model in one command, with small settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import tiny_teachers
from complaints import complaint
from small_runs import Flags, flags_of, small_settings

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.exporting.measuring_embedders import served_vectors
from kdnas_env.pipeline.distill.result import student_folders
from kdnas_env.tasks.vector_scores import spearman
from kdnas_env.tasks.vectors import embedding_teacher, open_embedder, vectors

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds", "few_resamples", "only_blank_pictures")


@pytest.fixture(scope="module")
def flags(
    flat_teacher: Callable[[str], Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Flags:
    """Return a command line; keyword arguments change flags."""
    root = tmp_path_factory.mktemp("task")
    given = {
        **small_settings(root, flat_teacher("bert"), tiny_corpus_file),
        **{"--task": "embedding", "--speedup": "0.1", "--max-mb": "10", "--format": "int8"},
    }
    return flags_of(given)


@pytest.fixture(scope="module")
def run(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not write into it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(flags(folder)) == 0
    return folder


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_it_ends_with_what_was_asked_for_and_what_was_measured(
    run: Path, flags: Flags, flat_teacher: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = flags(run)[flags(run).index("--cache-dir") + 1]
    others = run / "candidates" / "1" / ".others"  # a foreign file must not be deleted
    others.touch()
    assert main(["run", "--resume", str(run), "--cache-dir", cache]) == 0
    assert others.exists()
    printed = " ".join(capsys.readouterr().out.split())
    summary = read(run / "summary.json")
    (student,) = summary["students"]
    assert (summary["best"], summary["keeps_limits"]) == ("1", True)
    assert summary["products"] == {"embedder": "embedder", "export": "export"}
    lines = {(line["limit"], line["split"]): line for line in student["lines"]}
    chosen_by, scored = lines["keep", "validation text"], lines["keep", "held-out text"]
    assert (chosen_by["chooses"], scored["chooses"]) == (True, False)
    served = run / "export" / "onnx" / "model_quantized.onnx"
    assert lines["size_mb", None]["measured"] == served.stat().st_size / 1e6
    for shown in (
        "same 10 nearest texts",
        "The score is Spearman's correlation of the cosines",
        f"embedder: {run / 'embedder'}",
    ):
        assert shown in printed
    # The measured score is that of the exported file, on the texts held out from training.
    record = read(run / "embedder" / "embedder.json")
    assert student["measured"]["vectors"]["texts"] == record["score"]["texts"]
    assert scored["measured"] == pytest.approx(record["score"]["spearman"][0], abs=0.02)
    made = embedding_teacher(load_teacher(flat_teacher("bert")), record["settings"]["max_length"])
    texts = tiny_teachers.sentences()[:60]
    wanted = vectors(open_embedder(run / "embedder"), texts)
    np.testing.assert_allclose(served_vectors(run / "export", "float32", made, texts), wanted, atol=1e-5)
    assert spearman(served_vectors(run / "export", "int8", made, texts), wanted) > 0.97
    card = (run / "export" / "README.md").read_text()
    assert "Asked for and measured" in card
    assert "| Spearman's correlation, held-out text | at least 20.0% |" in card
    readme = (run / "README.md").read_text()
    assert "| `embedder/` | the chosen embedding model as Sentence Transformers loads it |" in readme
    page = (run / "report.html").read_text()
    assert "from sentence_transformers import SentenceTransformer" in page


def test_what_is_damaged_is_no_product(
    run: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    cache = flags(run)[flags(run).index("--cache-dir") + 1]
    again = ["run", "--resume", str(folder), "--cache-dir", cache]
    (student,) = read(folder / "summary.json")["students"]
    weights = folder / student["files"]["embedder"] / "model.safetensors"
    whole, placed = weights.read_bytes(), folder / "embedder" / "model.safetensors"
    weights.write_bytes(whole[:1000])
    assert "is not what was measured: 'model.safetensors' is missing or has changed" in complaint(again, capsys)
    assert placed.read_bytes() == whole
    weights.write_bytes(whole)
    placed.write_bytes(whole[:1000])
    assert main(again) == 0
    assert placed.read_bytes() == whole
    graph = folder / "export" / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    said = complaint(["score", str(folder / "export"), "--device", "cpu", "--out", str(tmp_path / "scores")], capsys)
    assert "model.onnx' cannot be opened" in said


def test_its_export_is_scored_file_by_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = read(run / "summary.json")["students"][0]["measured"]
    out, cache = tmp_path / "scores", str(tmp_path / "cache")
    given = ["--device", "cpu", "--threads", "1", "--cache-dir", cache, "--out", str(out)]
    assert main(["score", str(run / "export"), *given]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Exported files in ONNX Runtime, beside the teacher's file of the same format" in printed
    assert "in index: the same in an index of the teacher's vectors" in printed
    found = read(out / "results.json")
    assert [file["format"] for file in found["files"]] == ["float32", "int8"]
    assert (found["tasks"], found["means"]) == ([], [])
    assert found["files"][1]["vectors"] == measured["vectors"]
    rows = kdnas_env.score(resume=out, cache_dir=cache).table()
    assert rows[1]["spearman"] == measured["scored"][0]["score"]


def test_an_export_is_scored_on_other_text_and_beside_its_own_teacher(
    run: Path, tiny_corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"device": "cpu", "threads": 1, "cache_dir": str(tmp_path)}
    text = tmp_path / "other.txt"
    text.write_text("\n".join(tiny_teachers.sentences()[:50]))
    scores = kdnas_env.score(run / "export", text=str(text), out=str(tmp_path / "scores"), **given)
    shares = [file.measured.scored[0] for file in scores.files]
    assert [(share.split, share.samples) for share in shares] == [("other.txt", 50), ("other.txt", 50)]
    said = complaint(["score", str(run / "export"), "--seeds", "2"], capsys)
    assert "--seeds has no effect on exported files" in said
    other = tmp_path / "other"
    shutil.copytree(run / "export", other)
    record = read(other / "embedder.json")
    record["teacher"]["fingerprint"] = "another"
    (other / "embedder.json").write_text(json.dumps(record))
    said = complaint(["score", str(other), "--device", "cpu", "--out", str(tmp_path / "x")], capsys)
    assert f"{str(other)!r} imitates another teacher than" in said
    said = complaint(["score", str(run / "export"), "--models", str(run / "search"), "--device", "cpu"], capsys)
    assert "is no export to ONNX of an embedding student of kdnas" in said


def test_it_is_a_record_in_python(run: Path) -> None:
    from sentence_transformers import SentenceTransformer

    done = kdnas_env.run(resume=run)
    assert done.keeps_limits
    assert list(done.products) == ["embedder", "export"]
    model = SentenceTransformer(str(done.products["embedder"]), device="cpu", local_files_only=True)
    assert model.encode("this film surprises critics .").shape == (tiny_teachers.HIDDEN,)
    assert done.plot().axes
    assert student_folders(done) == (str(run / "embedder"),)


def test_the_search_may_go_by_the_vectors_and_its_student_break_a_limit(
    flags: Flags, tiny_corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = tmp_path / "run", str(tiny_corpus_file)
    changes = {"search__reward__quality": "task", "keep": "0.999", "candidates": "1", "task.unlabelled": text}
    assert main(flags(folder, **changes)) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"text: 130 of {text}, 30,000 at most" in printed
    assert "no embedding model keeps all limits; of 1 candidate(s) the nearest is 1" in printed
    assert "task teacher" not in printed
    searched = read(folder / "search" / "results.json")
    assert all(row["loss"] == row["task_unexplained"] > 0 for row in searched["students"])


def test_the_text_may_have_several_columns(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"number": str(place), "words": text} for place, text in enumerate(tiny_teachers.sentences())]
    text = str(small_tasks.write_rows(tmp_path / "text.csv", rows))
    words = flags(tmp_path / "run", task__unlabelled=text, speedup="900")  # no student of the search keeps this limit
    assert main([*words, "--task.text-columns", "words"]) == 1
    assert f"text: 130 of {text}" in " ".join(capsys.readouterr().out.split())
    words = flags(tmp_path / "other")
    assert "has no effect without --task.unlabelled" in complaint([*words, "--task.text-columns", "words"], capsys)


def test_what_is_refused_before_anything_is_made(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = complaint(flags(tmp_path / "run", task__unlabelled=str(tmp_path / "nowhere.txt")), capsys)
    assert "nowhere.txt" in told
    few = tmp_path / "few.txt"
    few.write_text("one text .\nanother text .")
    told = complaint(flags(tmp_path / "run", task__unlabelled=str(few)), capsys)
    assert "there are 2 distinct texts; expected at least 120" in told
    told = complaint(flags(tmp_path / "run", task__teachers="2"), capsys)
    assert "--task.teachers has no effect on the task embedding" in told
    assert not (tmp_path / "run").exists()
