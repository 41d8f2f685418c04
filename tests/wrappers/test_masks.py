"""Masks equal those of a brute-force computation."""

from __future__ import annotations

from typing import Any

import numpy as np
from call_counts import counted
from grid_envs import GridEnv, grid_points
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.grid import Grid
from kdnas_env.wrappers import ActionMasks, FlatDiscrete, SequentialChoice
from kdnas_env.wrappers.action_masks import choice_counts, choice_positions
from kdnas_env.wrappers.local_moves import neighbour
from kdnas_env.wrappers.sequential import open_completions


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    nvec = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    points = int(np.prod(nvec))
    numbers = draw(st.none() | st.sets(st.integers(0, points - 1), min_size=1))
    return Grid.of(nvec, None if numbers is None else sorted(numbers))


def allowed_points(grid: Grid) -> list[tuple[int, ...]]:
    return [
        point for number, point in enumerate(grid_points(grid.nvec)) if grid.allowed is None or number in grid.allowed
    ]


@given(grids())
def test_numbers_and_actions_are_inverse(grid: Grid) -> None:
    points = grid_points(grid.nvec)
    assert grid.points == len(points)
    assert grid.size == len(allowed_points(grid))
    for number, point in enumerate(points):
        assert grid.number(point) == number
        assert grid.action(number).tolist() == list(point)
        assert grid.allows(number) == (point in allowed_points(grid))


@given(grids(), st.data())
def test_a_completion_is_open_if_an_open_point_begins_with_it(grid: Grid, data: st.DataObject) -> None:
    allowed = allowed_points(grid)
    evaluated = data.draw(st.sets(st.sampled_from(allowed)))
    prefix = data.draw(st.sampled_from(grid_points(grid.nvec)))[: data.draw(st.integers(0, len(grid.nvec) - 1))]
    still_open = set(allowed) - evaluated
    expected = [
        any(point[: len(prefix) + 1] == (*prefix, choice) for point in still_open)
        for choice in range(grid.nvec[len(prefix)])
    ]
    assert open_completions(grid, prefix, sorted(map(grid.number, evaluated))).tolist() == expected


@given(grids())
def test_choices_are_counted(grid: Grid) -> None:
    expected = [
        sum(point[axis] == choice for point in allowed_points(grid))
        for axis, count in enumerate(grid.nvec)
        for choice in range(count)
    ]
    counts = choice_counts(grid)
    assert counts.tolist() == expected
    for point in allowed_points(grid):
        counts[choice_positions(grid, point)] -= 1
    assert not counts.any()


@given(grids(), st.data())
def test_neighbours_differ_by_one_choice(grid: Grid, data: st.DataObject) -> None:
    allowed = allowed_points(grid)
    point = data.draw(st.sampled_from(allowed))
    cyclic = data.draw(st.sets(st.integers(0, len(grid.nvec) - 1)))
    for axis, count in enumerate(grid.nvec):
        for move, step in ((2 * axis, -1), (2 * axis + 1, 1)):
            choice = (point[axis] + step) % count if axis in cyclic else point[axis] + step
            expected = (*point[:axis], choice, *point[axis + 1 :])
            found = neighbour(grid, np.array(point), move, cyclic)
            if expected in allowed and expected != point:
                assert found is not None
                assert tuple(found.tolist()) == expected
            else:
                assert found is None


@given(grids(), st.data())
def test_the_masks_of_the_wrappers_are_those_of_brute_force(grid: Grid, data: st.DataObject) -> None:
    """In a whole episode, every mask shows the open points; after the last point, all are open again."""
    allowed = allowed_points(grid)
    order = data.draw(st.permutations(allowed))[:12]
    valid = None if grid.allowed is None else grid.allowed.tolist()
    grids = [GridEnv(grid.nvec, valid) for _ in range(3)]
    flat, masks, sequence = FlatDiscrete(grids[0]), ActionMasks(grids[1]), SequentialChoice(grids[2])
    for env in (flat, masks, sequence):
        env.reset(seed=0)
    for evaluated, point in enumerate(order):
        still_open = [one for one in allowed if one not in order[:evaluated]]
        assert_masks(grid, flat, masks, still_open, allowed)
        info: dict[str, Any] = {}
        for axis, choice in enumerate(point):
            expected = {one[axis] for one in still_open if one[:axis] == point[:axis]}
            assert set(np.flatnonzero(sequence.action_masks())) == expected
            *_, info = sequence.step(choice)
        assert info["complete"]
        flat.step(flat.reverse_action(np.array(point)))
        masks.step(np.array(point))
        assert grids[2].actions == grids[0].actions == grids[1].actions
    if len(order) == len(allowed):
        assert_masks(grid, flat, masks, allowed, allowed)
        assert set(np.flatnonzero(sequence.action_masks())) == {point[0] for point in allowed}


def assert_masks(grid: Grid, flat: FlatDiscrete, masks: ActionMasks, still_open: list[Any], allowed: list[Any]) -> None:
    assert flat.action_masks().tolist() == [point in still_open for point in allowed]
    assert masks.action_masks().tolist() == [
        any(point[axis] == choice for point in still_open)
        for axis, count in enumerate(grid.nvec)
        for choice in range(count)
    ]


def test_grids_beyond_64_bits() -> None:
    grid = Grid.of((1000,) * 8)
    assert grid.size == 1000**8
    assert grid.action(grid.points - 1).tolist() == [999] * 8
    assert open_completions(grid, (), [5]).all()
    assert (choice_counts(grid) > 0).all()
    env = SequentialChoice(GridEnv(grid.nvec))
    env.reset()
    for _ in range(8):
        *_, info = env.step(999)
    assert info["complete"]
    assert env.unwrapped.get_wrapper_attr("actions") == [[999] * 8]


def test_the_work_of_a_mask_does_not_grow_with_the_evaluations() -> None:
    env = GridEnv([10] * 5, range(100_000), budget=10_000)
    rng = np.random.default_rng(0)
    for wrapped in (FlatDiscrete(env), ActionMasks(env), SequentialChoice(env)):
        wrapped.reset(seed=0)
        calls = []
        for _ in range(2):
            for _ in range(500):
                choices = np.flatnonzero(wrapped.action_masks())
                wrapped.step(rng.integers(10, size=5) if isinstance(wrapped, ActionMasks) else rng.choice(choices))
            with counted() as count:
                wrapped.action_masks()
            calls += count
        assert 0 < calls[1] <= calls[0] + 5
        assert calls[0] < 100, "100,000 points are allowed"
