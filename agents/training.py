"""Training of a network that can be interrupted: its saved state, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdnas_env.support.atomic import replacing


@dataclass(frozen=True, eq=False)
class UnfinishedTraining:
    """The state of a training in a file beside its result, until the training ends.

    Attributes:
        result: File of the result; the state is in a file with the additional suffix ``.training``.
        identity: What determines the result, as plain data. A state with another identity is ignored.
        network: The network in training.
        optimizer: Its optimizer.
    """

    result: Path
    identity: Mapping[str, Any]
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer

    @property
    def file(self) -> Path:
        """File of the state."""
        return self.result.with_name(self.result.name + ".training")

    def restore(self) -> tuple[int, float]:
        """Restore the network and the optimizer, if a state is saved.

        Returns:
            Number of finished steps, and the moving average of what is reported; 0 and NaN for a new training.
        """
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            if state.get("identity") == dict(self.identity):
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
                return state["done"], state["average"]
        return 0, math.nan

    def save(self, done: int, average: float) -> None:
        """Save the state after ``done`` steps, with the moving average of what is reported."""
        state = {
            "identity": dict(self.identity),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": done,
            "average": average,
        }
        with replacing(self.file) as file:
            torch.save(state, file)

    def remove(self) -> None:
        """Remove the state, because the training has ended."""
        self.file.unlink(missing_ok=True)


def half_cosine(done: int, steps: int) -> float:
    """Return the factor of the learning rate after ``done`` of ``steps`` steps; it falls from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * done / steps))


def moving_average(average: float, value: float, share: float) -> float:
    """Return an exponential moving average with one more value; NaN stands for no values."""
    return value if math.isnan(average) else (1 - share) * average + share * value
