"""Training of the meta-learnt controller across tasks, by maximum likelihood of held-out evaluations.

Each step simulates searches of some training tasks: some evaluations of a task are known, and the controller predicts
others (meta-learning with support and query sets, as in deep kernel transfer; Patacchiola et al. 2020,
arXiv:1910.05199).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdnas_env.agents.lstm.meta import Belief, MetaController, save_controller
from kdnas_env.agents.training import UnfinishedTraining, half_cosine, moving_average
from kdnas_env.agents.transfer.examples import TaskExamples
from kdnas_env.support.arrays import Ints
from kdnas_env.support.cpu_lock import pinned_threads

OnStep = Callable[[int, int, float], object]
"""Called with the number of finished steps, the number of all steps, and the moving average of the loss."""

_SAVED_EVERY = 100
"""Steps between two saved states of the training."""

_OFFSET, _LOG_SCALE = 0.3, 0.15
"""Deviations of random errors in the offset and the logarithm of the scale of a task's rewards. Training with them
makes the controller robust, because a search has to estimate both."""


@dataclass(frozen=True)
class MetaTraining:
    """Hyper-parameters of the training.

    Attributes:
        steps: Steps of Adam.
        tasks: Tasks per step.
        history: Maximum number of known evaluations per task; the number is random, and small numbers are more likely.
        queries: Number of evaluations per task whose rewards are predicted.
        learning_rate: Initial learning rate; decays to 0 as a half cosine.
        seed: Seed for weights, tasks and evaluations.
    """

    steps: int = 1500
    tasks: int = 6
    history: int = 60
    queries: int = 64
    learning_rate: float = 3e-3
    seed: int = 0


def train(
    examples: Sequence[TaskExamples], nvec: Ints, settings: MetaTraining, path: Path, on_step: OnStep
) -> MetaController:
    """Train a controller, or continue an interrupted training; equal arguments give equal controllers.

    Args:
        examples: Candidates and rewards of the training tasks.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        settings: Hyper-parameters of the training.
        path: File to write the controller to. Until the training ends, its state is in a file with the additional
            suffix ``.training``.
        on_step: Called after each step.

    Returns:
        The trained controller.
    """
    with pinned_threads(1):
        return _trained(examples, nvec, settings, path, on_step)


def _trained(
    examples: Sequence[TaskExamples], nvec: Ints, settings: MetaTraining, path: Path, on_step: OnStep
) -> MetaController:
    controller = MetaController(nvec, len(examples[0].task), generator=torch.Generator().manual_seed(settings.seed))
    controller.usual.fill_(float(np.mean([task.scale for task in examples])))
    optimizer = torch.optim.Adam(controller.parameters(), lr=settings.learning_rate, fused=True)
    tasks = [example.task.tolist() for example in examples]
    identity = {**vars(settings), "nvec": nvec.tolist(), "training_tasks": tasks}
    unfinished = UnfinishedTraining(path, identity, controller, optimizer)
    done, average = unfinished.restore()
    for step in range(done, settings.steps):
        rng = np.random.default_rng([settings.seed, step])
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * half_cosine(step, settings.steps)
        chosen = rng.choice(len(examples), size=min(settings.tasks, len(examples)), replace=False)
        loss = torch.stack([_loss(controller, examples[place], settings, rng) for place in chosen]).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(controller.parameters(), 1.0)
        optimizer.step()
        average = moving_average(average, float(loss.detach()), share=0.05)
        on_step(step + 1, settings.steps, average)
        if (step + 1) % _SAVED_EVERY == 0:
            unfinished.save(step + 1, average)
    save_controller(controller, path)
    unfinished.remove()
    return controller


def _loss(
    controller: MetaController, examples: TaskExamples, settings: MetaTraining, rng: np.random.Generator
) -> Tensor:
    """Return the mean negative log-likelihood of some evaluations, up to a constant, given some others.

    The known evaluations simulate a search.
    """
    n = len(examples.targets)
    count = min(int(settings.history * rng.random() ** 2), n // 2)
    # A search evaluates good candidates more often than bad ones, to a random degree.
    weights = np.exp(rng.uniform(0, 1.5) * examples.targets.astype(np.float64))
    known = rng.choice(n, size=count, replace=False, p=weights / weights.sum())
    others = np.setdiff1d(np.arange(n), known)
    likely = weights[others] + weights.mean()
    asked = rng.choice(others, size=min(settings.queries, len(others)), replace=False, p=likely / likely.sum())
    offset, scale = _OFFSET * rng.standard_normal(), np.exp(_LOG_SCALE * rng.standard_normal())
    if not count:
        offset, scale = 0.0, 1.0
    places = np.concatenate([known, asked])
    targets = torch.from_numpy(examples.targets[places]) * float(scale) + float(offset)
    mean, phi = controller(torch.from_numpy(examples.task), torch.from_numpy(examples.actions[places]))
    # A constant feature with a weight of deviation _OFFSET stands for the unknown offset.
    phi = torch.cat([phi, torch.full((len(places), 1), _OFFSET)], dim=1)
    belief = Belief.of(mean[:count], phi[:count], targets[:count], controller.noise)
    expected, deviation = belief.predict(mean[count:], phi[count:])
    variance = deviation**2 + controller.noise
    return 0.5 * ((targets[count:] - expected) ** 2 / variance + variance.log()).mean()
