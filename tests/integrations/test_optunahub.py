"""The OptunaHub benchmark, loaded as its registry would load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import optunahub
import pytest
import yaml
from asked_tasks import TASKS, env_rewards, points
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
    nsgaii,
)
from small_bench_bert import write_bench_bert

from kdnas_env.bench.recorded_search import run_search
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.truth import Truth
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.integrations.minari import write_dataset
from kdnas_env.tables.external import write_external
from kdnas_env.tabulation.nas_bench_bert import import_nas_bench_bert

REGISTRY = Path(__file__).parents[2] / "integrations" / "optunahub" / "package"
FOLDER = REGISTRY / "benchmarks" / "kdnas"
Problem = optunahub.load_local_module("benchmarks/kdnas", registry_root=str(REGISTRY)).Problem

SAMPLERS: dict[str, Callable[[Any], BaseSampler]] = {
    "random": lambda problem: RandomSampler(seed=0),
    "grid": lambda problem: GridSampler(
        {
            name: [*one.choices] if hasattr(one, "choices") else [*range(one.high + 1)]
            for name, one in problem.search_space.items()
        },
        seed=0,
    ),
    "brute-force": lambda problem: BruteForceSampler(seed=0),
    "sobol": lambda problem: QMCSampler(scramble=True, seed=0),
    "halton": lambda problem: QMCSampler(qmc_type="halton", scramble=True, seed=0),
    "partial-fixed": lambda problem: PartialFixedSampler({"hidden_act": "gelu"}, RandomSampler(seed=0)),
    "tpe": lambda problem: TPESampler(n_startup_trials=4, seed=0),
    "tpe-multivariate": lambda problem: TPESampler(n_startup_trials=4, multivariate=True, seed=0),
    "tpe-group": lambda problem: TPESampler(n_startup_trials=4, multivariate=True, group=True, seed=0),
    "tpe-liar": lambda problem: TPESampler(n_startup_trials=4, constant_liar=True, seed=0),
    "gp": lambda problem: GPSampler(n_startup_trials=8, seed=0),
    "cma-es": lambda problem: CmaEsSampler(n_startup_trials=2, seed=0),
    "cma-es-margin": lambda problem: CmaEsSampler(n_startup_trials=2, with_margin=True, seed=0),
    "cma-es-separable": lambda problem: CmaEsSampler(n_startup_trials=2, use_separable_cma=True, seed=0),
    "nsga-ii": lambda problem: NSGAIISampler(population_size=4, seed=0),
    "nsga-ii-blx": lambda problem: NSGAIISampler(population_size=4, crossover=nsgaii.BLXAlphaCrossover(), seed=0),
    "nsga-ii-sbx": lambda problem: NSGAIISampler(population_size=4, crossover=nsgaii.SBXCrossover(), seed=0),
    "nsga-ii-vsbx": lambda problem: NSGAIISampler(population_size=4, crossover=nsgaii.VSBXCrossover(), seed=0),
    "nsga-ii-spx": lambda problem: NSGAIISampler(population_size=4, crossover=nsgaii.SPXCrossover(), seed=0),
    "nsga-ii-undx": lambda problem: NSGAIISampler(population_size=4, crossover=nsgaii.UNDXCrossover(), seed=0),
    "nsga-iii": lambda problem: NSGAIIISampler(population_size=4, seed=0),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Constraints have been set, but CmaEsSampler"),
]


def searched(problem: Any, sampler: BaseSampler | None = None, trials: int = 12) -> optuna.Study:
    study = optuna.create_study(directions=problem.directions, sampler=sampler or RandomSampler(seed=0))
    study.optimize(problem, n_trials=trials)
    return study


@pytest.mark.parametrize("task", TASKS)
def test_the_values_are_those_of_the_environment(task: str) -> None:
    problem, actions = Problem(task, seed=7), points()
    params = [problem.params_of(action) for action in actions]
    assert [problem.action(one).tolist() for one in params] == [action.tolist() for action in actions]
    assert [problem.evaluate(one) for one in params] == env_rewards(task, 7, actions)
    truth = Truth.of(Task.parse(task))
    assert problem.true_reward(problem.optimal_params) == problem.optimal_reward == truth.best
    assert {problem.true_reward(one) for one in params} <= {*truth.reward.tolist(), truth.floor}


def test_an_external_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    path = str(tmp_path / "bert.npz")
    table = import_nas_bench_bert(write_bench_bert(tmp_path / "BERT_benchmark.json"))
    write_external(table, path)
    problem = Problem(path, seed=3)
    actions = [table.space.from_index(index) for index in table.space.valid_indices.tolist()]
    assert [problem.evaluate(problem.params_of(one)) for one in actions] == env_rewards(path, 3, actions)
    assert problem.optimal_reward == problem.true_reward(problem.optimal_params) == Truth.of(Task.parse(path)).best
    dataset = write_dataset("kdnas/bert-v0", [run_search(AgentSpec.parse("random"), Task.parse(path), 3, Budget(38))])
    [episode] = dataset.iterate_episodes()
    assert episode.rewards.tolist() == env_rewards(path, 3, list(episode.actions))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_runs_unmodified(name: str) -> None:
    problem = Problem("rotten-tomatoes:speedup=8")
    study = searched(problem, SAMPLERS[name](problem))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 12
    assert all(trial.value == problem.evaluate(trial.params) for trial in study.trials)
    assert all(trial.constraints.keys() == {"failed", "speedup"} for trial in study.trials)
    assert problem.true_reward(study.best_params) <= problem.optimal_reward


def test_several_objectives() -> None:
    problem = Problem("imdb:seed=mean", metric_names=("loss", "latency_ratio"))
    front = searched(problem, NSGAIISampler(population_size=8, seed=0), 60).best_trials
    assert len(front) > 2
    rewards = [KDReward().score(*trial.values) for trial in front]
    assert rewards == [Problem("imdb:seed=mean").evaluate(trial.params) for trial in front]


def test_limits_are_constraints_and_the_best_trial_keeps_them() -> None:
    """With ``constraints=cost``, the reward ignores the limits, so the sampler and Optuna must respect them."""
    problem = Problem("rotten-tomatoes:speedup=12,constraints=cost,seed=mean")
    study = searched(problem, TPESampler(seed=0), 60)
    broken = [trial for trial in study.trials if trial.constraints["speedup"] > 0]
    assert study.best_trial.constraints["speedup"] <= 0
    assert max(trial.values[0] for trial in broken) > study.best_value
    assert all(trial.constraints["failed"] == 0 for trial in broken)


def test_what_cannot_be_built_breaks_a_constraint() -> None:
    problem = Problem("imdb:seed=mean")
    grid = [problem.params_of(np.array(action)) for action in np.ndindex(4, 5, 2, 8, 3)]
    rewards = [problem.evaluate(params) for params in grid]
    failed = [problem.evaluate_constraints(params)["failed"] > 0 for params in grid]
    assert sum(failed) == 300
    assert [reward == KDReward().floor for reward in rewards] == failed
    assert max(rewards) == problem.optimal_reward
    assert grid[int(np.argmax(rewards))] == problem.optimal_params


def test_a_seed_draws_the_noise_and_reseeding_draws_it_again() -> None:
    params = [Problem().params_of(action) for action in points()]

    def values(problem: Any) -> list[float]:
        return [problem.evaluate(one) for one in params]

    problem, first = Problem(seed=1), values(Problem(seed=1))
    assert values(problem) == first != values(Problem(seed=2))
    problem.reseed(2)
    assert values(problem) == values(Problem(seed=2))
    assert np.corrcoef(first, values(problem))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Problem("nothing"), "no table 'nothing'"),
        (lambda: Problem("imdb:speed=8"), "unknown setting"),
        (lambda: Problem(metric_names=("accuracy",)), "expected some of"),
        (lambda: Problem(metric_names=()), "expected some of"),
        (lambda: Problem().evaluate({}), "num_hidden_layers_index is None; expected one of"),
        (lambda: Problem().evaluate({**Problem().optimal_params, "hidden_act": "tanh"}), "hidden_act is 'tanh'"),
    ],
)
def test_bad_input_is_named(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(KDNASError, match=words):
        ask()


def test_the_folder_is_what_the_registry_asks_for() -> None:
    assert {path.name for path in FOLDER.iterdir()} >= {"LICENSE", "README.md", "__init__.py", "example.py"}
    _, matter, text = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    described = yaml.safe_load(matter)
    assert described.keys() == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert "benchmark" in described["tags"]
    assert optuna.__version__ in described["optuna_versions"]
    assert [name for name in ("Abstract", "APIs", "Installation", "Example") if f"## {name}\n" not in text] == []


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the example unchanged, except that its registry is the folder in this repository."""

    def from_disk(package: str) -> Any:
        return optunahub.load_local_module(package, registry_root=str(REGISTRY))

    monkeypatch.setattr(optunahub, "load_module", from_disk)
    exec((FOLDER / "example.py").read_text(encoding="utf-8"), {"__name__": "example"})
    true, optimum = (float(part.split()[0]) for part in capsys.readouterr().out.split(": ")[-2:])
    assert 0.59 < true <= optimum
