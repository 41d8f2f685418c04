"""Numeric features of benchmark tasks, for agents that learn across tasks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kdnas_env.core.constraints import Constraints
from kdnas_env.core.reward import KDReward
from kdnas_env.tables.table import TableMetadata

LIMITS = {"speedup": 5.0, "latency_ms": 5.0, "size_mb": 20.0, "parameters": 8e6, "keep": 0.6}
"""Limits with their typical values, for which the feature is 0."""

FEATURES = (
    "alpha",
    "log_beta",
    *(f"{kind}_{name}" for name in LIMITS for kind in ("has", "log")),
    "log_teacher_ms",
    "log_teacher_layers",
    "log_teacher_width",
    "log_text_samples",
    "log_text_length",
    "epochs",
)
"""Names of the features, in order. A limit has two: whether it is set, and its logarithm relative to :data:`LIMITS` (0
if not set). ``log_teacher_ms`` distinguishes devices; ``log_text_length`` uses tokens per sample."""

LARGEST = 10.0
"""Features are clipped to this magnitude."""

Features = npt.NDArray[np.float32]


def task_features(
    reward: KDReward, limits: Constraints, metadata: TableMetadata, *, epochs: int, teacher_ms: float
) -> Features:
    """Describe a task.

    Args:
        reward: The reward.
        limits: Limits of students.
        metadata: Metadata of the table.
        epochs: Epochs of an evaluation.
        teacher_ms: Latency of the teacher on the reward's device, in milliseconds; NaN if unknown.

    Returns:
        float32 of shape ``(len(FEATURES),)``, with values of order 1.
    """
    asked = []
    for name, usual in LIMITS.items():
        limit = getattr(limits, name)
        asked += [0.0, 0.0] if limit is None else [1.0, math.log(limit / usual)]
    teacher, facts = metadata.encoder, metadata.corpus.get("facts", {})
    samples, tokens = facts.get("train_sentences", 128), facts.get("train_tokens", 128 * 32)
    features = np.array(
        [
            10 * reward.alpha,
            math.log(reward.beta),
            *asked,
            math.log(teacher_ms / 10) if math.isfinite(teacher_ms) else 0.0,
            math.log(teacher.num_hidden_layers / 6),
            math.log(teacher.hidden_size / 384),
            math.log(samples / 128),
            math.log(tokens / samples / 32),
            epochs / 3,
        ],
        dtype=np.float32,
    )
    return np.clip(features, -LARGEST, LARGEST)
