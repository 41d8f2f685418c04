"""The folder of an embedding student: a model of Sentence Transformers, whose encoder transformers can load too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.errors import ExportError, RunError
from kdnas_env.exporting.cards.embedder import embedder_card
from kdnas_env.exporting.folder import EMBEDDER
from kdnas_env.exporting.product import save_product
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.libraries import installed_versions, quiet_transformers
from kdnas_env.support.places import found_again, with_places
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.embedding import EmbeddingDistillation, EmbeddingSettings
from kdnas_env.tasks.kept_tensors import key_of
from kdnas_env.tasks.vector_scores import EmbeddingScore
from kdnas_env.tasks.vectors import EmbeddingTeacher, open_embedder, vectors

FORMAT_VERSION = 1
TOLERANCE = 1e-5
"""Maximum deviation of a component of a unit vector."""

DISTILLED = "embedding distillation"

_PATHS = ("teacher.name", "source")
_PACKAGES = ("kdnas", "torch", "transformers", "sentence-transformers")
_CHECKED_TEXTS = ("A quiet film.", "The audience leaves long before the end, and nobody asks why.")


@dataclass(frozen=True)
class EmbedderRecord:
    """Record of an embedding student; plain data except for the scores.

    Attributes:
        teacher: Name, fingerprint and width of the imitated teacher.
        score: Comparison of its vectors with the teacher's.
        closed_form: The same for the head in closed form, before the training.
        curve: Learning curve, see :class:`kdnas_env.tasks.embedding.EmbeddingDistillation`.
        settings: Training settings.
        made_from: Fingerprint of student, teacher, texts, settings and seed.
        source: Source of the texts.
        texts: Number of training texts.
        seed: Seed of all randomness.
        seconds: Duration of the training in seconds.
        parameters: Number of parameters, including the head, excluding an unused pooler.
        versions: Versions of kdnas and its libraries.
        drawn: How the texts were sampled from their source, as arguments of
            :func:`kdnas_env.pipeline.embedders.draw_text`; empty if unknown.
        heldout: SHA-256 (hex) of the scored texts.
        format: Version of this record.
    """

    teacher: Mapping[str, Any]
    score: EmbeddingScore
    closed_form: EmbeddingScore
    curve: tuple[dict[str, float], ...]
    settings: EmbeddingSettings
    made_from: str
    source: str
    texts: int
    seed: int
    seconds: float
    parameters: int
    versions: Mapping[str, str]
    drawn: Mapping[str, Any] = field(default_factory=dict)
    heldout: str = ""
    format: int = FORMAT_VERSION

    @property
    def is_closed_form(self) -> bool:
        """Whether training brought no improvement, so that the student keeps its state in closed form."""
        return bool(self.curve) and self.score == self.closed_form

    def write(self, folder: Path, *, absolute: bool = True) -> None:
        """Write the record into the folder of an embedding student.

        Args:
            folder: The folder, or a temporary folder beside it, which is renamed later.
            absolute: Whether to write absolute paths of teacher and text too, which reveal paths of this machine.

        Raises:
            RunError: If it cannot be written.
        """
        write_json(folder / EMBEDDER, with_places(asdict(self), _PATHS, folder, absolute=absolute))


def read_embedder_record(folder: str | os.PathLike[str]) -> EmbedderRecord | None:
    """Read the record of an embedding student's folder; None if there is none.

    Raises:
        RunError: If it is malformed.
    """
    path = Path(folder) / EMBEDDER
    if not os.path.isfile(path):
        return None
    try:
        return restore(EmbedderRecord, found_again(read_json(path), path.parent))
    except ValueError as error:
        raise RunError(f"the record of the embedding student in {str(path)!r} cannot be read: {error}") from error


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
        heldout=key_of(list(distilled.heldout)),
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
