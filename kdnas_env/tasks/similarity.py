"""Similarity tasks: pairs of texts with a number, predicted by the cosine of two vectors."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.scores import COSINE, TaskScore, score_predictions
from kdnas_env.tasks.specs import Split, TaskData, TaskSpec
from kdnas_env.tasks.vectors import vectors

ALL = "all"
"""Name of the split of all pairs, which replaces drawn splits."""


def is_similarity(spec: TaskSpec) -> bool:
    """Return whether a task has pairs of texts and a number, which may be a similarity."""
    return spec.regression and len(spec.columns) == 2


def similarity_task(task: TaskData) -> TaskData:
    """Return a task for scoring vectors: by Spearman's correlation, with Pearson's reported too.

    Nothing is trained, so if splits were drawn from a single file, all pairs are scored.
    """
    spec = replace(task.spec, metrics=("spearman",), reported=("pearson",))
    if not task.preparation.get("drawn"):
        return replace(task, spec=spec)
    splits = [task.train, *task.evaluation.values()]
    texts = tuple([text for split in splits for text in split.texts[column]] for column in range(2))
    merged = Split(texts, np.concatenate([split.labels for split in splits]))
    return replace(task, spec=replace(spec, splits=(ALL,), scored=(ALL,)), evaluation={ALL: merged})


def score_similarity(model: Any, task: TaskData, seed: int = 0, *, device: str | None = None) -> TaskScore:
    """Score the cosines of pairs of text vectors, without training.

    Args:
        model: A ``SentenceTransformer``.
        task: A task of :func:`similarity_task`.
        seed: Seed to record with the score; nothing is random.
        device: Device to run the model on.

    Raises:
        KDNASError: If the device cannot be used.
        DependencyError: If evaluate or scikit-learn is missing.
    """
    began = time.perf_counter()
    model.to(resolve_device(device)).eval()
    with training_lock():
        cosines = {
            name: np.multiply(*(vectors(model, column) for column in split.texts)).sum(axis=1).astype(np.float64)
            for name, split in task.evaluation.items()
        }
    scored = score_predictions(task, cosines)
    return TaskScore(task.name, COSINE, seed, seconds=time.perf_counter() - began, **scored)


def embedder_fingerprint(folder: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of an embedding student's module configurations and weights."""
    digest = hashlib.sha256()
    paths = (path for path in Path(folder).rglob("*") if path.suffix in (".json", ".safetensors"))
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
