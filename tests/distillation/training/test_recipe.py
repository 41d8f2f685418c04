from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from kdnas_env.distillation.training.recipe import (
    EMBEDDINGS,
    LAYERS,
    MAPPINGS,
    OBJECTIVES,
    PROJECTIONS,
    RECIPES,
    Recipe,
)
from kdnas_env.distillation.training.recipe import resolve_recipe as resolve
from kdnas_env.errors import KDNASError


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mapping", "first", r"mapping is 'first'; expected one of \['uniform', 'skip', 'last', 'uniform\+last'"),
        ("objective", "logits", r"expected one of \['hidden_states', 'relations'\]"),
        ("projection", "none", r"expected one of \['ridge', 'gradient'\]"),
        ("embeddings", ["pca"], r"embeddings is \['pca'\]; expected one of \['random', 'pca', 'token_means'\]"),
        ("layers", "student", r"expected one of \['random', 'teacher'\]"),
        ("share_projection", "no", "share_projection is 'no'; expected true or false"),
        ("train_embeddings", 1, "expected true or false"),
        ("width_scaling", None, "expected true or false"),
        ("ridge", "cv", "ridge is 'cv'; expected a number at least 0"),
        ("ridge", -1e-9, "expected a number at least 0"),
        ("ridge", float("nan"), "expected a number at least 0"),
        ("weight_decay", "0.1", "weight_decay is '0.1'; expected a number at least 0"),
        ("batch_size", 0, "batch_size is 0; expected a whole number, at least 1"),
        ("batch_size", 8.0, "expected a whole number"),
        ("batch_size", True, "expected a whole number"),
        ("batch_size", None, "expected a whole number"),
        ("heldout_samples", 0, "expected a whole number, at least 1"),
        ("learning_rate", 0.0, r"learning_rate is 0\.0; expected a number above 0"),
        ("learning_rate", float("inf"), "expected a number above 0"),
        ("learning_rate", None, "expected a number above 0"),
        ("max_grad_norm", -1.0, "expected a number above 0"),
        ("warmup_fraction", 1.0, r"expected a number at least 0 and below 1"),
        ("dropout", 1.0, r"dropout is 1\.0; expected a number at least 0 and below 1"),
        ("mask_probability", -0.1, r"expected a number at least 0 and below 1"),
        ("mask_probability", float("nan"), r"expected a number at least 0 and below 1"),
    ],
)
def test_bad_values_are_named_with_what_was_expected(field: str, value: Any, expected: str) -> None:
    with pytest.raises(KDNASError, match=expected):
        Recipe(**{field: value})
    with pytest.raises(KDNASError, match=expected):
        resolve({field: value})


@pytest.mark.parametrize(
    "changes",
    [
        *({"mapping": mapping} for mapping in MAPPINGS),
        *({"objective": objective} for objective in OBJECTIVES),
        *({"projection": projection} for projection in PROJECTIONS),
        *({"embeddings": embeddings} for embeddings in EMBEDDINGS),
        *({"layers": layers} for layers in LAYERS),
        {"max_grad_norm": None, "heldout_samples": None},
        {"ridge": "gcv"},
        {"ridge": 0, "weight_decay": 0, "warmup_fraction": 0, "dropout": 0, "learning_rate": 1},
    ],
)
def test_whatever_is_offered_is_accepted(changes: dict[str, Any]) -> None:
    recipe = resolve(changes)
    assert {name: getattr(recipe, name) for name in changes} == changes


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_name_stands_for_a_recipe(name: str) -> None:
    recipe = resolve(name)
    assert recipe is RECIPES[name]
    assert resolve(recipe) is recipe
    assert resolve({"base": name}) == recipe
    assert Recipe(**recipe.to_dict()) == recipe
    assert recipe.to_dict().keys() == {field.name for field in fields(Recipe)}


def test_default_is_the_default() -> None:
    assert resolve("default") == Recipe() == resolve({})


def test_changes_start_from_default_or_from_the_base() -> None:
    assert resolve({"dropout": 0.2}) == Recipe(dropout=0.2)
    changed = resolve({"base": "seed", "batch_size": 16})
    assert changed.to_dict() == {**RECIPES["seed"].to_dict(), "batch_size": 16}
    assert resolve({"base": {"base": "seed", "batch_size": 16}, "dropout": 0.0}).batch_size == 16


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("best", r"unknown recipe 'best'; choose from \['default', 'few-texts', 'kd-nas', 'seed'\]"),
        ({"base": "best"}, "unknown recipe 'best'"),
        ({"learning_rat": 1e-3, "epochs": 2}, r"unknown recipe field\(s\) \['epochs', 'learning_rat'\]; known fields"),
        (None, "recipe None is neither a name nor a mapping"),
        ([("dropout", 0.1)], "neither a name nor a mapping"),
    ],
)
def test_unknown_recipes_and_fields_are_refused(recipe: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        resolve(recipe)


def test_learning_rate_falls_with_width() -> None:
    recipe = Recipe(learning_rate=1e-3)
    assert [recipe.peak_learning_rate(width) for width in (96, 192, 768)] == pytest.approx([2e-3, 1e-3, 2.5e-4])
    assert resolve({"width_scaling": False, "learning_rate": 1e-3}).peak_learning_rate(768) == 1e-3


def test_learning_rate_is_in_proportion_to_what_is_left_to_explain() -> None:
    recipe = Recipe(learning_rate=1e-3)
    rates = [recipe.peak_learning_rate(192, unexplained) for unexplained in (0.0, 0.15, 0.3, 0.6, 0.9)]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 2e-3, 2e-3])
    assert resolve({"distance_scaling": False, "learning_rate": 1e-3}).peak_learning_rate(192, 0.1) == 1e-3
    assert resolve("seed").peak_learning_rate(768, 0.1) == 1e-3
