"""Searches that evaluate students on a user's task, from the command line."""

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
from safetensors import safe_open

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.distillation.text.records import read_keys

pytestmark = pytest.mark.usefixtures("blank_pictures")

Flags = Callable[..., list[str]]
NO_TASK = dict.fromkeys(("task", "task.label-column", "task.teacher-rates", "task.teacher-epochs", "task.seed"))


@pytest.fixture
def task_flags(flags: Flags, tmp_path: Path) -> Flags:
    """Return the command line of a small search. Its task: does a sentence contain the word film?"""
    rows = [f"{int('film' in text)},{text}" for text in tiny_teachers.sentences()]
    (tmp_path / "films.csv").write_text("\n".join(["film,sentence", *rows]) + "\n", encoding="utf-8")
    task = {"task": tmp_path / "films.csv", "task.label-column": "film", "task.teacher-rates": 1, "task.seed": 3}
    task |= {"task.teacher-epochs": 2, "agent": "random", "threads": 1}
    return lambda **changes: flags(**{**task, **changes})


def results(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return data


def test_a_search_goes_by_its_task_where_that_is_wanted(
    task_flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(task_flags(budget=2, reward__quality="task")) == 0
    assert "Best students by quality task" in capsys.readouterr().out
    by_task = results(tmp_path / "run")
    assert by_task["quality"] == "task"
    assert all(row["loss"] == row["task_unexplained"] > 0 for row in by_task["students"])
    assert main(task_flags(budget=2, out=tmp_path / "other")) == 0
    assert "Best students by quality imitation" in capsys.readouterr().out
    other = results(tmp_path / "other")
    assert other["quality"] == "imitation"
    raw = ("student", "heldout_unexplained", "task_divergence", "task_unexplained")
    assert [[row[name] for name in raw] for row in other["students"]] == [
        [row[name] for name in raw] for row in by_task["students"]
    ]
    assert all(row["loss"] == row["heldout_unexplained"][-1] for row in other["students"])
    (teacher,) = (tmp_path / "cache").glob("task-teacher-*.safetensors")  # both searches share one
    with safe_open(str(teacher), "pt") as file:
        (tried,) = json.loads(file.metadata()["record"])["tried"]
    assert (tried["seed"], tried["epochs"]) == (3, 2)
    before = (tmp_path / "run" / "results.json").read_bytes()
    (tmp_path / "run" / "results.json").unlink()
    assert main(["search", "--resume", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert (tmp_path / "run" / "results.json").read_bytes() == before


@pytest.mark.slow
def test_no_text_that_either_of_two_tasks_is_evaluated_on_is_distilled_on(task_flags: Flags, tmp_path: Path) -> None:
    """One task is that of the search; its student learns the other."""
    assert main(task_flags(budget=1, speedup=0)) == 0
    of_search = read_keys(tmp_path / "run" / "evaluated.jsonl")
    rows = [{"text": text, "label": "critics" in text} for text in tiny_teachers.sentences()[:100]]
    task = {"name": str(small_tasks.write_rows(tmp_path / "other.csv", rows)), "epochs": 1, "teacher_rates": (1.0,)}
    few: dict[str, Any] = {"epochs": 1, "cache_dir": tmp_path / "cache", "threads": 1, "device": "cpu"}
    kdnas_env.distill(tmp_path / "run", task=task, out=tmp_path / "out", **few)
    assert read_keys(tmp_path / "out" / "evaluated.jsonl") > of_search
    lineage = json.loads((tmp_path / "out" / "best" / "student" / "kdnas.json").read_text())
    assert lineage["corpus"]["without"] == str(tmp_path / "out" / "evaluated.jsonl")


def test_a_search_goes_by_vectors_where_there_are_no_labels(flags: Flags, tmp_path: Path) -> None:
    asked = {"task": "embedding", "reward.quality": "task", "agent": "random", "budget": 3, "threads": 1}
    assert main(flags(**asked)) == 0
    by_vectors = results(tmp_path / "run")
    assert all(0 < row["loss"] == row["task_unexplained"] < 1 for row in by_vectors["students"])
    assert len({row["loss"] for row in by_vectors["students"]}) == 3
    assert not (tmp_path / "run" / "evaluated.jsonl").exists()
    assert not [*(tmp_path / "cache").glob("task-teacher-*")]


@pytest.mark.slow
def test_workers_measure_the_same_task(task_flags: Flags, tmp_path: Path) -> None:
    assert main(task_flags(budget=2, round_size=2)) == 0
    alone = [row["task_unexplained"] for row in results(tmp_path / "run")["students"]]
    shutil.rmtree(tmp_path / "run")
    assert main(task_flags(budget=2, round_size=2, workers=2)) == 0
    assert [row["task_unexplained"] for row in results(tmp_path / "run")["students"]] == alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**NO_TASK, "reward.quality": "task"}, "quality is task, but there is no task"),
        ({"task": "squad", "task.label-column": None}, "unknown task 'squad'"),
        ({"task.epochs": 2}, "--task.epochs has no effect in a search"),
        ({**NO_TASK, "task.teachers": 3}, "--task.teachers has no effect without"),
        ({**NO_TASK, "task": "embedding", "task.teachers": 3}, "--task.teachers has no effect on the task embedding"),
        ({**NO_TASK, "task": "embedding", "task.max-length": 9}, "--task.max-length has no effect in a search for the"),
        ({**NO_TASK, "task.seed": 3}, "--task.seed has no effect without"),
        ({"task.label-column": "score"}, "has no column 'score'"),
        ({"reward.quality": "task", "reward.loss": "train_raw"}, "loss is train_raw, which has no effect"),
    ],
)
def test_bad_input(
    changes: dict[str, Any], message: str, task_flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(task_flags(**changes), capsys)
