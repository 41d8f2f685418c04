"""The options of ``kdnas score``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

import tyro

from kdnas_env.pipeline.options import IN_PLACE, LatencyOptions, RunOptions, TrainingOptions
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.checks import check_whole
from kdnas_env.tasks.own import OwnTask, is_own
from kdnas_env.tasks.specs import EMBEDDED_TASKS, TASKS


@dataclass(frozen=True)
class ScoreOptions(TrainingOptions, RunOptions, RecordedOptions):
    """Score a model on tasks beside its teacher, undistilled baselines, and the majority class.

    Classifiers of kdnas distill are scored with their own head, embedding models by their vectors. ONNX exports of both
    are scored file by file, beside the teacher's file. Any other model is trained on the task first.
    """

    COMMAND: ClassVar[str] = "score"
    FORMERLY: ClassVar[tuple[str, ...]] = ("glue",)
    PATHS: ClassVar[tuple[str, ...]] = (
        *("model", "models", "teacher", "data"),
        *("tasks", "task.validation_file", "task.test_file", "text"),
    )
    NO_PATHS: ClassVar[Collection[str]] = tuple(TASKS)

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """Folder of a student (or of any encoder in hub layout), or a name on the hub."""
    tasks: tuple[str, ...] = ()
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, the embedded rotten_tomatoes and imdb, or your own: a file
    (csv, tsv, jsonl, parquet), a folder with one file per split, or a dataset of the hub. Default: the task of a
    classifier; none for an embedding student, whose vectors are compared with the teacher's; rotten_tomatoes for a
    student of the embedded teacher without --data; else the nine tasks of GLUE."""
    text: str | None = None
    """Text on which the vectors of an embedding student are compared with the teacher's; by default the texts held out
    from its training."""
    data: str | None = None
    """Folder that holds GLUE, in the layout of the hub or the original one; by default the hub."""
    models: tuple[str, ...] = ()
    """Further models to score."""
    teacher: str | None = None
    """Teacher to compare with; by default the one that the model was distilled from."""
    rows: tuple[str, ...] = ()
    """teacher, student, closed-forms, embeddings, random; by default all that apply, and for a classifier the first
    two. Speed-ups and shares of the teacher's score need the teacher. The majority class is always included."""
    finetune: bool = True
    """Fine-tune every model; otherwise a linear probe is fitted on its frozen, pooled states."""
    seeds: int = 3
    """Number of seeds per score."""
    seed: int = 0
    """The first seed."""
    learning_rate: float | None = None
    """Peak learning rate; by default it depends on the model's width."""
    batch_size: int = 32
    """Batch size."""
    epochs: int | None = None
    """Passes over the training split; by default 3, and 5 on mrpc and wnli."""
    max_length: int = 128
    """Maximum length in tokens; longer sequences are truncated."""
    pooling: str = "mean"
    """mean over the real tokens, or cls."""
    dropout: float = 0.1
    """Dropout of the pooled vector."""
    task_settings: tuple[str, ...] = ()
    """Other settings of fine-tuning for a single task, as TASK.NAME=VALUE, such as rte.epochs=10."""
    max_samples: int | None = None
    """Maximum number of training samples of a task, drawn at random."""
    task: OwnTask = field(default_factory=OwnTask)
    latency: LatencyOptions = field(default_factory=LatencyOptions)

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds, at_least=1)
        check_whole("seed", self.seed, at_least=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why: dict[str, str] = {}
        if not self.finetune:
            trained = ("learning_rate", "batch_size", "epochs", "dropout", "task_settings")
            why |= dict.fromkeys(trained, "with `finetune=False`: only a linear probe is trained")
        if self.tasks and all(name in EMBEDDED_TASKS or is_own(name) for name in self.tasks):
            why["data"] = f"on the task {self.tasks[0]}, which is not a GLUE task; name other `tasks`"
        if not any(map(is_own, self.tasks)):
            laid_out = (f"task.{field.name}" for field in fields(OwnTask))
            why |= dict.fromkeys(laid_out, "without a task of your own; name its file, folder or dataset with `tasks`")
        if self.rows and "teacher" not in self.rows:
            untaught = "with `rows` without the teacher, with which models are compared and timed"
            why |= dict.fromkeys(("teacher", *(f"latency.{field.name}" for field in fields(LatencyOptions))), untaught)
        if self._of_files:
            unused = ("teacher", "data", "finetune", "seeds", "learning_rate", "batch_size", "epochs", "max_length")
            served = "on exported files, which are scored in ONNX Runtime"
            why |= dict.fromkeys((*unused, "pooling", "dropout", "max_samples", "latency.runtime"), served)
        if self.tasks:
            why["text"] = "with `tasks`: vectors are scored on their labels"
        if self.resume is not None:
            why["out"] = IN_PLACE
        return why

    @property
    def _of_files(self) -> bool:
        """Whether the model is an export, whose files are scored."""
        if self.model is None or self.tasks or self.rows:
            return False
        from kdnas_env.pipeline.score.files import is_scored_by_files

        return is_scored_by_files(self.model)
