"""Comparison of the decisions of a classifier's graph with those of the classifier itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdnas_env.exporting.check import Forward
from kdnas_env.exporting.text import Text
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import REGRESSION, decide

LARGEST_SCORE_LOSS = 0.004
"""Maximum loss of score (from 0 to 1) of an int8 graph, in addition to the standard error of the loss."""

LEAST_AGREEMENT = 0.99
"""Minimum share of decisions that an int8 graph and the model must agree on, without labels."""

_LEAST_AGREEMENT_WITH_LABELS = 0.95
"""The same with labels. Below it, the graph is a different classifier, even if its score is equal."""


@dataclass(frozen=True)
class Decisions:
    """Comparison of the decisions of a graph with those of the PyTorch model.

    Attributes:
        kind: Kind of the task.
        samples: Number of texts.
        text: Origin of the texts.
        max_abs_error: Largest absolute deviation of a logit.
        agreement: Share of the texts with the same decision; for regression, the share of explained variance of the
            model's numbers.
        score: Score of the graph, the mean of the task's metrics over all texts; None without labels.
        model_score: Score of the model.
    """

    kind: str
    samples: int
    text: str
    max_abs_error: float
    agreement: float
    score: float | None = None
    model_score: float | None = None

    @property
    def allowed(self) -> str:
        """The acceptance criterion of an int8 graph, as text."""
        return (
            f"it may lose {LARGEST_SCORE_LOSS:g} of the score and the standard error of the loss, or without labels "
            f"{1 - LEAST_AGREEMENT:.0%} of the decisions, of few texts one"
        )

    @property
    def standard_error(self) -> float:
        """Standard error of the difference between the scores, estimated from differing decisions; 0 for regression.

        Each of ``n`` differing decisions of ``samples`` changes an accuracy by ``1 / samples``. The standard deviation
        of their sum is at most ``sqrt(n) / samples`` (the variance in McNemar's test).
        """
        differing = 0 if self.kind == REGRESSION else round((1 - self.agreement) * self.samples)
        return float(np.sqrt(differing) / self.samples)

    @property
    def acceptable(self) -> bool:
        """Whether an int8 graph may be exported.

        A loss that may be due to chance, such as one decision of a few texts, is accepted.
        """
        if not np.isfinite(self.max_abs_error) or self.agreement < _LEAST_AGREEMENT_WITH_LABELS:
            return False
        if self.score is None or self.model_score is None:
            one_differs = self.kind != REGRESSION and round((1 - self.agreement) * self.samples) <= 1
            return self.agreement >= LEAST_AGREEMENT or one_differs
        return self.model_score - self.score <= LARGEST_SCORE_LOSS + self.standard_error

    def in_words(self) -> str:
        """Return the comparison as text."""
        words = f"{self.agreement:.2%} of {self.samples} decisions ({self.text}) are the model's"
        if self.kind == REGRESSION:
            words = (
                f"{self.agreement:.2%} of the variance of the model's {self.samples} numbers ({self.text}) is explained"
            )
        words = f"{words}, logits deviate by at most {self.max_abs_error:.2g}"
        if self.score is None or self.model_score is None:
            return words
        return f"{words}, score {self.score:.4f} (model: {self.model_score:.4f})"


def compare_decisions(logits: NDArray[np.float32], expected: NDArray[np.float32], kind: str, text: Text) -> Decisions:
    """Compare logits of a graph with those of the model.

    Args:
        logits: Logits of the graph, float32 ``(samples, classes)``; for regression ``(samples, 1)``.
        expected: Logits of the model, of the same shape.
        kind: Kind of the task.
        text: The texts in the order of the logits, with labels if available.
    """
    error = float(np.abs(logits - expected).max())
    if kind == REGRESSION:
        logits, expected = logits[:, 0], expected[:, 0]
    actual, wanted = decide(kind, logits), decide(kind, expected)
    if kind == REGRESSION:
        variance = float(np.square(wanted - wanted.mean()).sum())
        unexplained = float(np.square(actual - wanted).sum())
        agreement = 1 - unexplained / variance if variance > 0 else float(unexplained == 0)
    else:
        equal = actual == wanted
        agreement = float((equal.all(1) if equal.ndim == 2 else equal).mean())
    if text.labels is None or text.spec is None:
        return Decisions(kind, len(expected), text.origin, error, agreement)
    metric, labels = task_metric(text.spec), text.labels
    score, model_score = (
        float(np.mean([metric.compute(predictions=values, references=labels)[name] for name in text.spec.metrics]))
        for values in (actual, wanted)
    )
    return Decisions(kind, len(expected), text.origin, error, agreement, score, model_score)


def logits_on(forward: Forward, text: Text) -> NDArray[np.float32]:
    """Return the logits of texts, float32 ``(samples, classes)``."""
    parts: Sequence[NDArray[np.float32]] = [forward(batch) for batch in text.batches]
    return np.concatenate(parts)
