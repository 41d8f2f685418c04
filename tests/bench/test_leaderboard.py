from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.bench.leaderboard import Verdict, read_submission, submit, verify
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory, write_trajectories
from kdnas_env.bench.truth import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.tables.storage import write_table

BUDGET = 9


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "planted.npz"
    write_table(planted_table(noise=0.05), path)
    return path


def _race(table: Path, folder: Path, workers: int | None = None) -> Path:
    agents = tuple(AgentSpec.parse(name) for name in ("random", "evolution"))
    tasks = (Task(str(table)), Task(str(table), alpha=-0.2))
    race(Race(agents, tasks, 2, Budget(BUDGET), simulated_workers=workers), folder)
    return folder


@pytest.fixture(scope="module", params=[None, 3], ids=["alone", "three workers"])
def submission(request: pytest.FixtureRequest, table_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("race")
    path = folder / "evolution.parquet"
    submit(_race(table_file, folder / "race", request.param), "evolution", path, description="as Real et al. have it")
    return path


def _forged(submission: Path, tmp_path: Path, change: Callable[[Trajectory], Trajectory]) -> Verdict:
    trajectories, metadata = read_submission(submission)
    forged = tmp_path / "forged.parquet"
    write_trajectories(forged, [change(trajectories[0]), *trajectories[1:]], metadata)
    return verify(forged)


def test_what_was_searched_replays(submission: Path) -> None:
    verdict = verify(submission)
    assert verdict.faults == ()
    assert verdict.holds
    assert (verdict.agent, verdict.seeds, len(verdict.tasks)) == ("evolution", 2, 2)
    assert verdict.evaluations == 2 * 2 * BUDGET
    assert read_submission(submission)[1]["description"] == "as Real et al. have it"


@pytest.mark.parametrize("column", ["observed", "true"])
def test_a_reward_that_was_made_up_is_found(submission: Path, tmp_path: Path, column: str) -> None:
    def better(one: Trajectory) -> Trajectory:
        values = getattr(one, column).copy()
        values[3] += 1e-4
        return replace(one, **{column: values})

    verdict = _forged(submission, tmp_path, better)
    assert not verdict.holds
    assert f"seed 0: {column} of evaluation 4 is" in verdict.faults[0]


def test_another_proposal_has_another_reward(submission: Path, tmp_path: Path) -> None:
    def swapped(one: Trajectory) -> Trajectory:
        index = one.index.copy()
        index[[0, 1]] = (index[0] + 1) % 24, (index[1] + 5) % 24
        return replace(one, index=index)

    assert not _forged(submission, tmp_path, swapped).holds


def test_more_than_the_budget_is_found(submission: Path, tmp_path: Path) -> None:
    def longer(one: Trajectory) -> Trajectory:
        columns = {
            name: np.concatenate([getattr(one, name)] * 2)
            for name in (
                "index", "observed", "true", "status", "duplicate", "counted", "epochs", "cost", "start", "finish",
                "agent_seconds",
            )
        }  # fmt: skip
        columns["cost"] = np.arange(1.0, 2 * BUDGET + 1)
        columns["start"] = np.concatenate([one.start, one.start + one.finish.max()])
        columns["finish"] = np.concatenate([one.finish, one.finish + one.finish.max()])
        return replace(one, **columns)

    faults = _forged(submission, tmp_path, longer).faults
    assert len(faults) == 1
    assert "which spent the budget" in faults[0] or "were spent of 9" in faults[0]


def test_seeds_cannot_be_picked(submission: Path, tmp_path: Path) -> None:
    trajectories, metadata = read_submission(submission)
    path = tmp_path / "picked.parquet"
    write_trajectories(path, [one for one in trajectories if one.seed == 1], metadata)
    assert "the seeds are [1], not 0 to 0" in verify(path).faults[0]


def test_another_table_is_found(submission: Path, tmp_path: Path) -> None:
    trajectories, metadata = read_submission(submission)
    path = tmp_path / "other.parquet"
    tables = dict.fromkeys(metadata["tables"], "0" * 64)
    write_trajectories(path, trajectories, {**metadata, "tables": tables})
    assert "is another here than the one that was searched" in verify(path).faults[0]


def test_more_workers_at_a_time_than_there_are_is_found(table_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.parquet"
    submit(_race(table_file, tmp_path / "race", 3), "random", path)

    def at_once(one: Trajectory) -> Trajectory:
        return replace(one, start=np.zeros_like(one.start))

    assert "9 evaluations run at a time, with 3 workers" in _forged(path, tmp_path, at_once).faults[0]


def test_only_an_agent_of_the_race_can_be_submitted(table_file: Path, tmp_path: Path) -> None:
    folder = _race(table_file, tmp_path / "race")
    with pytest.raises(
        KDNASError, match=r"agent 'lstm' is not in the race .*; choose one of \['evolution', 'random'\]"
    ):
        submit(folder, "lstm", tmp_path / "x.parquet")
    with pytest.raises(RunError, match="is not the folder of a race"):
        submit(tmp_path, "random", tmp_path / "x.parquet")
    with pytest.raises(RunError, match="is no submission of one agent"):
        verify(folder / "trajectories.parquet")
