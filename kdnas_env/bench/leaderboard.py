"""Submissions: an agent's searches in one file, which others can compare with theirs without repeating them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.race import RACE, Race, read_race
from kdnas_env.bench.recorded_search import Recorder
from kdnas_env.bench.replay import recorded_budget, replay_env, replay_order
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import COLUMNS, Trajectory, read_trajectories, write_trajectories
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.atomic import expanded, read_json
from kdnas_env.support.progress import SILENT, OnProgress
from kdnas_env.tables.storage import checksum, table_path

Column = npt.NDArray[Any]

KIND = "kdnas submission"

_CLOCK = ("cost", "start", "finish")
"""Columns that follow from the proposals only if a single worker evaluated them."""

_FOLLOWING = tuple(name for name in COLUMNS if name not in ("index", "agent_seconds", *_CLOCK))
"""Columns that follow from the proposals, in the order in which their evaluations began."""


@dataclass(frozen=True)
class Verdict:
    """Result of checking a submission.

    Attributes:
        agent: The agent.
        tasks: The tasks.
        seeds: Seeds of each task.
        evaluations: Evaluations that were replayed.
        faults: Faults as text; empty if the submission is correct.
    """

    agent: str
    tasks: tuple[str, ...]
    seeds: int
    evaluations: int
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the submission is correct."""
        return not self.faults


def submit(
    race: str | os.PathLike[str], agent: str, path: str | os.PathLike[str], *, description: str = ""
) -> list[Trajectory]:
    """Write the searches of an agent in a race as a submission.

    Args:
        race: Folder of the race.
        agent: The agent, as named in the race.
        path: The file to write (Parquet).
        description: Description of the agent, and where to find its code.

    Returns:
        The trajectories that were written.

    Raises:
        KDNASError: If the agent is not in the race.
        RunError: If the race cannot be read, or the file cannot be written.
    """
    folder = expanded(race)
    if not os.path.isfile(folder / RACE):
        raise RunError(f"{str(folder)!r} is not the folder of a race: it has no {RACE}; name the folder of a race")
    trajectories = read_race(folder)
    wanted = str(AgentSpec.parse(agent))
    chosen = [search for search in trajectories if search.agent == wanted]
    if not chosen:
        known = sorted({search.agent for search in trajectories})
        raise KDNASError(f"agent {wanted!r} is not in the race {str(folder)!r}; choose one of {known}")
    record = read_json(folder / RACE)
    copied = {name: record.get(name) for name in ("tables", "versions", "decision_time")}
    metadata = {"kind": KIND, "agent": wanted, "description": description, **copied}
    write_trajectories(path, chosen, metadata)
    return chosen


def read_submission(path: str | os.PathLike[str]) -> tuple[list[Trajectory], dict[str, Any]]:
    """Read a submission, without verifying it.

    Raises:
        RunError: If the file cannot be read, or is not a submission.
    """
    trajectories, metadata = read_trajectories(path)
    agents = sorted({search.agent for search in trajectories})
    described = all(isinstance(metadata.get(name), dict) for name in ("tables", "versions"))
    if metadata.get("kind") != KIND or agents != [metadata.get("agent")] or not described:
        raise RunError(f"{os.fspath(path)!r} is not a submission of one agent; write one with kdnas bench submit")
    # Texts of others may be printed on a terminal, so control characters are refused.
    if not all(text.isprintable() for search in trajectories for text in (search.agent, search.task, search.error)):
        raise RunError(f"{os.fspath(path)!r} holds characters that cannot be printed; it was not written by kdnas")
    return trajectories, metadata


def verify(path: str | os.PathLike[str], on_progress: OnProgress = SILENT.advance) -> Verdict:
    """Replay all searches of a submission on the tables installed here.

    The agent is not run: the environment gets its recorded proposals, and everything that follows from them is
    compared. Whether the proposals really come from the agent cannot be verified.

    Args:
        path: The file.
        on_progress: Called with the number of replayed searches and the total.

    Raises:
        RunError: If the file cannot be read, or is not a submission.
    """
    trajectories, metadata = read_submission(path)
    tasks = tuple(dict.fromkeys(search.task for search in trajectories))
    faults = [*_table_faults(metadata, tasks), *_seed_faults(trajectories)]
    if not any(fault.startswith("table") for fault in faults):
        faults += _replay_faults(trajectories, {task: Truth.of(Task.parse(task)) for task in tasks}, on_progress)
    return Verdict(
        agent=str(metadata["agent"]),
        tasks=tasks,
        seeds=min(len({search.seed for search in trajectories if search.task == task}) for task in tasks),
        evaluations=sum(len(search) for search in trajectories),
        faults=tuple(faults),
    )


