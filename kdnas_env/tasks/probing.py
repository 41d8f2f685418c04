"""Scoring a frozen encoder by a linear probe on pooled states."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdnas_env.errors import DependencyError
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.tasks.encoding import PooledEncoder, encode, outputs, resolve_device
from kdnas_env.tasks.scores import PROBED, TaskScore, score_predictions, task_metric
from kdnas_env.tasks.specs import MULTI_LABEL, REGRESSION, TaskData

FOLDS = 5
INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""``C`` of the logistic regression; the inverses are the penalties per sample of the ridge regression."""

_MOST_ITERATIONS = 500


def linear_probe(
    encoder: nn.Module,
    tokenizer: Any,
    task_data: TaskData,
    seed: int = 0,
    *,
    max_length: int = 128,
    pooling: str = "mean",
    device: str | None = None,
) -> TaskScore:
    """Fit a linear model on the pooled states of a frozen encoder, and score it.

    The probe is a logistic regression (ridge regression for numbers) on standardised states. Its penalty is chosen by
    cross-validation on the training split. Sentence pairs are encoded together, as in fine-tuning. The function holds
    :func:`kdnas_env.support.cpu_lock.training_lock`, so call it outside this lock.

    Args:
        encoder: Encoder of transformers; it does not change.
        tokenizer: Its fast tokenizer.
        task_data: The task.
        seed: Seed of the folds.
        max_length: Maximum sequence length in tokens; less if the tokenizer allows less.
        pooling: ``mean`` over the tokens without padding, or ``cls``.
        device: Device to run the encoder on; None for the first GPU, or the CPU if there is none.

    Raises:
        FloatingPointError: If the states are not finite.
        KDNASError: If ``max_length`` leaves no room for text, the pooling is unknown, or the device cannot be used.
        DependencyError: If evaluate, scikit-learn or SciPy is missing.
    """
    task_metric(task_data.spec)  # An error is raised now, not after the encoding.
    began = time.perf_counter()
    target = resolve_device(device)
    model = PooledEncoder(copy.deepcopy(encoder), pooling).to(target)
    with training_lock():
        train, *others = [
            _features(model, tokenizer, split, max_length, target)
            for split in (task_data.train, *task_data.evaluation.values())
        ]
        fitted, chosen = _fit(train, task_data.train.labels, task_data.spec.kind, seed)
    predictions = {name: fitted.predict(features) for name, features in zip(task_data.evaluation, others, strict=True)}
    return TaskScore(
        task=task_data.name,
        method=PROBED,
        seed=seed,
        details={
            "max_length": max_length,
            "pooling": pooling,
            "train_samples": len(task_data.train),
            "chosen": chosen,
        },
        seconds=time.perf_counter() - began,
        **score_predictions(task_data, predictions),
    )


def _features(model: nn.Module, tokenizer: Any, split: Any, max_length: int, device: torch.device) -> NDArray[Any]:
    states = outputs(model, encode(tokenizer, split, max_length), tokenizer.pad_token_id, device).numpy()
    if not np.isfinite(states).all():
        raise FloatingPointError("the encoder's states are not finite")
    return states


def _fit(features: NDArray[Any], labels: NDArray[Any], kind: str, seed: int) -> tuple[Any, dict[str, float]]:
    """Return the fitted model and the chosen penalty; empty if there was no choice."""
    try:
        from sklearn import (
            dummy,
            exceptions,
            linear_model,
            model_selection,
            multiclass,
            pipeline,
            preprocessing,
        )
    except ImportError as error:
        raise DependencyError(
            f"the linear probe needs scikit-learn, which cannot be imported: {error}; pip install 'kdnas[score]'"
        ) from error
    folds, largest, scoring = model_selection.KFold, len(labels), {REGRESSION: "r2", MULTI_LABEL: "f1_macro"}
    logistic = linear_model.LogisticRegression(max_iter=_MOST_ITERATIONS)
    if kind == REGRESSION:
        estimator: Any = linear_model.Ridge()
        grid: dict[str, Any] = {"ridge__alpha": [len(labels) * 1e-3 / inverse for inverse in INVERSE_PENALTIES]}
    elif kind == MULTI_LABEL:
        estimator = multiclass.OneVsRestClassifier(logistic)
        grid = {"onevsrestclassifier__estimator__C": list(INVERSE_PENALTIES)}
    else:
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) == 1:
            return dummy.DummyClassifier().fit(features, labels), {}
        folds, largest = model_selection.StratifiedKFold, int(counts.min())
        estimator = logistic
        grid = {"logisticregression__C": list(INVERSE_PENALTIES)}
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), estimator)
    with warnings.catch_warnings():
        # A fit that reaches the maximum of iterations is judged by the cross-validation like any other.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present in all training examples|Label not")
        if largest < 2:
            return model.fit(features, labels), {}
        splitter = folds(n_splits=min(FOLDS, largest), shuffle=True, random_state=seed)
        search = model_selection.GridSearchCV(model, grid, cv=splitter, scoring=scoring.get(kind, "accuracy"))
        search.fit(features, labels)
    return search, {name: float(value) for name, value in search.best_params_.items()}
