"""The search space that is derived from a teacher: fractions of the teacher's sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdnas_env.core.architecture import EncoderArchitecture

ACTIVATIONS = ("gelu", "relu", "silu")
LAYER_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 5 / 6, 1)
HEAD_FRACTIONS = (1 / 6, 1 / 4, 1 / 3, 1 / 2, 1)
WIDTH_FRACTIONS = (1 / 2, 1)
FFN_FRACTIONS = (1 / 8, 1 / 6, 3 / 16, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)


def derived_choices(teacher: EncoderArchitecture, families: Sequence[str] | None = None) -> dict[str, tuple[Any, ...]]:
    """Return choices that are fractions of a teacher's sizes.

    Numbers of heads are divisors of the teacher's. Widths are multiples of 8 and of the teacher's number of heads,
    feed-forward sizes multiples of 8. Therefore every point can be built. For BERT-base these are the 1,200
    architectures of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639).

    Args:
        teacher: The teacher's architecture.
        families: Student families; None: the teacher's own. A single family that is the teacher's own is no dimension.
    """
    base = teacher.as_student()
    heads = teacher.num_attention_heads
    widths = [_near_multiple(teacher.hidden_size * f, math.lcm(8, heads)) for f in WIDTH_FRACTIONS[:-1]]
    inner = [_near_multiple(teacher.intermediate_size * f, 8) for f in FFN_FRACTIONS[:-1]]
    chosen = tuple(dict.fromkeys(families)) if families else (base.family,)
    choices: dict[str, tuple[Any, ...]] = {
        "num_hidden_layers": _sorted_unique(
            max(1, _round_half_up(teacher.num_hidden_layers * f)) for f in LAYER_FRACTIONS
        ),
        "num_attention_heads": _sorted_unique(_nearest_divisor(heads * f, heads) for f in HEAD_FRACTIONS),
        "hidden_size": _sorted_unique(
            [*(width for width in widths if width <= teacher.hidden_size), teacher.hidden_size]
        ),
        "intermediate_size": _sorted_unique(
            [*(size for size in inner if size <= teacher.intermediate_size), teacher.intermediate_size]
        ),
        "hidden_act": ACTIVATIONS if base.hidden_act in ACTIVATIONS else (base.hidden_act, *ACTIVATIONS),
    }
    return choices if chosen == (base.family,) else {**choices, "family": chosen}


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _near_multiple(value: float, base: int) -> int:
    return max(base, base * _round_half_up(value / base))


def _nearest_divisor(value: float, number: int) -> int:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - value), d))


def _sorted_unique(values: Any) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
