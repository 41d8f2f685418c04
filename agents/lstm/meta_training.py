"""Training of a controller across tasks: on whole searches of the training tasks, by what it foretells of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kdnas_env.agents.environment import action_counts, env_attribute
from kdnas_env.agents.lstm.meta import Belief, MetaController, save_controller
from kdnas_env.agents.predicting import Scale
from kdnas_env.agents.ranking import Ints
from kdnas_env.core.grid import Grid
from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import pinned_threads

OnStep = Callable[[int, int, float], object]
"""Called with the steps that are done, all steps, and the mean loss of late."""

_SAVED_EVERY = 100
_OFFSET, _LOG_SCALE = 0.3, 0.15
"""Errors of the unit of a task that a controller is trained to bear: its scale is estimated in a search."""


@dataclass(frozen=True)
class MetaTraining:
    """How a controller is trained.

    Attributes:
        steps: Steps of Adam.
        tasks: Tasks of a step.
        history: Most evaluations that rewards are foretold from; how many is drawn, few more often than many.
        foretold: Evaluations that are foretold, of each task.
        learning_rate: Peak learning rate; it falls to 0 as a half cosine.
        seed: Draws weights, tasks and evaluations.
    """

    steps: int = 1500
    tasks: int = 6
    history: int = 60
    foretold: int = 64
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Lesson:
    """All that one task, seen with one seed, would answer.

    Attributes:
        task: Its description, float32 ``(task_features,)``.
        actions: Every candidate, int64 ``(n, dims)``.
        targets: Their rewards, of mean 0 and deviation 1; failures, and what breaks a limit, count as the least.
        scale: Reward that one unit stands for.
    """

    task: Tensor
    actions: Tensor
    targets: Tensor
    scale: float


def lessons_of(env: gym.Env[Any, Any], names: Sequence[str], seeds: Sequence[int]) -> list[Lesson]:
    """Evaluate every valid candidate of some tasks.

    Args:
        env: ``kdnas/Tasks-v0``, or an environment of its kind, with room for all candidates of its space.
        names: Its tasks.
        seeds: Seeds of the episodes: what is noisy is seen as often.

    Raises:
        KDNASError: If the environment does not describe its tasks, or its space cannot be listed.
    """
    made = []
    for name in names:
        for seed in seeds:
            env.reset(seed=seed, options={"task": name})
            task, indices = env_attribute(env, "task_features"), env_attribute(env, "valid_action_indices")
            if task is None or indices is None:
                raise KDNASError(
                    "the environment does not describe its tasks, or its space is too large to list; train on "
                    "kdnas/Tasks-v0"
                )
            actions = Grid(action_counts(env)).actions(indices)
            rewards, usable = np.empty(len(actions)), np.empty(len(actions), dtype=np.bool_)
            for place, action in enumerate(actions):
                _, reward, _, _, info = env.step(action)
                rewards[place] = float(reward)
                usable[place] = info["status"] == "ok" and info.get("cost", 0.0) <= 0
            if not usable.any():
                raise KDNASError(f"no student of task {name} keeps its limits; leave it out")
            scale = Scale.of(rewards, usable)
            made.append(
                Lesson(
                    torch.from_numpy(np.array(task, dtype=np.float32)),
                    torch.from_numpy(actions),
                    torch.from_numpy(scale.standardise(rewards, usable).astype(np.float32)),
                    scale.deviation,
                )
            )
    return made


def train(lessons: Sequence[Lesson], nvec: Ints, settings: MetaTraining, path: Path, on_step: OnStep) -> MetaController:
    """Train a controller, or go on with a training that was stopped; equal calls give equal controllers.

    Args:
        lessons: What there is to learn.
        nvec: Choices per dimension.
        settings: How.
        path: File of the controller; beside it, ending in ``.training``, stands the state of an unfinished training.
        on_step: Hears of every step.
    """
    with pinned_threads(1):
        return _trained(lessons, nvec, settings, path, on_step)


def _trained(
    lessons: Sequence[Lesson], nvec: Ints, settings: MetaTraining, path: Path, on_step: OnStep
) -> MetaController:
    controller = MetaController(nvec, len(lessons[0].task), generator=torch.Generator().manual_seed(settings.seed))
    controller.usual.fill_(float(np.mean([lesson.scale for lesson in lessons])))
    optimizer = torch.optim.Adam(controller.parameters(), lr=settings.learning_rate, fused=True)
    state, step, late = path.with_name(path.name + ".training"), 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        if kept["settings"] == vars(settings):
            controller.load_state_dict(kept["controller"])
            optimizer.load_state_dict(kept["optimizer"])
            step, late = kept["step"], kept["late"]
    for step in range(step, settings.steps):  # noqa: B020  (goes on where the state stopped)
        rng = np.random.default_rng([settings.seed, step])
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        chosen = rng.choice(len(lessons), size=min(settings.tasks, len(lessons)), replace=False)
        loss = torch.stack([_loss(controller, lessons[place], settings, rng) for place in chosen]).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(controller.parameters(), 1.0)
        optimizer.step()
        now = float(loss.detach())
        late = now if not late else 0.95 * late + 0.05 * now
        on_step(step + 1, settings.steps, late)
        if (step + 1) % _SAVED_EVERY == 0 and step + 1 < settings.steps:
            _save_state(state, controller, optimizer, settings, step + 1, late)
    save_controller(controller, path)
    state.unlink(missing_ok=True)
    return controller


def _save_state(
    state: Path,
    controller: MetaController,
    optimizer: torch.optim.Optimizer,
    settings: MetaTraining,
    step: int,
    late: float,
) -> None:
    from kdnas_env.support.atomic import replacing

    kept = {
        "settings": vars(settings),
        "controller": controller.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "late": late,
    }
    with replacing(state) as file:
        torch.save(kept, file)


def _loss(controller: MetaController, lesson: Lesson, settings: MetaTraining, rng: np.random.Generator) -> Tensor:
    """Return the mean negative log-likelihood of some evaluations, given some others that a search may have made."""
    n = len(lesson.targets)
    count = min(int(settings.history * rng.random() ** 2), n // 2)
    # A search knows good candidates better than bad ones.
    weights = np.exp(rng.uniform(0, 1.5) * lesson.targets.numpy().astype(np.float64))
    known = rng.choice(n, size=count, replace=False, p=weights / weights.sum())
    others = np.setdiff1d(np.arange(n), known)
    likely = weights[others] + weights.mean()
    asked = rng.choice(others, size=min(settings.foretold, len(others)), replace=False, p=likely / likely.sum())
    offset, scale = _OFFSET * rng.standard_normal(), np.exp(_LOG_SCALE * rng.standard_normal())
    if not count:
        offset, scale = 0.0, 1.0
    places = torch.from_numpy(np.concatenate([known, asked]))
    targets = lesson.targets[places] * float(scale) + float(offset)
    mean, phi = controller(lesson.task, lesson.actions[places])
    # Of the offset a search knows no more than its evaluations say.
    phi = torch.cat([phi, torch.full((len(places), 1), _OFFSET)], dim=1)
    belief = Belief.of(mean[:count], phi[:count], targets[:count], controller.noise)
    expected, deviation = belief.predict(mean[count:], phi[count:])
    variance = deviation**2 + controller.noise
    return 0.5 * ((targets[count:] - expected) ** 2 / variance + variance.log()).mean()
