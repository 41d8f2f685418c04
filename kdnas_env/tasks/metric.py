"""The metrics of a task as one metric of ``evaluate``; it works offline.

Metrics accept weights, so that a bootstrap interval costs only a few matrix products: a sample drawn twice has weight
2. The results equal those of scikit-learn and SciPy, which would need a thousand calls per interval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from kdnas_env.support.arrays import Floats
from kdnas_env.support.scratch import scratch_folder
from kdnas_env.support.statistics import percentile_interval
from kdnas_env.tasks.specs import TaskSpec

_DESCRIPTION = "The metrics of a task."
_INPUTS = """
Args:
    predictions: classes; 0 and 1 for each class where there may be several; or numbers
    references: the same, as annotated
"""
_CITATION = """
@inproceedings{wang2019glue,
  title={{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle={International Conference on Learning Representations},
  year={2019}
}
"""
_CHUNK = 2_000_000


class TaskMetric(evaluate.Metric):  # type: ignore[misc]
    """The metrics of one task; for GLUE tasks those of Wang et al. 2019 (arXiv:1804.07461).

    An undefined metric, because predictions or references are constant, is 0.

    Args:
        spec: The task.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        # evaluate creates a cache folder, but writes no files with keep_in_memory.
        with scratch_folder("metric") as scratch:
            super().__init__(config_name=spec.kind, keep_in_memory=True, seed=0, cache_dir=str(scratch))

    def _info(self) -> Any:
        value = datasets.Value("float64" if self.spec.regression else "int64")
        kind = datasets.Sequence(value) if self.spec.multi_label else value
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, annotated = np.asarray(predictions), np.asarray(references)
        weights = np.ones((1, len(annotated)))
        return {name: float(METRICS[name](annotated, predicted, weights)[0]) for name in self._names}

    def intervals(
        self, predictions: NDArray[Any], references: NDArray[Any], *, repetitions: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Return the 95 % percentile bootstrap interval of each metric; see :meth:`draws`."""
        drawn = self.draws(predictions, references, repetitions=repetitions, seed=seed)
        return {name: percentile_interval(values) for name, values in drawn.items()}

    def draws(
        self, predictions: NDArray[Any], references: NDArray[Any], *, repetitions: int = 1000, seed: int = 0
    ) -> dict[str, Floats]:
        """Return each metric on bootstrap samples, ``(repetitions,)``; equal seeds draw equal samples.

        Args:
            predictions: The predictions.
            references: The labels.
            repetitions: Number of bootstrap samples.
            seed: Seed of the draws.
        """
        rng, samples = np.random.default_rng(seed), len(references)
        drawn: dict[str, list[Floats]] = {name: [] for name in self._names}
        chunk = max(1, _CHUNK // samples)
        for start in range(0, repetitions, chunk):
            size = min(chunk, repetitions - start)
            weights = rng.multinomial(samples, np.full(samples, 1 / samples), size=size).astype(np.float64)
            for name in drawn:
                drawn[name].append(METRICS[name](references, predictions, weights))
        return {name: np.concatenate(values) for name, values in drawn.items()}

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.spec.metrics, *self.spec.reported)


def _accuracy(references: NDArray[Any], predictions: NDArray[Any], weights: Floats) -> Floats:
    right = references == predictions
    return _ratio(weights @ (right.all(1) if right.ndim == 2 else right).astype(np.float64), weights.sum(1))


def _f1(references: NDArray[Any], predictions: NDArray[Any], weights: Floats) -> Floats:
    both, annotated, predicted = _counts(references == 1, predictions == 1, weights)
    return _ratio(2 * both, annotated + predicted)


def _f1_macro(references: NDArray[Any], predictions: NDArray[Any], weights: Floats) -> Floats:
    """Return the mean F1 over classes; in each draw, classes neither annotated nor predicted are left out."""
    both, annotated, predicted = _counts(*_indicators(references, predictions), weights)
    counted = annotated + predicted > 0
    return _ratio((_ratio(2 * both, annotated + predicted) * counted).sum(1), counted.sum(1).astype(np.float64))


def _matthews(references: NDArray[Any], predictions: NDArray[Any], weights: Floats) -> Floats:
    both, annotated, predicted = _counts(*_indicators(references, predictions), weights)
    total = weights.sum(1)
    covariance = both.sum(1) * total - (annotated * predicted).sum(1)
    spread = (total**2 - (annotated**2).sum(1)) * (total**2 - (predicted**2).sum(1))
    return _ratio(covariance, np.sqrt(spread))


def _pearson(references: NDArray[Any], predictions: NDArray[Any], weights: Floats) -> Floats:
    """Return the correlation of values, ``(samples,)`` or per draw ``(draws, samples)``."""
    total = weights.sum(1, keepdims=True)
    first, second = (
        values - (weights * values).sum(1, keepdims=True) / total
        for values in (references.astype(np.float64), predictions.astype(np.float64))
    )
    covariance = (weights * first * second).sum(1)
    spreads = [np.sqrt((weights * centred**2).sum(1)) for centred in (first, second)]
    # Differences within rounding error count as constant.
    vary = [
        spread > 1e-9 * (1 + np.abs(values).max())
        for spread, values in zip(spreads, (references, predictions), strict=True)
    ]
    return np.where(vary[0] & vary[1], np.clip(_ratio(covariance, spreads[0] * spreads[1]), -1, 1), 0.0)


def _spearman(references: NDArray[Any], predictions: NDArray[Any], weights: Floats) -> Floats:
    return _pearson(_ranks(references, weights), _ranks(predictions, weights), weights)


def _ranks(values: NDArray[Any], weights: Floats) -> Floats:
    """Return the rank of each value in each draw, ``(draws, samples)``; ties get their mean rank."""
    # Differences within rounding error count as ties.
    coarse = np.round(values.astype(np.float64), 9 - int(np.ceil(np.log10(1 + np.abs(values).max()))))
    distinct, place = np.unique(coarse, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Floats = (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, place]
    return ranks


def _indicators(references: NDArray[Any], predictions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the classes of each sample as bool ``(samples, classes)``."""
    if references.ndim == 2:
        return references == 1, predictions == 1
    classes = np.union1d(references, predictions)
    return references[:, None] == classes, predictions[:, None] == classes


def _counts(annotated: NDArray[Any], predicted: NDArray[Any], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the weighted counts in each draw of: both, annotated, predicted; per class if there are several."""
    both, references, predictions = (
        weights @ marks.astype(np.float64) for marks in (annotated & predicted, annotated, predicted)
    )
    return both, references, predictions


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; 0 where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any], Floats], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
"""Metrics by name. Each takes references, predictions and weights ``(draws, samples)``; it returns a value per draw."""
