"""Running all searches of a race in parallel processes; results are stored as searches end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from kdnas_env.bench.recorded_search import run_search
from kdnas_env.bench.simulator import DecisionTime, askable, checked_decision_time, simulate
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory, read_trajectories, write_trajectories
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.searching.registry import make_agent
from kdnas_env.support.atomic import check_contained, expanded, read_json, write_json, write_text
from kdnas_env.support.checks import check_whole
from kdnas_env.support.child_processes import end_with_parent, worker_context
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.packages import installed_versions
from kdnas_env.support.progress import OnProgress
from kdnas_env.tables.storage import checksum, table_path

TRAJECTORIES, RACE, PARTS = "trajectories.parquet", "race.json", "parts"

_README = """# A race of agents by `kdnas bench`

| File | Content |
|---|---|
| `race.html` | the page: standings, curves, comparisons in pairs |
| `results.json` | the same as data, with the machine |
| `standings.tex`, `curves`, `profiles`, `improvement`, `targets` (png, svg, pdf) | a table and pictures for a paper |
| `trajectories.parquet` | every search: what was proposed, what it earned, and how long it took |
| `race.json` | budget, tables and their checksums, versions |
| `parts/` | searches of a race that is not finished |

Repeat the command with `--out` and this folder to resume an interrupted race, or with more agents, tasks or seeds to
add them. `kdnas_env.race(..., out=FOLDER)` does the same in Python.
"""

BLOCK = 10
"""Number of searches per job of a process, because starting a job costs more than a search of a table."""

_PACKAGES = ("kdnas", "numpy", "gymnasium", "torch", "optuna", "stable-baselines3", "sb3-contrib", "scikit-learn")


@dataclass(frozen=True)
class Race:
    """A race: each agent searches each task with each seed.

    Attributes:
        agents: The agents, without duplicates.
        tasks: The tasks, without duplicates.
        seeds: Number of seeds for each agent and task, from 0.
        budget: Budget of each search.
        simulated_workers: Number of parallel evaluations on a simulated clock; None evaluates sequentially, in rounds
            whose size the agent chooses.
        decision_time: Decision time of a simulation; see :func:`~kdnas_env.bench.simulator.simulate`.

    Raises:
        KDNASError: If a field is malformed. Whether agents and tables exist is checked when the race begins.
    """

    agents: tuple[AgentSpec, ...]
    tasks: tuple[Task, ...]
    seeds: int
    budget: Budget
    simulated_workers: int | None = None
    decision_time: DecisionTime = "zero"

    def __post_init__(self) -> None:
        _check_different("agents", self.agents)
        _check_different("tasks", self.tasks)
        for name in ("seeds", "simulated_workers"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, at_least=1)
        checked_decision_time(self.decision_time)

    @property
    def keys(self) -> list[tuple[str, str, int]]:
        """Agent, task and seed of each search, ordered by seed, so that an unfinished race includes all agents."""
        return [
            (str(agent), str(task), seed) for seed in range(self.seeds) for task in self.tasks for agent in self.agents
        ]

    def check_agents(self) -> None:
        """Make each agent once, to check it.

        Raises:
            KDNASError: If an agent is unknown, needs a missing package, has no ask and tell for a simulation, or has a
                wrong setting.
        """
        for agent in self.agents:
            make_agent(agent.name, **agent.settings) if self.simulated_workers is None else askable(agent)

    def settings(self) -> dict[str, Any]:
        """Return the settings that all searches of a folder share, as plain data."""
        return {
            "budget": self.budget.amount,
            "unit": self.budget.unit,
            "simulated_workers": self.simulated_workers,
            "decision_time": self.decision_time,
        }

    def run(self, agent: AgentSpec, seed: int, truth: Truth) -> Trajectory:
        """Run one search."""
        if self.simulated_workers is None:
            return run_search(agent, truth.task, seed, self.budget, truth=truth)
        return simulate(
            agent,
            truth.task,
            seed,
            self.budget,
            self.simulated_workers,
            decision_time=self.decision_time,
            truth=truth,
        )


def race(
    wanted: Race,
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> list[Trajectory]:
    """Run the missing searches of a race in a folder, and return all searches.

    The folder may hold more: agents, tasks and seeds can be added to a race, but its budget and tables cannot change.
    An interrupted race resumes; only the block of searches that each process was running is lost. The trajectories do
    not depend on the number of processes, except for measured times.

    Args:
        wanted: The race.
        folder: Folder of the trajectories; created if it does not exist.
        workers: Number of processes; 1 uses this process.
        on_progress: Called with the number of finished searches and the total.

    Returns:
        The trajectories, ordered by seed, then task, then agent.

    Raises:
        KDNASError: If an agent or table is unknown, or a setting is wrong. Errors of an agent during a search are
            recorded in its trajectory.
        RunError: If the folder holds a race with another budget or table, or cannot be written.
    """
    check_whole("workers", workers, of="processes", at_least=1)
    wanted.check_agents()
    tables = {task.table: checksum(table_path(task.table)) for task in wanted.tasks}
    for task in wanted.tasks:
        task.make_env(wanted.budget).close()
    path = expanded(folder)
    tables = _prepare_folder(path, wanted, tables)
    write_text(path / "README.md", _README)
    stored = _stored_trajectories(path)
    missing = _blocks([key for key in wanted.keys if key not in stored], wanted)
    total = len(wanted.keys)
    done = total - sum(len(seeds) for _, _, seeds in missing)
    on_progress(done, total)
    for trajectories in _run_blocks(wanted, path / PARTS, missing, workers):
        stored |= {trajectory.key: trajectory for trajectory in trajectories}
        done += len(trajectories)
        on_progress(done, total)
    _compact(path, [stored[key] for key in sorted(stored)], {**wanted.settings(), "tables": tables})
    return [stored[key] for key in wanted.keys]


def read_race(folder: str | os.PathLike[str]) -> list[Trajectory]:
    """Return the trajectories of a race, finished or not, sorted by their keys.

    Raises:
        RunError: If they cannot be read.
    """
    stored = _stored_trajectories(expanded(folder))
    return [stored[key] for key in sorted(stored)]


Block = tuple[AgentSpec, Task, list[int]]


def _blocks(missing: Sequence[tuple[str, str, int]], wanted: Race) -> list[Block]:
    """Return searches in blocks of one agent and task, lowest seeds first."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for agent, task, seed in missing:
        seeds.setdefault((agent, task), []).append(seed)
    agents = {str(agent): agent for agent in wanted.agents}
    tasks = {str(task): task for task in wanted.tasks}
    blocks = [
        (agents[agent], tasks[task], chosen[start : start + BLOCK])
        for (agent, task), chosen in seeds.items()
        for start in range(0, len(chosen), BLOCK)
    ]
    return sorted(blocks, key=lambda block: block[2][0])


