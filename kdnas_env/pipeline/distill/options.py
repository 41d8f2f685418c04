"""Options of a long distillation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import SourceOptions, TaskOptions, TrainingOptions, unconfigured, within
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.searching.run_folder import is_model
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.tasks.specs import EMBEDDING

CLASSIFIER, EMBEDDER = "classifier", "embedder"
"""Folders of the products of a student, beside its own."""

Family = Literal["best", "all", "bert", "albert", "roberta"]


@dataclass(frozen=True)
class TextOptions(SourceOptions):
    """The text of the distillation."""

    source: str | None = None
    """Name of a hub dataset, folder or file; by default the corpus of the search (all of it if that is the demo)."""
    max_length: int = 128
    """Maximum length in tokens, at most the teacher's limit. Longer samples are truncated."""
    pair_fraction: float = 0.2
    """Share of samples that are two consecutive texts, so that the student learns sentence pairs."""
    max_samples: int | None = None
    """Maximum number of samples, drawn at random."""
    heldout_samples: int = 512
    """Number of samples held out to measure the loss."""
    without: str | None = None
    """File with texts to leave out, ignoring case; by default that of the search."""
    streaming: bool = False
    """Stream the text during training, for corpora larger than memory; needs --max-steps."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        if self.source is None:
            why = "without `corpus.source`: the text is that of the search"
            return {option.name: why for option in fields(SourceOptions) if option.name != "source"}
        pairs = {"pair_fraction": "where `corpus.text_columns` names two: every sample is a pair"}
        return unconfigured(self.source) | (pairs if len(self.text_columns) == 2 else {})


@dataclass(frozen=True)
class DistillOptions(TrainingOptions, RecordedOptions):
    """Distil the best students of a search for long, on all text; with a task, they then learn the task.

    Run the command again to resume it.
    """

    COMMAND: ClassVar[str] = "distill"
    PLACES: ClassVar[tuple[str, ...]] = ("run", "out", "cache_dir")
    PATHS: ClassVar[tuple[str, ...]] = ("corpus.source", "corpus.without", *TaskOptions.PATHS)
    NO_PATHS: ClassVar[Collection[str]] = TaskOptions.NO_PATHS

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of a finished kdnas search; with a task also the folder of a student, which then learns the task
    alone."""
    task: TaskOptions = field(default_factory=TaskOptions)
    family: tuple[Family, ...] = ()
    """Which best student: best of all (the default), of a family, or of every family that was searched (all)."""
    students: tuple[str, ...] = ()
    """Students to distil instead, or in addition to --family: any architecture, such as "bert 3L/192h/6a/384f/gelu"."""
    corpus: TextOptions = field(default_factory=TextOptions)
    start: Literal["mini-kd", "closed-form"] = "mini-kd"
    """Start from the weights of the search's student, or from new closed forms on this text."""
    epochs: int = 3
    """Passes over the text."""
    max_steps: int | None = None
    """Maximum number of steps."""
    batch_size: int = 32
    """Batch size over all processes."""
    learning_rate: float | None = None
    """Peak learning rate of a student 192 wide; by default that of the recipe, for this batch size
    (the same from 32 on)."""
    train_embeddings: bool = True
    """Train the embedding tables too."""
    evaluations: int = 10
    """Number of evaluations; each measures the loss and writes a checkpoint."""
    patience: int | None = 5
    """Evaluations without improvement after which the training ends."""
    teacher: Literal["auto", "cache", "loop"] = "auto"
    """Compute the teacher's states once (cache) or for every batch (loop); auto: depending on the size of the cache."""
    cache_gib: float = 16.0
    """Maximum cache size for auto, in GiB."""
    seed: int | None = None
    """Random seed; by default that of the search."""
    out: str | None = None
    """Folder of the distillation; by default distill in the run folder."""

    def __post_init__(self) -> None:
        check_whole("heldout_samples", self.corpus.heldout_samples, at_least=1)
        if self.corpus.streaming and self.max_steps is None:
            raise KDNASError("a stream is endless, so epochs cannot be counted; give `max_steps`")
        check_whole("batch_size", self.batch_size, of="samples", at_least=1)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = within("corpus", self.corpus.ineffective())
        if self.corpus.streaming:
            why["epochs"] = "with `corpus.streaming`: a stream has no end; `max_steps` sets the length"
            why["cache_gib"] = "with `corpus.streaming`: the teacher's states cannot be cached on a stream"
        if self.teacher != "auto":
            why["cache_gib"] = f"with `teacher={self.teacher!r}`; it is for `teacher='auto'`"
        if self.of_student:
            allowed = {"run", "task", "seed", "out", *(field.name for field in fields(TrainingOptions))}
            general = [field.name for field in fields(self) if field.name not in allowed]
            why = dict.fromkeys(general, "on the folder of a student, which learns the task alone")
        return why | within("task", self.task.ineffective())

    @property
    def of_student(self) -> bool:
        """Whether a student is named, instead of a search."""
        return is_model(self.run)

    @property
    def folder(self) -> Path:
        """Folder of the distillation; for a student's folder, that of its product."""
        if self.out:
            return expanded(self.out)
        run = expanded(self.run)
        return run.resolve().parent / self.product if self.of_student else run / "distill"

    @property
    def product(self) -> str:
        """Name of the folder of the product of the task."""
        return EMBEDDER if self.task.name == EMBEDDING else CLASSIFIER
