from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.bench.leaderboard import Verdict, join, read_submission, submit, verify
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import COLUMNS, Trajectory, write_trajectories
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
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
        columns: dict[str, Any] = {
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
    assert "here is not the one that was searched" in verify(path).faults[0]


def test_more_workers_at_a_time_than_there_are_is_found(table_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.parquet"
    submit(_race(table_file, tmp_path / "race", 3), "random", path)

    def at_once(one: Trajectory) -> Trajectory:
        order = np.argsort(one.finish - one.start, kind="stable")
        columns = {name: getattr(one, name)[order] for name in COLUMNS}
        return replace(one, **{**columns, "start": np.zeros(len(one)), "finish": (one.finish - one.start)[order]})

    assert "9 evaluations run in parallel, with 3 workers" in _forged(path, tmp_path, at_once).faults[0]


@pytest.mark.parametrize("workers", [None, 3])
@pytest.mark.parametrize("unit", ["epochs", "seconds"])
def test_searches_of_other_budgets_replay(table_file: Path, tmp_path: Path, unit: str, workers: int | None) -> None:
    task = Task(str(table_file))
    amount = 25 if unit == "epochs" else 5.5 * float(Truth.of(task).seconds.mean())
    agents = (AgentSpec("random"), AgentSpec("evolution"))
    race(Race(agents, (task,), 4, Budget(amount, unit), simulated_workers=workers), tmp_path / "race")
    for agent in ("random", "evolution"):
        submit(tmp_path / "race", agent, tmp_path / "submission.parquet")
        assert verify(tmp_path / "submission.parquet").faults == ()


def test_evaluations_cannot_be_made_shorter_or_begin_too_late(table_file: Path, tmp_path: Path) -> None:
    task = Task(str(table_file))
    seconds = 5.5 * float(Truth.of(task).seconds.mean())
    race(Race((AgentSpec("random"),), (task,), 2, Budget(seconds, "seconds"), simulated_workers=3), tmp_path / "race")
    submit(tmp_path / "race", "random", tmp_path / "submission.parquet")

    def quicker(one: Trajectory) -> Trajectory:
        return replace(one, start=one.start + 0.5 * (one.finish - one.start))

    def later(one: Trajectory) -> Trajectory:
        return replace(one, start=one.start + seconds, finish=one.finish + seconds)

    said = [_forged(tmp_path / "submission.parquet", tmp_path, change).faults[0] for change in (quicker, later)]
    assert "seed 0: the duration of evaluation" in said[0]
    assert "seed 0: evaluation 1 begins after the budget's end" in said[1]


@pytest.mark.parametrize("seconds", [-1.0, np.nan, np.inf])
def test_times_that_are_none_are_found(submission: Path, tmp_path: Path, seconds: float) -> None:
    forged = _forged(submission, tmp_path, lambda one: replace(one, agent_seconds=one.agent_seconds + seconds))
    assert "a time of the agent is negative or not finite" in forged.faults[0]


@pytest.fixture
def wanted(table_file: Path) -> Race:
    return Race((AgentSpec("random"),), (Task(str(table_file), alpha=-0.2),), 2, Budget(BUDGET))


@pytest.fixture(scope="module")
def alone(table_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    submit(_race(table_file, folder / "race"), "evolution", folder / "evolution.parquet", description="as it is")
    return folder / "evolution.parquet"


def _truths(wanted: Race) -> list[Truth]:
    return [Truth.of(task) for task in wanted.tasks]


def test_a_submission_joins_under_a_name_that_says_so(alone: Path, wanted: Race) -> None:
    found, told = join([alone, alone], wanted, _truths(wanted))
    assert list(told) == ["evolution (submitted)", "evolution (submitted, 2)"]
    assert told["evolution (submitted)"]["description"] == "as it is"
    assert told["evolution (submitted)"]["versions"]["kdnas"]
    task = str(wanted.tasks[0])
    assert [one.key for one in found] == [(name, task, seed) for name in told for seed in (0, 1)]
    theirs = {one.seed: one for one in read_submission(alone)[0] if one.task == task}
    assert [replace(one, agent="evolution") for one in found] == [theirs[0], theirs[1]] * 2


def test_a_table_is_known_by_its_checksum_wherever_it_lies(alone: Path, wanted: Race, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.npz"
    write_table(planted_table(noise=0.05), elsewhere)
    moved = replace(wanted, tasks=(replace(wanted.tasks[0], table=str(elsewhere)),))
    found, _ = join([alone], moved, _truths(moved))
    assert {one.task for one in found} == {str(moved.tasks[0])}
    write_table(planted_table(noise=0.04), elsewhere)
    with pytest.raises(KDNASError, match=r"has no searches of .*mine.npz:alpha=-0.2 with the table of checksum"):
        join([alone], moved, _truths(moved))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 3}, r"has 2 seeds of .*, the race 3; race with 2 or fewer"),
        ({"budget": Budget(8)}, r"has searches of 9 evaluations with 1 worker\(s\), the race of 8 evaluations with 1"),
        ({"budget": Budget(9, "epochs")}, "the race of 9 epochs with 1"),
        ({"simulated_workers": 2}, "the race of 9 evaluations with 2"),
        ({"simulated_workers": 1, "decision_time": 0.5}, "has decision time 'zero', the race 0.5"),
    ],
)
def test_what_is_of_another_race_is_refused(alone: Path, wanted: Race, change: dict[str, Any], message: str) -> None:
    other = replace(wanted, **change)
    with pytest.raises(KDNASError, match=message):
        join([alone], other, _truths(other))


