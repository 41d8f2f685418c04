"""How much of a round is random, as a function of the number of the round."""

from __future__ import annotations

import math
from typing import Any, Literal

from kdnas_env.errors import KDNASError

Decay = Literal["linear", "exponential", "step"]
"""How an exploration ratio falls: straight or by a constant factor to its minimum in the last round, or by a step."""


def check_exploration(config: Any) -> None:
    """Refuse hyper-parameters ``epsilon_*`` of an agent that cannot be those of :func:`exploration_ratio`.

    Args:
        config: A :class:`kdnas_env.support.settings.Settings` that has them.

    Raises:
        KDNASError: If one is out of bounds, or they do not go together.
    """
    config.check_numbers("epsilon_start", "epsilon_min", at_least=0, at_most=1)
    config.check_numbers("epsilon_step", at_least=0)
    start, minimum = config.epsilon_start, config.epsilon_min
    if minimum > start:
        raise KDNASError(f"epsilon_min is {minimum:g}; expected at most epsilon_start, {start:g}")
    if config.epsilon_decay == "exponential" and minimum == 0:
        raise KDNASError("epsilon_min is 0, which an exponential decay never reaches; expected more")
    if config.epsilon_decay != "step":
        config.check_idle("epsilon_step", because=f"epsilon_decay is {config.epsilon_decay!r}, not 'step'")


def exploration_ratio(
    index: int, rounds: int, *, start: float, minimum: float, decay: Decay = "linear", step: float = 0.0
) -> float:
    """Return the share of a round that is random.

    Args:
        index: Number of the round, from 0. Rounds past the last have the ratio of the last.
        rounds: Rounds of the whole search.
        start: Ratio of round 0.
        minimum: Least ratio; that of the last round, unless ``decay`` is ``step``.
        decay: How the ratio falls.
        step: Fall per round of ``decay="step"``.
    """
    if decay == "step":
        return max(minimum, start - step * index)
    progress = min(index / (rounds - 1), 1.0) if rounds > 1 else 0.0
    if decay == "exponential" and start > 0:
        return float(start * (minimum / start) ** progress)
    return start + (minimum - start) * progress


def random_count(ratio: float, n: int, *, least: int = 0) -> int:
    """Return how many of ``n`` candidates are random: ``ratio * n``, halves rounded up, and at least ``least``."""
    # Rounded to 9 digits first: 0.7 * 5 may come as 3.4999999999999996, which is meant to be a half.
    return min(n, max(math.floor(round(ratio * n, 9) + 0.5), least))
