"""Scores of embedding students: on text pairs with similarity labels, and without labels against their teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdnas_env.errors import KDNASError
from kdnas_env.exporting.record import EmbedderRecord, read_embedder_record
from kdnas_env.pipeline.distill.embedders import compared_texts
from kdnas_env.support.atomic import expanded
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.tasks.rows import ROWS, STUDENT, TEACHER, Model
from kdnas_env.tasks.similarity import embedder_fingerprint, is_similarity
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.vector_scores import EmbeddingScore, score_vectors
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher, open_embedder, vectors


@dataclass(frozen=True, eq=False)
class Embedders:
    """Embedding students that are scored side by side.

    Attributes:
        folders: Their folders, the main one first.
        records: Their records.
        teacher: Computes the teacher's vectors; None without a row of the teacher.
    """

    folders: Sequence[str]
    records: Sequence[EmbedderRecord]
    teacher: EmbeddingTeacher | None

    @classmethod
    def of(
        cls, folders: Sequence[str], models: Sequence[Model], teacher: Model | None, rows: Sequence[str]
    ) -> tuple[Embedders, list[Model], Model | None]:
        """Return embedding students, and their models and teacher prepared for scores by vectors.

        Raises:
            KDNASError: If one is no embedding student, or a row cannot be scored by vectors.
            DependencyError: If sentence-transformers is not installed.
        """
        others = [name for name in rows if name in ROWS and name not in (TEACHER, STUDENT)]
        if others:
            raise KDNASError(f"row {others[0]!r} cannot be scored by vectors; choose from {[TEACHER, STUDENT]}")
        records = []
        for folder in folders:
            record = read_embedder_record(expanded(folder))
            if record is None:
                raise KDNASError(f"{folder!r} is no embedding student like {folders[0]!r}; score it by itself")
            records.append(record)
        scored = [
            replace(model, title=f"{model.title}, its vectors").with_vectors(
                open_embedder(expanded(folder)), embedder_fingerprint(expanded(folder))
            )
            for folder, model in zip(folders, models, strict=True)
        ]
        if teacher is None:
            return cls(folders, records, None), scored, None
        taught = embedding_teacher(teacher.encoder, records[0].settings.max_length)
        return cls(folders, records, taught), scored, teacher.with_vectors(taught.model, taught.fingerprint)

    def texts(self, text: str | None, seed: int) -> list[str]:
        """Return the texts on which vectors are compared.

        Args:
            text: Their source; None for the texts held out from the first student's training.
            seed: Seed of the draw from a source.

        Raises:
            KDNASError: If no teacher is known, or the text is not available.
        """
        if self.teacher is None:
            raise KDNASError("vectors are compared with a teacher's, and none is known; name it with `teacher`")
        return compared_texts(self.folders, self.records, text, seed)

    def score(self, texts: Sequence[str], seed: int, cache_dir: str | None) -> dict[str, EmbeddingScore]:
        """Compare the students' vectors with the teacher's, without labels, and return the scores by row.

        Args:
            texts: The texts.
            seed: Seed of the bootstrap.
            cache_dir: Cache folder of the teacher's vectors.

        Raises:
            KDNASError: If there are too few texts.
        """
        assert self.teacher is not None
        with training_lock():
            made = [vectors(open_embedder(expanded(folder)), texts) for folder in self.folders]
        wanted = self.teacher.vectors(texts, cache_dir)
        names = [STUDENT if place == 1 else f"{STUDENT}-{place}" for place in range(1, len(made) + 1)]
        return {name: score_vectors(own, wanted, seed) for name, own in zip(names, made, strict=True)}


def scored_by_vectors(folder: str, tasks: Sequence[TaskData], named: bool) -> bool:
    """Whether a model is an embedding student that is scored by its vectors: on similarity tasks, or on no task.

    Args:
        folder: The model.
        tasks: The tasks.
        named: Whether tasks were named.

    Raises:
        KDNASError: If some tasks are of this kind and others are not.
    """
    if read_embedder_record(expanded(folder)) is None:
        return False
    similar = [task.name for task in tasks if is_similarity(task.spec)]
    if similar and len(similar) < len(tasks):
        raise KDNASError(
            f"{folder!r} is an embedding student, scored on {similar} by its vectors; other tasks train its encoder: "
            "score them separately"
        )
    return bool(similar) or not named
