"""How well a model does on a task, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from kdnas_env.core.evaluation import Status
from kdnas_env.errors import DependencyError, RunError
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.specs import TaskData, task_spec

if TYPE_CHECKING:
    from kdnas_env.tasks.metric import GlueMetric

FINETUNED, PROBED, CONSTANT = "fine-tuning", "linear probe", "majority class"


@dataclass(frozen=True)
class TaskScore:
    """The score of a model on a task; plain data.

    Attributes:
        task: Name of the task.
        method: ``fine-tuning``, ``linear probe`` or ``majority class``.
        seed: Seed of whatever is random.
        metrics: For each split, its metrics by name; empty if there is none.
        status: How it ended.
        error: Why it ended badly.
        details: Settings and what was found on the way: steps, training loss of each epoch, penalty.
        seconds: Wall seconds.
    """

    task: str
    method: str
    seed: int
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    status: Status = Status.OK
    error: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is a score."""
        return self.status == Status.OK

    @property
    def score(self) -> float:
        """The mean of the metrics, and of the two halves of MNLI, as GLUE takes it.

        Raises:
            ValueError: If there is no score.
        """
        if not self.ok:
            raise ValueError(f"there is no score on {self.task!r}: {self.status}, {self.error}")
        return float(np.mean([self.split_score(split) for split in task_spec(self.task).scored]))

    def split_score(self, split: str) -> float:
        """Return the mean of the metrics of a split."""
        return float(np.mean(list(self.metrics[split].values())))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "status": str(self.status)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Restore a record of :meth:`to_dict`.

        Raises:
            RunError: If it is malformed.
        """
        try:
            return restore(cls, data)
        except ValueError as error:
            raise RunError(f"the recorded score is not of this version of kdnas: {error}") from error


def glue_metric(task: str) -> GlueMetric:
    """Return the metric of a task.

    Raises:
        KDNASError: If there is no such task.
        DependencyError: If evaluate, scikit-learn or SciPy is missing.
    """
    try:
        from kdnas_env.tasks.metric import GlueMetric
    except ImportError as error:
        raise DependencyError(
            f"scores need evaluate, scikit-learn and SciPy, one of which cannot be imported: {error}; "
            "pip install 'kdnas[glue]'"
        ) from error
    return GlueMetric(task)


def score_predictions(data: TaskData, predictions: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, float]]:
    """Return the metrics of predictions of every evaluated split.

    Raises:
        DependencyError: If evaluate, scikit-learn or SciPy is missing.
    """
    metric = glue_metric(data.name)
    return {
        name: metric.compute(predictions=predictions[name], references=split.labels)
        for name, split in data.evaluation.items()
    }


def majority_class(data: TaskData) -> TaskScore:
    """Score whoever always answers the most frequent class of the training split, or its mean similarity.

    Raises:
        DependencyError: If evaluate, scikit-learn or SciPy is missing.
    """
    labels = data.train.labels
    constant = float(labels.mean()) if data.spec.regression else int(np.bincount(labels).argmax())
    predictions = {name: np.full(len(split), constant) for name, split in data.evaluation.items()}
    return TaskScore(data.name, CONSTANT, 0, score_predictions(data, predictions), details={"answer": constant})
