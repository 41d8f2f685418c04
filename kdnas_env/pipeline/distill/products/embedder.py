"""The product of the task ``embedding``: embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from kdnas_env.core.reward import TASK
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.folder import EMBEDDER as MARKER
from kdnas_env.exporting.measuring import SIMILARITY, Measured, TeacherFiles
from kdnas_env.exporting.measuring_embedders import measure_embedder
from kdnas_env.exporting.record import EmbedderRecord, read_embedder_record
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.distill.embedders import EmbeddingWork, draw_text, held_out_texts, settings_of, text_of
from kdnas_env.pipeline.distill.options import EMBEDDER, DistillOptions
from kdnas_env.pipeline.distill.products.product import Measuring, Opening, Product
from kdnas_env.pipeline.distill.text import corpus_options
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.search.evaluated_texts import write_texts
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.searching.run_folder import EVALUATED
from kdnas_env.support.packages import require
from kdnas_env.support.progress import Progress
from kdnas_env.support.shell import command, python_command
from kdnas_env.tasks.embedding import split_texts
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.specs import NO_TEXT
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher


class EmbedderProduct(Product):
    """A student with a head for its teacher's vectors."""

    folder: ClassVar[str] = EMBEDDER
    marker: ClassVar[str] = MARKER
    words: ClassVar[str] = "embedding model"
    library: ClassVar[str] = "Sentence Transformers"
    steps: ClassVar[tuple[str, ...]] = ("search", "distil", EMBEDDER, "export", "measure")
    score: ClassVar[str] = SIMILARITY

    def check(self, task: TaskOptions) -> None:
        """See :meth:`Product.check`."""
        require("the task embedding", "embedding", "sentence_transformers")
        if task.unlabelled == NO_TEXT:
            raise KDNASError("`task.unlabelled` is none, but an embedding model learns from text; leave it out")

    def read(self, task: TaskOptions) -> None:
        """See :meth:`Product.read`. If a text is named, check that it is long enough."""
        if task.unlabelled is not None:
            _count(task, 0)

    def leave_out(self, options: DistillOptions, search: SearchOptions) -> None:
        """See :meth:`Product.leave_out`: the texts on which vectors are compared, and those that choose the epoch."""
        file = options.folder / EVALUATED
        if file.exists():
            return
        text = corpus_options(options, search)
        seed = search.seed if options.seed is None else options.seed
        drawn = draw_text(*text_of(options.task, text), seed)
        scored, choosing, _ = split_texts(drawn, settings_of(options.task), seed)
        write_texts(file, (*scored, *choosing), options.corpus.without or search.corpus.without)

    def record(self, folder: Path) -> EmbedderRecord | None:
        """See :meth:`Product.record`."""
        return read_embedder_record(folder)

    def learning(self, options: DistillOptions, teacher: Teacher, seed: int, progress: Progress) -> EmbeddingWork:
        """See :meth:`Product.learning`."""
        places = {"device": options.device, "cache_dir": options.cache_dir}
        return EmbeddingWork.of(options.task, teacher, seed=seed, **places)

    def opened(self, task: TaskOptions, seed: int) -> Opening:
        """See :meth:`Product.opened`."""
        self.check(task)
        source, most = task.unlabelled, task.unlabelled_samples
        text = "of the source that the student is distilled on"
        if source is not None:
            text = f"{_count(task, seed):,} of {source}"
        return Opening(("task embedding: vectors like those of the teacher", f"  text: {text}, {most:,} at most"))

    def searched(self, task: TaskOptions, quality: str) -> TaskOptions:
        """See :meth:`Product.searched`: no task, unless the search rewards quality on the task."""
        return task if quality == TASK else TaskOptions()

    def measuring(
        self,
        task: TaskOptions,
        teacher: str,
        format: str,
        *,
        seed: int,
        device: str | None,
        cache_dir: str | None,
        progress: Progress,
    ) -> Measuring:
        """See :meth:`Product.measuring`."""

        @cache
        def teachers() -> tuple[Teacher, EmbeddingTeacher]:
            encoder = load_teacher(teacher, device=str(resolve_device(device)))
            return encoder, embedding_teacher(encoder, task.max_length)

        def measure(model: Path, export: Path, latency: LatencySettings, beside: TeacherFiles) -> Measured:
            record = read_embedder_record(model)
            if record is None:
                raise RunError(f"{str(model)!r} is no embedding model any more; delete its folder, and resume the run")
            scored, choosing = held_out_texts(record, str(model))
            return measure_embedder(
                export,
                format,
                *teachers(),
                scored,
                latency,
                beside,
                choosing=choosing,
                seed=record.seed,
                cache_dir=cache_dir,
                progress=progress,
            )

        return measure

    def commands(self, folder: Path) -> Sequence[tuple[str, str]]:
        """See :meth:`Product.commands`."""
        use = (
            "from sentence_transformers import SentenceTransformer; "
            f"print(SentenceTransformer({str(folder)!r}).encode('a text'))"
        )
        return [
            ("Make the vector of a text with Sentence Transformers", python_command(use)),
            ("Compare it with its teacher", command("score", folder)),
        ]


def _count(task: TaskOptions, seed: int) -> int:
    """Return the number of different texts of the named source on which a student is trained.

    Raises:
        KDNASError: If the source cannot be read, or has too few texts.
    """
    return len(split_texts(draw_text(*text_of(task, {}), seed), settings_of(task), seed)[2])
