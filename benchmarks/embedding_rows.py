"""What an embedding student is worth beside what else can be had of its teacher for as little time.

    python benchmarks/embedding_rows.py --json FILE --students FOLDER ...

Scores without labels on the text that was held out from the first student's training: a static model made of the
teacher as Model2Vec makes one, the first layers of the teacher as they are, the same with a linear head in closed form,
and embedding students. Rows that FILE has are not made again. Speed-ups are those of eager PyTorch over the teacher,
tokenising left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command import run_command
from kept_scores import keep_scores, kept_scores
from rich.console import Console
from rich.table import Table
from teacher_rows import StaticModel, first_layers, static_vectors

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.record import EmbedderRecord, read_embedder_record
from kdnas_env.latency import LatencyProbe
from kdnas_env.pipeline.distill.embedders import draw_text
from kdnas_env.support.arrays import Floats32
from kdnas_env.support.atomic import expanded
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.scratch import scratch_folder
from kdnas_env.tasks.embedding import EmbeddingSettings, distil_embedder, split_texts
from kdnas_env.tasks.vector_scores import EmbeddingScore, score_vectors
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher, open_embedder, vectors

SHOWN = ("spearman", "overlap", "overlap_in_teachers", "recall", "recall_in_teachers")
IN_TEACHERS = ("cosine", "overlap_in_teachers", "recall_in_teachers")
"""Scores in the space of the teacher's vectors, where vectors of another width have none."""


@dataclass(frozen=True)
class Arguments:
    """Score the rows of embedding students.

    Attributes:
        json: File of the scores; those that it holds are kept.
        students: Folders of embedding students of one teacher.
        layers: How many layers of the teacher are left, a number a row.
    """

    json: Path
    students: tuple[Path, ...]
    layers: tuple[int, ...] = (1, 2, 3)


@dataclass(frozen=True)
class Work:
    """The teacher, and the text: what was held out, and what may be trained on."""

    arguments: Arguments
    record: EmbedderRecord
    encoder: Teacher
    teacher: EmbeddingTeacher
    texts: Sequence[str]
    scored: Sequence[str]

    @classmethod
    def of(cls, arguments: Arguments) -> Work:
        """Read the text of the first student.

        Raises:
            KDNASError: If a folder is no embedding student that says how its text was drawn.
        """
        records = [read_embedder_record(expanded(folder)) for folder in arguments.students]
        first = records[0] if records else None
        if first is None or not first.drawn or any(record is None for record in records):
            raise KDNASError(f"{arguments.students} are not embedding students of this version; make them anew")
        encoder = load_teacher(first.teacher["name"])
        texts = draw_text(first.source, first.drawn, first.seed)
        scored = split_texts(texts, first.settings, first.seed)[0]
        return cls(arguments, first, encoder, embedding_teacher(encoder, first.settings.max_length), texts, scored)

    def score(self, made: Floats32) -> EmbeddingScore:
        """Compare vectors of the held-out text with the teacher's."""
        return score_vectors(made, self.teacher.vectors(self.scored), self.record.seed)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: What it is.
        make: Returns its score, its parameters, and the model to time.
        indexed: Whether its vectors can be looked up among the teacher's.
    """

    name: str
    make: Callable[[], tuple[EmbeddingScore, int, Any]]
    indexed: bool = True


def static(work: Work) -> tuple[EmbeddingScore, int, Any]:
    """Score the static model."""
    table = static_vectors(work.encoder)
    model = StaticModel(table)
    made = model.encode(work.encoder.tokenizer, work.scored, work.record.settings.max_length)
    # Zeros change no cosine between two of them.
    padded = np.pad(made, ((0, 0), (0, max(0, work.teacher.width - made.shape[1]))))
    return work.score(padded), table.size, model


def shallow(work: Work, layers: int, *, head: bool) -> tuple[EmbeddingScore, int, Any]:
    """Score the first layers of the teacher, as they are or with a head in closed form."""
    model = first_layers(work.encoder, layers)
    with scratch_folder("layers") as folder:
        model.save_pretrained(folder)
        work.encoder.tokenizer.save_pretrained(folder)
        encoder = load_teacher(folder)
        own = work.record.settings
        if not head:
            made = embedding_teacher(encoder, own.max_length)
            with training_lock():
                return work.score(vectors(made.model, work.scored)), _size(model), encoder.model
        settings = EmbeddingSettings(epochs=0, max_length=own.max_length, heldout=own.heldout)
        solved = distil_embedder(encoder, work.teacher, work.texts, settings, work.record.seed)
        return solved.score, _size(solved.model), encoder.model


def student(work: Work, folder: Path) -> tuple[EmbeddingScore, int, Any]:
    """Score an embedding student."""
    model = open_embedder(expanded(folder))
    with training_lock():
        made = vectors(model, work.scored)
    return work.score(made), _size(model), load_teacher(folder, role="student").model


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def rows(work: Work) -> Iterator[Row]:
    """Yield the rows of the table."""
    yield Row("static model by Model2Vec's recipe (not its package)", lambda: static(work), indexed=False)
    for layers in work.arguments.layers:
        for head, words in ((False, "as they are"), (True, "head in closed form")):
            yield Row(
                f"first {layers} of the teacher's {work.encoder.architecture.num_hidden_layers} layers, {words}",
                lambda layers=layers, head=head: shallow(work, layers, head=head),  # type: ignore[misc]
            )
    for folder in work.arguments.students:
        yield Row(f"student {folder}", lambda folder=folder: student(work, folder))  # type: ignore[misc]


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If FILE cannot be written, or holds scores of other text.
        KDNASError: If a student or the teacher cannot be read.
    """
    work = Work.of(arguments)
    fixed = {"teacher": work.teacher.fingerprint, "heldout": work.record.heldout}
    made: dict[str, Any] = kept_scores(arguments.json, fixed, {})
    probe = LatencyProbe(work.encoder.model, work.encoder.architecture)
    named = []
    for row in rows(work):
        named.append(row.name)
        if row.name in made:
            continue
        score, parameters, model = row.make()
        speedup = 1 / probe.measure(model, work.encoder.architecture.as_student()).ratio
        values = {name: value for name, value in asdict(score).items() if row.indexed or name not in IN_TEACHERS}
        made[row.name] = {"score": values, "parameters": parameters, "speedup": speedup}
        keep_scores(arguments.json, fixed, made)
        print(f"{row.name}: {score.spearman[0]:.3f}", flush=True)
    Console(width=200).print(table(work, {name: made[name] for name in named}))


def table(work: Work, made: dict[str, Any]) -> Table:
    """Return the table: scores with their 95 % intervals."""
    result = Table("", *SHOWN, "parameters", "speed-up in torch", title=f"{len(work.scored)} held-out texts")
    for name, row in made.items():
        cells = [row["score"].get(column) for column in SHOWN]
        result.add_row(
            name,
            *("" if cell is None else "{:.2f} ({:.2f} to {:.2f})".format(*cell) for cell in cells),
            f"{row['parameters']:,}",
            f"{row['speedup']:.1f}x",
        )
    return result


if __name__ == "__main__":
    run_command(main, Arguments, threads=1)
