"""Searches of a race as a Minari dataset, for offline reinforcement learning; needs the extra ``minari``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import minari
import numpy as np
from minari import MinariDataset
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id

from kdnas_env.bench.leaderboard import read_submission
from kdnas_env.bench.race import read_race
from kdnas_env.bench.replay import recorded_budget, replay_env, replay_order
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.untrusted import shown
from kdnas_env.wrappers.numeric_info import numeric

FORMAT = "arrow"
"""Storage format of Minari; its dependencies are installed anyway."""


def export_race(
    race: str | os.PathLike[str], dataset: str, *, task: str | None = None, agents: Sequence[str] = ()
) -> MinariDataset:
    """Write searches of a race as a Minari dataset.

    Args:
        race: Folder of a race, or a submission file.
        dataset: Name of the dataset, such as ``kdnas/race-v0``.
        task: The task, as named in the race; None if there is only one.
        agents: Agents, as named in the race; empty for all.

    Returns:
        The dataset; see :func:`write_dataset`.

    Raises:
        RunError: If the race cannot be read.
        KDNASError: If the race does not have the task or an agent, or the searches cannot be written; see
            :func:`write_dataset`.
    """
    path = expanded(race)
    searches = read_race(path) if os.path.isdir(path) else read_submission(path)[0]
    return write_dataset(dataset, _selected_searches(searches, task, agents, str(path)))


def write_dataset(dataset: str, searches: Sequence[Trajectory]) -> MinariDataset:
    """Write searches of the same task and budget as a Minari dataset.

    Each search is replayed in the environment, which must give the recorded answers. An episode holds observations,
    actions, rewards, terminations, truncations, and the infos of :class:`~kdnas_env.wrappers.numeric_info.NumericInfo`,
    with the costs of limits as ``cost_<limit>``. If an agent stopped before the budget was spent, its episode is
    truncated. The metadata of an episode contain its seed and agent; ``recover_environment`` makes the environment.

    Args:
        dataset: Name of the dataset, such as ``kdnas/race-v0``; it must not exist.
        searches: The searches; those without evaluations are left out.

    Raises:
        KDNASError: If the name is malformed or in use, there is no evaluation, the searches differ in task or budget,
            or the table gives other answers than recorded.
    """
    searches = [search for search in searches if len(search)]
    efforts = {(search.task, search.budget, search.unit) for search in searches}
    if len(efforts) != 1:
        raise KDNASError(f"the searches have {len(efforts)} tasks and budgets; expected evaluations with one of each")
    try:  # checked before Minari writes anything
        parse_dataset_id(dataset)
    except ValueError as error:
        raise KDNASError(f"dataset is {shown(dataset)}: {error}") from error
    task = Task.parse(searches[0].task)
    episodes = [_episode(search, task) for search in searches]
    names = sorted({search.agent for search in searches})
    with warnings.catch_warnings():
        # Minari warns if author, e-mail address and code link are missing.
        warnings.filterwarnings("ignore", message=".*is set to None", category=UserWarning)
        try:
            made = minari.create_dataset_from_buffers(
                dataset,
                episodes,
                env=task.make_env(recorded_budget(searches[0])),
                algorithm_name=", ".join(names),
                description=f"Searches of {task} by {', '.join(names)}; an episode is a search",
                requirements=[f"kdnas=={version('kdnas')}"],
                data_format=FORMAT,
            )
        except ValueError as error:
            raise KDNASError(f"dataset {shown(dataset)} cannot be written: {error}") from error
    made.storage.update_episode_metadata([{"agent": search.agent} for search in searches])
    return made


def _selected_searches(
    searches: Sequence[Trajectory], task: str | None, agents: Sequence[str], place: str
) -> list[Trajectory]:
    tasks = list(dict.fromkeys(search.task for search in searches))
    if task is None and len(tasks) != 1:
        raise KDNASError(f"{place!r} has searches of {tasks}; choose one with --task")
    wanted = tasks[0] if task is None else str(Task.parse(task))
    known = {search.agent for search in searches}
    if wanted not in tasks or not known.issuperset(agents):
        raise RunError(f"{place!r} has searches of {tasks} by {sorted(known)}; expected some of these")
    return [search for search in searches if search.task == wanted and search.agent in (agents or known)]


def _episode(search: Trajectory, task: Task) -> EpisodeBuffer:
    """Replay a search, and return it as an episode.

    Raises:
        KDNASError: If the environment gives other answers than recorded.
    """
    env, order = replay_env(search, task), replay_order(search)
    space = env.get_wrapper_attr("search_space")
    observation, info = env.reset(seed=search.seed)
    observations, infos = [observation], [_flat(info)]
    actions, rewards, ends = [], [], []
    for row in order.tolist():
        action = space.from_index(int(search.index[row]))
        observation, earned, terminated, truncated, info = env.step(action)
        reward = float(earned)
        if not np.isclose(reward, search.observed[row], rtol=1e-9, atol=1e-9):
            raise KDNASError(
                f"evaluation {row + 1} of {search.agent} on {search.task}, seed {search.seed}, earned "
                f"{search.observed[row]} in the race, but {reward} here: the table differs; use the table of the race"
            )
        observations.append(observation)
        infos.append(_flat(info))
        actions.append(action)
        rewards.append(reward)
        ends.append((terminated, truncated))
    env.close()
    if not any(ends[-1]):
        ends[-1] = (False, True)
    return EpisodeBuffer(
        seed=search.seed,
        observations=_columns(observations),
        actions=actions,
        rewards=rewards,
        terminations=[terminated for terminated, _ in ends],
        truncations=[truncated for _, truncated in ends],
        # Minari's arrow files store numbers as lists, and only nested arrays as arrays.
        infos={name: column if column.ndim > 1 else column.tolist() for name, column in _columns(infos).items()},
    )


def _flat(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an info without nesting, because Minari's arrow files lose nested values."""
    numbers = numeric(info)
    costs = numbers.pop("costs", {})
    return numbers | {f"cost_{name}": cost for name, cost in costs.items()}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows with equal keys as one array per key, of shape ``(n, ...)``."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
