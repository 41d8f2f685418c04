"""The truth of a task follows from its table or surrogate."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.bench.truth import TARGETS, Truth
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.pareto import hypervolume
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, TableError
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.searching.registry import make_agent
from kdnas_env.tables.storage import load_table, write_table
from kdnas_env.tables.table import LATENCIES, STATUSES


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("rotten-tomatoes", "rotten-tomatoes"),
        ("rotten-tomatoes:device=torch,alpha=-0.2", "rotten-tomatoes:alpha=-0.2,device=torch"),
        ("rotten-tomatoes:alpha=-0.06,seed=sample", "rotten-tomatoes"),
        ("folder/a.npz:seed=mean,beta=1", "folder/a.npz:beta=1.0,seed=mean"),
        ("imdb:speedup=8.0,keep=0.5", "imdb:keep=0.5,speedup=8"),
        ("imdb:size_mb=9,format=int8,constraints=cost", "imdb:constraints=cost,format=int8,size_mb=9"),
        ("imdb:speedup=0", "imdb"),
    ],
)
def test_a_task_is_written_in_one_way(text: str, canonical: str) -> None:
    assert str(Task.parse(text)) == canonical
    assert Task.parse(canonical) == Task.parse(text)


def test_a_title_has_no_folder() -> None:
    assert Task.parse("/a/b/c.npz:seed=mean").title == "c:seed=mean"
    assert Task.parse("imdb").title == "imdb"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imdb:gamma=1", "gamma"),
        ("imdb:alpha=0.5", "alpha"),
        ("imdb:alpha=high", "alpha"),
        ("imdb:loss=best", "loss"),
        (":alpha=-1", "name"),
        ("imdb:speed=8", "unknown setting.*speedup"),
        ("imdb:speedup=-1", "speedup is -1"),
        ("imdb:constraints=cost", "no effect without a limit"),
        ("imdb:speedup=8,constraints=none", "constraints is 'none'"),
        ("imdb:speedup=8,infeasible=never", "infeasible is 'never'"),
        ("imdb:speedup=8,format=int8", "no effect without size_mb"),
    ],
)
def test_a_malformed_task_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Task.parse(text)


def test_settings_that_the_table_lacks_are_refused(task: Task) -> None:
    for wrong in (replace(task, device="tpu"), replace(task, seed=9), replace(task, table="none")):
        with pytest.raises(KDNASError):
            Truth.of(wrong)


def test_rewards_are_means_over_seeds_after_the_last_epoch(truth: Truth) -> None:
    table = load_table(truth.task.table)
    whole = (table.status == STATUSES.index("ok")).all(axis=1)
    loss = table.curve("heldout_unexplained")[:, :, -1].astype(np.float64).mean(axis=1)
    ratio = table.latencies[:, 0, LATENCIES.index("ratio")].astype(np.float64)
    expected = np.array(
        [KDReward().score(*pair) for pair in zip(loss[whole].tolist(), ratio[whole].tolist(), strict=True)]
    )
    np.testing.assert_allclose(truth.rewards_of(table.index[whole]), expected, rtol=1e-6)
    np.testing.assert_allclose(truth.costs_of(table.index[whole])[:, 0], loss[whole], rtol=1e-6)


def test_what_is_no_student_has_the_reward_of_a_failure(truth: Truth) -> None:
    nobody = next(index for index in range(truth.space.size) if index not in set(truth.index.tolist()))
    assert truth.rewards_of(nobody) == -1
    assert np.isnan(truth.costs_of(np.array([nobody]))).all()


def test_a_student_failed_with_every_seed_is_never_best(truth: Truth) -> None:
    table = load_table(truth.task.table)
    failed = (table.status != STATUSES.index("ok")).all(axis=1)
    assert failed.any()
    assert (truth.rewards_of(table.index[failed]) == -1).all()


def test_optima_tie_within_the_noise_of_a_seed(truth: Truth) -> None:
    assert 0 < truth.tolerance < 0.05
    inside = truth.rewards_of(truth.optima)
    assert inside.max() == truth.best
    assert (truth.best - inside <= truth.tolerance).all()
    assert (truth.reward >= truth.best - truth.tolerance).sum() == len(inside)


def test_a_table_of_one_seed_has_no_noise(tmp_path: Path) -> None:
    write_table(planted_table(seeds=(0,)), tmp_path / "one.npz")
    one = Truth.of(Task(str(tmp_path / "one.npz")))
    assert one.tolerance == 0
    assert len(one.optima) == 1


def test_targets_are_shares_of_the_students(truth: Truth) -> None:
    n = len(truth.reward)
    assert (truth.reward >= truth.threshold(0.1)).sum() == np.ceil(0.1 * n)
    assert truth.threshold(TARGETS["top_0.1_percent"]) == truth.best
    assert truth.threshold(0.0) == truth.best - truth.tolerance


def test_the_median_of_random_search_is_exact(tmp_path: Path) -> None:
    write_table(planted_table({"num_hidden_layers": [3, 6, 12], "hidden_size": [384, 768]}), tmp_path / "six.npz")
    truth = Truth.of(Task(str(tmp_path / "six.npz")))
    best = sorted(max(drawn) for drawn in itertools.combinations(truth.reward.tolist(), 3))
    assert truth.random_median(3) == best[(len(best) - 1) // 2]
    assert truth.random_median(100) == truth.best


def test_the_front_is_exact(truth: Truth) -> None:
    costs = truth.costs[np.isfinite(truth.costs).all(axis=1)]
    beaten = [((costs <= one).all(axis=1) & (costs < one).any(axis=1)).any() for one in costs]
    front = truth.costs_of(truth.front)
    assert {tuple(one) for one in front} == {tuple(one) for one in costs[~np.array(beaten)]}
    assert truth.volume == pytest.approx(hypervolume(costs, truth.reference))
    assert truth.volume > 0


def test_budgets_are_worth_evaluations(truth: Truth) -> None:
    epochs = truth.epochs
    assert truth.affordable(Budget(7)) == 7
    assert truth.affordable(Budget(7 * epochs, "epochs")) == 7
    assert truth.affordable(Budget(7.5 * float(truth.seconds.mean()), "seconds")) == 7
    assert truth.evaluation_limit(Budget(7 * epochs - 1, "epochs")) == 7
    # The maximum: all evaluations are as quick as the quickest, plus the failures, which take no time.
    quickest = float(truth.seconds[truth.seconds > 0].min())
    failures = int((truth.seconds == 0).sum())
    assert truth.evaluation_limit(Budget(7.5 * quickest, "seconds")) == 8 + failures


def test_the_truth_does_not_depend_on_what_searches_see(task: Task, truth: Truth) -> None:
    other = Truth.of(replace(task, seed=0, epochs=1, duplicates="free"))
    np.testing.assert_array_equal(other.reward, truth.reward)
    assert (other.seconds[truth.seconds > 0] < truth.seconds[truth.seconds > 0]).all()


LIMITS = Constraints(speedup=4, keep=0.5, parameters=40_000_000)


def test_under_limits_only_students_that_keep_them_count(task: Task, truth: Truth) -> None:
    limited = Truth.of(replace(task, limits=LIMITS))
    table = load_table(task.table)
    ratio = table.latencies[:, 0, LATENCIES.index("ratio")].astype(np.float64)
    loss = truth.costs_of(table.index)[:, 0]
    ended = np.isfinite(loss)
    kept = (ratio <= 1 / 4) & (table.parameters <= 40_000_000) & ~(ended & (loss > 0.5))
    assert 3 < (kept & ended).sum() < 0.5 * len(kept)
    np.testing.assert_array_equal(limited.index, np.sort(table.index[kept]))
    assert limited.infeasible == len(truth.index) - len(limited.index)
    np.testing.assert_array_equal(limited.reward, truth.rewards_of(limited.index))
    assert limited.best < truth.best
    assert set(limited.front) <= set(limited.index)
    broken = table.index[~kept]
    assert (limited.rewards_of(broken) == limited.floor).all()
    assert np.isnan(limited.costs_of(broken)).all()


@pytest.mark.parametrize("handling", ["reward", "cost"])
def test_the_environment_of_a_task_has_its_limits(task: Task, handling: str) -> None:
    """An exhaustive search finds the optimum of the truth."""
    wanted = replace(task, seed="mean", limits=LIMITS, constraints=handling)
    truth, env = Truth.of(wanted), wanted.make_env(Budget(10_000))
    found = make_agent("exhaustive").search(env)
    assert found.best is not None
    assert found.best.reward == pytest.approx(truth.best, rel=1e-12)
    usable = [info["cost"] == 0 for info in found.infos if info["status"] == "ok"]
    assert sum(usable) == np.isfinite(truth.costs).all(axis=1).sum()


def test_limits_that_nobody_keeps_are_refused_with_the_figures(task: Task, truth: Truth) -> None:
    students = np.isfinite(truth.costs).all(axis=1).sum()
    fastest = 1 / np.nanmin(truth.costs[:, 1])
    with pytest.raises(KDNASError) as caught:
        Truth.of(replace(task, limits=Constraints(speedup=1000, parameters=10**9)))
    assert f"speedup 1000 is kept by 0 of {students}, the highest is {fastest:.4g}" in str(caught.value)
    assert f"parameters 1e+09 is kept by {students} of {students}" in str(caught.value)


def test_the_truth_of_a_limited_surrogate_is_what_evaluations_find(surrogate_file: Path) -> None:
    task = Task(str(surrogate_file), seed="mean", limits=Constraints(speedup=2.5, latency_ms=50, size_mb=200))
    truth, evaluator = Truth.of(task), SurrogateEvaluator.of(surrogate_file)
    space = evaluator.space
    students = evaluator.evaluate(
        [space.decode(space.from_index(index)) for index in space.valid_indices.tolist()], Fidelity(epochs=3)
    )
    kept = [not task.limits.breaks(student) for student in students]
    assert 0 < sum(kept) < len(kept)
    np.testing.assert_array_equal(truth.index, space.valid_indices[kept])
    assert truth.infeasible == len(kept) - sum(kept)


def test_the_truth_of_a_surrogate_is_of_all_its_students(surrogate_file: Path) -> None:
    task = Task(str(surrogate_file), seed="mean", alpha=-0.1)
    truth, evaluator = Truth.of(task), SurrogateEvaluator.of(surrogate_file)
    space = evaluator.space
    np.testing.assert_array_equal(truth.index, space.valid_indices)
    configs = [space.decode(space.from_index(index)) for index in truth.index.tolist()]
    found = [task.reward(one) for one in evaluator.evaluate(configs, Fidelity(epochs=3))]
    np.testing.assert_allclose(truth.reward, [one.reward for one in found], rtol=1e-12)
    np.testing.assert_allclose(truth.costs, [(one.loss, one.latency_ratio) for one in found], rtol=1e-12)
    assert truth.best == pytest.approx(max(one.reward for one in found), rel=1e-12)
    assert truth.random_median(20) < truth.best
    # The tolerance is the standard deviation of a student's reward between seeds.
    sampled = [
        [task.reward(one).reward for one in replace(evaluator, seed=seed).evaluate(configs, Fidelity(epochs=3))]
        for seed in range(4)
    ]
    assert truth.tolerance == pytest.approx(np.sqrt(np.var(sampled, axis=0, ddof=1).mean()), rel=0.2)


def test_settings_that_a_surrogate_lacks_are_refused(surrogate_file: Path) -> None:
    task = Task(str(surrogate_file))
    for wrong in (replace(task, device="tpu"), replace(task, seed=-1), replace(task, epochs=9)):
        with pytest.raises(TableError):
            Truth.of(wrong)
