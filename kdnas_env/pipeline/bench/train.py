"""Training of controllers across tasks, for searches of tasks outside the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import tyro

from kdnas_env.envs.task_distribution import SPLITS, TasksEnv
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import options_of
from kdnas_env.searching.registry import agent_class, agent_names
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.support.progress import SILENT, Progress, checked

ROOM = 100_000
"""Evaluations of an episode that has room for all candidates of a space."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a controller across tasks, for searches of other tasks. Run the command again to resume it."""

    agent: Annotated[str, tyro.conf.Positional] = "lstm-meta"
    """Agent whose controller is trained."""
    to: str
    """Path of the controller, a safetensors file."""
    tasks: tuple[str, ...] = ("training",)
    """Tasks it learns on: training, the split of kdnas/Tasks-v0, or names such as rotten-tomatoes:speedup=5."""
    steps: int = 3000
    """Number of training steps."""
    seed: int = 0
    """Seed of weights, tasks and evaluations."""

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, at_least=1)
        check_whole("seed", self.seed, at_least=0)
        if Path(self.to).suffix != ".safetensors":
            raise KDNASError(f"to is {self.to!r}; expected a file that ends in .safetensors")


@dataclass(frozen=True)
class TrainedController:
    """A controller that was trained.

    Attributes:
        path: Its file.
        tasks: Number of training tasks.
        loss: Final value of the minimised quantity: the negative log-likelihood of predicted rewards in nats
            (``lstm-meta``), the mean squared error of rewards on tasks that are left out, in variances of the rewards
            (``transfer-gp``, ``transfer-evolution``), or the mean gap to the best candidate, in standard deviations of
            the rewards (``transfer-recurrent-ppo``, ``transfer-maskable-ppo``).
        usage: Agent and setting that use it, for ``kdnas bench --agents`` and ``kdnas search --agent``.
    """

    path: Path
    tasks: int
    loss: float
    usage: Mapping[str, Any]


def train_controller(to: str | TrainOptions, *, progress: Progress = SILENT, **settings: Any) -> TrainedController:
    """Train a controller across tasks. The same call again resumes an unfinished training.

    Args:
        to: File of the controller; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`TrainOptions` by name.

    Raises:
        KDNASError: For bad input, or an agent that does not learn across tasks.
    """
    options, progress = options_of(TrainOptions, settings, to=to), checked(progress)
    cls = agent_class(options.agent)
    if not hasattr(cls, "train_across"):
        able = [name for name in agent_names() if hasattr(_loaded(name), "train_across")]
        raise KDNASError(f"agent {options.agent!r} does not learn across tasks; choose one of {able}")
    split = next((split for split in SPLITS if options.tasks == (split,)), None)
    env = gym.make("kdnas/Tasks-v0", tasks=split or list(options.tasks), budget=ROOM)
    assert isinstance(env.unwrapped, TasksEnv)
    names = [str(task) for task in env.unwrapped.tasks]
    path = expanded(options.to)
    loss = cls.train_across(env, names, path, steps=options.steps, seed=options.seed, progress=progress)
    progress.end()
    return TrainedController(path, len(names), loss, {"agent": options.agent, cls.setting: str(path)})


def _loaded(name: str) -> Any:
    try:
        return agent_class(name)
    except KDNASError:  # it needs a package that is not installed
        return None
