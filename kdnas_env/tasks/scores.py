"""The score of a model on a task, as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from kdnas_env.core.evaluation import Status
from kdnas_env.errors import DependencyError, RunError
from kdnas_env.support.statistics import percentile_interval
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.specs import Split, TaskData, TaskSpec

if TYPE_CHECKING:
    from kdnas_env.tasks.metric import TaskMetric

FINETUNED, PROBED, CONSTANT = "fine-tuning", "linear probe", "majority class"
OWN_HEAD, COSINE = "own head", "cosine similarity"


@dataclass(frozen=True)
class TaskScore:
    """The score of a model on a task; plain data.

    Attributes:
        task: Name of the task.
        method: ``fine-tuning``, ``linear probe``, ``majority class``, ``own head`` or ``cosine similarity``.
        seed: Seed of all randomness.
        metrics: For each split, its metrics by name; empty if there is none.
        status: Outcome.
        error: Reason for a failure.
        details: Settings and measurements, such as steps, training loss of each epoch, or penalty.
        seconds: Wall-clock seconds.
        scored: Splits that make up the score.
        reported: For each split, additional metrics that are not part of the score.
        intervals: For each split, the 95 % bootstrap interval of every metric over its samples.
    """

    task: str
    method: str
    seed: int
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    status: Status = Status.OK
    error: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    scored: tuple[str, ...] = field(kw_only=True)
    reported: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a score."""
        return self.status == Status.OK

    @property
    def score(self) -> float:
        """The mean of the metrics, and over the two halves of MNLI, as defined by GLUE.

        Raises:
            ValueError: If there is no score.
        """
        if not self.ok:
            raise ValueError(f"there is no score on {self.task!r}: {self.status}, {self.error}")
        return float(np.mean([self.split_score(split) for split in self.scored]))

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


def task_metric(spec: TaskSpec) -> TaskMetric:
    """Return the metric of a task.

    Raises:
        DependencyError: If evaluate or scikit-learn is missing.
    """
    try:
        import sklearn  # noqa: F401  (needed by evaluate)

        from kdnas_env.tasks.metric import TaskMetric
    except ImportError as error:
        raise DependencyError(
            f"scores need evaluate and scikit-learn, one of which cannot be imported: {error}; "
            "pip install 'kdnas[score]'"
        ) from error
    return TaskMetric(spec)


