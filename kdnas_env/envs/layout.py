"""Layout of infos, and checks of environment arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.evaluation import Evaluation
from kdnas_env.core.reward import RewardComponents
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_whole
from kdnas_env.support.untrusted import shown

MOST_AT_ONCE = 100_000
"""Maximum round size, because observations hold all candidates of a round."""

MISSING_LOSS = -1.0
"""Value in ``info["heldout_curve"]`` of epochs that were not reached; a loss is never negative."""


def loss_curve(losses: Sequence[float] | npt.NDArray[np.float64], epochs: int) -> npt.NDArray[np.float64]:
    """Return the held-out loss by epoch, float64 ``(epochs + 1,)``.

    Args:
        losses: The losses of the epochs that were reached; may be empty.
        epochs: Number of epochs.
    """
    curve = np.full(epochs + 1, MISSING_LOSS)
    reached = losses[: len(curve)]
    curve[: len(reached)] = reached
    return curve


def evaluation_info(evaluation: Evaluation | None, reward: RewardComponents, index: int) -> dict[str, Any]:
    """Return the info of an evaluation, without its loss curve; neutral values without an evaluation."""
    latency = evaluation.latency if evaluation else None
    return student_info(
        reward,
        index,
        config=str(evaluation.config) if evaluation else "",
        status=str(evaluation.status) if evaluation else "none",
        error=evaluation.error if evaluation else "",
        latency_ms=float(latency.median_ms) if latency else 0.0,
        teacher_latency_ms=float(latency.teacher_median_ms) if latency else 0.0,
        parameters=int(evaluation.parameters) if evaluation else 0,
        flops=int(evaluation.flops) if evaluation else 0,
        epochs=evaluation.fidelity.epochs if evaluation else 0,
    )


def student_info(
    reward: RewardComponents,
    index: int,
    *,
    config: str,
    status: str,
    error: str,
    latency_ms: float,
    teacher_latency_ms: float,
    parameters: int,
    flops: int,
    epochs: int,
) -> dict[str, Any]:
    """Return the info of a student, without its loss curve."""
    return {
        "config": config,
        "index": index,
        "status": status,
        "error": error,
        "quality": reward.quality,
        "loss": reward.loss,
        "latency_ratio": reward.latency_ratio,
        "latency_factor": reward.latency_factor,
        "speedup": reward.speedup,
        "latency_ms": latency_ms,
        "teacher_latency_ms": teacher_latency_ms,
        "parameters": parameters,
        "flops": flops,
        "epochs": epochs,
    }


def costs_info(costs: Mapping[str, float]) -> dict[str, Any]:
    """Return the info on limits: the total violation and the violation of each limit; empty without limits."""
    return {"cost": sum(costs.values()), "costs": dict(costs)} if costs else {}


NEUTRAL_REWARD = RewardComponents(0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
"""The info when nothing was evaluated."""


def checked_options(options: Any, known: Sequence[str]) -> dict[str, Any]:
    """Return the options of a reset.

    Raises:
        KDNASError: If the options are not a mapping, or one is unknown.
    """
    if options is not None and not isinstance(options, Mapping):
        raise KDNASError(f"the options of reset are {shown(options)}; expected a mapping, or None")
    unknown = [name for name in options or () if name not in known]
    if unknown:
        options_are = "the only option is" if len(known) == 1 else "the options are"
        raise KDNASError(f"unknown reset option(s) {shown(unknown)}; {options_are} {' and '.join(map(repr, known))}")
    return dict(options or {})


def checked_count(name: str, value: object, of: str = "evaluations") -> int:
    """Check a count of evaluations (or of ``of``): an integer from 1 to the capacity of observations.

    Raises:
        KDNASError: If the value is not such an integer.
    """
    return check_whole(name, value, of=of, at_least=1, at_most=MOST_AT_ONCE)
