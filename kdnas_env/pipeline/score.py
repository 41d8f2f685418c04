"""Scores of students on tasks, beside their teacher."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import IN_PLACE, LatencyOptions, RunOptions, TrainingOptions
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.tasks.specs import EMBEDDED_TASK


@dataclass(frozen=True)
class GlueOptions(TrainingOptions, RunOptions, RecordedOptions):
    """Score a model on GLUE beside its teacher, what it would be without distillation, and the majority class."""

    COMMAND: ClassVar[str] = "glue"
    PATHS: ClassVar[tuple[str, ...]] = ("model", "models", "teacher", "data")

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """Folder of a student (or of any encoder in hub layout), or a name on the hub."""
    tasks: tuple[str, ...] = ()
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, or the embedded rotten_tomatoes; by default the embedded one
    for a student of the embedded teacher where no data are named, else the nine of GLUE."""
    data: str | None = None
    """Folder that holds GLUE, in the layout of the hub or the original one; by default the hub."""
    models: tuple[str, ...] = ()
    """More models to score beside it."""
    teacher: str | None = None
    """Teacher to compare with; by default the one that the model was distilled from."""
    rows: tuple[str, ...] = ()
    """teacher, student, closed-forms, embeddings, random; by default all there can be. Speed-ups and shares of the
    teacher's score need the teacher; the majority class is always there."""
    finetune: bool = True
    """Fine-tune every model; otherwise a linear probe is fitted on its frozen, pooled states."""
    seeds: int = 3
    """Seeds per score."""
    seed: int = 0
    """The first seed."""
    learning_rate: float | None = None
    """Peak learning rate; by default it depends on the model's width."""
    batch_size: int = 32
    """Samples per step."""
    epochs: int | None = None
    """Passes over the training split; by default 3, and 5 on mrpc and wnli."""
    max_length: int = 128
    """Longest sequence in tokens; longer ones are cut."""
    pooling: str = "mean"
    """mean over the real tokens, or cls."""
    dropout: float = 0.1
    """Dropout of the pooled vector."""
    task_settings: tuple[str, ...] = ()
    """Other settings of fine-tuning for a single task, as TASK.NAME=VALUE, such as rte.epochs=10."""
    max_samples: int | None = None
    """Train on at most so many samples of a task, drawn at random."""
    latency: LatencyOptions = field(default_factory=LatencyOptions)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise KDNASError(f"seeds is {self.seeds}; expected 1 or more")
        if self.seed < 0:
            raise KDNASError(f"seed is {self.seed}; expected 0 or more")

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why: dict[str, str] = {}
        if not self.finetune:
            trained = ("learning_rate", "batch_size", "epochs", "dropout", "task_settings")
            why |= dict.fromkeys(trained, "with --no-finetune: nothing is trained but a linear probe")
        if set(self.tasks) == {EMBEDDED_TASK}:
            why["data"] = f"on the task {EMBEDDED_TASK}, which comes with kdnas[demo]; name other --tasks"
        if self.rows and "teacher" not in self.rows:
            untaught = "with --rows that leave the teacher out, beside whom models are compared and timed"
            why |= dict.fromkeys(("teacher", *(f"latency.{field.name}" for field in fields(LatencyOptions))), untaught)
        if self.resume is not None:
            why["out"] = IN_PLACE
        return why
