"""A race has the same results with any number of worker processes, and resumes where it was stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from processes import Started
from small_tables import planted_table

from kdnas_env.bench.curves import Runs
from kdnas_env.bench.leaderboard import submit, verify
from kdnas_env.bench.race import PARTS, RACE, TRAJECTORIES, Race, race, read_race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.trajectory import read_trajectories
from kdnas_env.bench.truth import Truth
from kdnas_env.core.constraints import Constraints
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.tables.storage import checksum, write_table


@pytest.fixture
def wanted(task: Task) -> Race:
    agents = (AgentSpec("random"), AgentSpec("evolution"))
    return Race(agents, (task, replace(task, seed="mean")), 4, Budget(15))


def test_a_race_has_every_search_once(wanted: Race, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    found = race(wanted, tmp_path, on_progress=lambda *told: heard.append(told))
    assert [one.key for one in found] == wanted.keys
    assert len({one.key for one in found}) == len(found) == 2 * 2 * 4
    assert heard[0] == (0, 16)
    assert heard[-1] == (16, 16)
    assert heard == sorted(heard)
    kept, metadata = read_trajectories(tmp_path / TRAJECTORIES)
    assert {one.key: one for one in kept} == {one.key: one for one in found}
    table = wanted.tasks[0].table
    assert metadata["tables"] == {table: checksum(table)}
    assert not (tmp_path / PARTS).exists()


def test_a_race_on_a_surrogate_is_judged_and_replayed(surrogate_file: Path, tmp_path: Path) -> None:
    task = Task(str(surrogate_file))
    wanted = Race((AgentSpec("random"), AgentSpec("local-search")), (task,), 4, Budget(30))
    truth = Truth.of(task)
    found = race(wanted, tmp_path / "race")
    assert not any(one.error for one in found)
    assert {len(one) for one in found} == {30}
    for one in found:
        np.testing.assert_array_equal(one.true, truth.rewards_of(one.index))
    summary = summarise(Runs.of(found, [truth]), repetitions=50)
    (told,) = summary["tasks"]
    assert (told["students"], told["points"]) == (len(truth.index), truth.space.size)
    assert told["random_median"] < told["best"] == truth.best
    regrets = {name: one["final"]["value"] for name, one in summary["views"][0]["agents"].items()}
    assert 0 <= regrets["local-search"] < regrets["random"]
    submit(tmp_path / "race", "local-search", tmp_path / "guest.parquet")
    assert verify(tmp_path / "guest.parquet").holds


def test_a_race_under_limits_is_judged_among_students_that_keep_them_and_replayed(task: Task, tmp_path: Path) -> None:
    limits = Constraints(speedup=4, keep=0.5)
    tasks = tuple(replace(task, limits=limits, constraints=handling) for handling in ("reward", "cost"))
    wanted = Race((AgentSpec("random"), AgentSpec("local-search")), tasks, 3, Budget(8))
    found = race(wanted, tmp_path / "race")
    assert not any(one.error for one in found)
    free, charged = ([one for one in found if one.task == str(task)] for task in tasks)
    assert all(one.counted.sum() == 8 for one in free)
    assert all(one.infeasible[~one.counted].all() for one in free)
    assert any(not one.counted.all() for one in free)
    assert all(one.counted.all() and len(one) == 8 for one in charged)
    assert any(one.infeasible.any() for one in charged)
    for task in tasks:
        truth = Truth.of(task)
        kept = [one.true[one.ok] for one in found if one.task == str(task)]
        assert (np.concatenate(kept) >= truth.reward.min()).mean() > 0.9  # the others keep 0.5 only by noise
    summary = summarise(Runs.of(found, [Truth.of(task) for task in tasks]), repetitions=50)
    assert all(one["final"]["low"] >= 0 for view in summary["views"] for one in view["agents"].values())
    submit(tmp_path / "race", "local-search", tmp_path / "guest.parquet")
    assert verify(tmp_path / "guest.parquet").holds


@pytest.mark.slow
def test_processes_change_nothing(wanted: Race, tmp_path: Path) -> None:
    learner = replace(wanted, agents=(AgentSpec("random"), AgentSpec("lstm", {"epochs": 4})), tasks=wanted.tasks[:1])
    alone = race(learner, tmp_path / "one")
    assert race(learner, tmp_path / "two", workers=2) == alone


def test_what_is_there_is_not_run_again(wanted: Race, tmp_path: Path) -> None:
    first = race(replace(wanted, seeds=2), tmp_path)
    heard: list[tuple[int, int]] = []
    larger = replace(wanted, seeds=3, agents=(*wanted.agents, AgentSpec("local-search")))
    second = race(larger, tmp_path, on_progress=lambda *told: heard.append(told))
    assert heard[0] == (8, 18)
    kept = {one.key: one for one in second}
    for one in first:
        assert kept[one.key].agent_seconds.tolist() == one.agent_seconds.tolist()
    # A race with fewer seeds is a part of the larger race, and deletes nothing.
    assert race(replace(wanted, seeds=2), tmp_path) == first
    assert len(read_race(tmp_path)) == 18


@pytest.mark.parametrize("change", [{"budget": Budget(16)}, {"budget": Budget(15, "epochs")}, {"simulated_workers": 2}])
def test_a_folder_has_one_kind_of_race(wanted: Race, tmp_path: Path, change: dict[str, Any]) -> None:
    small = replace(wanted, seeds=1)
    race(small, tmp_path)
    with pytest.raises(RunError, match="name another folder"):
        race(replace(small, **change), tmp_path)


def test_a_table_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    write_table(planted_table(), path)
    small = Race((AgentSpec("random"),), (Task(str(path)),), 1, Budget(5))
    race(small, tmp_path / "race")
    write_table(planted_table(noise=0.02), path)
    with pytest.raises(RunError, match="checksum"):
        race(small, tmp_path / "race")


def test_a_simulated_race(wanted: Race, tmp_path: Path) -> None:
    found = race(replace(wanted, seeds=2, simulated_workers=3), tmp_path)
    assert {one.workers for one in found} == {3}
    assert all((one.start == 0).sum() >= 3 for one in found)


def test_a_failing_agent_does_not_stop_the_others(wanted: Race, tmp_path: Path, misbehaving: None) -> None:
    found = race(replace(wanted, seeds=2, agents=(AgentSpec("raises"), AgentSpec("random"))), tmp_path)
    assert [bool(one.error) for one in found] == [True, False] * 4
    assert race(replace(wanted, seeds=2, agents=(AgentSpec("raises"), AgentSpec("random"))), tmp_path) == found


@pytest.mark.parametrize(
    "change",
    [
        {"agents": ()},
        {"agents": (AgentSpec("random"), AgentSpec("random"))},
        {"agents": (AgentSpec("nobody"),)},
        {"agents": (AgentSpec("optuna", {"sampler": "crystal-ball"}),)},
        {"tasks": (Task("nowhere"),)},
        {"seeds": 0},
        {"simulated_workers": 0},
        {"decision_time": "soon"},
    ],
)
def test_bad_input_is_refused_before_anything_runs(wanted: Race, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(KDNASError):
        race(replace(wanted, **change), tmp_path / "race")
    assert not (tmp_path / "race").exists()


def race_with_workers(wanted: Race, folder: Path) -> None:
    race(wanted, folder, workers=2)


@pytest.mark.slow
def test_a_killed_race_goes_on_as_if_it_had_not_been(task: Task, tmp_path: Path, moments: Random) -> None:
    wanted = Race((AgentSpec("random"), AgentSpec("lstm", {"epochs": 4})), (task,), 20, Budget(16))
    folder = tmp_path / "killed"
    process = Started(race_with_workers, wanted, folder, output=tmp_path / "output.txt")
    deadline, parts = time.monotonic() + 120, moments.randint(1, 3)  # of four parts
    while len(list(folder.glob(f"{PARTS}/*.parquet"))) < parts:
        assert process.poll() is None, "the race ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # the worker processes have to notice it themselves
    process.wait()
    while _alive(process.pid):
        assert time.monotonic() < deadline, "the workers outlive the race"
        time.sleep(0.1)
    kept = len(read_race(folder))
    assert 0 < kept < 40
    assert json.loads((folder / RACE).read_text())["budget"] == 16
    heard: list[tuple[int, int]] = []
    resumed = race(wanted, folder, on_progress=lambda *told: heard.append(told))
    assert heard[0] == (kept, 40)
    assert resumed == race(wanted, tmp_path / "whole")


def _alive(session: int) -> bool:
    """Return whether any process of a session is still running."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_race_does_not_reach_out_of_its_folder(wanted: Race, tmp_path: Path) -> None:
    folder, outside = tmp_path / "race", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "thesis.parquet").write_text("precious")
    (folder / PARTS).symlink_to(outside)
    with pytest.raises(RunError, match="leads out of the folder"):
        race(wanted, folder)
    assert [path.name for path in outside.iterdir()] == ["thesis.parquet"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"tables": 3}', '{"tables": {}, "budget": []}'])
def test_a_damaged_record_of_a_race_is_told(text: str, wanted: Race, tmp_path: Path) -> None:
    (tmp_path / RACE).write_text(text)
    with pytest.raises(RunError):
        race(wanted, tmp_path)


def test_a_folder_of_something_else_is_left_alone(wanted: Race, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"mine": 1}')
    with pytest.raises(RunError, match=r"is not empty and not a race: it holds 'results.json'"):
        race(wanted, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
