"""The best students of a search, distilled for long."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import tyro

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import (
    SourceOptions,
    TaskOptions,
    TrainingOptions,
    options_of,
    unconfigured,
    within,
)
from kdnas_env.pipeline.search import SearchRun
from kdnas_env.pipeline.work import Finished
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.searching.run_folder import STUDENT, is_model
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.specs import EMBEDDING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdnas_env.exporting.embedder import EmbedderRecord
    from kdnas_env.exporting.record import ClassifierRecord

DISTILLED, CURVE_PICTURE, CLASSIFIER, EMBEDDER = "distilled.json", "curve.png", "classifier", "embedder"

README = """# A run of `kdnas distill` or `kdnas_env.distill`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the run, versions, machine |
| `evaluated.jsonl` | with another task than the search has: what both are evaluated on; no student is distilled on it |
| `NAME/student/` | a distilled student: weights, configuration, tokenizer, projection, lineage and a model card |
| `NAME/distilled.json`, `NAME/curve.png` | its learning curve |
| `NAME/classifier/` | with a task: the student with a head for it, as transformers loads it, and its scores |
| `NAME/embedder/` | with the task embedding: the student with a head to the teacher's vectors, and its scores |
| `NAME/checkpoints/`, `NAME/classifier-checkpoints/`, `NAME/embedder-checkpoints/` | of an interrupted training |

Go on with an interrupted training by the same command or call again.
"""

Family = Literal["best", "all", "bert", "albert", "roberta"]


@dataclass(frozen=True)
class TextOptions(SourceOptions):
    """What is distilled on."""

    source: str | None = None
    """Name of a hub dataset, folder or file; by default the corpus of the search, and of the embedded one all of it."""
    max_length: int = 128
    """Maximum length in tokens: that of the texts in use, at most the teacher's limit. Longer samples are truncated."""
    pair_fraction: float = 0.2
    """Share of samples that are two consecutive texts, so that the student learns sentence pairs."""
    max_samples: int | None = None
    """Maximum number of samples, drawn at random."""
    heldout_samples: int = 512
    """Number of samples held out to measure the loss."""
    without: str | None = None
    """File with texts to leave out, whatever their case; by default that of the search."""
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
    """Distil the best students of a search for long, on all text; with a task, distil that into them too.

    Run it again to go on where it stopped.
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
    """Whose best student: best of all (the default), of a family, or of every family that was searched (all)."""
    students: tuple[str, ...] = ()
    """Students instead, or beside: any of the search's table or of your own, such as "bert 3L/192h/6a/384f/gelu"."""
    corpus: TextOptions = field(default_factory=TextOptions)
    start: Literal["mini-kd", "closed-form"] = "mini-kd"
    """Start from the weights of the search's student, or anew from the closed forms on this text."""
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
    """Compute the teacher's states once (cache) or for every batch (loop); auto: by the size of the cache."""
    cache_gib: float = 16.0
    """Maximum cache size for auto, in GiB."""
    seed: int | None = None
    """Random seed; by default that of the search."""
    out: str | None = None
    """Folder of the distillation; by default distill in the run folder."""

    def __post_init__(self) -> None:
        check_whole("heldout_samples", self.corpus.heldout_samples, at_least=1)
        if self.corpus.streaming and self.max_steps is None:
            raise KDNASError("a stream has no end, so that epochs cannot be counted; give `max_steps`")
        check_whole("batch_size", self.batch_size, of="samples", at_least=1)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = within("corpus", self.corpus.ineffective())
        if self.corpus.streaming:
            why["epochs"] = "with `corpus.streaming`: a stream has no end; `max_steps` says how long"
            why["cache_gib"] = "with `corpus.streaming`: the teacher's states cannot be cached on a stream"
        if self.teacher != "auto":
            why["cache_gib"] = f"with `teacher={self.teacher!r}`; it is for `teacher='auto'`"
        if self.of_student:
            kept = {"run", "task", "seed", "out", *(field.name for field in fields(TrainingOptions))}
            general = [field.name for field in fields(self) if field.name not in kept]
            why = dict.fromkeys(general, "on the folder of a student, which learns the task alone")
        return why | within("task", self.task.ineffective())

    @property
    def of_student(self) -> bool:
        """Whether a student is named, instead of a search."""
        return is_model(self.run)

    @property
    def folder(self) -> Path:
        """Folder of the distillation; of a student, that of its classifier."""
        if self.out:
            return expanded(self.out)
        run = expanded(self.run)
        return run.resolve().parent / self.product if self.of_student else run / "distill"

    @property
    def product(self) -> str:
        """Folder of what a student becomes with the task, beside its own."""
        return EMBEDDER if self.task.name == EMBEDDING else CLASSIFIER


