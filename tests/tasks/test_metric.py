"""The metrics, compared with values computed by hand and with textbook formulas on random input."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.tasks.metric import METRICS
from kdnas_env.tasks.scores import TaskScore, mean_share, share_kept, task_metric
from kdnas_env.tasks.specs import TASKS, TaskSpec, task_spec

BY_HAND = [
    # tp 3, tn 1, fp 1, fn 1: mcc = (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2)
    ("cola", [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1], {"matthews_correlation": 2 / 8}),
    ("cola", [1, 1, 1, 1], [1, 0, 1, 0], {"matthews_correlation": 0.0}),
    ("mrpc", [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1], {"accuracy": 4 / 6, "f1": 6 / 8}),
    ("qqp", [0, 0, 0], [0, 0, 1], {"accuracy": 2 / 3, "f1": 0.0}),
    ("stsb", [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0], {"pearson": 6.5 / np.sqrt(5 * 8.75), "spearman": 1.0}),
    ("stsb", [2.5, 2.5, 2.5], [1.0, 2.0, 5.0], {"pearson": 0.0, "spearman": 0.0}),
    ("mnli", [0, 1, 2, 2], [0, 1, 2, 1], {"accuracy": 0.75}),
    ("sst2", [1, 0], [1, 1], {"accuracy": 0.5}),
    ("qnli", [1, 0], [1, 0], {"accuracy": 1.0}),
    ("rte", [1, 0], [0, 1], {"accuracy": 0.0}),
    ("wnli", [1, 0, 0], [0, 0, 0], {"accuracy": 2 / 3}),
    ("rotten_tomatoes", [1, 0, 0, 1], [0, 0, 0, 1], {"accuracy": 0.75}),
]


@pytest.mark.parametrize(("task", "predictions", "references", "expected"), BY_HAND)
def test_by_hand(task: str, predictions: list[int], references: list[int], expected: dict[str, float]) -> None:
    found = task_metric(TASKS[task]).compute(predictions=predictions, references=references)
    assert found == pytest.approx(expected)


MRPC, COLA, STSB = (task_metric(TASKS[name]) for name in ("mrpc", "cola", "stsb"))

classes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)


@given(classes)
@settings(max_examples=40)
def test_classification_follows_the_formulas(pairs: list[tuple[int, int]]) -> None:
    predicted, annotated = np.array(pairs).T
    tp, tn = int(np.sum(predicted & annotated)), int(np.sum((1 - predicted) & (1 - annotated)))
    fp, fn = int(np.sum(predicted & (1 - annotated))), int(np.sum((1 - predicted) & annotated))
    found = MRPC.compute(predictions=predicted, references=annotated)
    assert found["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    assert found["f1"] == pytest.approx(f1_score(annotated, predicted, zero_division=0.0))
    matthews = COLA.compute(predictions=predicted, references=annotated)["matthews_correlation"]
    area = np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert matthews == pytest.approx((tp * tn - fp * fn) / area if area else 0.0, abs=1e-9)


scores = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=30)


@given(scores)
@settings(max_examples=40)
def test_correlations_are_bounded_and_follow_the_formula(pairs: list[tuple[int, int]]) -> None:
    predicted, annotated = np.array(pairs, dtype=float).T / 10
    found = STSB.compute(predictions=predicted, references=annotated)
    assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in found.values())
    if np.ptp(predicted) and np.ptp(annotated):
        assert found["pearson"] == pytest.approx(np.corrcoef(predicted, annotated)[0, 1], abs=1e-9)
        # A monotone change of the predictions does not change their ranks.
        changed = STSB.compute(predictions=predicted**3, references=annotated)
        assert changed["spearman"] == pytest.approx(found["spearman"], abs=1e-9)
    else:
        assert found == {"pearson": 0.0, "spearman": 0.0}


def test_the_score_averages_as_glue_does() -> None:
    both = {"validation": {"accuracy": 0.6, "f1": 0.8}}
    assert TaskScore("mrpc", "fine-tuning", 0, both, scored=tuple(both)).score == pytest.approx(0.7)
    halves = {"validation_matched": {"accuracy": 0.8}, "validation_mismatched": {"accuracy": 0.6}}
    assert TaskScore("mnli", "fine-tuning", 0, halves, scored=tuple(halves)).score == pytest.approx(0.7)
    tested = {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.5}}
    assert TaskScore("rotten_tomatoes", "fine-tuning", 0, tested, scored=("test",)).score == 0.5


def test_a_score_survives_being_written() -> None:
    score = TaskScore(
        "rte",
        "fine-tuning",
        3,
        {"validation": {"accuracy": 0.625}},
        details={"steps": 3},
        seconds=1.5,
        scored=("validation",),
        intervals={"validation": {"accuracy": (0.5, 0.75)}},
    )
    assert TaskScore.from_dict(json.loads(json.dumps(score.to_dict()))) == score


def test_unknown_task() -> None:
    with pytest.raises(KDNASError, match="unknown task 'squad'"):
        task_spec("squad")


MULTI = TaskSpec("own", ("text",), ("f1_macro",), ("a", "b", "c"), multi_label=True, reported=("accuracy",))
CLASSES = TaskSpec("own", ("text",), ("accuracy",), ("a", "b", "c"), reported=("f1_macro", "matthews_correlation"))


def test_several_classes() -> None:
    annotated, predicted = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]]), np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    found = task_metric(MULTI).compute(predictions=predicted, references=annotated)
    # The third class occurs neither in labels nor in predictions, so the mean is over two classes.
    assert found == pytest.approx({"f1_macro": (1 + 0) / 2, "accuracy": 2 / 3})


@pytest.mark.parametrize(
    "spec", [CLASSES, MULTI, TASKS["stsb"], TASKS["mrpc"], TASKS["cola"]], ids=lambda s: s.metrics[0]
)
def test_metrics_equal_those_of_libraries_also_of_draws(spec: TaskSpec) -> None:
    """Weighted metrics equal those of scikit-learn and SciPy on the resampled samples."""
    rng = np.random.default_rng(3)
    shape = (40, 3) if spec.multi_label else (40,)
    values = rng.integers(0, 2 if spec.multi_label else spec.outputs, size=(2, *shape))
    references, predictions = rng.integers(0, 9, size=(2, 40)) / 2 if spec.regression else values
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=5)
    libraries = {
        "accuracy": accuracy_score,
        "f1": f1_score,
        "f1_macro": lambda y, p: f1_score(y, p, average="macro", zero_division=0.0),
        "matthews_correlation": matthews_corrcoef,
        "pearson": lambda y, p: stats.pearsonr(p, y).statistic,
        "spearman": lambda y, p: stats.spearmanr(p, y).statistic,
    }
    for name in (*spec.metrics, *spec.reported):
        drawn = [np.repeat(np.arange(40), count) for count in counts]
        expected = [libraries[name](references[samples], predictions[samples]) for samples in drawn]
        assert METRICS[name](references, predictions, counts.astype(float)) == pytest.approx(expected)


def test_intervals_hold_the_metric_and_shrink_with_samples() -> None:
    rng, metric = np.random.default_rng(0), task_metric(TASKS["sst2"])
    widths = []
    for samples in (100, 1600):
        references = rng.integers(2, size=samples)
        predictions = np.where(rng.random(samples) < 0.8, references, 1 - references)
        low, high = metric.intervals(predictions, references)["accuracy"]
        assert low < metric.compute(predictions=predictions, references=references)["accuracy"] < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 100), rel=0.25)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)
    assert metric.intervals(predictions, references) == metric.intervals(predictions, references)


def test_the_mean_share_of_models_has_the_chance_of_models_and_of_samples() -> None:
    rng, spec, samples = np.random.default_rng(0), TASKS["sst2"], 400
    references = rng.integers(2, size=samples)
    taught = np.where(rng.random(samples) < 0.9, references, 1 - references)
    models = [np.where(rng.random(samples) < right, references, 1 - references) for right in (0.6, 0.7, 0.8, 0.9)]
    single = [share_kept(spec, "test", model, taught, references) for model in models]
    assert mean_share(spec, "test", models[:1], [taught], references) == single[0]
    assert mean_share(spec, "test", models[:1] * 4, [taught] * 4, references) == single[0]
    mean = mean_share(spec, "test", models, [taught] * 4, references)
    assert mean.value == pytest.approx(np.mean([share.value for share in single]))
    assert mean.score == pytest.approx(np.mean([share.score for share in single]))
    # Scores vary more between models than between samples, so the models determine the interval.
    deviation = np.std([share.value for share in single]) / 2
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * deviation, rel=0.25)
    alike = mean_share(spec, "test", models[3:] * 4, [taught] * 4, references)
    assert alike.high - alike.low < 0.6 * (mean.high - mean.low)


@pytest.mark.parametrize("package", ["evaluate", "sklearn"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "kdnas_env.tasks.metric")  # forces a new import
    with pytest.raises(DependencyError, match=rf"{package}.*pip install 'kdnas\[score\]'"):
        task_metric(TASKS["rte"])
