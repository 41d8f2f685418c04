"""Environment over a distribution of tasks: every episode draws a task, which the observation describes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.layout import checked_options
from kdnas_env.envs.observation import Observation
from kdnas_env.envs.tabular import TableEnv
from kdnas_env.envs.task_features import FEATURES, LARGEST
from kdnas_env.errors import KDNASError
from kdnas_env.support.untrusted import shown

TASK = "task"
"""Key of the task: its description in observations, its name in infos and options."""


SPLITS: dict[str, dict[str, tuple[Any, ...]]] = {
    "training": {
        "table": ("rotten-tomatoes",),
        "alpha": (-0.02, -0.06, -0.15, -0.3),
        "device": ("torch", "onnxruntime"),
        "limit": (
            "",
            *(f"speedup={speedup}" for speedup in (2.5, 3, 3.5, 4, 5, 5.5, 7, 8, 9, 12)),
            *(f"parameters={millions}000000" for millions in (7, 8, 9, 10, 11, 12, 13)),
            *(f"size_mb={megabytes}" for megabytes in (26, 28, 32, 35, 40, 45, 50)),
        ),
    },
    "held-out": {
        "table": ("imdb",),
        "alpha": (-0.03, -0.08, -0.25),
        "device": ("torch", "onnxruntime"),
        "limit": ("", "speedup=4.5", "speedup=6.5", "speedup=10", "parameters=8500000", "size_mb=30"),
    },
}
"""Training and held-out tasks, with different texts, exponents and limits. A split has every combination."""


def split_tasks(split: str) -> tuple[str, ...]:
    """Return the names of the tasks of a split.

    Raises:
        KDNASError: If the split does not exist.
    """
    if split not in SPLITS:
        raise KDNASError(f"tasks is {shown(split)}; expected one of {list(SPLITS)}, or a list of names of tasks")
    named = (
        f"{table}:alpha={alpha},device={device}{limit and f',{limit}'}"
        for table, alpha, device, limit in product(*SPLITS[split].values())
    )
    return tuple(str(Task.parse(name)) for name in named)


class TasksEnv(gym.Env[Observation, Any]):
    """Search a different task in every episode.

    An episode is one search, as in `kdnas/Tabular-v0`. Each `reset` draws a task from a split: a table with a reward
    and limits. The observation describes it under `task`. A policy can therefore be trained on thousands of searches,
    and then search unseen tasks: those of the split `held-out`.

    ## Observation Space

    That of `KDNASEnv`, and `task`: float32 features, by the names of `kdnas_env.envs.task_features.FEATURES`.

    ## Information

    That of `KDNASEnv`, and `task`: the name of the task, in the format of `kdnas bench --tasks`.

    ## Starting State

    `reset(options={"task": NAME})` sets the task of the new episode, `options={"budget": n}` its budget.

    ## Arguments

    | Name          | Default      | Meaning                                                                          |
    |---------------|--------------|----------------------------------------------------------------------------------|
    | `tasks`       | `"training"` | `training`, `held-out`, or names of tasks, such as `["imdb:speedup=8"]`          |
    | `budget`      | `100`        | evaluations of an episode                                                        |
    | `round_size`  | `8`          | evaluations per round                                                            |
    | `render_mode` | `None`       | `ansi` or `rgb_array`                                                            |

    ## Version History

    * v0: Initial version

    Attributes:
        tasks: The tasks.
        env: The environment of the episode's task; before the first `reset`, that of the first task.

    Raises:
        KDNASError: If a task is malformed, its table cannot be read, or two tasks have different spaces.
    """

    metadata: dict[str, Any] = TableEnv.metadata

    def __init__(
        self,
        tasks: str | Sequence[str] = "training",
        *,
        budget: int = 100,
        round_size: int = 8,
        render_mode: str | None = None,
    ) -> None:
        self.tasks = tuple(map(Task.parse, _named(tasks)))
        self._budget, self._episode = Budget(budget), {"round_size": round_size, "render_mode": render_mode}
        self._envs: dict[Task, TableEnv] = {}
        self.render_mode = render_mode
        self.env = self._env_of(self.tasks[0])
        self.task = self.tasks[0]
        self.action_space = self.env.action_space
        parts = [cast(spaces.Dict, self._env_of(task).observation_space) for task in self.tasks]
        self.observation_space = cast(
            spaces.Space[Any],
            spaces.Dict(
                {
                    **{name: _widest([part[name] for part in parts]) for name in parts[0]},
                    TASK: spaces.Box(-LARGEST, LARGEST, (len(FEATURES),), np.float32),
                }
            ),
        )
        for task in self.tasks:
            if self._env_of(task).action_space != self.action_space:
                raise KDNASError(f"tasks {self.tasks[0]} and {task} have different spaces; name tasks of one space")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a search of a task.

        Args:
            seed: Seeds the draw of the task, and the task's environment.
            options: ``{"task": name}`` sets the task, ``{"budget": n}`` the budget of this episode.

        Raises:
            KDNASError: If an option is unknown, or the environment does not have the task.
        """
        super().reset(seed=seed)
        given = checked_options(options, ("task", "budget"))
        place = int(self.np_random.integers(len(self.tasks)))
        # Drawn even if unused, so that later episodes do not depend on the option.
        episode = int(self.np_random.integers(2**31))
        self.task = self._asked(given.pop("task")) if "task" in given else self.tasks[place]
        self.env = self._env_of(self.task)
        observation, info = self.env.reset(seed=episode, options=given)
        return self._extended(observation), {**info, TASK: str(self.task)}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Evaluate a student; see ``KDNASEnv.step``."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._extended(observation), float(reward), terminated, truncated, {**info, TASK: str(self.task)}

    def render(self) -> Any:
        """Draw the search; see ``KDNASEnv.render``."""
        return self.env.render()

    def close(self) -> None:
        """Close the environments of all tasks."""
        for env in self._envs.values():
            env.close()

    def __getattr__(self, name: str) -> Any:
        # Attributes that agents read (search_space, budget, valid_action_indices) come from the task's environment.
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def _asked(self, name: object) -> Task:
        task = next((task for task in self.tasks if str(task) == name), None)
        if task is None:
            raise KDNASError(
                f"task is {shown(name)}; expected one of the environment's {len(self.tasks)}: {_few(self.tasks)}"
            )
        return task

    def _env_of(self, task: Task) -> TableEnv:
        if task not in self._envs:
            self._envs[task] = cast(TableEnv, task.make_env(self._budget, **self._episode).unwrapped)
        return self._envs[task]

    def _extended(self, observation: Observation) -> Observation:
        return {**observation, TASK: self.env.task_features.copy()}


def _named(tasks: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(tasks, str):
        return split_tasks(tasks)
    names = tuple(tasks)
    if not names or not all(isinstance(name, str) for name in names):
        raise KDNASError(f"tasks is {shown(tasks)}; expected at least one name of a task")
    return names


def _widest(parts: Sequence[spaces.Space[Any]]) -> spaces.Space[Any]:
    """Return the smallest space that contains all of the spaces, which may differ only in their bounds."""
    first = parts[0]
    if not isinstance(first, spaces.Box):
        return first
    boxes = [cast(spaces.Box, part) for part in parts]
    low, high = np.min([box.low for box in boxes], axis=0), np.max([box.high for box in boxes], axis=0)
    return spaces.Box(low, high, first.shape, cast(Any, first.dtype))


def _few(tasks: Sequence[Task]) -> str:
    return ", ".join(map(str, tasks[:3])) + (", ..." if len(tasks) > 3 else "")
