"""Measurements of an exported embedding model as deployed: size, speed, and vectors compared with its teacher's."""

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
"""Names of the text for selecting candidates, and of the scored text, which is not used for selection."""


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

    Its score is Spearman's correlation with the teacher of the similarities of all pairs of texts; the teacher's own is
    1.

    Args:
        export: Folder of the export.
        format: File to measure: ``float32`` or ``int8``.
        encoder: The encoder of the teacher.
        teacher: The teacher's vector model.
        scored: The scored texts.
        latency: Batch size, sequence length, threads, and duration.
        beside: Files of teachers; the teacher's is added if missing.
        choosing: Texts for selecting candidates; None to use the scored texts.
        name: Name of the scored texts.
        seed: Seed of the bootstrap.
        cache_dir: Cache folder of the teacher's vectors.
        progress: Receives the steps.

    Raises:
        RunError: If the CPU lock cannot be used.
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
    """Return the vectors of texts by an exported file, float32 ``(texts, width)``.

    Args:
        export: Folder of the export.
        format: File to use: ``float32`` or ``int8``.
        teacher: The imitated teacher, whose default prompt is prepended to each text.
        texts: The texts.

    Raises:
        RunError: If the CPU lock cannot be used.
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
