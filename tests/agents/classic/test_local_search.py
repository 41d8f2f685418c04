from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from large_space import chance_of_luck

from kdnas_env.agents.classic.local_search import LocalSearchAgent, LocalSearchConfig
from kdnas_env.errors import KDNASError
from kdnas_env.testing.bowl import BowlEnv

NVEC = [7, 6]
ONE_START = LocalSearchConfig(starts=1, reach=None)


def test_it_learns() -> None:
    assert chance_of_luck(LocalSearchAgent()) < 0.01


def test_it_needs_its_climbs() -> None:
    assert chance_of_luck(LocalSearchAgent(LocalSearchConfig(starts=500))) > 0.1


def neighbours(point: tuple[int, ...], nvec: list[int], reach: int = 99) -> set[tuple[int, ...]]:
    return {
        (*point[:axis], value, *point[axis + 1 :])
        for axis, count in enumerate(nvec)
        for value in range(count)
        if 0 < abs(value - point[axis]) <= reach
    }


def searched(config: LocalSearchConfig, budget: int, round_size: int = 1, seed: int = 0, answer: Any = None) -> Any:
    """Search a small space; return the points, their rewards, and which were random, in order of evaluation."""
    env = BowlEnv(NVEC, answer) if answer else BowlEnv(NVEC)
    result = LocalSearchAgent(config).search(env, budget=budget, round_size=round_size, seed=seed)
    points = [tuple(action) for action in result.actions.tolist()]
    return points, result.rewards, np.concatenate([record.random for record in result.rounds])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reach", [None, 1, 2])
def test_a_climb_moves_to_the_best_of_all_neighbours(seed: int, reach: int | None) -> None:
    points, rewards, random = searched(LocalSearchConfig(starts=1, reach=reach), budget=42, seed=seed)
    assert random[0]
    at, done = points[0], 1
    while True:
        around = neighbours(at, NVEC, reach or 99)
        left = around - set(points[:done])
        assert set(points[done : done + len(left)]) == left
        assert not random[done : done + len(left)].any()
        done += len(left)
        best = max(around, key=lambda point: rewards[points.index(point)])
        if rewards[points.index(best)] <= rewards[points.index(at)]:
            break
        at = best
    assert at == points[int(np.argmax(rewards))]
    assert done == 42 or random[done]


def test_neighbours_come_in_random_order() -> None:
    orders = {tuple(searched(ONE_START, budget=5, seed=seed)[0][1:]) for seed in range(8)}
    assert len(orders) == 8
    points = searched(ONE_START, budget=12)[0]
    assert points[1:] != sorted(points[1:])


def test_an_impatient_climb_moves_to_the_first_that_is_better() -> None:
    config = LocalSearchConfig(starts=1, move="first", reach=None)
    points, rewards, random = searched(config, budget=20, seed=1)
    at = 0
    for done in range(1, 20):
        if random[done]:
            break
        assert points[done] in neighbours(points[at], NVEC)
        if rewards[done] > rewards[at]:
            at = done
    assert at == int(np.argmax(rewards))
    assert done < len(searched(ONE_START, budget=20, seed=1)[0])


def test_it_starts_at_the_best_of_some_random_points() -> None:
    points, rewards, random = searched(LocalSearchConfig(starts=10), budget=12, round_size=1, seed=2)
    assert random.tolist() == [True] * 10 + [False] * 2
    assert set(points[10:]) <= neighbours(points[int(np.argmax(rewards[:10]))], NVEC, 2)


def test_at_a_local_optimum_it_starts_anew() -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return (1.0 if sum(action) % 5 == 0 else 0.0), {}

    points, rewards, random = searched(LocalSearchConfig(starts=1, reach=1), budget=42, answer=answer)
    starts = np.flatnonzero(random)
    assert len(starts) > 3
    for start in starts[1:]:
        earlier = points[:start]
        climbed = [point for point in earlier if neighbours(point, NVEC, 1) <= set(earlier)]
        assert any(
            all(rewards[points.index(near)] <= rewards[points.index(point)] for near in neighbours(point, NVEC, 1))
            for point in climbed
        )


def test_the_rest_of_a_round_goes_ahead_of_the_climb() -> None:
    agent, env = LocalSearchAgent(ONE_START), BowlEnv([5, 5])
    agent.reset([5, 5], budget=25, round_size=6, seed=0)
    start = agent.ask(1)
    agent.tell(start, [-9.0])
    first = agent.ask(6)
    agent.tell(first, [env.reward(action) for action in first])
    origin, best = tuple(start[0].tolist()), tuple(first[np.argmax(agent.ranking.rewards[1:])].tolist())
    second = [tuple(action) for action in agent.ask(6).tolist()]
    left = neighbours(origin, [5, 5]) - {tuple(action) for action in first.tolist()}
    assert len(left) == 2
    assert set(second[:2]) == left
    assert set(second[2:]) <= neighbours(best, [5, 5]) - {origin}


def test_it_is_never_at_a_loss_while_neighbours_are_pending() -> None:
    agent, env = LocalSearchAgent(LocalSearchConfig(starts=1, reach=1)), BowlEnv([6, 6])
    agent.reset([6, 6], budget=36, round_size=1)
    actions = agent.ask(1)
    agent.tell(actions, [env.reward(actions[0])])
    batches = [agent.ask(5) for _ in range(7)]
    assert len(np.unique(np.concatenate([actions, *batches]), axis=0)) == 36
    assert len(agent.ask(1)) == 0


def test_what_failed_is_never_moved_to() -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        return (9.0, {"status": "failed"}) if action[0] >= 3 else None

    points, _, random = searched(LocalSearchConfig(starts=1, reach=1), budget=42, answer=answer)
    usable = [point for point in points if point[0] < 3]
    for place in np.flatnonzero(~random):
        assert any(points[place] in neighbours(point, NVEC, 1) for point in usable)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0}, "starts is 0; expected a whole number, at least 1"),
        ({"reach": 0}, "reach is 0; expected a whole number, at least 1"),
        ({"move": "up"}, r"move is 'up'; expected one of \['best', 'first'\]"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        LocalSearchConfig(**options)
