"""Tasks are distilled into the students of a search, or into one student alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import tiny_teachers
from complaints import complaint

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.errors import KDNASError

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds", "only_blank_pictures")

Searched = tuple[Path, Path, str]


@pytest.fixture(scope="module")
def searched(
    finish_search: Callable[..., Path], flat_teacher: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Searched:
    """A small search, the file of a task whose labels depend on one word, and the cache folder."""
    root = tmp_path_factory.mktemp("searched")
    space = {"num_hidden_layers": [1], "num_attention_heads": [2], "hidden_size": [16], "intermediate_size": [16, 32]}
    run = finish_search(root, space, teacher=flat_teacher("bert"), budget=2, round_size=2, speedup=0)
    made = [{"text": text, "label": "critics" in text} for text in tiny_teachers.sentences()[:100]]
    return run, small_tasks.write_rows(root / "my.csv", made), str(root / "cache")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def out(searched: Searched) -> Path:
    """The folder of a distillation with a task. Do not write into it."""
    run, task, cache = searched
    folder = run.parent / "distill"
    flags = ["distill", str(run), "--task", str(task), "--epochs", "1", "--task.epochs", "2", "--out", str(folder)]
    assert main([*flags, "--cache-dir", cache, "--threads", "1", "--device", "cpu"]) == 0
    return folder


def test_students_of_a_search_learn_a_task(searched: Searched, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file, cache = searched
    classifier = out / "best" / "classifier"
    assert {path.name for path in (out / "best").iterdir()} == {"student", "distilled.json", "curve.png", "classifier"}
    record = json.loads((classifier / "task.json").read_text())
    assert record["task"]["labels"] == ["false", "true"]
    assert record["teacher_score"]["scored"] == ["test"]
    lineage = json.loads((classifier / "kdnas.json").read_text())
    assert [stage["stage"] for stage in lineage["stages"]] == ["mini-kd", "full-kd", "task distillation"]
    # The search had no task. The student is distilled on none of the texts that the task is evaluated on.
    student = json.loads((out / "best" / "student" / "kdnas.json").read_text())
    assert student["corpus"]["without"] == str(out / "evaluated.jsonl")
    assert len((out / "evaluated.jsonl").read_text().splitlines()) == 20
    before = files(out / "best")
    file.rename(file.with_suffix(".gone"))  # finished students do not need the file any more
    assert main(["distill", str(run), "--out", str(out), "--cache-dir", cache]) == 0
    file.with_suffix(".gone").rename(file)
    assert files(out / "best") == before
    printed = capsys.readouterr().out
    assert "Students of the task my" in printed
    assert f"classifier: {classifier}" in printed
    said = complaint(["distill", str(run), "--task", "imdb", "--out", str(out)], capsys)
    assert "--task is 'imdb', the run has" in said


def test_a_student_learns_a_task_alone(searched: Searched, tiny_corpus_file: Path, tmp_path: Path) -> None:
    run, task, cache = searched
    compute: dict[str, Any] = {"cache_dir": cache, "threads": 1, "device": "cpu", "out": str(tmp_path / "made")}
    given: dict[str, Any] = {"name": str(task), "unlabelled": str(tiny_corpus_file), "unlabelled_samples": 60}
    made = kdnas_env.distill(run / "student", task={**given, "epochs": 1}, **compute)
    (classifier,) = made.classifiers
    assert made.students == ()
    assert classifier.folder == tmp_path / "made"
    details = classifier.record.score.details
    assert details["unlabelled_samples"] + details["unlabelled_left_out"] == 60
    assert classifier.model().config.id2label == {0: "false", 1: "true"}
    before = files(tmp_path)
    again = kdnas_env.distill(run / "student", task={**given, "epochs": 1}, **compute)
    assert again.classifiers[0].record.score == classifier.record.score
    assert files(tmp_path) == before
    with pytest.raises(KDNASError, match="of other settings; give another folder with `out`"):
        kdnas_env.distill(run / "student", task={**given, "epochs": 2}, **compute)
    with pytest.raises(KDNASError, match="holds a classifier of another student, task or text"):
        kdnas_env.distill(run / "student", task={**given, "epochs": 1, "unlabelled_samples": 50}, **compute)


def test_a_task_of_glue_may_be_in_a_folder(searched: Searched, tmp_path: Path) -> None:
    small_tasks.write_hub_layout(tmp_path / "glue")
    flags = ["distill", str(searched[0] / "student"), "--task", "sst2", "--task.data", str(tmp_path / "glue")]
    made = tmp_path / "made"
    assert main([*flags, "--task.epochs", "1", "--out", str(made), "--cache-dir", searched[2], "--device", "cpu"]) == 0
    assert json.loads((made / "task.json").read_text())["task"]["source"] == str(tmp_path / "glue")


def test_a_classifier_is_scored_with_its_own_head(searched: Searched, out: Path, tmp_path: Path) -> None:
    classifier = out / "best" / "classifier"
    few: dict[str, Any] = {"seeds": 2, "epochs": 1, "latency": {"runtime": "analytic"}, "device": "cpu"}
    scores = kdnas_env.score(classifier, out=tmp_path / "scores", cache_dir=searched[2], **few)
    rows = {row["name"]: row for row in scores.table()}
    assert [*rows] == ["teacher", "student", "majority"]
    assert rows["student"]["title"].endswith(", its own head")
    record = json.loads((classifier / "task.json").read_text())
    assert rows["student"]["my"] == record["score"]["metrics"]["test"]["accuracy"]
    assert [cell.seed for cell in scores.scores if cell.row == "student"] == [0]
    with pytest.raises(KDNASError, match=r"is not for the labels of the task 'rotten_tomatoes', \["):
        kdnas_env.score(classifier, task="rotten_tomatoes", rows=["student"], out=tmp_path / "other", device="cpu")


def test_exported_classifiers_are_scored_file_by_file(
    searched: Searched, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, task, cache = searched
    compute = ["--cache-dir", cache, "--device", "cpu"]
    # Only the seed of the student changes, so its teacher is not fine-tuned again.
    again = ["--task", str(task), "--task.epochs", "2", "--task.seed", "0", "--seed", "1", "--out", str(tmp_path / "1")]
    assert main(["distill", str(out / "best" / "student"), *again, "--threads", "1", *compute]) == 0
    records = [
        json.loads((folder / "task.json").read_text()) for folder in (out / "best" / "classifier", tmp_path / "1")
    ]
    assert records[0]["teacher"] == records[1]["teacher"]
    exports = [str(tmp_path / name) for name in ("first", "second")]
    for classifier, export in zip((out / "best" / "classifier", tmp_path / "1"), exports, strict=True):
        kdnas_env.export(classifier, out=export, latency=False, int8=True)
    scores = kdnas_env.score(exports[0], models=exports[1:], out=tmp_path / "scores", cache_dir=cache, device="cpu")
    rows = {(row["model"], row["format"]): row for row in scores.table()}
    assert [*rows] == [(export, format) for export in exports for format in ("float32", "int8")]
    for export, record in zip(exports, records, strict=True):
        accuracy, taught = (record[name]["metrics"]["test"]["accuracy"] for name in ("score", "teacher_score"))
        assert rows[export, "float32"]["test"] == accuracy
        assert rows[export, "float32"]["test kept"] == pytest.approx(accuracy / taught)
        size = (Path(export) / "onnx" / "model_quantized.onnx").stat().st_size / 1e6
        assert rows[export, "int8"]["size_mb"] == size < rows[export, "float32"]["size_mb"]
    mean, _ = scores.means
    assert mean.models == 2
    assert mean.scored[0].value == pytest.approx(sum(rows[export, "float32"]["test kept"] for export in exports) / 2)
    assert mean.scored[0].low <= mean.scored[0].value <= mean.scored[0].high
    before = files(tmp_path / "scores" / "cells")
    assert main(["score", "--resume", str(tmp_path / "scores"), "--cache-dir", cache]) == 0
    assert files(tmp_path / "scores" / "cells") == before
    assert "mean of 2, int8" in capsys.readouterr().out
    said = complaint(["score", exports[0], "--out", str(tmp_path / "no"), "--cache-dir", str(tmp_path / "new")], capsys)
    assert "was distilled from is not cached" in said
    assert "--cache-dir" in said


def test_an_exported_classifier_of_fewer_tokens_is_timed_on_its_own(
    searched: Searched, out: Path, tiny_corpus_file: Path, tmp_path: Path
) -> None:
    """The graph has no embeddings for most tokens of the teacher."""
    _, _, cache = searched
    cut = kdnas_env.vocabulary(
        str(out / "best" / "classifier"), size=120, corpus=str(tiny_corpus_file), out=tmp_path / "cut"
    )
    kdnas_env.export(cut.path, out=tmp_path / "export", latency=False)
    scores = kdnas_env.score(tmp_path / "export", out=tmp_path / "scores", cache_dir=cache, device="cpu")
    (row,) = scores.table()
    assert row["speedup"] > 0
    assert row["format"] == "float32"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "is a model, no run; name the folder of a search, or name the task"),
        (["--task", "sst-2"], "unknown task 'sst-2'"),
        (["--task", "nowhere.csv"], "'nowhere.csv' does not exist"),
        (["--task", "imdb", "--epochs", "2"], "--epochs has no effect on the folder of a student"),
        (["--task", "imdb", "--task.label-column", "y"], "--task.label-column has no effect on the task imdb"),
        (
            ["--task", "imdb", "--task.data", "glue"],
            "--task.data has no effect on the task imdb, which is not a GLUE task",
        ),
        (["--task", "rte", "--task.data", "nowhere"], "data folder 'nowhere' does not exist"),
        (["--task.teachers", "3"], "--task.teachers has no effect without a task"),
        (
            ["--task", "my.csv", "--task.unlabelled-samples", "9"],
            "--task.unlabelled-samples has no effect without text",
        ),
        (["--task", "imdb", "--task.teachers", "0"], "teachers is 0"),
    ],
)
def test_what_is_refused(
    searched: Searched, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    student = searched[0] / "student"
    assert message in complaint(["distill", str(student), *flags, "--cache-dir", searched[2]], capsys)
    assert not (searched[0] / "classifier").exists()


def test_several_processes_are_refused(
    searched: Searched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = complaint(["distill", str(searched[0] / "student"), "--task", str(searched[1])], capsys)
    assert "a task is learned in one process" in said
