"""Scores of exported embedding models: file by file, beside the teacher's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.folder import EMBEDDER
from kdnas_env.exporting.measuring import Measured, TeacherFiles
from kdnas_env.exporting.measuring_classifiers import Decided
from kdnas_env.exporting.measuring_embedders import SCORED, measure_embedder
from kdnas_env.exporting.record import EmbedderRecord, read_embedder_record
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.distill.embedders import compared_texts
from kdnas_env.pipeline.score.files import Exports, is_export
from kdnas_env.support.atomic import expanded
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import Progress
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher


class EmbedderExports(Exports):
    """Exported embedding models of one teacher.

    Args:
        models: Their folders, as the user named them.
        encoder: The loaded teacher.
        teacher: Computes the teacher's vectors.
        texts: Texts on which the models are scored.
        name: Name of these texts.
        seed: Seed of the bootstrap.
        cache_dir: Cache folder of the teacher's vectors.
    """

    def __init__(
        self,
        models: Sequence[str],
        encoder: Teacher,
        teacher: EmbeddingTeacher,
        texts: Sequence[str],
        name: str,
        seed: int,
        cache_dir: str | None,
    ) -> None:
        super().__init__(models)
        self._encoder, self._teacher, self._texts, self._name = encoder, teacher, texts, name
        self._seed, self._cache_dir = seed, cache_dir

    @classmethod
    def of(
        cls, models: Sequence[str], *, text: str | None, seed: int, device: str | None, cache_dir: str | None
    ) -> Self:
        """Return exported embedding models with their teacher, and the texts on which they are compared.

        Args:
            models: Their folders.
            text: Source of the texts; None for the texts held out from their training.
            seed: Seed of the draw from a source.
            device: Device of the teacher.
            cache_dir: Cache folder of the teacher's vectors.

        Raises:
            KDNASError: If a model is no exported embedding model, they are of several teachers, or the texts are not
                available.
            DependencyError: If sentence-transformers is not installed.
        """
        records = [_record(model) for model in models]
        about = records[0].teacher
        encoder = load_teacher(about["name"], device=str(resolve_device(device)))
        teacher = embedding_teacher(encoder, records[0].settings.max_length)
        for model, record in zip(models, records, strict=True):
            if record.teacher["fingerprint"] != teacher.fingerprint:
                raise KDNASError(
                    f"{model!r} imitates another teacher than the current {about['name']!r}; score it by itself, or "
                    "restore the files of its teacher"
                )
        texts, name = compared_texts(models, records, text, seed), SCORED if text is None else Path(text).name
        return cls(models, encoder, teacher, texts, name, seed, cache_dir)

    @property
    def tasks(self) -> tuple[TaskData, ...]:
        """Empty: the models are scored without a task."""
        return ()

    @property
    def decisive(self) -> dict[str, str]:
        """See :attr:`kdnas_env.pipeline.score.files.Exports.decisive`."""
        return {"embedding teacher": self._teacher.fingerprint, "text": fingerprint_of(list(self._texts))}

    def measured(
        self, place: int, format: str, latency: LatencySettings, beside: TeacherFiles, progress: Progress
    ) -> tuple[Measured, Decided]:
        """See :meth:`kdnas_env.pipeline.score.files.Exports.measured`."""
        measured = measure_embedder(
            expanded(self.models[place]),
            format,
            self._encoder,
            self._teacher,
            self._texts,
            latency,
            beside,
            name=self._name,
            seed=self._seed,
            cache_dir=self._cache_dir,
            progress=progress,
        )
        return measured, {}


def _record(model: str) -> EmbedderRecord:
    record = read_embedder_record(expanded(model)) if is_export(model, EMBEDDER) else None
    if record is None:
        raise KDNASError(f"{model!r} is no export to ONNX of an embedding student of kdnas; score it by itself")
    return record
