from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, wilcoxon

import kdnas_env
from kdnas_env.agents.classic.evolution import mutated
from kdnas_env.agents.lstm.choice_rows import ChoiceRows
from kdnas_env.agents.predicting import spread
from kdnas_env.core.grid import Grid
from kdnas_env.core.wide_dimensions import KNOTS, WIDE, Spacing, best_apart, bumps, coarse, nearby, steps_near, stride
from kdnas_env.testing.bowl import BowlEnv

# Learning -------------------------------------------------------------------------------------------------------

CHOICES = 1345


def hidden_peak(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
    """Reward with two hills along a scale, most of whose choices are never tried; other dimensions lower it."""
    place = action[0] / (CHOICES - 1)
    hills = 0.7 * np.exp(-(((place - 0.2) / 0.15) ** 2)) + np.exp(-(((place - 0.7) / 0.08) ** 2))
    return float(hills) - 0.3 * (action[1] != 2) - 0.2 * (action[2] != 1), {}


@cache
def best_rewards(agent: str, **settings: Any) -> np.ndarray:
    env = BowlEnv([CHOICES, 4, 3], hidden_peak)
    searches = (
        kdnas_env.make_agent(agent, **settings).search(env, budget=32, round_size=16, seed=seed) for seed in range(10)
    )
    return np.array([search.best_reward for search in searches])


@pytest.mark.parametrize("agent", ["lstm-ensemble", "local-search", "bayesian-linear"])
def test_agents_learn_along_a_scale(agent: str) -> None:
    assert wilcoxon(best_rewards(agent), best_rewards("random"), alternative="greater").pvalue < 0.01


def test_the_ensemble_finds_the_higher_hill_of_a_scale() -> None:
    assert best_rewards("lstm-ensemble").min() > 0.9  # the lower one has 0.7
    assert np.median(best_rewards("random")) < 0.9


@pytest.mark.parametrize("agent", ["lstm-ensemble", "lstm", "least-squares", "bayesian-linear", "random-forest"])
def test_the_candidates_of_a_round_are_not_the_same_thing_again(agent: str) -> None:
    env = BowlEnv([CHOICES, 2], hidden_slope)
    search = kdnas_env.make_agent(agent).search(env, budget=32, round_size=8, seed=0)
    chosen = search.rounds[-1].actions[~search.rounds[-1].random]
    for kind in range(2):
        places = np.sort(chosen[chosen[:, 1] == kind, 0])
        assert np.diff(places).min(initial=CHOICES) >= 0.5 * CHOICES / 33**1.5


def hidden_slope(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
    return action[0] / CHOICES + 0.1 * action[1], {}


# Moving ---------------------------------------------------------------------------------------------------------


@given(place=st.integers(0, 1344), seed=st.integers(0, 2**32))
def test_a_stride_ends_at_another_choice(place: int, seed: int) -> None:
    moved = stride(np.full(50, place), CHOICES, np.random.default_rng(seed))
    assert ((moved >= 0) & (moved < CHOICES) & (moved != place)).all()


def test_strides_are_of_every_length() -> None:
    strides = np.abs(stride(np.full(4000, 2**11), 2**12, np.random.default_rng(0)) - 2**11)
    counts, _ = np.histogram(np.log2(strides), bins=np.arange(1, 11))
    assert chisquare(counts).pvalue > 1e-3


def test_neighbours_on_a_scale_are_few_and_reach_far() -> None:
    assert steps_near(CHOICES).tolist() == steps_near(CHOICES, reach=2).tolist() == [-512, -64, -8, -1, 1, 8, 64, 512]
    assert steps_near(4).tolist() == [-3, -2, -1, 1, 2, 3]
    assert steps_near(4, reach=2).tolist() == [-2, -1, 1, 2]
    scale = Grid.of([CHOICES, 3])
    assert scale.neighbours(np.array([10, 1]))[:, 0].tolist() == [2, 9, 11, 18, 74, 522, 10, 10]
    assert len(scale.neighbours(np.array([700, 1]))) == 8 + 2


def test_a_mutation_moves_along_a_scale() -> None:
    rng, nvec = np.random.default_rng(0), np.array([CHOICES])
    moves = np.array([mutated(np.array([700]), nvec, rng, adjacent=1.0)[0] - 700 for _ in range(400)])
    assert (moves != 0).all()
    assert (np.abs(moves) < 30).mean() > 0.3
    assert (np.abs(moves) > 30).mean() > 0.3


def test_points_nearby_differ_in_some_dimensions() -> None:
    nvec, action = np.array([CHOICES, 5, 5, 5]), np.array([700, 1, 2, 3])
    around = nearby(action, nvec, 1000, np.random.default_rng(0))
    changed = (around != action).sum(axis=1)
    assert ((around >= 0) & (around < nvec)).all()
    assert 1.5 < changed.mean() < 2.0
    assert {*changed.tolist()} == {0, 1, 2, 3, 4}


def test_a_design_tries_all_sections_of_a_scale() -> None:
    nvec, rng = np.array([CHOICES, 2]), np.random.default_rng(0)
    pool = Grid.of(nvec).draw(rng, 500, ())
    chosen = pool[spread(pool, np.empty((0, 2), dtype=np.int64), nvec, KNOTS, rng)]
    assert sorted(coarse(chosen, nvec)[:, 0]) == [*range(KNOTS)]


# Keeping apart --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), tried=st.integers(0, 60))
def test_there_is_always_room_on_a_scale(seed: int, tried: int) -> None:
    rng, pool = np.random.default_rng(seed), np.arange(CHOICES)[:, None]
    spacing = Spacing(pool, pool[rng.integers(CHOICES, size=tried)], np.array([CHOICES]))
    apart = spacing.far_enough(np.ones(CHOICES, dtype=np.bool_))
    assert apart.any()
    assert apart.all() == (tried == 0)


def test_points_of_other_kinds_are_never_too_near() -> None:
    pool = np.array([[100, 0], [100, 1], [130, 0], [800, 0]])
    spacing = Spacing(pool, np.array([[101, 0]]), np.array([CHOICES, 2]))
    assert spacing.far_enough(np.ones(4, dtype=np.bool_)).tolist() == [False, True, False, True]
    spacing.take(3)
    # All free points, because none of them is far enough.
    assert spacing.far_enough(np.array([True, False, True, True])).tolist() == [True, False, True, True]


def test_without_a_scale_the_best_are_the_best() -> None:
    rng = np.random.default_rng(0)
    pool, scores = rng.integers(5, size=(40, 3)), rng.normal(size=40)
    assert best_apart(pool, scores, pool[:3], np.array([5, 5, 5]), 6).tolist() == np.argsort(-scores)[:6].tolist()


# Learned representations of choices -----------------------------------------------------------------------------


def test_narrow_dimensions_have_a_row_a_choice() -> None:
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    table = ChoiceRows(np.array([5, 3]))
    assert table.counts == [5, 3]
    assert table(rows) is rows
    assert ChoiceRows(np.array([WIDE])).counts == [WIDE]


def test_neighbours_on_a_scale_have_nearly_the_same_and_far_choices_have_not() -> None:
    table = ChoiceRows(np.array([3, CHOICES]))
    rows = torch.randn(2, 3 + KNOTS, 50, generator=torch.Generator().manual_seed(0))
    choices = table(rows)
    assert choices.shape == (2, 3 + CHOICES, 50)
    torch.testing.assert_close(choices[:, :3], rows[:, :3])
    scale = choices[:, 3:]
    assert (scale[:, 1:] - scale[:, :-1]).norm(dim=2).max() < 0.2 * scale.norm(dim=2).mean()
    assert torch.cosine_similarity(scale[:, 0], scale[:, -1], dim=1).abs().max() < 0.5
    assert np.linalg.norm(bumps(CHOICES), axis=1) == pytest.approx(1)
