from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_space import chance_of_luck
from scipy.stats import chisquare

from kdnas_env.agents.base import SearchResult
from kdnas_env.agents.classic.evolution import EvolutionAgent, EvolutionConfig, mutated
from kdnas_env.errors import KDNASError
from kdnas_env.testing.bowl import BowlEnv

# Learning -------------------------------------------------------------------------------------------------------


def test_it_learns() -> None:
    assert chance_of_luck(EvolutionAgent()) < 0.01


def test_it_needs_its_tournaments() -> None:
    assert chance_of_luck(EvolutionAgent(EvolutionConfig(population_size=500))) > 0.1


# Mutation -------------------------------------------------------------------------------------------------------


@given(
    nvec=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    adjacent=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_a_mutation_changes_one_dimension(nvec: list[int], adjacent: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    action = rng.integers(nvec)
    before = action.copy()
    child = mutated(action, np.array(nvec), rng, adjacent=adjacent)
    changes = child - action
    assert (action == before).all()
    assert ((child >= 0) & (child < nvec)).all()
    assert np.count_nonzero(changes) == (max(nvec) > 1)
    assert adjacent < 1 or np.abs(changes).max() <= 1


@pytest.mark.parametrize(("adjacent", "expected"), [(0.0, [1, 1, 1, 1]), (1.0, [0, 2, 2, 0]), (0.5, [1, 3, 3, 1])])
def test_choices_are_as_likely_as_they_should_be(adjacent: float, expected: list[int]) -> None:
    rng, counts = np.random.default_rng(0), np.zeros((2, 5))
    for _ in range(4000):
        changed = mutated(np.array([2, 2, 0]), np.array([5, 5, 1]), rng, adjacent=adjacent) != [2, 2, 0]
        counts[0, np.flatnonzero(changed)[0]] += 1
        counts[1, mutated(np.array([2]), np.array([5]), rng, adjacent=adjacent)[0]] += 1
    assert chisquare(counts[0, :2]).pvalue > 1e-3
    assert counts[1, 2] == 0
    drawn = np.delete(counts[1], 2)[np.array(expected) > 0]
    shares = np.array([share for share in expected if share])
    assert chisquare(drawn, 4000 * shares / shares.sum()).pvalue > 1e-3


# Population -----------------------------------------------------------------------------------------------------


def distances(result: SearchResult, child: int, parents: np.ndarray) -> np.ndarray:
    different: np.ndarray = np.count_nonzero(result.actions[parents] != result.actions[child], axis=1)
    return different


def bred(**config: Any) -> SearchResult:
    """Return a search of a large space in which a third of the points fail with the highest reward."""

    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        return (9.0, {"status": "failed"}) if action[0] % 3 == 0 else None

    return EvolutionAgent(EvolutionConfig(**config)).search(BowlEnv([40] * 4, answer), budget=120, round_size=6)


def test_parents_are_the_youngest_that_did_not_fail() -> None:
    result = bred(population_size=12, sample_size=3, mutations=1)
    usable = np.concatenate([record.usable for record in result.rounds])
    assert 0.1 < (~usable).mean() < 0.5
    for record in result.rounds:
        begin = 6 * record.index
        youngest = np.flatnonzero(usable[:begin])[-12:]
        assert record.random.all() == (record.index < 2)
        for child in begin + np.flatnonzero(~record.random):
            assert distances(result, int(child), youngest).min() == 1


def test_the_oldest_die_even_if_they_are_the_best() -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return -float(step), {}

    config = EvolutionConfig(population_size=5, sample_size=200, mutations=1)
    result = EvolutionAgent(config).search(BowlEnv([40] * 4, answer), budget=60, round_size=1)
    for child in range(5, 60):
        # A tournament of 200 draws misses the best of five members with a probability below 1e-19.
        assert result.rounds[child].random[0] or distances(result, child, np.array([child - 5])) == 1
    assert sum(record.random.sum() for record in result.rounds) < 10


@pytest.mark.parametrize(("budget", "size"), [(10, 8), (50, 10), (120, 24), (500, 50), (2000, 50)])
def test_the_population_follows_from_the_budget(budget: int, size: int) -> None:
    agent = EvolutionAgent()
    agent.reset([40] * 4, budget=budget, round_size=1)
    assert agent.population_size == size
    actions = agent.ask(size)
    agent.tell(actions, np.arange(size))
    assert agent.ranking.rounds[0].random.all()
    assert agent.ranking.rounds[0].exploration == 1.0
    child = agent.ask(1)
    agent.tell(child, [0.0])
    assert agent.ranking.rounds[1].exploration == 0.0


def test_a_child_that_cannot_be_new_gives_way_to_a_random_candidate() -> None:
    agent, env = EvolutionAgent(EvolutionConfig(population_size=1, mutations=1)), BowlEnv([3, 40, 40])
    parent = [2, 0, 0]
    near = [np.ravel_multi_index(row, (3, 40, 40)) for row in (parent, [1, 0, 0], [2, 1, 0], [2, 0, 1])]
    far = range(200, 400)
    agent.reset(env.action_space.nvec, budget=50, round_size=5, candidates=[*near, *far])
    agent.tell([parent, [1, 0, 0], [2, 1, 0], [2, 0, 1]], [0.0, 0.0, 0.0, 1.0])
    actions = agent.ask(5)
    agent.tell(actions, np.zeros(5))
    assert agent.ranking.rounds[-1].random.all()
    assert set(agent.grid.numbers(actions)) <= set(far)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 0}, "population_size is 0; expected a whole number, at least 1"),
        ({"sample_size": 2.5}, "sample_size is 2.5; expected a whole number"),
        ({"mutations": 0}, "mutations is 0; expected a whole number, at least 1"),
        ({"adjacent": 1.5}, r"adjacent is 1.5; expected a number at least 0 and at most 1"),
        ({"adjacent": float("nan")}, "adjacent is nan"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        EvolutionConfig(**options)
