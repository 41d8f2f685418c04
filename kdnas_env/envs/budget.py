"""The budget of an episode, and the cost of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.support.checks import check_choice, check_number, check_whole

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
        check_choice("budget_unit", self.unit, UNITS)
        if self.unit == "seconds":
            check_number("budget", self.amount, of="seconds", above=0)
        else:
            amount = check_whole("budget", self.amount, of=self.unit, at_least=1, at_most=_LARGEST_AMOUNT)
            object.__setattr__(self, "amount", amount)

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
