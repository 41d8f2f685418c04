"""The folder of an embedding student: a model of Sentence Transformers, whose encoder transformers can load too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.errors import ExportError
from kdnas_env.exporting.cards.embedder import embedder_card
from kdnas_env.exporting.folder import EMBEDDER
from kdnas_env.exporting.product import save_product
from kdnas_env.exporting.record import EmbedderRecord
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.packages import installed_versions
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.tasks.embedding import EmbeddingDistillation, EmbeddingSettings
from kdnas_env.tasks.vectors import EmbeddingTeacher, open_embedder, vectors

TOLERANCE = 1e-5
"""Maximum deviation of a component of a unit vector."""

DISTILLED = "embedding distillation"
_PACKAGES = ("kdnas", "torch", "transformers", "sentence-transformers")
_CHECKED_TEXTS = ("A quiet film.", "The audience leaves long before the end, and nobody asks why.")


def save_embedder(
    folder: str | os.PathLike[str],
    distilled: EmbeddingDistillation,
    teacher: EmbeddingTeacher,
    settings: EmbeddingSettings,
    *,
    made_from: str,
    source: str,
    seed: int,
    lineage: Lineage,
    drawn: Mapping[str, Any] | None = None,
) -> EmbedderRecord:
    """Write an embedding student to a folder, completely or not at all.

    ``SentenceTransformer(FOLDER)`` returns the vectors that were scored; this is checked.

    Args:
        folder: The folder; an older embedding student in it is replaced.
        distilled: The student.
        teacher: The imitated teacher.
        settings: Training settings.
        made_from: See :class:`EmbedderRecord`.
        source: Source of the texts.
        seed: Seed of the training.
        lineage: Origin of the student's encoder.
        drawn: See :class:`EmbedderRecord`; None if unknown.

    Returns:
        The record that was written.

    Raises:
        ExportError: If the folder holds something else, cannot be written, or returns other vectors. Nothing is left
            behind.
    """
    record = EmbedderRecord(
        teacher={"name": teacher.name, "fingerprint": teacher.fingerprint, "width": teacher.width},
        score=distilled.score,
        closed_form=distilled.closed_form,
        curve=distilled.curve,
        settings=settings,
        made_from=made_from,
        source=source,
        texts=distilled.texts,
        seed=seed,
        seconds=distilled.seconds,
        parameters=sum(
            parameter.numel() for name, parameter in distilled.model.named_parameters() if ".pooler." not in name
        ),
        versions=installed_versions(*_PACKAGES),
        drawn={} if drawn is None else drawn,
        heldout=fingerprint_of(list(distilled.heldout)),
    )

    def write(partial: Path) -> None:
        with quiet_transformers():
            distilled.model.save_pretrained(str(partial), create_model_card=False)
        record.write(partial)

    save_product(
        folder,
        EMBEDDER,
        lineage,
        {"stage": DISTILLED, "texts": distilled.texts, "spearman": distilled.score.spearman[0]},
        write=write,
        card=lambda lineage: embedder_card(record, distilled.model, lineage),
        check=lambda partial: _check_vectors(partial, distilled.model),
    )
    return record


def _check_vectors(folder: Path, model: Any) -> None:
    """Compare the reloaded model with the trained one."""
    error = float(np.abs(vectors(open_embedder(folder), _CHECKED_TEXTS) - vectors(model, _CHECKED_TEXTS)).max())
    if not error <= TOLERANCE:
        raise ExportError(
            f"the reloaded embedding student's vectors deviate by up to {error:.3g}; nothing was written. Try "
            "another version of sentence-transformers"
        )
