"""Summaries of searches whose results are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kdnas_env.bench.curves import Runs, regrets_of
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.core.constraints import Constraints
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.tables.table import STATUSES

BUDGET = 6


def scripted(
    truth: Truth, agent: str, ranks: Sequence[int], seed: int = 0, *, bonus: float = 0.0, **changes: Any
) -> Trajectory:
    """Return a search that evaluates the students of the given ranks (0 is the best), one per second."""
    order = truth.index[np.argsort(-truth.reward, kind="stable")]
    rows = [
        {
            "index": order[rank],
            "observed": truth.rewards_of(order[rank]) + bonus,
            "true": truth.rewards_of(order[rank]),
            "status": STATUSES.index("ok"),
            "duplicate": rank in ranks[:place],
            "counted": True,
            "epochs": 3,
            "cost": place + 1,
            "start": place,
            "finish": place + 1,
            "agent_seconds": 0.002,
        }
        for place, rank in enumerate(ranks)
    ]
    run = {"agent": agent, "task": str(truth.task), "seed": seed, "budget": BUDGET, "unit": "evaluations", "workers": 1}
    return Trajectory.of_rows(rows, **{**run, **changes})


def told(truth: Truth, trajectories: Sequence[Trajectory], **options: Any) -> dict[str, Any]:
    return summarise(Runs.of(trajectories, [truth]), **{"repetitions": 100, **options})


def median_rank(truth: Truth) -> int:
    return int((truth.reward > truth.random_median(BUDGET)).sum())


def test_the_optimum_is_0_and_the_median_of_random_search_is_1(truth: Truth) -> None:
    middle = median_rank(truth)
    runs = [scripted(truth, "best", [50, 40, 0, 60, 60, 70]), scripted(truth, "middle", [60, middle, 61, 62, 63, 64])]
    view = told(truth, runs)["views"][0]
    assert view["agents"]["best"]["final"] == {"value": 0, "low": 0, "high": 0}
    assert view["agents"]["middle"]["final"]["value"] == pytest.approx(1)
    curve = view["agents"]["best"]["curve"]["value"]
    assert curve[0] > curve[1] > curve[2] == curve[5] == 0
    assert view["agents"]["best"]["area"]["value"] == pytest.approx(np.mean(curve))
    assert view["random"][-1] == pytest.approx(1)
    assert np.all(np.diff(view["random"]) <= 0)


def test_the_incumbent_is_chosen_by_what_was_seen_and_judged_by_what_is_true(truth: Truth) -> None:
    lucky = scripted(truth, "lucky", [20, 0])
    lucky = replace(lucky, observed=lucky.observed + np.array([5.0, 0.0]))
    agent = told(truth, [lucky])["views"][0]["agents"]["lucky"]
    ranked = np.sort(truth.reward)[::-1]
    scale = truth.best - truth.random_median(BUDGET)
    assert agent["final"]["value"] == pytest.approx((truth.best - ranked[20]) / scale)
    assert agent["gap"] == pytest.approx(5.0)
    assert agent["targets"]["optimum"]["reached"] == 0


def test_failures_are_never_best(truth: Truth) -> None:
    failed = scripted(truth, "failed", [0, 30])
    failed = replace(failed, status=np.array([STATUSES.index("failed"), STATUSES.index("ok")], dtype=np.uint8))
    agent = told(truth, [failed, scripted(truth, "other", [30, 30])])["views"][0]["agents"]
    assert agent["failed"]["final"]["value"] == agent["other"]["final"]["value"]
    assert (agent["failed"]["failed"], agent["other"]["duplicates"]) == (1, 1)


def test_what_breaks_a_limit_is_never_best(task: Task) -> None:
    """Nor is a student that keeps it only because of noise: its score is that of the worst student that keeps it."""
    truth = Truth.of(replace(task, limits=Constraints(speedup=4)))
    everyone = Truth.of(task)
    broken = [index for index in everyone.index[np.argsort(-everyone.reward)].tolist() if index not in truth.index]
    values = {"index": broken[0], "true": float(truth.rewards_of(broken[0])), "observed": 0.9}
    tempting: dict[str, Any] = {name: np.full(2, value) for name, value in values.items()}
    infeasible = STATUSES.index("infeasible")
    searches = [
        scripted(truth, "careful", [3, 0]),
        replace(scripted(truth, "lucky", [3, 0]), **tempting),
        replace(scripted(truth, "limited", [3, 0]), status=np.array([infeasible] * 2, dtype=np.uint8)),
    ]
    worst = regrets_of(truth.reward.min(), truth, Budget(BUDGET))
    summary = told(truth, searches)
    found = {name: agent["final"]["value"] for name, agent in summary["views"][0]["agents"].items()}
    assert found == pytest.approx({"careful": 0.0, "lucky": worst, "limited": worst})
    assert summary["views"][0]["agents"]["limited"]["infeasible"] == 2
    assert summary["tasks"][0]["infeasible"] == len(broken)


def test_a_search_that_found_nothing_has_the_worst_score(truth: Truth) -> None:
    empty = scripted(truth, "empty", [], error="RuntimeError: no")
    agent = told(truth, [empty, scripted(truth, "other", [0])])["views"][0]["agents"]["empty"]
    worst = (truth.best - truth.reward.min()) / (truth.best - truth.random_median(BUDGET))
    assert agent["final"]["value"] == pytest.approx(worst)
    assert (agent["failures"], agent["errors"], agent["gap"]) == (1, ["RuntimeError: no"], None)
    assert agent["targets"]["top_1_percent"]["censored"] == 1
    assert agent["hypervolume"]["value"] == 0


def test_a_search_that_ends_early_keeps_what_it_had(truth: Truth) -> None:
    agents = told(truth, [scripted(truth, "short", [9, 3]), scripted(truth, "long", [9, 3, 9, 9, 9, 9])])["views"][0]
    assert agents["agents"]["short"]["curve"]["value"] == agents["agents"]["long"]["curve"]["value"]


def test_targets_tell_when_and_how_often(truth: Truth) -> None:
    runs = [
        scripted(truth, "a", [40, 41, 0], 0),
        scripted(truth, "a", [40, 41, 42, 43, 0], 1),
        scripted(truth, "a", [40, 41, 42, 43, 44, 45], 2),
    ]
    target = told(truth, runs)["views"][0]["agents"]["a"]["targets"]["optimum"]
    assert target["ecdf"] == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert (target["median"], target["censored"]) == (5, 1)
    assert target["reached"] == pytest.approx(2 / 3)
    runs[1] = scripted(truth, "a", [40], 1)
    assert told(truth, runs)["views"][0]["agents"]["a"]["targets"]["optimum"]["median"] is None


def test_what_noise_leads_away_from_was_found(truth: Truth) -> None:
    """A student counts as found if it was evaluated at any time, even if it is not the final incumbent."""
    search = scripted(truth, "led-away", [60, 0, 61, 62, 63, 64])
    observed = search.observed.copy()
    observed[3] = observed.max() + 0.1
    agent = told(truth, [replace(search, observed=observed)])["views"][0]["agents"]["led-away"]
    assert agent["final"]["value"] > 0.1
    assert agent["targets"]["optimum"]["reached"] == 1
    assert agent["targets"]["optimum"]["median"] == 2
    assert agent["targets"]["optimum"]["ecdf"][-1] == 1


def test_agents_are_compared_seed_by_seed(truth: Truth) -> None:
    runs = [
        scripted(truth, agent, [rank + seed], seed)
        for seed in range(8)
        for agent, rank in (("good", 0), ("bad", 30), ("random", 60))
    ]
    summary = told(truth, runs)
    view = summary["views"][0]
    assert summary["reference"] == "random"
    assert view["improvement"]["good"]["bad"]["value"] == 1
    assert view["improvement"]["bad"]["good"] == {"value": 0, "low": 0, "high": 0}
    assert [view["agents"][agent]["mean_rank"] for agent in ("good", "bad", "random")] == [1, 2, 3]
    assert view["agents"]["random"]["test"] is None
    assert view["agents"]["good"]["test"]["effect"] == 1
    assert view["agents"]["good"]["test"]["corrected"] < 0.05
    assert told(truth, runs, reference="good")["views"][0]["agents"]["bad"]["test"]["effect"] == -1
    final = view["agents"]["good"]["final"]
    assert final["low"] <= final["value"] <= final["high"]
    assert final["low"] < final["high"]


def test_the_whole_front_has_the_whole_hypervolume(truth: Truth) -> None:
    order = truth.index[np.argsort(-truth.reward, kind="stable")].tolist()
    ranks = [order.index(index) for index in truth.front.tolist()]
    changes = {"budget": len(ranks) + 1}
    runs = [scripted(truth, "all", ranks, **changes), scripted(truth, "half", ranks[::2], **changes)]
    agents = told(truth, runs)["views"][0]["agents"]
    assert agents["all"]["hypervolume"]["value"] == pytest.approx(1)
    assert 0 < agents["half"]["hypervolume"]["value"] < 1
    assert np.all(np.diff(agents["all"]["hypervolume"]["curve"]) >= 0)


def test_only_seeds_that_all_agents_have_are_compared(truth: Truth) -> None:
    runs = [scripted(truth, "a", [1], 0), scripted(truth, "a", [0], 1), scripted(truth, "b", [2], 0)]
    summary = told(truth, runs)
    assert summary["seeds"] == 1
    assert summary["views"][0]["agents"]["a"]["final"]["value"] > 0
    with pytest.raises(KDNASError, match="no seed"):
        told(truth, [scripted(truth, "a", [1], 0), scripted(truth, "b", [1], 1)])
    with pytest.raises(KDNASError, match="compare equal"):
        told(truth, [scripted(truth, "a", [1], 0), scripted(truth, "b", [1], 0, budget=9)])
    with pytest.raises(KDNASError, match="reference"):
        told(truth, runs, reference="c")


def test_a_budget_that_random_search_needs_not_is_refused(truth: Truth) -> None:
    everything = len(truth.index)
    with pytest.raises(KDNASError, match="Lower the budget"):
        told(truth, [scripted(truth, "a", [0], budget=everything)])


def test_several_tasks_are_seen_together_and_alone(task: Task, truth: Truth) -> None:
    truths = [truth, *(Truth.of(replace(task, alpha=alpha)) for alpha in (-0.1, -0.2, -0.3, -0.4))]
    runs = [
        scripted(one, agent, [rank], seed)
        for one in truths
        for seed in range(2)
        for agent, rank in (("a", 0), ("b", 40))
    ]
    summary = summarise(Runs.of(runs, truths), repetitions=50)
    assert [view["tasks"] for view in summary["views"]] == [5, 1, 1, 1, 1, 1]
    assert [view["name"] for view in summary["views"]] == ["all", *(str(one.task) for one in truths)]
    assert summary["views"][0]["critical_difference"] > 0
    assert summary["views"][1]["critical_difference"] is None
    assert [view["friedman"] for view in summary["views"]] == [None] * 6  # with only two agents
    few = summarise(Runs.of(runs[:16], truths[:4]), repetitions=50)
    assert few["views"][0]["critical_difference"] is None


@pytest.mark.parametrize(("spread", "found"), [(40, True), (0, False)])
def test_friedman_tells_of_five_tasks_whether_agents_differ(task: Task, truth: Truth, spread: int, found: bool) -> None:
    truths = [truth, *(Truth.of(replace(task, alpha=alpha)) for alpha in (-0.1, -0.2, -0.3, -0.4))]
    runs = [
        scripted(one, agent, [place * spread], seed)
        for one in truths
        for seed in range(2)
        for place, agent in enumerate(("a", "b", "c"))
    ]
    summary = summarise(Runs.of(runs, truths), repetitions=20)
    together, *single = summary["views"]
    assert together["critical_difference"] > 0
    assert [view["friedman"] for view in single] == [None] * 5
    test = together["friedman"]
    if found:
        assert (test["chi_squared"], test["f"]) == (pytest.approx(10), None)  # all tasks agree: F is infinite
        assert test["p"] < 1e-6
    else:
        assert test == {"chi_squared": 0.0, "f": 0.0, "p": 1.0}
    json.dumps(summary, allow_nan=False)


def test_a_profile_has_a_band(truth: Truth) -> None:
    runs = [scripted(truth, "a", [rank], seed) for seed, rank in enumerate((0, 5, 20, 40))]
    summary = told(truth, runs)
    value, low, high = (
        np.array(summary["views"][0]["agents"]["a"]["profile"][name]) for name in ("value", "low", "high")
    )
    assert value[0] == 0.25
    assert (low <= value).all()
    assert (value <= high).all()
    assert (low < high).any()
    assert (np.diff(value) >= 0).all()


def test_the_time_of_the_agents_is_told_of_what_was_run_here(truth: Truth) -> None:
    mine = [scripted(truth, "mine", [rank], rank, agent_total=2.0, wall_seconds=5.0) for rank in (0, 1)]
    theirs = [scripted(truth, "theirs", [rank], rank, agent_total=9.0, wall_seconds=9.0) for rank in (0, 1)]
    submitted = {"theirs": {"description": "by somebody"}}
    summary = told(truth, [*mine, *theirs], submitted=submitted)
    assert summary["timing"] == {"agent_seconds": 4.0, "wall_seconds": 10.0, "share": 0.4}
    assert summary["submitted"] == submitted
    agents = summary["views"][0]["agents"]
    assert (agents["theirs"]["agent_seconds"], agents["theirs"]["wall_seconds"]) == (18.0, 18.0)
    earlier = [replace(one, agent_total=0.0, wall_seconds=0.0) for one in mine]
    assert told(truth, earlier)["timing"]["share"] is None


@pytest.mark.parametrize("unit", ["evaluations", "epochs", "seconds"])
def test_a_real_race_is_told_as_plain_data(task: Task, truth: Truth, tmp_path: Any, unit: str) -> None:
    amount = {"evaluations": 15, "epochs": 45, "seconds": 15 * float(truth.seconds.mean())}[unit]
    agents = (AgentSpec("random"), AgentSpec("local-search"))
    trajectories = race(Race(agents, (task,), 4, Budget(amount, unit)), tmp_path)
    summary = told(truth, trajectories)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert told(truth, trajectories) == summary
    points = len(summary["spent"])
    view = summary["views"][0]
    assert len(view["random"]) == points
    assert view["random"][-1] == pytest.approx(1)
    for agent in view["agents"].values():
        assert {len(agent["curve"][name]) for name in ("value", "low", "high")} == {points}
        assert {len(agent["profile"][name]) for name in ("value", "low", "high")} == {len(summary["thresholds"])}
        assert 0 < agent["agent_seconds"] <= agent["wall_seconds"]
        assert len(agent["seconds_curve"]) == len(view["seconds"])
        assert agent["curve"]["value"][-1] == pytest.approx(agent["final"]["value"])
        assert 0 < agent["hypervolume"]["value"] <= 1
        assert agent["simulated_seconds"] > 0
