"""What a distillation takes from its search: the recipe."""

from __future__ import annotations

import pytest

from kdnas_env.cli.searched import full_recipe


@pytest.mark.parametrize("recipe", ["default", "seed"])
def test_the_learning_rate_grows_with_batches_up_to_a_size(recipe: str) -> None:
    rates = [full_recipe(recipe, batch).learning_rate for batch in (8, 16, 32, 64, 128)]
    assert rates[2] == pytest.approx(2 * rates[0])
    assert rates[1] == pytest.approx(2**0.5 * rates[0])
    assert rates[2] == rates[3] == rates[4]
    assert full_recipe(recipe, 128, learning_rate=0.01).learning_rate == 0.01
