"""Limits of students, and their violation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from kdnas_env.core.evaluation import Evaluation, Status
from kdnas_env.core.reward import KDReward, RewardComponents
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_choice, check_number, check_whole
from kdnas_env.support.untrusted import shown

BYTES_PER_PARAMETER: Mapping[str, float] = {"float32": 4.01, "int8": 1.05}
"""Bytes of the exported ONNX file per parameter, by format, rounded up: students with widths of 128 to 384 have 4.006
to 4.009, and 1.02 to 1.04 (scales of embeddings, graph)."""

AT_LEAST = ("speedup", "keep")
"""Lower limits; all others are upper limits."""

LEAST_QUALITY = 1e-3
"""Lower qualities are replaced by this value, so that their violation of a limit is finite."""

LATENCY_DOUBT = 0.25
"""Relative error of a latency after a few rounds of a probe that is never exceeded in practice."""

HANDLING = ("reward", "cost")
"""Effect of a broken limit: a lower reward, or a cost in the information only."""


@dataclass(frozen=True)
class Constraints:
    """Limits of a student; None: no limit.

    Latency, size and parameters are known before distillation, so that a student that breaks such a limit need not be
    distilled. The quality is known only after distillation.

    Attributes:
        speedup: Minimum speed, as a multiple of the teacher's; 0 sets no limit.
        latency_ms: Maximum median latency of one pass, in milliseconds.
        size_mb: Maximum size of the exported file, in megabytes (1e6 bytes).
        parameters: Maximum number of parameters, embeddings included.
        keep: Minimum quality, as a share of the teacher's, in (0, 1].
        format: Format of the exported file, one of ``BYTES_PER_PARAMETER``.

    Raises:
        KDNASError: If a limit is not positive (``speedup``: negative), or the format is unknown.
    """

    speedup: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    parameters: int | None = None
    keep: float | None = None
    format: str = "float32"

    def __post_init__(self) -> None:
        if self.speedup is not None:
            check_number("speedup", self.speedup, at_least=0)
        for name in ("latency_ms", "size_mb"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0)
        if self.parameters is not None:
            check_whole("parameters", self.parameters, at_least=1)
        if self.keep is not None:
            check_number("keep", self.keep, above=0, at_most=1)
        check_choice("format", self.format, BYTES_PER_PARAMETER)

    @classmethod
    def of(cls, limits: Constraints | Mapping[str, Any] | None) -> Constraints:
        """Return limits from plain data.

        Raises:
            KDNASError: If a limit is unknown or malformed.
        """
        if limits is None or isinstance(limits, Constraints):
            return limits or cls()
        try:
            return cls(**limits)
        except TypeError as error:
            known = [*asdict(cls())]
            raise KDNASError(f"limits are {shown(limits)}; expected a mapping of some of {known}") from error

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the limits that are set."""
        return tuple(name for name, value in asdict(self).items() if name != "format" and value)

    def __bool__(self) -> bool:
        return bool(self.names)

    def costs(self, evaluation: Evaluation, quality: float | None = None) -> dict[str, float]:
        """Return the relative violation of each limit; 0 if it is kept or its quantity is not known yet.

        Args:
            evaluation: The evaluation of the student: its parameters, and its latency if it was measured.
            quality: Its quality as a share of the teacher's; None if it is not known yet.
        """
        margins = self.margins(evaluation, quality)
        return {name: max(0.0, margins.get(name, 0.0)) for name in self.names}

    def margins(self, evaluation: Evaluation, quality: float | None = None) -> dict[str, float]:
        """Return the relative violation of each limit; 0 or less if it is kept.

        Limits whose quantity is not known yet are left out. The arguments are those of :meth:`costs`.
        """
        if not self.names:
            return {}
        latency = evaluation.latency
        known = {
            "speedup": None if latency is None else latency.speedup,
            "latency_ms": None if latency is None else latency.median_ms,
            "size_mb": self.megabytes(evaluation.parameters),
            "parameters": evaluation.parameters,
            "keep": None if quality is None else max(quality, LEAST_QUALITY),
        }
        values = {name: known[name] for name in self.names}
        return {name: self.excess(name, value) for name, value in values.items() if value is not None}

    def excess(self, name: str, value: Any) -> Any:
        """Return the violation of a limit by values; see the function :func:`excess`."""
        return excess(name, getattr(self, name), value)

    def megabytes(self, parameters: Any) -> Any:
        """Return the estimated sizes of exported files from numbers of parameters (one, or an array)."""
        return exported_megabytes(parameters, self.format)

    def breaks(self, evaluation: Evaluation) -> bool:
        """Whether a student breaks a limit that can be known before distillation."""
        return any(cost > 0 for cost in self.costs(evaluation).values())

    def surely_breaks(self, evaluation: Evaluation) -> bool:
        """Whether a student breaks such a limit even if its measured latency is too high by ``LATENCY_DOUBT``."""
        latency = evaluation.latency
        if latency is not None:
            doubt = 1 + LATENCY_DOUBT
            latency = replace(latency, median_ms=latency.median_ms / doubt, ratio=latency.ratio / doubt)
        return self.breaks(replace(evaluation, latency=latency))

    def screened(self, evaluation: Evaluation) -> Evaluation:
        """Return the evaluation without distillation results if the student breaks a limit, else unchanged.

        Evaluations without a latency, which include all failures, are not changed.
        """
        costs = self.costs(evaluation)
        measured = evaluation.latency is not None and evaluation.status in (Status.OK, Status.INFEASIBLE)
        if not measured or not any(costs.values()):
            return evaluation
        return replace(
            evaluation,
            status=Status.INFEASIBLE,
            train_loss=(),
            heldout_loss=(),
            train_unexplained=(),
            heldout_unexplained=(),
            task_divergence=None,
            task_unexplained=None,
            epoch_seconds=(),
            wall_seconds=evaluation.wall_seconds if evaluation.status is Status.INFEASIBLE else 0.0,
            error=self.describe(evaluation),
        )

    def describe(self, evaluation: Evaluation, quality: float | None = None) -> str:
        """Return a description of the broken limits; the arguments are those of :meth:`costs`."""
        costs = self.costs(evaluation, quality)
        return "; ".join(self._words(name, evaluation, quality) for name, cost in costs.items() if cost > 0)

    def _words(self, name: str, evaluation: Evaluation, quality: float | None) -> str:
        latency, parameters, limit = evaluation.latency, evaluation.parameters, getattr(self, name)
        match name:
            case "speedup" if latency is not None:
                return f"speedup {latency.speedup:.2f} is below {limit:g}"
            case "latency_ms" if latency is not None:
                return f"latency {latency.median_ms:.2f} ms is above {limit:g} ms"
            case "size_mb":
                return f"size {self.megabytes(parameters):.1f} MB ({self.format}) is above {limit:g} MB"
            case "parameters":
                return f"{parameters:,} parameters are more than {limit:,}"
            case _:
                return f"quality {quality:.3f} is below {limit:g} of the teacher's"


