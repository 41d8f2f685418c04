"""What an exported embedding model is worth as it is served: size, speed, and vectors beside those of its teacher."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.exporting.measuring import FILES, Measured, TeacherFiles, TeacherGraph, served, size_and_speed
from kdnas_env.exporting.onnx import SENTENCE_EMBEDDING
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.arrays import Floats32
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tasks.scores import Share
from kdnas_env.tasks.specs import Split
from kdnas_env.tasks.vector_scores import EmbeddingScore, score_vectors
from kdnas_env.tasks.vectors import EmbeddingTeacher, SentenceVectors

CHOOSING, SCORED = "validation text", "held-out text"
"""What candidates are chosen by, and what is scored, which chooses nothing."""


def measure_embedder(
    export: Path,
    format: str,
    encoder: Teacher,
    teacher: EmbeddingTeacher,
    scored: Sequence[str],
    latency: LatencySettings,
    beside: TeacherFiles,
    *,
    choosing: Sequence[str] | None = None,
    name: str = SCORED,
    seed: int = 0,
    cache_dir: str | None = None,
    progress: Progress = SILENT,
) -> Measured:
    """Measure an exported embedding model in ONNX Runtime.

    Its score is Spearman's correlation of the similarities of all pairs of texts with the teacher's, whose own is 1.

    Args:
        export: Folder of the export.
        format: Which of its files: ``float32`` or ``int8``.
        encoder: The teacher as it was loaded.
        teacher: What makes its vectors.
        scored: Texts that are scored.
        latency: Batch size, sequence length, threads, and how long to measure.
        beside: Files of teachers, of which one is timed.
        choosing: Texts that candidates are chosen by; None to use the scored texts.
        name: What the scored texts are called.
        seed: Seed of the bootstrap.
        cache_dir: Where the teacher's vectors are kept.
        progress: Told what is done.

    Raises:
        RunError: If the lock of the cores cannot be used.
    """
    file = export / FILES[format]
    progress.begin(f"timing {file.name} beside its teacher")
    fields = size_and_speed(export, format, _graph(encoder, teacher, scored), latency, beside)
    progress.begin(f"scoring {file.name}")
    made = served_vectors(export, format, teacher, [*scored, *(choosing or ())])
    score = score_vectors(made[: len(scored)], teacher.vectors(scored, cache_dir), seed)
    share = chosen_by = _share(name, score)
    if choosing is not None:
        compared = score_vectors(made[len(scored) :], teacher.vectors(choosing, cache_dir), seed)
        chosen_by = _share(CHOOSING, compared)
    return Measured(**fields, chosen_by=chosen_by, scored=(share,), vectors=score)


def served_vectors(export: Path, format: str, teacher: EmbeddingTeacher, texts: Sequence[str]) -> Floats32:
    """Return the vectors of texts that a file of an export makes, float32 ``(texts, width)``.

    Args:
        export: Folder of the export.
        format: Which of its files: ``float32`` or ``int8``.
        teacher: What it imitates, whose default prompt stands before each text.
        texts: The texts.

    Raises:
        RunError: If the lock of the cores cannot be used.
    """
    prompt = teacher.model.prompts.get(teacher.model.default_prompt_name or "", "")
    with training_lock():
        return served(export, format, SENTENCE_EMBEDDING)(_split([f"{prompt}{text}" for text in texts]))


def _split(texts: Sequence[str]) -> Split:
    return Split((list(texts),), np.zeros(len(texts)))


def _graph(encoder: Teacher, teacher: EmbeddingTeacher, texts: Sequence[str]) -> TeacherGraph:
    return TeacherGraph(
        teacher.fingerprint,
        SentenceVectors(encoder.model, teacher.model),
        encoder.tokenizer,
        teacher.model.max_seq_length,
        {SENTENCE_EMBEDDING: operator.itemgetter(0)},
        _split(texts[:2]),
    )


def _share(name: str, score: EmbeddingScore) -> Share:
    value, low, high = score.spearman
    return Share(name, score.texts, value, 1.0, value, low, high)
