"""Embedding students: what their distillations have in common."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kdnas_env.distillation.student.folder import read_lineage
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS, TextLayout
from kdnas_env.distillation.text.sources import draw_texts
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.embedder import save_embedder
from kdnas_env.exporting.record import EmbedderRecord, read_embedder_record
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.work import name_of
from kdnas_env.support.progress import Pieces, Progress
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.embedding import STAGES, EmbeddingSettings, distil_embedder, split_texts
from kdnas_env.tasks.kept_tensors import key_of
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher

_STAGES = dict(zip(STAGES, ("head in closed form", "steps of the training", "scoring"), strict=True))
_READING = ("config_name", "split", "text_columns")


@dataclass(frozen=True, eq=False)
class EmbeddingWork:
    """A teacher's vectors, and the text: what several embedding students have in common.

    Attributes:
        teacher: What makes the vectors.
        options: The task.
        settings: How students learn.
        seed: Seed of everything random.
        device: Where to train.
        cache_dir: Where vectors are kept.
    """

    teacher: EmbeddingTeacher
    options: TaskOptions
    settings: EmbeddingSettings
    seed: int
    device: str | None
    cache_dir: str | None

    @classmethod
    def of(
        cls, options: TaskOptions, teacher: Teacher, *, seed: int, device: str | None, cache_dir: str | None
    ) -> EmbeddingWork:
        """Make the teacher ready.

        Args:
            options: The task.
            teacher: The encoder.
            seed: Seed of everything random.
            device: Where models are run.
            cache_dir: Where the teacher's vectors are kept.

        Raises:
            DependencyError: If sentence-transformers is not installed.
        """
        taught = embedding_teacher(teacher, options.max_length)
        return cls(taught, options, settings_of(options), seed, device, cache_dir)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the students depend on, as a run records it."""
        return {"embedding teacher": self.teacher.fingerprint}

    def make(self, student: Path, folder: Path, progress: Progress) -> EmbedderRecord:
        """Have a student learn to embed texts, unless it did before, and return what is known of it.

        Args:
            student: Folder of the student.
            folder: Folder of the embedding student; the checkpoints of a training that is not finished lie beside it.
            progress: Receives what is done.

        Raises:
            RunError: If the folder holds one that was made otherwise, or the student does not say what it is.
            KDNASError: If there is too little text.
        """
        encoder, lineage = load_teacher(student), read_lineage(student)
        if lineage is None:
            raise RunError(f"{str(student)!r} does not say where it comes from; name the folder of a student of kdnas")
        source, drawn = text_of(self.options, lineage.corpus)
        progress.begin(f"reading the text {source}")
        texts = draw_text(source, drawn, self.seed)
        made_of = [encoder.fingerprint, self.teacher.fingerprint, asdict(self.settings), self.seed, list(texts)]
        key, record = key_of(made_of), read_embedder_record(folder)
        if record is not None:
            if record.made_from != key:
                raise RunError(
                    f"{str(folder)!r} holds an embedding student of another student, text or settings; give another "
                    "folder with `out`"
                )
            return record
        checkpoints = folder.with_name(f"{folder.name}-checkpoints")
        what, pieces = f"vectors of {name_of(folder, student)}", Pieces(progress)
        distilled = distil_embedder(
            encoder,
            self.teacher,
            texts,
            self.settings,
            self.seed,
            device=self.device,
            checkpoints=checkpoints / key[:16],
            cache_dir=self.cache_dir,
            on_vectors=pieces.advancing("computing the teacher's vectors of texts"),
            on_stage=lambda stage: pieces.begin(f"{what}: {_STAGES[stage]}"),
            on_progress=progress.advance,
        )
        record = save_embedder(
            folder,
            distilled,
            self.teacher,
            self.settings,
            made_from=key,
            source=source,
            seed=self.seed,
            lineage=lineage,
            drawn=drawn,
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
        return record


def settings_of(options: TaskOptions) -> EmbeddingSettings:
    """Return how embedding students are trained."""
    settings = EmbeddingSettings(max_length=options.max_length)
    return settings if options.epochs is None else replace(settings, epochs=options.epochs)


def text_of(options: TaskOptions, corpus: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the source of the text, and how it is drawn, as :func:`draw_text` takes it.

    Args:
        options: The task.
        corpus: Arguments of the corpus that the student was distilled on, where no text is named.
    """
    corpus = {} if options.unlabelled else corpus
    reading = {name: corpus[name] for name in (*LAYOUT_OPTIONS, *_READING) if corpus.get(name) is not None}
    if options.text_columns:
        reading["text_columns"] = options.text_columns
    wanted = options.unlabelled_samples
    drawn = {"count": wanted + 2 * settings_of(options).held_out(wanted), **reading}
    return options.unlabelled or str(corpus["source"]), drawn


def held_out_texts(record: EmbedderRecord, model: str) -> tuple[list[str], list[str]]:
    """Return the texts that an embedding student was scored on, and those that chose its epoch.

    Args:
        record: Its record.
        model: Its folder, for messages.

    Raises:
        KDNASError: If they cannot be had: the student is of an earlier version, or the text has changed.
    """
    if not record.drawn:
        raise KDNASError(f"what was held out from {model!r} is not known: it was made by an earlier version")
    drawn = draw_text(record.source, record.drawn, record.seed)
    scored, choosing, _ = split_texts(drawn, record.settings, record.seed)
    if key_of(scored) != record.heldout:
        raise KDNASError(
            f"what was held out from {model!r} cannot be had: {record.source!r} has other text than when it was "
            "trained on it"
        )
    return scored, choosing


def compared_texts(folders: Sequence[str], records: Sequence[EmbedderRecord], text: str | None, seed: int) -> list[str]:
    """Return the texts on which the vectors of embedding students are compared with their teacher's.

    Args:
        folders: Their folders, for messages.
        records: Their records.
        text: Source of the texts; None for what was held out from the training of all of them.
        seed: Seed of the draw from a source.

    Raises:
        KDNASError: If the texts cannot be had.
    """
    first = records[0]
    if text is not None:
        drawn = draw_text(text, {"count": 2 * first.settings.heldout}, seed)
        distinct = dict.fromkeys(stripped for value in drawn if (stripped := value.strip()))
        return list(distinct)[: first.settings.heldout]
    try:
        if any(record.heldout != first.heldout for record in records):
            raise KDNASError(f"what was held out from {folders[0]!r} is not what was from others: their texts differ")
        return held_out_texts(first, folders[0])[0]
    except KDNASError as error:
        raise KDNASError(f"{error}; name text to score on with `text`") from error


def draw_text(source: str, drawn: Mapping[str, Any], seed: int) -> Sequence[str]:
    """Return texts of a source, drawn at random.

    Args:
        source: Name of a dataset, folder or file.
        drawn: ``count``, their number at most; and, where they are not the default, the fields of
            :class:`kdnas_env.distillation.text.layout.TextLayout`, ``config_name``, ``split`` and ``text_columns``.
        seed: Seed of the draw.

    Raises:
        CorpusError: If the source cannot be read.
        RunError: If ``drawn`` is malformed.
    """
    count = drawn.get("count")
    if not isinstance(count, int) or count < 1:
        raise RunError(
            f"the text of an embedding student was drawn as {shown(drawn)}, which is malformed; make it anew"
        )
    layout = TextLayout(**{name: drawn[name] for name in LAYOUT_OPTIONS if name in drawn})
    reading = {name: drawn[name] for name in _READING if drawn.get(name)}
    rows = draw_texts(source, count, seed, layout=layout, **reading)
    return [text for row in rows for text in row][:count]
