"""What one episode may spend, and what an evaluation costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.errors import KDNASError
from kdnas_env.support.untrusted import shown

UNITS = ("evaluations", "epochs", "seconds")
"""What a budget is counted in."""


_LARGEST_AMOUNT = 10**15
"""Larger whole numbers are not exact as floating-point numbers."""


@dataclass(frozen=True)
class Budget:
    """What one episode may spend.

    Evaluations and epochs are never exceeded, by not one: the last evaluation is cut to the epochs that are left. An
    evaluation without epochs (closed forms only) costs as much as one epoch. Seconds are those that evaluations took
    or, where they are simulated, the seconds of the record; the last evaluation may pass the limit.

    Attributes:
        amount: How much: a whole number, or a positive number of seconds.
        unit: Of what, one of ``UNITS``.

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
        """Return what an evaluation costs."""
        return evaluation.wall_seconds if self.unit == "seconds" else self.reserved(evaluation.fidelity)

    def reserved(self, fidelity: Fidelity) -> int:
        """Return what is set aside for an evaluation in work: its cost, but for seconds, which nobody knows before."""
        match self.unit:
            case "evaluations":
                return 1
            case "epochs":
                return max(1, fidelity.epochs)
            case _:
                return 0

    def affordable(self, fidelity: Fidelity, spent: float) -> Fidelity:
        """Return the effort that is left for an evaluation: all of it, or the epochs that remain."""
        if self.unit == "epochs" and fidelity.epochs > self.amount - spent:
            return replace(fidelity, epochs=int(self.amount - spent))
        return fidelity

    def evaluations(self, fidelity: Fidelity) -> int | None:
        """Return how many evaluations of one effort it allows; None where only the clock can tell."""
        if self.unit == "seconds":
            return None
        each = 1 if self.unit == "evaluations" else max(1, fidelity.epochs)
        return -(-int(self.amount) // each)