def _run_blocks(wanted: Race, parts: Path, blocks: Sequence[Block], workers: int) -> Iterator[list[Trajectory]]:
    if workers == 1 or len(blocks) < 2:
        for block in blocks:
            yield _run_block(wanted, parts, block)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(blocks)), worker_context(__name__, "torch"), initializer=end_with_parent
    )
    try:
        futures = [pool.submit(_run_block, wanted, parts, block) for block in blocks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the race was killed, perhaps out of memory, or could not start: a script that races with "
            "more than one worker must call it under 'if __name__ == \"__main__\":'. Run it again to resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _run_block(wanted: Race, parts: Path, block: Block) -> list[Trajectory]:
    agent, task, seeds = block
    truth = Truth.of(task)
    # With several processes, each uses one thread. A fixed number also keeps the rounding of sums the same.
    with pinned_threads(1):
        trajectories = [wanted.run(agent, seed, truth) for seed in seeds]
    name = sha256(repr([trajectory.key for trajectory in trajectories]).encode()).hexdigest()[:16]
    write_trajectories(parts / f"{name}.parquet", trajectories)
    return trajectories


def _prepare_folder(path: Path, wanted: Race, tables: Mapping[str, str]) -> dict[str, str]:
    """Create a folder, or check that it belongs to such a race; return the checksums of all its tables."""
    settings = wanted.settings()
    check_contained(path)
    others = sorted(entry.name for entry in path.iterdir() if entry.name != PARTS) if path.is_dir() else []
    if others and not (path / RACE).exists():
        raise RunError(
            f"{str(path)!r} is not empty and not a race: it holds {others[0]!r}; name a race, or a new folder"
        )
    earlier = read_json(path / RACE) if (path / RACE).exists() else {**settings, "tables": {}}
    if not isinstance(earlier.get("tables"), dict):
        raise RunError(f"{str(path / RACE)!r} names no tables; restore it from a copy, or name another folder")
    known: dict[str, str] = {**tables, **earlier["tables"]}
    changed = [name for name, value in settings.items() if earlier.get(name) != value]
    if changed:
        raise RunError(
            f"the race {str(path)!r} has {changed[0]} {earlier.get(changed[0])!r}, not {settings[changed[0]]!r}; name "
            "another folder"
        )
    other = [name for name, value in tables.items() if known[name] != value]
    if other:
        raise RunError(
            f"table {other[0]!r} is not the one that was raced on in {str(path)!r}: its checksum differs; name another "
            "folder"
        )
    try:
        (path / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{str(path)!r} cannot be made: {error}; name a folder that you can write to") from error
    write_json(path / RACE, {**settings, "tables": known, "versions": installed_versions(*_PACKAGES)})
    return known


def _stored_trajectories(path: Path) -> dict[tuple[str, str, int], Trajectory]:
    files = [path / TRAJECTORIES, *sorted((path / PARTS).glob("*.parquet"))]
    return {trajectory.key: trajectory for file in files if file.exists() for trajectory in read_trajectories(file)[0]}


def _compact(path: Path, trajectories: Sequence[Trajectory], metadata: Mapping[str, Any]) -> None:
    """Write all trajectories to one file, and remove the parts."""
    versions = installed_versions(*_PACKAGES)
    write_trajectories(path / TRAJECTORIES, trajectories, {**metadata, "versions": versions})
    # If the process is killed here, the remaining parts repeat trajectories of the file, which is harmless.
    for part in (path / PARTS).glob("*.parquet"):
        part.unlink()
    (path / PARTS).rmdir()


def _check_different(kind: str, names: Sequence[object]) -> None:
    texts = [str(name) for name in names]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if not texts or twice:
        raise KDNASError(f"{kind} are {texts}; expected one or more, each once")