def join(
    paths: Sequence[str | os.PathLike[str]],
    wanted: Race,
    truths: Sequence[Truth],
    on_progress: OnProgress = SILENT.advance,
) -> tuple[list[Trajectory], dict[str, dict[str, Any]]]:
    """Return the searches of submissions that are comparable to a race, after replaying them.

    Tables are identified by checksum, wherever their files are. Tasks and seeds that are not in the race are left out.

    Args:
        paths: The submissions.
        wanted: The race.
        truths: Truths of its tasks.
        on_progress: Called with the number of replayed searches of a submission and its total.

    Returns:
        The trajectories, with the race's names of the tasks and with agents marked as submitted; and, by name of the
        agent, ``agent``, ``file``, ``description`` and ``versions`` of the submission.

    Raises:
        RunError: If a file cannot be read, or is not a submission.
        KDNASError: If a submission has another budget or number of workers, no searches on a table of the race, or
            fewer seeds; or if its replay fails.
    """
    joined: list[Trajectory] = []
    submitted: dict[str, dict[str, Any]] = {}
    for path in paths:
        trajectories, metadata = _checked_submission(path, wanted, truths, on_progress)
        agent = str(metadata["agent"])
        name, number = f"{agent} (submitted)", 1
        while name in submitted:
            number += 1
            name = f"{agent} (submitted, {number})"
        submitted[name] = {
            "agent": agent,
            "file": os.fspath(path),
            **{key: metadata.get(key) for key in ("description", "versions")},
        }
        joined += [replace(search, agent=name) for search in trajectories]
    return joined, submitted


def _checked_submission(
    path: str | os.PathLike[str], wanted: Race, truths: Sequence[Truth], on_progress: OnProgress
) -> tuple[list[Trajectory], dict[str, Any]]:
    trajectories, metadata = read_submission(path)
    _check_effort(path, trajectories, metadata, wanted)
    faults = _seed_faults(trajectories)
    joined: list[Trajectory] = []
    for truth in truths:
        name = _same_task(path, truth.task, trajectories, metadata)
        mine = [replace(search, task=str(truth.task)) for search in trajectories if search.task == name]
        if len(mine) < wanted.seeds:
            raise KDNASError(
                f"submission {os.fspath(path)!r} has {len(mine)} seeds of {name}, the race {wanted.seeds}; race with "
                f"{len(mine)} or fewer"
            )
        joined += [search for search in mine if search.seed < wanted.seeds]
    faults = faults or _replay_faults(joined, {str(truth.task): truth for truth in truths}, on_progress)
    if faults:
        raise KDNASError(
            f"submission {os.fspath(path)!r} is not correct: {faults[0]}. List all faults with kdnas bench verify, and "
            "race without it"
        )
    return joined, metadata


def _check_effort(
    path: str | os.PathLike[str], trajectories: Sequence[Trajectory], metadata: Mapping[str, Any], wanted: Race
) -> None:
    ours = (float(wanted.budget.amount), wanted.budget.unit, wanted.simulated_workers or 1)
    others = sorted({(float(search.budget), search.unit, search.workers) for search in trajectories} - {ours})
    if others:
        amount, unit, workers = others[0]
        raise KDNASError(
            f"submission {os.fspath(path)!r} has searches of {amount:g} {unit} with {workers} worker(s), the race of "
            f"{ours[0]:g} {ours[1]} with {ours[2]}; only equal efforts compare"
        )
    decided = metadata.get("decision_time")
    if wanted.simulated_workers is not None and decided != wanted.decision_time:
        raise KDNASError(
            f"submission {os.fspath(path)!r} has decision time {decided!r}, the race {wanted.decision_time!r}; only "
            "equal clocks compare"
        )


def _same_task(
    path: str | os.PathLike[str], task: Task, trajectories: Sequence[Trajectory], metadata: Mapping[str, Any]
) -> str:
    """Return a submission's name of a task of the race."""
    here = checksum(table_path(task.table))
    names = list(dict.fromkeys(search.task for search in trajectories))
    for name in names:
        other = Task.parse(name)
        if metadata["tables"].get(other.table) == here and replace(other, table=task.table) == task:
            return name
    raise KDNASError(
        f"submission {os.fspath(path)!r} has no searches of {task} with the table of checksum {here[:12]}, but "
        f"of {names}"
    )


