"""Each process of a search saves its best student in the folder of the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas_env.core.constraints import ConstrainedReward
from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import RunError
from kdnas_env.evaluators.best_student import BestStudent
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
WORSE, BETTER = sorted(
    PlantedEvaluator(SPACE).evaluate(list(SPACE)[:2], Fidelity()),
    key=lambda evaluation: ConstrainedReward()(evaluation).reward,
)


@pytest.fixture
def best(tmp_path: Path) -> BestStudent:
    return BestStudent(tmp_path, ConstrainedReward())


def save(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").touch()


def test_only_the_highest_reward_of_a_process_is_kept(best: BestStudent, tmp_path: Path) -> None:
    for evaluation in (WORSE, BETTER, WORSE):
        best.offer(evaluation, save)
    assert list(tmp_path.iterdir()) == [best.folder(BETTER)]


def test_another_process_keeps_its_own(best: BestStudent, tmp_path: Path) -> None:
    best.offer(BETTER, save)
    BestStudent(tmp_path, ConstrainedReward()).offer(WORSE, save)
    assert set(tmp_path.iterdir()) == {best.folder(BETTER), best.folder(WORSE)}


def test_the_student_survives_a_stored_evaluation(best: BestStudent) -> None:
    best.offer(BETTER, save)
    assert best.folder(Evaluation.from_json(BETTER.to_json())).is_dir()


def test_a_machine_without_the_folder_keeps_nothing(tmp_path: Path) -> None:
    best = BestStudent(tmp_path / "elsewhere", ConstrainedReward())
    best.offer(BETTER, save)
    assert not list(tmp_path.iterdir())


def test_a_student_that_cannot_be_written_leaves_the_best_before(best: BestStudent, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RunError("no space left on device")

    best.offer(WORSE, save)
    best.offer(BETTER, fail)
    assert list(tmp_path.iterdir()) == [best.folder(WORSE)]


def test_clearing_also_deletes_unfinished_students(best: BestStudent, tmp_path: Path) -> None:
    best.offer(BETTER, save)
    save(tmp_path / f".{best.folder(WORSE).name}.partial")
    (tmp_path / "student").mkdir()
    best.clear()
    assert [folder.name for folder in tmp_path.iterdir()] == ["student"]