def test_a_task_with_other_settings_is_another(alone: Path, wanted: Race) -> None:
    other = replace(wanted, tasks=(replace(wanted.tasks[0], alpha=-0.3),))
    with pytest.raises(KDNASError, match=r"has no searches of .*alpha=-0\.3"):
        join([alone], other, _truths(other))


def test_what_does_not_replay_does_not_join(alone: Path, wanted: Race, tmp_path: Path) -> None:
    trajectories, metadata = read_submission(alone)
    better = [replace(one, observed=one.observed + 0.01) for one in trajectories]
    write_trajectories(tmp_path / "better.parquet", better, metadata)
    with pytest.raises(KDNASError, match=r"is not correct: .*seed 0: observed of evaluation 1 is"):
        join([tmp_path / "better.parquet"], wanted, _truths(wanted))
    picked = [one for one in trajectories if one.seed]
    write_trajectories(tmp_path / "picked.parquet", [*picked, *picked], metadata)
    with pytest.raises(KDNASError, match=r"is not correct: .*the seeds are \[1, 1\]"):
        join([tmp_path / "picked.parquet"], wanted, _truths(wanted))


def test_what_would_act_on_a_terminal_is_refused(alone: Path, tmp_path: Path) -> None:
    trajectories, metadata = read_submission(alone)
    changes: list[dict[str, Any]] = [{"agent": "evolution:\x1b[2J"}, {"error": "\x1b]0;taken\x07"}]
    for change in changes:
        forged = [replace(one, **change) for one in trajectories]
        write_trajectories(tmp_path / "x.parquet", forged, {**metadata, "agent": forged[0].agent})
        with pytest.raises(RunError, match="characters that cannot be printed"):
            read_submission(tmp_path / "x.parquet")


def test_only_an_agent_of_the_race_can_be_submitted(table_file: Path, tmp_path: Path) -> None:
    folder = _race(table_file, tmp_path / "race")
    with pytest.raises(
        KDNASError, match=r"agent 'lstm' is not in the race .*; choose one of \['evolution', 'random'\]"
    ):
        submit(folder, "lstm", tmp_path / "x.parquet")
    with pytest.raises(RunError, match="is not the folder of a race"):
        submit(tmp_path, "random", tmp_path / "x.parquet")
    with pytest.raises(RunError, match="is not a submission of one agent"):
        verify(folder / "trajectories.parquet")
