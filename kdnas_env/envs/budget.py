"""The budget of an episode, and the cost of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.errors import KDNASError
from kdnas_env.support.untrusted import shown

UNITS = ("evaluations", "epochs", "seconds")
"""Units of a budget."""


_LARGEST_AMOUNT = 10**15
"""Larger integers are not exact as floating-point numbers."""


@dataclass(frozen=True)
class Budget:
    """The budget of one episode.

    A budget of evaluations or epochs is never exceeded: the last evaluation is shortened to the remaining epochs. An
    evaluation without epochs (closed forms only) costs as much as one epoch. Seconds are the measured time of
    evaluations, or the recorded time if they are simulated; the last evaluation may exceed a budget in seconds.

    Attributes:
        amount: An integer, or a positive number of seconds.
        unit: Unit of the amount, one of ``UNITS``.

    Raises:
        KDNASError: If the unit is unknown or the amount is not a positive number of it.
    """

    amount: float
    unit: str = "evaluations"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise KDNASError(f"budget_unit is {shown(self.unit)}; expected one of {list(UNITS)}")
        whole = (
            isinstance(self.amount, int | np.integer)
            and not isinstance(self.amount, bool)
            and self.amount <= _LARGEST_AMOUNT
        )
        if self.unit != "seconds":
            if not whole or self.amount < 1:
                raise KDNASError(f"budget is {shown(self.amount)}; expected a whole number of {self.unit}, at least 1")
            object.__setattr__(self, "amount", int(self.amount))
        elif not (whole or isinstance(self.amount, float)) or not 0 < self.amount < math.inf:
            raise KDNASError(f"budget is {shown(self.amount)}; expected a positive number of seconds")

    def cost(self, evaluation: Evaluation) -> float:
        """Return the cost of an evaluation."""
        return evaluation.wall_seconds if self.unit == "seconds" else self.reserved(evaluation.fidelity)

    def reserved(self, fidelity: Fidelity) -> int:
        """Return the budget to reserve for an evaluation in progress: its cost, or 0 if the unit is seconds."""
        match self.unit:
            case "evaluations":
                return 1
            case "epochs":
                return max(1, fidelity.epochs)
            case _:
                return 0

    def affordable(self, fidelity: Fidelity, spent: float) -> Fidelity:
        """Return the affordable fidelity of an evaluation: unchanged, or limited to the remaining epochs."""
        if self.unit == "epochs" and fidelity.epochs > self.amount - spent:
            return replace(fidelity, epochs=int(self.amount - spent))
        return fidelity

    def evaluations(self, fidelity: Fidelity) -> int | None:
        """Return the number of evaluations at one fidelity that the budget allows; None if the unit is seconds."""
        if self.unit == "seconds":
            return None
        each = 1 if self.unit == "evaluations" else max(1, fidelity.epochs)
        return -(-int(self.amount) // each)
