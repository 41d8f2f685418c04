"""The loss of accuracy by int8 of models that compute states or vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdnas_env.exporting.check import Batch, Forward
from kdnas_env.exporting.text import Text
from kdnas_env.tasks.vector_scores import spearman

LARGEST_UNEXPLAINED = 0.01
"""Maximum share of the variance of its states that an int8 encoder may leave unexplained."""

LARGEST_SIMILARITY_LOSS = 0.01
"""Maximum difference from 1 of the cosine of int8 and float vectors, and of the correlation of similarities."""


@dataclass(frozen=True)
class QuantisationCost:
    """Loss of accuracy of an int8 encoder relative to the float graph.

    Attributes:
        unexplained: Squared error of the last hidden states (without padding) divided by their variance; 0 is no error.
        cosine: Mean cosine of mean-pooled sentence vectors; 1 is no error.
        sentences: Number of sentences it was measured on.
        text: Source of the sentences.
        float_bytes: Size of the float graph.
        int8_bytes: Size of the int8 graph.
    """

    unexplained: float
    cosine: float
    sentences: int
    text: str
    float_bytes: int
    int8_bytes: int

    @property
    def allowed(self) -> str:
        """The acceptance criterion of an int8 graph, as text."""
        return f"it may leave {LARGEST_UNEXPLAINED:.0%} of the variance of the hidden states unexplained"

    @property
    def acceptable(self) -> bool:
        """Whether the int8 graph may be exported; never if numbers are not finite."""
        return self.unexplained <= LARGEST_UNEXPLAINED

    def in_words(self) -> str:
        """Return the comparison as text."""
        return (
            f"unexplained variance of the hidden states {self.unexplained:.4f} (0 is no error), mean cosine of "
            f"sentence vectors {self.cosine:.4f} (1 is no error), on {self.sentences} sentences ({self.text}); "
            f"{self.int8_bytes / 1e6:.2f} MB instead of {self.float_bytes / 1e6:.2f} MB"
        )


@dataclass(frozen=True)
class VectorCost:
    """Loss of accuracy of an int8 embedding student relative to the float graph.

    Attributes:
        cosine: Mean cosine of the two vectors of a text; 1 is no error.
        spearman: Spearman's correlation of the cosines of all pairs of texts; 1 is no error.
        texts: Number of texts it was measured on.
        text: Source of the texts.
    """

    cosine: float
    spearman: float
    texts: int
    text: str

    @property
    def allowed(self) -> str:
        """The acceptance criterion of an int8 graph, as text."""
        return f"cosine and Spearman's correlation with the float vectors may be {LARGEST_SIMILARITY_LOSS:g} below 1"

    @property
    def acceptable(self) -> bool:
        """Whether the int8 graph may be exported; never if numbers are not finite."""
        return 1 - min(self.cosine, self.spearman) <= LARGEST_SIMILARITY_LOSS

    def in_words(self) -> str:
        """Return the comparison as text."""
        return (
            f"mean cosine of vectors {self.cosine:.4f}, Spearman's correlation of similarities {self.spearman:.4f} "
            f"(1 is no error), on {self.texts} texts ({self.text})"
        )


def vector_cost(quantised: Forward, original: Forward, text: Text) -> VectorCost:
    """Compare the vectors of two graphs.

    Args:
        quantised: The int8 graph.
        original: The float graph.
        text: The texts.
    """
    ours, theirs = (np.concatenate([forward(batch) for batch in text.batches]) for forward in (quantised, original))
    cosine = float(_cosines(ours.astype(np.float64), theirs.astype(np.float64)).mean())
    return VectorCost(cosine, spearman(ours, theirs), text.sentences, text.origin)


def quantisation_cost(quantised: Forward, original: Forward, batches: Sequence[Batch]) -> tuple[float, float]:
    """Compare the last hidden states of two graphs.

    Args:
        quantised: The int8 graph.
        original: The float graph.
        batches: Inputs.

    Returns:
        Unexplained variance of the states without padding, and mean cosine of mean-pooled sentence vectors.
    """
    states: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    cosines: list[NDArray[np.float64]] = []
    for batch in batches:
        mask = batch["attention_mask"]
        theirs, ours = (forward(batch).astype(np.float64) for forward in (original, quantised))
        states.append((theirs[mask.astype(bool)], ours[mask.astype(bool)]))
        cosines.append(_cosines(_mean_pooled(theirs, mask), _mean_pooled(ours, mask)))
    expected, actual = (np.concatenate(part) for part in zip(*states, strict=True))
    variance = np.square(expected - expected.mean(axis=0)).sum()
    return float(np.square(actual - expected).sum() / variance), float(np.concatenate(cosines).mean())


def _mean_pooled(states: NDArray[np.float64], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    pooled: NDArray[np.float64] = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1)[:, None]
    return pooled


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float64] = (first * second).sum(axis=1) / norms
    return cosines
