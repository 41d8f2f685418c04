"""Distillation of embedding students."""

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
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import Pieces, Progress
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.embedding import STAGES, EmbeddingSettings, distil_embedder, split_texts
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher

_STAGES = dict(zip(STAGES, ("head in closed form", "steps of the training", "scoring"), strict=True))
_READING = ("config_name", "split", "text_columns")


@dataclass(frozen=True, eq=False)
class EmbeddingWork:
    """The shared inputs of several embedding students: the teacher's vectors and the text.

    Attributes:
        teacher: Computes the vectors.
        options: The task.
        settings: Settings of the training.
        seed: Seed of all random generators.
        device: Device of the training.
        cache_dir: Cache folder of the vectors.
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
        """Prepare the teacher.

        Args:
            options: The task.
            teacher: The encoder.
            seed: Seed of all random generators.
            device: Device of the models.
            cache_dir: Cache folder of the teacher's vectors.

        Raises:
            DependencyError: If sentence-transformers is not installed.
        """
        taught = embedding_teacher(teacher, options.max_length)
        return cls(taught, options, settings_of(options), seed, device, cache_dir)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the inputs of the students, as a run records them."""
        return {"embedding teacher": self.teacher.fingerprint}

    def make(self, student: Path, folder: Path, progress: Progress) -> EmbedderRecord:
        """Train a student to embed texts, unless its folder is finished, and return its record.

        Args:
            student: Folder of the student.
            folder: Folder of the embedding student. Checkpoints of an unfinished training are beside it.
            progress: Receives the progress.

        Raises:
            RunError: If the folder holds one with other inputs, or the student has no lineage.
            KDNASError: If there is too little text.
        """
        encoder, lineage = load_teacher(student), read_lineage(student)
        if lineage is None:
            raise RunError(f"{str(student)!r} has no record of its origin; name the folder of a student of kdnas")
        source, drawn = text_of(self.options, lineage.corpus)
        progress.begin(f"reading the text {source}")
        texts = draw_text(source, drawn, self.seed)
        made_of = [encoder.fingerprint, self.teacher.fingerprint, asdict(self.settings), self.seed, list(texts)]
        key, record = fingerprint_of(made_of), read_embedder_record(folder)
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
    """Return the training settings of embedding students."""
    settings = EmbeddingSettings(max_length=options.max_length)
    return settings if options.epochs is None else replace(settings, epochs=options.epochs)


def text_of(options: TaskOptions, corpus: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the source of the text, and the argument ``drawn`` of :func:`draw_text`.

    Args:
        options: The task.
        corpus: Arguments of the corpus of the student's distillation, used if no text is named.
    """
    corpus = {} if options.unlabelled else corpus
    reading = {name: corpus[name] for name in (*LAYOUT_OPTIONS, *_READING) if corpus.get(name) is not None}
    if options.text_columns:
        reading["text_columns"] = options.text_columns
    wanted = options.unlabelled_samples
    drawn = {"count": wanted + 2 * settings_of(options).held_out(wanted), **reading}
    return options.unlabelled or str(corpus["source"]), drawn


def held_out_texts(record: EmbedderRecord, model: str) -> tuple[list[str], list[str]]:
    """Return the texts on which an embedding student was scored, and those by which its epoch was chosen.

    Args:
        record: Its record.
        model: Its folder, for messages.

    Raises:
        KDNASError: If they are not available, because the student is of an earlier version, or the text has changed.
    """
    if not record.drawn:
        raise KDNASError(f"the held-out texts of {model!r} are unknown: an earlier version made it")
    drawn = draw_text(record.source, record.drawn, record.seed)
    scored, choosing, _ = split_texts(drawn, record.settings, record.seed)
    if fingerprint_of(scored) != record.heldout:
        raise KDNASError(
            f"the held-out texts of {model!r} are not available: {record.source!r} has changed since it was trained on "
            "it"
        )
    return scored, choosing


def compared_texts(folders: Sequence[str], records: Sequence[EmbedderRecord], text: str | None, seed: int) -> list[str]:
    """Return the texts on which the vectors of embedding students are compared with their teacher's.

    Args:
        folders: Their folders, for messages.
        records: Their records.
        text: Source of the texts; None for the texts held out from the training of all of them.
        seed: Seed of the draw from a source.

    Raises:
        KDNASError: If the texts are not available.
    """
    first = records[0]
    if text is not None:
        drawn = draw_text(text, {"count": 2 * first.settings.heldout}, seed)
        distinct = dict.fromkeys(stripped for value in drawn if (stripped := value.strip()))
        return list(distinct)[: first.settings.heldout]
    try:
        if any(record.heldout != first.heldout for record in records):
            raise KDNASError(f"the held-out texts of {folders[0]!r} differ from those of others")
        return held_out_texts(first, folders[0])[0]
    except KDNASError as error:
        raise KDNASError(f"{error}; name text to score on with `text`") from error


def draw_text(source: str, drawn: Mapping[str, Any], seed: int) -> Sequence[str]:
    """Return texts of a source, drawn at random.

    Args:
        source: Name of a dataset, folder or file.
        drawn: ``count``, their maximum number; and, if they differ from the default, the fields of
            :class:`kdnas_env.distillation.text.layout.TextLayout`, ``config_name``, ``split`` and ``text_columns``.
        seed: Seed of the draw.

    Raises:
        CorpusError: If the source cannot be read.
        RunError: If ``drawn`` is malformed.
    """
    count = drawn.get("count")
    if not isinstance(count, int) or count < 1:
        raise RunError(
            f"the record of the text of an embedding student, {shown(drawn)}, is malformed; make the student again"
        )
    layout = TextLayout(**{name: drawn[name] for name in LAYOUT_OPTIONS if name in drawn})
    reading = {name: drawn[name] for name in _READING if drawn.get(name)}
    rows = draw_texts(source, count, seed, layout=layout, **reading)
    return [text for row in rows for text in row][:count]