def exported_megabytes(parameters: Any, format: str) -> Any:
    """Return the estimated sizes of exported ONNX files, in megabytes (1e6 bytes).

    Args:
        parameters: Numbers of parameters: one, or an array.
        format: One of ``BYTES_PER_PARAMETER``.
    """
    return parameters * BYTES_PER_PARAMETER[format] / 1e6


def excess(name: str, limit: float, value: Any) -> Any:
    """Return the relative violation of a limit by values; 0 or less if they keep it.

    It is the shortfall for lower limits and the excess for upper limits; both are 1 at a factor of 2.

    Args:
        name: Name of the limit.
        limit: The limit.
        value: A number, or an array of numbers of any shape; positive.
    """
    return (limit / value if name in AT_LEAST else value / limit) - 1.0


UNLIMITED = Constraints()


@dataclass(frozen=True)
class ConstrainedReward(KDReward):
    """A reward under limits: students that break a limit get less than the floor, and more the smaller the violation.

    A student that breaks a limit gets ``floor - cost / (1 + cost)``, where the cost is the sum of what
    :meth:`Constraints.costs` returns. A student that fails or cannot be built gets the lowest reward, ``floor - 1``,
    unless a penalty is set.

    Attributes:
        limits: The limits.
        handling: ``reward``, as above, or ``cost``: the reward is that of ``KDReward``, and the cost is returned
            separately, for algorithms that handle costs themselves.

    Raises:
        KDNASError: Also if the handling is unknown.
    """

    limits: Constraints = UNLIMITED
    handling: str = "reward"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("constraints", self.handling, HANDLING)

    @classmethod
    def of(cls, reward: KDReward, limits: Constraints, handling: str) -> ConstrainedReward:
        """Put a reward under limits."""
        return cls(**asdict(reward), limits=limits, handling=handling)

    @property
    def lowest(self) -> float:
        """Lower bound of the rewards."""
        return self.floor - 1.0 if self.handling == "reward" else self.floor

    @property
    def failure(self) -> float:
        """Reward of a failed or invalid evaluation."""
        return self.lowest if self.penalty is None else self.penalty

    def __call__(self, evaluation: Evaluation) -> RewardComponents:
        """Return the reward of an evaluation with its components, including the cost."""
        return self.with_costs(evaluation)[0]

    def with_costs(self, evaluation: Evaluation) -> tuple[RewardComponents, dict[str, float]]:
        """Return the reward, and the violation of each limit; see :meth:`Constraints.costs`."""
        components = super().__call__(evaluation)
        costs = self.limits.costs(evaluation, components.quality if evaluation.ok else None)
        return self._limited(components, evaluation, sum(costs.values())), costs

    def _limited(self, components: RewardComponents, evaluation: Evaluation, cost: float) -> RewardComponents:
        """Return the components of a reward, given the total violation of limits."""
        latency = evaluation.latency
        if latency is None:
            return components
        if evaluation.status is Status.INFEASIBLE:
            ratio = latency.ratio
            components = replace(
                components,
                latency_ratio=min(max(ratio, self.MIN_RATIO), self.MAX_RATIO),
                latency_factor=self._latency_factor(ratio),
                speedup=latency.speedup,
            )
        elif not evaluation.ok:
            return components
        if cost <= 0:
            return components
        if self.handling == "cost":
            return replace(components, cost=cost)
        return replace(components, cost=cost, reward=self.floor - cost / (1.0 + cost))