@dataclass(frozen=True)
class DistilledStudent:
    """A student that was distilled for long.

    Attributes:
        path: Folder with the student and its curve.
        config: Its architecture.
        started_at: Unexplained variance on held-out text before the distillation.
        unexplained: The same of the student that is kept.
        seconds: Seconds of the distillation.
        curve: Learning curve, a point for each evaluation: ``step``, ``epoch``, ``unexplained``, ``seconds``.
    """

    path: Path
    config: StudentConfig
    started_at: float
    unexplained: float
    seconds: float
    curve: Sequence[Mapping[str, float]]

    @classmethod
    def of(cls, path: Path, result: Mapping[str, Any]) -> DistilledStudent:
        """Make it of what its ``distilled.json`` says."""
        numbers = {name: result[name] for name in ("started_at", "unexplained", "seconds", "curve")}
        return cls(path, StudentConfig.from_dict(result["student"]), **numbers)

    @property
    def name(self) -> str:
        """``best``, its family, or itself in words."""
        return self.path.name

    @property
    def unstable(self) -> bool:
        """Whether the training lost more than half of what it had gained; the student is kept as it was at its best."""
        return self.curve[-1]["unexplained"] > (self.started_at + self.unexplained) / 2

    @property
    def folder(self) -> Path:
        """Folder of the model: weights, configuration, tokenizer and a model card."""
        return self.path / STUDENT

    def model(self) -> PreTrainedModel:
        """Load it, as an encoder of transformers."""
        from kdnas_env.distillation.student.folder import load_student

        model: PreTrainedModel = load_student(self.folder)
        return model


@dataclass(frozen=True)
class DistilledClassifier:
    """A student that learnt a task.

    Attributes:
        folder: Folder of the model, as transformers loads it: weights, configuration, tokenizer and a model card.
        record: What is known of it: its task, its score and that of its teacher.
    """

    folder: Path
    record: ClassifierRecord = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the student that it was made from: of the folder that holds both."""
        return self.folder.resolve().parent.name

    def model(self) -> PreTrainedModel:
        """Load it, as a classifier of transformers."""
        from transformers import AutoModelForSequenceClassification

        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(self.folder, local_files_only=True)
        return model


@dataclass(frozen=True)
class DistilledEmbedder:
    """A student that learnt to embed texts.

    Attributes:
        folder: Folder of the model, as Sentence Transformers loads it.
        record: What is known of it: its scores, and what it was made from.
    """

    folder: Path
    record: EmbedderRecord = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the student that it was made from: of the folder that holds both."""
        return self.folder.resolve().parent.name

    def model(self) -> Any:
        """Load it, as a ``SentenceTransformer``."""
        from kdnas_env.tasks.vectors import open_embedder

        return open_embedder(self.folder)


@dataclass(frozen=True, repr=False)
class DistillRun(Finished):
    """A finished distillation.

    Attributes:
        path: Its folder.
        options: What was asked for.
        students: The students; none where a student's folder was named.
        classifiers: Those students with a head for the task, if there is a task with labels.
        embedders: Those students with a head to the teacher's vectors, with the task embedding.
        notes: What became of the text on its way into the corpus, where anyone would want to know, in sentences.
    """

    path: Path
    options: DistillOptions
    students: tuple[DistilledStudent, ...]
    classifiers: tuple[DistilledClassifier, ...] = ()
    embedders: tuple[DistilledEmbedder, ...] = ()
    notes: tuple[str, ...] = ()


def distill(
    run: SearchRun | DistilledStudent | str | os.PathLike[str] | DistillOptions,
    *,
    progress: Progress = SILENT,
    **settings: Any,
) -> DistillRun:
    """Distil the best students of a search for long. An interrupted distillation goes on by the same call again.

    With a task, each student then learns it from the task's teacher, and a classifier is left beside it. A student's
    folder in the place of a search learns the task alone.

    Args:
        run: The search, or its folder; with a task also a student, or its folder; or all options.
        progress: Receives what is done.
        **settings: Options of :class:`DistillOptions` by name, such as ``task="my.csv"``, ``epochs=5`` or
            ``corpus={"max_length": 64}``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.distill_loop import distil_chosen, distil_task_alone

    first = run.path if isinstance(run, SearchRun) else run.folder if isinstance(run, DistilledStudent) else run
    progress = checked(progress)
    options = options_of(DistillOptions, settings, run=first)
    with nullcontext() if options.threads is None else pinned_threads(options.threads):
        return (distil_task_alone if options.of_student else distil_chosen)(options, progress)


@runtime_checkable
class HasProducts(Protocol):
    """A finished run with a task, see :class:`kdnas_env.pipeline.run.PipelineRun`."""

    @property
    def products(self) -> Mapping[str, Path]:
        """Folders of what it made, the model of the task first."""


Students = (
    HasProducts
    | str
    | os.PathLike[str]
    | SearchRun
    | DistilledStudent
    | DistilledClassifier
    | DistilledEmbedder
    | DistillRun
)
"""What students can be named by: a folder or a name on the hub, or what a search or a distillation returned."""


def student_folders(students: Students) -> tuple[str, ...]:
    """Return the folders of students, the main one first; of a name on the hub, the name."""
    match students:
        case SearchRun():
            return (str(students.path / STUDENT),)
        case DistilledStudent() | DistilledClassifier() | DistilledEmbedder():
            return (str(students.folder),)
        case DistillRun():
            return tuple(
                str(student.folder) for student in students.embedders or students.classifiers or students.students
            )
        case HasProducts(products=products) if products:
            return (str(next(iter(products.values()))),)
        case str() | os.PathLike():
            return (os.fspath(students),)
        case _:
            raise KDNASError(
                f"{shown(students)} is no model; expected a folder, a name on the hub, or what a search or a "
                "distillation returned"
            )
