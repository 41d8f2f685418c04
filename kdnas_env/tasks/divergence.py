"""Difference between a student's and its teacher's outputs on a task: divergence, agreement, unexplained share.

Outputs are logits, numbers or, for the task without labels, embedding vectors of texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kdnas_env.tasks.specs import EMBEDDING, MULTI_LABEL, REGRESSION
from kdnas_env.tasks.vector_scores import spearman


@dataclass(frozen=True)
class Departure:
    """Difference between outputs and those of a teacher.

    Attributes:
        divergence: Mean Kullback-Leibler divergence from the soft labels (nats; summed over classes in multi-label
            tasks); for numbers the mean squared error; for vectors 1 minus the mean cosine.
        reference: The divergence of a constant student, which always answers with the mean soft label.
        agreement: Share of texts with equal decisions; for numbers Pearson's correlation; for vectors Spearman's
            correlation of the cosines of all pairs of texts.
    """

    divergence: float
    reference: float
    agreement: float

    @property
    def unexplained(self) -> float:
        """The divergence as a share of the reference."""
        return self.divergence / self.reference


def departure(kind: str, logits: Tensor, soft_labels: Tensor) -> Departure:
    """Compare outputs with soft labels.

    Args:
        kind: One of :data:`kdnas_env.tasks.specs.KINDS`, or ``embedding``.
        logits: The student's logits ``(samples, classes)``, numbers ``(samples,)``, or vectors ``(samples, width)``.
        soft_labels: The teacher's, of the same shape.

    Raises:
        FloatingPointError: If the outputs are not finite.
    """
    own, taught = logits.double(), soft_labels.double()
    divergence = float(divergences(kind, own, taught).mean())
    if not math.isfinite(divergence):
        raise FloatingPointError("the outputs of the student on the task are not finite")
    if kind == REGRESSION:
        agreement = float(torch.corrcoef(torch.stack([own, taught]))[0, 1].nan_to_num())
    elif kind == EMBEDDING:
        agreement = spearman(own.float().cpu().numpy(), taught.float().cpu().numpy())
    elif kind == MULTI_LABEL:
        agreement = float(((own > 0) == (taught > 0)).all(1).double().mean())
    else:
        agreement = float((own.argmax(1) == taught.argmax(1)).double().mean())
    return Departure(divergence, float(divergences(kind, ignorant(kind, taught), taught).mean()), agreement)


def divergences(kind: str, logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Return each sample's divergence from its soft label (squared error for numbers), ``(samples,)``, differentiable.

    Args:
        kind: One of :data:`kdnas_env.tasks.specs.KINDS`, or ``embedding``.
        logits: Logits ``(samples, classes)``, numbers ``(samples,)``, or vectors ``(samples, width)``.
        soft_labels: The teacher's, of the same shape.
    """
    if kind == REGRESSION:
        return (logits - soft_labels).square()
    if kind == EMBEDDING:
        return 1 - functional.cosine_similarity(logits, soft_labels)
    if kind == MULTI_LABEL:
        probabilities = soft_labels.sigmoid()
        cross_entropy, entropy = (
            functional.binary_cross_entropy_with_logits(values, probabilities, reduction="none")
            for values in (logits, soft_labels)
        )
        return (cross_entropy - entropy).sum(1)
    return functional.kl_div(
        logits.log_softmax(-1), soft_labels.log_softmax(-1), reduction="none", log_target=True
    ).sum(1)


def ignorant(kind: str, soft_labels: Tensor) -> Tensor:
    """Return the outputs of a constant student, which always answers with the mean soft label; same shape."""
    if kind == REGRESSION:
        return soft_labels.mean().expand_as(soft_labels)
    if kind == EMBEDDING:
        return soft_labels.mean(0).expand_as(soft_labels)
    probabilities = soft_labels.sigmoid() if kind == MULTI_LABEL else soft_labels.softmax(-1)
    mean = probabilities.mean(0)
    return (mean.logit() if kind == MULTI_LABEL else mean.log()).expand_as(soft_labels)