def _table_faults(metadata: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    faults = []
    for table in dict.fromkeys(Task.parse(task).table for task in tasks):
        try:
            here = checksum(table_path(table))
        except KDNASError as error:
            faults.append(f"table {table!r} is not available here: {error}")
            continue
        if metadata["tables"].get(table) != here:
            faults.append(f"table {table!r} here is not the one that was searched: the checksums differ")
    return faults


def _seed_faults(trajectories: Sequence[Trajectory]) -> list[str]:
    """Return faults of the seeds: missing seeds may have been left out because of their results."""
    seeds: dict[str, list[int]] = {}
    for search in trajectories:
        seeds.setdefault(search.task, []).append(search.seed)
    return [
        f"{task}: the seeds are {sorted(numbers)}, not 0 to {len(numbers) - 1}"
        for task, numbers in seeds.items()
        if sorted(numbers) != list(range(len(numbers)))
    ]


def _replay_faults(
    trajectories: Sequence[Trajectory], truths: Mapping[str, Truth], on_progress: OnProgress
) -> list[str]:
    faults = []
    for done, search in enumerate(trajectories, start=1):
        fault = _replay(search, truths[search.task])
        if fault:
            faults.append(f"{search.task}, seed {search.seed}: {fault}")
        on_progress(done, len(trajectories))
    return faults


def _replay(search: Trajectory, truth: Truth) -> str:
    """Return the first value of a trajectory that does not follow from its proposals; empty if there is none."""
    budget, space = recorded_budget(search), truth.space
    if np.any((search.index < 0) | (search.index >= space.size)):
        return f"a proposal is outside the space's {space.size} points"
    times = np.array([*search.agent_seconds.tolist(), search.agent_total, search.wall_seconds])
    if not np.all((times >= 0) & (times < np.inf)):
        return "a time of the agent is negative or not finite"
    alone = search.workers == 1
    recorder = Recorder(replay_env(search, truth.task), truth, search.seed, budget)
    recorder.reset()
    order = replay_order(search)
    for place, row in enumerate(order.tolist()):
        _, _, terminated, truncated, _ = recorder.step(space.from_index(int(search.index[row])))
        if (terminated or truncated) and place + 1 < len(search):
            return f"it continues after evaluation {place + 1}, which spent the budget"
    replayed = recorder.trajectory(AgentSpec.parse(search.agent), workers=search.workers)
    for name in (*_FOLLOWING, *_CLOCK) if alone else _FOLLOWING:
        fault = _difference(name, getattr(search, name)[order], getattr(replayed, name), order)
        if fault:
            return fault
    return "" if alone else _clock_fault(search, replayed, order, budget)


def _difference(name: str, recorded: Column, follows: Column, order: Column) -> str:
    same = np.isclose(recorded, follows, rtol=1e-9, atol=1e-9, equal_nan=True)
    if same.all():
        return ""
    place = int(np.argmin(same))
    return f"{name} of evaluation {int(order[place]) + 1} is {recorded[place]}, but {follows[place]} follows"


def _clock_fault(search: Trajectory, replayed: Trajectory, order: Column, budget: Budget) -> str:
    """Return a fault of the times of several workers, given the sequential replay; empty if there is none."""
    if np.any(np.diff(search.finish) < 0) or np.any(search.start > search.finish):
        return "evaluations do not end in the order in which the agent was told"
    fault = _difference("the duration", (search.finish - search.start)[order], replayed.finish - replayed.start, order)
    if fault:
        return fault
    events = np.argsort(np.concatenate([search.finish, search.start]), kind="stable")
    running = np.cumsum(np.repeat([-1, 1], len(search))[events])
    if len(running) and running.max() > search.workers:
        return f"{running.max()} evaluations run in parallel, with {search.workers} workers"
    if budget.unit == "seconds":
        late = np.flatnonzero(search.start >= budget.amount)
        return f"evaluation {int(late[0]) + 1} begins after the budget's end" if len(late) else ""
    spent = np.empty(len(search))
    spent[order] = np.diff(replayed.cost, prepend=0.0)
    return _difference("cost", search.cost, np.cumsum(spent), np.arange(len(search)))
