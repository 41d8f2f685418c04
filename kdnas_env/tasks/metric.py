"""GLUE's metrics as one metric of ``evaluate``, computed by scikit-learn and SciPy; it needs no network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from kdnas_env.support.scratch import scratch_folder
from kdnas_env.tasks.specs import task_spec

_DESCRIPTION = "The metrics of a task of GLUE."
_INPUTS = """
Args:
    predictions: classes, or similarities for stsb
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


class GlueMetric(evaluate.Metric):  # type: ignore[misc]
    """The metrics of one task: those of Wang et al. 2019 (arXiv:1804.07461).

    Correlations that are not defined, because predictions or references do not vary, are 0: they tell nothing of one
    another.

    Args:
        task: Name of the task.

    Raises:
        KDNASError: If there is no such task.
    """

    def __init__(self, task: str) -> None:
        self.spec = task_spec(task)
        # evaluate makes a folder for files that it does not write when it keeps all in memory.
        with scratch_folder("metric") as scratch:
            super().__init__(config_name=task, keep_in_memory=True, seed=0, cache_dir=str(scratch))

    def _info(self) -> Any:
        kind = datasets.Value("float64" if self.spec.regression else "int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, annotated = np.asarray(predictions), np.asarray(references)
        return {name: _METRICS[name](annotated, predicted) for name in self.spec.metrics}


def _accuracy(references: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(metrics.accuracy_score(references, predictions))


def _f1(references: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(metrics.f1_score(references, predictions, pos_label=1, zero_division=0.0))


def _matthews(references: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(metrics.matthews_corrcoef(references, predictions)) if _vary(references, predictions) else 0.0


def _pearson(references: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(stats.pearsonr(predictions, references).statistic) if _vary(references, predictions) else 0.0


def _spearman(references: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(stats.spearmanr(predictions, references).statistic) if _vary(references, predictions) else 0.0


def _vary(*values: NDArray[Any]) -> bool:
    # Differences that rounding makes are no variation.
    return all(array.size > 1 and np.ptp(array) > 1e-9 * (1.0 + np.abs(array).max()) for array in values)


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