def score_predictions(data: TaskData, predictions: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the fields of a score that follow from the predictions on the evaluated splits.

    Raises:
        DependencyError: If evaluate or scikit-learn is missing.
    """
    metric, spec = task_metric(data.spec), data.spec
    values = {
        name: metric.compute(predictions=predictions[name], references=split.labels)
        for name, split in data.evaluation.items()
    }
    return {
        "metrics": {split: {name: computed[name] for name in spec.metrics} for split, computed in values.items()},
        "reported": {split: {name: computed[name] for name in spec.reported} for split, computed in values.items()},
        "intervals": {
            name: metric.intervals(predictions[name], split.labels) for name, split in data.evaluation.items()
        },
        "scored": spec.scored,
    }


@dataclass(frozen=True)
class Share:
    """Share of its teacher's score that a model keeps on a split; plain data.

    Attributes:
        split: Name of the split.
        samples: Number of its samples.
        score: Score of the model: the mean of the task's metrics.
        teacher_score: Score of the teacher.
        value: ``score / teacher_score``; 0 if the teacher's score is not positive.
        low: Lower bound of its 95 % bootstrap interval, with the same samples for both.
        high: Upper bound of the interval.
    """

    split: str
    samples: int
    score: float
    teacher_score: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """Scores of a model, its teacher and a constant answer on a split; plain data.

    Attributes:
        split: Name of the split.
        model: Score of the model, the mean of the task's metrics, and the bounds of its 95 % bootstrap interval.
        teacher: The same for its teacher.
        constant: Score of the constant answer.
        answer: The constant answer: ``majority class`` or ``mean of the numbers``.
    """

    split: str
    model: tuple[float, float, float]
    teacher: tuple[float, float, float]
    constant: float
    answer: str

    @property
    def teacher_is_weak(self) -> bool:
        """Whether the interval of the teacher's score includes the score of the constant answer, or lies below it."""
        return self.teacher[1] <= self.constant


def standing(data: TaskData, name: str, predictions: NDArray[Any], teacher: NDArray[Any], split: Split) -> Standing:
    """Return the scores of a model, its teacher and the constant answer of :func:`majority_class`.

    Args:
        data: The task, whose training split determines the constant answer.
        name: Name of the split.
        predictions: The model's decisions, as :meth:`kdnas_env.tasks.specs.TaskSpec.decide` returns them.
        teacher: The teacher's decisions.
        split: The split.

    Raises:
        DependencyError: If evaluate or scikit-learn is missing.
    """
    constant = np.repeat(_constant_answer(data)[None], len(split), axis=0)
    (own, own_draws), (theirs, their_draws), (least, _) = (
        _score_and_draws(data.spec, decided, split.labels) for decided in (predictions, teacher, constant)
    )
    return Standing(
        split=name,
        model=(float(own), *percentile_interval(own_draws)),
        teacher=(float(theirs), *percentile_interval(their_draws)),
        constant=float(least),
        answer="mean of the numbers" if data.spec.regression else CONSTANT,
    )


def share_kept(
    spec: TaskSpec, name: str, predictions: NDArray[Any], teacher: NDArray[Any], references: NDArray[Any]
) -> Share:
    """Return the share of a teacher's score that a model keeps.

    Args:
        spec: The task.
        name: Name of the split.
        predictions: The model's decisions, as :meth:`kdnas_env.tasks.specs.TaskSpec.decide` returns them.
        teacher: The teacher's decisions.
        references: The labels.

    Raises:
        DependencyError: If evaluate or scikit-learn is missing.
    """
    return mean_share(spec, name, [predictions], [teacher], references)


def mean_share(
    spec: TaskSpec,
    name: str,
    predictions: Sequence[NDArray[Any]],
    teachers: Sequence[NDArray[Any]],
    references: NDArray[Any],
) -> Share:
    """Return the mean share of their teachers' scores that several models keep, such as models of several seeds.

    The interval covers both other models and other samples: the bootstrap resamples both, with the same samples for all
    models.

    Args:
        spec: The task.
        name: Name of the split.
        predictions: Each model's decisions, as :meth:`kdnas_env.tasks.specs.TaskSpec.decide` returns them.
        teachers: The decisions of each model's teacher.
        references: The labels.

    Raises:
        DependencyError: If evaluate or scikit-learn is missing.
    """
    own, theirs = (
        [_score_and_draws(spec, decided, references) for decided in group] for group in (predictions, teachers)
    )
    ratios = np.stack([_quotient(mine[1], taught[1]) for mine, taught in zip(own, theirs, strict=True)])
    models, repetitions = ratios.shape
    drawn = np.random.default_rng(0).integers(models, size=(models, repetitions))
    low, high = percentile_interval(np.take_along_axis(ratios, drawn, axis=0).mean(axis=0))
    return Share(
        split=name,
        samples=len(references),
        score=float(np.mean([score for score, _ in own])),
        teacher_score=float(np.mean([score for score, _ in theirs])),
        value=float(np.mean([_quotient(mine[0], taught[0]) for mine, taught in zip(own, theirs, strict=True)])),
        low=low,
        high=high,
    )


def _score_and_draws(
    spec: TaskSpec, decided: NDArray[Any], references: NDArray[Any]
) -> tuple[np.float64, NDArray[np.float64]]:
    """Return the mean of a task's metrics, and its values on bootstrap samples, ``(repetitions,)``."""
    metric = task_metric(spec)
    values, drawn = metric.compute(predictions=decided, references=references), metric.draws(decided, references)
    score = np.mean([values[metric_name] for metric_name in spec.metrics])
    return score, np.mean([drawn[metric_name] for metric_name in spec.metrics], axis=0)


def _quotient(score: Any, teacher_score: Any) -> NDArray[np.float64]:
    """Return scores divided by a teacher's; 0 where the teacher's score is not positive."""
    kept = np.zeros_like(score, dtype=np.float64)
    np.divide(score, teacher_score, out=kept, where=np.asarray(teacher_score) > 0)
    return kept


def majority_class(data: TaskData) -> TaskScore:
    """Score the constant answer: the most frequent class of the training split, or its mean number.

    Raises:
        DependencyError: If evaluate or scikit-learn is missing.
    """
    constant = _constant_answer(data)
    predictions = {name: np.repeat(constant[None], len(split), axis=0) for name, split in data.evaluation.items()}
    return TaskScore(
        data.name, CONSTANT, 0, details={"answer": constant.tolist()}, **score_predictions(data, predictions)
    )


def _constant_answer(data: TaskData) -> Any:
    """Return the most frequent class of the training split, the classes of more than half of it, or its mean."""
    labels, spec = data.train.labels, data.spec
    if spec.regression:
        return labels.mean()
    return (2 * labels.mean(0) > 1).astype(np.int64) if spec.multi_label else np.bincount(labels).argmax()
