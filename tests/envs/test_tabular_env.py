from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_tables import planted_table

import kdnas_env
from kdnas_env.core.evaluation import Status
from kdnas_env.envs.tabular import TabularEnv
from kdnas_env.errors import KDNASError, TableError
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.tables.storage import write_table


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "planted.npz"
    write_table(planted_table(noise=0.05), path)
    return path


def _rewards(env: TabularEnv, seed: int, actions: list[np.ndarray]) -> list[float]:
    env.reset(seed=seed)
    return [float(env.step(action)[1]) for action in actions]


def test_a_sampled_episode_is_one_draw(table_file: Path) -> None:
    env = TabularEnv(table_file, seed="sample", budget=30)
    actions = [env.search_space.from_index(index) for index in range(24)]
    first, again, other = (_rewards(env, seed, actions) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # The noise does not depend on the order of actions: with one seed, all agents see the same noise.
    assert _rewards(env, 1, actions[::-1])[::-1] == first
    repeated = _rewards(env, 1, [actions[0]] * 5)
    assert len(set(repeated)) == 1


def test_a_drawn_seed_is_no_part_of_the_identity(table_file: Path) -> None:
    """The identity contains the setting of the seed, such as ``sample``, but not the seed that an episode draws."""
    told = []
    for seed, episode in (("sample", 1), ("sample", 2), ("mean", 1)):
        env = TabularEnv(table_file, seed=seed, budget=30)
        env.reset(seed=episode)
        told.append(env.identity)
    assert told[0] == told[1] == TabularEnv(table_file, seed="sample").identity
    assert told[0]["workload"] != told[2]["workload"]


def test_a_sampled_vector_episode_is_that_of_the_scalar_environment(table_file: Path) -> None:
    scalar = TabularEnv(table_file, seed="sample", budget=30)
    envs = gym.make_vec("kdnas/Tabular-v0", num_envs=4, table=table_file, seed="sample", budget=24)
    actions = [scalar.search_space.from_index(index) for index in range(8)]
    for seed in (1, 2, 1):
        envs.reset(seed=seed)
        rewards = [float(value) for part in (actions[:4], actions[4:]) for value in envs.step(np.stack(part))[1]]
        assert rewards == _rewards(scalar, seed, actions)


def test_the_mean_does_not_depend_on_the_seed(table_file: Path) -> None:
    env = TabularEnv(table_file)
    action = env.search_space.from_index(5)
    assert len({_rewards(env, seed, [action])[0] for seed in range(5)}) == 1


def test_a_budget_in_seconds_is_spent_by_a_simulated_clock(table_file: Path) -> None:
    table = planted_table(noise=0.05)
    config = table.configs()[0]
    seconds = TabularEvaluator(table).query(config).wall_seconds
    env = TabularEnv(table_file, budget=2.5 * seconds, budget_unit="seconds")
    env.reset(seed=0)
    ends = [env.step(env.search_space.encode(config))[2] for _ in range(3)]
    assert ends == [False, False, True]


def test_epochs_are_those_of_the_table_or_fewer(table_file: Path) -> None:
    assert TabularEnv(table_file).fidelity.epochs == 3
    env = TabularEnv(table_file, epochs=1)
    env.reset(seed=0)
    assert env.step(env.search_space.from_index(0))[4]["heldout_curve"].shape == (2,)
    with pytest.raises(TableError, match="9 epochs are beyond the last"):
        TabularEnv(table_file, epochs=9)


def test_an_agent_searches_a_table(table_file: Path) -> None:
    env = gym.make("kdnas/Tabular-v0", table=str(table_file), budget=24)
    result = kdnas_env.make_agent("random").search(env, seed=0)
    table = planted_table(noise=0.05)
    reward = env.unwrapped.reward_function  # type: ignore[attr-defined]
    best = max(reward(TabularEvaluator(table).query(config)).reward for config in table.configs())
    assert result.best_reward == pytest.approx(best)


def test_an_unknown_table_is_refused_where_the_environment_is_made() -> None:
    with pytest.raises(KDNASError, match="there is no table 'nowhere'; name one of"):
        TabularEnv("nowhere")


def test_a_table_is_searched_without_torch(table_file: Path) -> None:
    code = (
        "import sys, gymnasium, kdnas_env\n"
        f"env = gymnasium.make('kdnas/Tabular-v0', table={str(table_file)!r}); env.reset(seed=0)\n"
        "env.step(env.action_space.sample())\n"
        "print([name for name in ('torch', 'transformers', 'scipy', 'sklearn', 'pandas') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_limits_are_kept_by_the_best_and_known_before_distillation() -> None:
    free = gym.make("kdnas/Tabular-v0", budget=660, limits={"speedup": 8.0})
    env: Any = free.unwrapped
    free.reset(seed=0)
    seconds = {True: 0.0, False: 0.0}
    for index in env.valid_action_indices:
        _, _, terminated, _, info = free.step(env.search_space.from_index(int(index)))
        seconds[info["status"] == "infeasible"] += env.history.last.evaluation.wall_seconds
        assert (info["status"] == "infeasible") == (info["cost"] > 0) == (info["speedup"] < 8.0)
        assert not terminated
    assert env.history.best.reward.speedup >= 8.0
    assert seconds[False] > 0 == seconds[True]
    whole = [record for record in env.history if record.reward.cost == 0]
    assert env.history.best.reward.reward == max(record.reward.reward for record in whole)
    assert 0 < len(whole) < 660


@pytest.mark.parametrize("change", [{}, {"seed": "sample"}, {"seed": 0, "epochs": 1}, {"loss": "train_raw"}])
def test_records_that_are_made_when_asked_for_are_those_of_evaluations(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.npz"
    write_table(planted_table(noise=0.05, failures=0.3, max_parameters=60_000_000), path)

    def searched() -> tuple[list[Any], list[Any]]:
        env = TabularEnv(path, budget=50, **change)
        env.reset(seed=3)
        actions = [env.search_space.from_index(index) for index in range(env.search_space.size)]
        steps = [env.step(action) for action in [*actions, actions[0]]]
        pickle.loads(pickle.dumps(env)).step(actions[1])
        return steps, list(env.history)

    steps, records = searched()
    monkeypatch.setattr(TabularEvaluator, "known", lambda self, fidelity: None)
    expected, evaluated = searched()
    assert records == evaluated
    np.testing.assert_equal(steps, expected)
    assert [[type(value) for value in step[4].values()] for step in steps] == [
        [type(value) for value in step[4].values()] for step in expected
    ]
    assert {Status.OK, Status.INVALID} < {record.evaluation.status for record in records}
