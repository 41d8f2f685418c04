"""Joint spaces of architecture and recipe, through each installed integration."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from asked_tasks import env_rewards
from optuna.distributions import CategoricalDistribution, IntDistribution
from small_tables import SPACE, planted_table

from kdnas_env.bench.recorded_search import run_search
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.integrations.minari import write_dataset
from kdnas_env.integrations.optunahub import Problem
from kdnas_env.tables.storage import write_table

RECIPE = {
    "recipe.learning_rate": [0.001, 0.004],
    "recipe.mapping": ["uniform", "last"],
    "recipe.train_embeddings": [False, True],
}
POINTS = 24 * 8


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("joint") / "joint.npz"
    write_table(planted_table({**SPACE, **RECIPE}), path)
    return str(path)


def test_optunahub(task: str) -> None:
    problem, space = Problem(task, seed=2), Task.parse(task).make_env(Budget(1)).get_wrapper_attr("search_space")
    assert problem.search_space["recipe.learning_rate_index"] == IntDistribution(0, 1)
    assert problem.search_space["recipe.mapping"] == CategoricalDistribution(("uniform", "last"))
    assert problem.search_space["recipe.train_embeddings"] == CategoricalDistribution((False, True))
    actions = [space.from_index(index) for index in range(POINTS)]
    params = [problem.params_of(action) for action in actions]
    assert [problem.action(one).tolist() for one in params] == [action.tolist() for action in actions]
    assert [problem.evaluate(one) for one in params] == env_rewards(task, 2, actions)
    study = optuna.create_study(directions=problem.directions, sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(problem, n_trials=20)
    assert problem.true_reward(study.best_params) <= problem.optimal_reward


@pytest.mark.skipif(find_spec("syne_tune") is None, reason="the extra syne-tune is not installed")
def test_syne_tune(task: str) -> None:
    from kdnas_env.integrations.syne_tune import TaskBlackbox

    blackbox, space = TaskBlackbox(task, seed=2), Task.parse(task).make_env(Budget(1)).get_wrapper_attr("search_space")
    actions = [space.from_index(index) for index in range(POINTS)]
    curves = [blackbox(blackbox.configuration(action)) for action in actions]
    assert [float(curve[-1, 0]) for curve in curves] == env_rewards(task, 2, actions)
    drawn = [{name: domain.sample() for name, domain in blackbox.configuration_space.items()} for _ in range(20)]
    assert [blackbox.configuration(blackbox.action(one)) for one in drawn] == drawn


def test_minari(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    search = run_search(AgentSpec.parse("random"), Task.parse(task), 2, Budget(20))
    [episode] = write_dataset("joint-v0", [search]).iterate_episodes()
    assert episode.actions.shape == (20, 7)
    assert episode.rewards.tolist() == env_rewards(task, 2, list(episode.actions))
