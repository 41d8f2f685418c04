"""Students of joint spaces: each is distilled with its own recipe; all have the same measure of quality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.errors import SpaceError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings

PLAIN = StudentConfig(2, 2, 16, 32)


@pytest.fixture(scope="module")
def evaluator(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> MiniKDEvaluator:
    return MiniKDEvaluator(
        MiniKDSettings(
            teacher=str(tiny_teacher_dirs["bert"]),
            corpus=str(tiny_corpus_file),
            latency="analytic",
            cache_dir=tmp_path_factory.mktemp("cache"),
            device="cpu",
        )
    )


def losses(evaluator: MiniKDEvaluator, epochs: int = 1, **changes: Any) -> tuple[float, ...]:
    return evaluate(evaluator, epochs, **changes).heldout_unexplained


def evaluate(evaluator: MiniKDEvaluator, epochs: int = 1, **changes: Any) -> Evaluation:
    student = replace(PLAIN, recipe=tuple(changes.items()))
    [evaluation] = evaluator.evaluate([student], Fidelity(epochs=epochs))
    return evaluation


def test_the_recipe_of_the_search_is_no_change(evaluator: MiniKDEvaluator) -> None:
    plain = losses(evaluator)
    assert losses(evaluator, learning_rate=evaluator.recipe.learning_rate, batch_size=8) == plain
    assert losses(evaluator, mapping="uniform+last", objective="hidden_states", projection="ridge") == plain


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-4},
        {"batch_size": 32},
        {"embeddings": "random"},
        {"layers": "random"},
        {"warmup_fraction": 0.5},
        {"projection": "gradient"},
        {"mapping": "last"},
        {"objective": "relations"},
    ],
    ids=str,
)
def test_a_change_shows_in_the_result(evaluator: MiniKDEvaluator, change: dict[str, Any]) -> None:
    assert losses(evaluator, **change)[-1] != losses(evaluator)[-1]


@pytest.mark.parametrize("change", [{"mapping": "last"}, {"objective": "relations"}, {"projection": "gradient"}])
def test_before_training_students_of_all_objectives_are_judged_alike(
    evaluator: MiniKDEvaluator, change: dict[str, Any]
) -> None:
    # Untrained students have the same weights, so only another measure could give another loss.
    assert losses(evaluator, epochs=0, **change) == pytest.approx(losses(evaluator, epochs=0), rel=1e-6)


def test_a_large_learning_rate_ruins_a_student(evaluator: MiniKDEvaluator) -> None:
    ruined = evaluate(evaluator, learning_rate=10.0, max_grad_norm=None, distance_scaling=False)
    assert ruined.status is Status.DIVERGED or ruined.heldout_unexplained[-1] > 2 * losses(evaluator)[-1]


@pytest.mark.parametrize("change", [{"nonsense": 1}, {"mapping": "nonsense"}, {"mask_probability": 0.1}], ids=str)
def test_what_is_no_change_of_a_recipe_is_an_invalid_student(
    evaluator: MiniKDEvaluator, change: dict[str, Any]
) -> None:
    evaluation = evaluate(evaluator, **change)
    assert evaluation.status is Status.INVALID
    assert next(iter(change)) in evaluation.error


def test_the_lineage_has_the_recipe_of_the_student(evaluator: MiniKDEvaluator) -> None:
    lineage = evaluator.lineage(evaluate(evaluator, batch_size=16))
    assert lineage.recipe["batch_size"] == 16
    assert evaluator.recipe.batch_size == 8
    assert lineage.to_dict()["student"]["recipe"] == [["batch_size", 16]]


def test_an_environment_refuses_a_dimension_that_no_recipe_has(tiny_teacher_dirs: dict[str, Path]) -> None:
    space = {"num_hidden_layers": [1, 2], "recipe.mapping": ["last", "nonsense"]}
    with pytest.raises(SpaceError, match="nonsense"):
        gym.make("kdnas/MiniKD-v0", teacher=str(tiny_teacher_dirs["bert"]), space=space)
