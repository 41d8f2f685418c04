"""Submissions: the searches of an agent in one file, which others compare with theirs without running them again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.bench.race import RACE, read_race
from kdnas_env.bench.run import Recorder
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import COLUMNS, Trajectory, read_trajectories, write_trajectories
from kdnas_env.bench.truth import Task, Truth
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.files import read_json
from kdnas_env.tables.storage import checksum, table_path

KIND = "kdnas submission"

_ANSWERED = ("observed", "true", "status", "epochs")
"""Columns that follow from the student and the seed, in whatever order the searches' workers ended."""

_FOLLOWING = tuple(name for name in COLUMNS if name not in ("index", "agent_seconds"))
"""Columns that follow from the proposals of a search with one worker."""


@dataclass(frozen=True)
class Verdict:
    """What a check of a submission found.

    Attributes:
        agent: The agent.
        tasks: The tasks.
        seeds: Seeds of each task.
        evaluations: Evaluations that were replayed.
        faults: What is wrong, in words; none if the submission holds.
    """

    agent: str
    tasks: tuple[str, ...]
    seeds: int
    evaluations: int
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything replays."""
        return not self.faults


def submit(
    race: str | os.PathLike[str], agent: str, path: str | os.PathLike[str], *, description: str = ""
) -> list[Trajectory]:
    """Write the searches of an agent in a race as a submission.

    Args:
        race: Folder of the race.
        agent: The agent, as the race has it.
        path: The file to write (parquet).
        description: What the agent is, and where its code is to be found, in words.

    Returns:
        The trajectories that were written.

    Raises:
        KDNASError: If the agent is not in the race.
        RunError: If the race cannot be read, or the file not be written.
    """
    folder = Path(race).expanduser()
    if not (folder / RACE).is_file():
        raise RunError(f"{str(folder)!r} is not the folder of a race: it holds no {RACE}")
    trajectories = read_race(folder)
    wanted = str(AgentSpec.parse(agent))
    chosen = [one for one in trajectories if one.agent == wanted]
    if not chosen:
        known = sorted({one.agent for one in trajectories})
        raise KDNASError(f"agent {wanted!r} is not in the race {str(folder)!r}; choose one of {known}")
    record = read_json(folder / RACE)
    metadata = {
        "kind": KIND,
        "agent": wanted,
        "description": description,
        "tables": record["tables"],
        "versions": record["versions"],
    }
    write_trajectories(path, chosen, metadata)
    return chosen


def read_submission(path: str | os.PathLike[str]) -> tuple[list[Trajectory], dict[str, Any]]:
    """Read a submission, without checking that it is true.

    Raises:
        RunError: If the file cannot be read, or is no submission.
    """
    trajectories, metadata = read_trajectories(path)
    agents = sorted({one.agent for one in trajectories})
    if metadata.get("kind") != KIND or agents != [metadata.get("agent")]:
        raise RunError(f"{os.fspath(path)!r} is no submission of one agent; write one with kdnas bench submit")
    return trajectories, metadata


def verify(path: str | os.PathLike[str]) -> Verdict:
    """Replay every search of a submission against the tables that are installed here.

    Nothing of the agent is run: its proposals are given to the environment again, and all that follows from them is
    compared. What cannot be told is whether the proposals are the agent's own.

    Raises:
        RunError: If the file cannot be read, or is no submission.
    """
    trajectories, metadata = read_submission(path)
    tasks = tuple(dict.fromkeys(one.task for one in trajectories))
    faults = [*_table_faults(metadata, tasks), *_seed_faults(trajectories)]
    if not any(fault.startswith("table") for fault in faults):
        truths = {task: Truth.of(Task.parse(task)) for task in tasks}
        for one in trajectories:
            fault = _replay(one, truths[one.task])
            if fault:
                faults.append(f"{one.task}, seed {one.seed}: {fault}")
    return Verdict(
        agent=str(metadata["agent"]),
        tasks=tasks,
        seeds=min(len({one.seed for one in trajectories if one.task == task}) for task in tasks),
        evaluations=sum(len(one) for one in trajectories),
        faults=tuple(faults),
    )


def _table_faults(metadata: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    faults = []
    for table in dict.fromkeys(Task.parse(task).table for task in tasks):
        try:
            here = checksum(table_path(table))
        except KDNASError as error:
            faults.append(f"table {table!r} is not to be had here: {error}")
            continue
        if metadata.get("tables", {}).get(table) != here:
            faults.append(f"table {table!r} is another here than the one that was searched: the checksums differ")
    return faults


def _seed_faults(trajectories: Sequence[Trajectory]) -> list[str]:
    """Seeds that are left out may have been left out because of what they said."""
    seeds: dict[str, list[int]] = {}
    for one in trajectories:
        seeds.setdefault(one.task, []).append(one.seed)
    return [
        f"{task}: the seeds are {sorted(found)}, not 0 to {len(found) - 1}"
        for task, found in seeds.items()
        if sorted(found) != list(range(len(found)))
    ]


def _replay(one: Trajectory, truth: Truth) -> str:
    """Return the first thing in a trajectory that does not follow from its proposals, or an empty text."""
    budget = Budget(one.budget if one.unit == "seconds" else int(one.budget), one.unit)
    space = truth.table.space
    if np.any((one.index < 0) | (one.index >= space.size)):
        return f"a proposal is outside the space's {space.size} points"
    # Several workers end in another order than they began, so that the environment's own count is not theirs.
    alone = one.workers == 1
    env = truth.task.make_env(budget if alone else Budget(max(1, len(one)), "evaluations"))
    recorder = Recorder(env, truth, one.seed, budget)
    recorder.reset()
    for place, index in enumerate(one.index.tolist()):
        _, _, terminated, truncated, _ = recorder.step(space.from_index(index))
        if (terminated or truncated) and place + 1 < len(one):
            return f"it goes on after evaluation {place + 1}, which spent the budget"
    found = recorder.trajectory(AgentSpec.parse(one.agent), workers=one.workers)
    for name in _FOLLOWING if alone else _ANSWERED:
        told, follows = getattr(one, name), getattr(found, name)
        same = np.isclose(told, follows, rtol=1e-9, atol=1e-12, equal_nan=True)
        if not same.all():
            place = int(np.argmin(same))
            return f"{name} of evaluation {place + 1} is {told[place]}, but {follows[place]} follows"
    return "" if alone else _clock_fault(one, truth, budget)


def _clock_fault(one: Trajectory, truth: Truth, budget: Budget) -> str:
    """Check what several workers can have done."""
    if np.any(np.diff(one.finish) < 0) or np.any(one.start > one.finish):
        return "evaluations do not end in the order that they are told in"
    order = np.argsort(np.concatenate([one.finish, one.start]), kind="stable")
    running = np.cumsum(np.repeat([-1, 1], len(one))[order])
    if len(running) and running.max() > one.workers:
        return f"{running.max()} evaluations run at a time, with {one.workers} workers"
    if len(one) and budget.unit != "seconds" and one.cost[-1] > budget.amount:
        return f"{one.cost[-1]:g} {budget.unit} were spent of {budget.amount:g}"
    return ""
