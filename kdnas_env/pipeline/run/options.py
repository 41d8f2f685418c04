"""Options of a run and of its stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_type_hints

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.distill.options import DistillOptions, Family, TextOptions
from kdnas_env.pipeline.export import ExportOptions
from kdnas_env.pipeline.options import (
    IN_PLACE,
    LimitOptions,
    RunOptions,
    SeedOption,
    TaskOptions,
    TrainingOptions,
    within,
)
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.support.shell import non_defaults

KindT = TypeVar("KindT")

Stage = Literal["search", "distill", "score", "export"]

STAGES: tuple[Stage, ...] = get_args(Stage)
"""The stages in order. Each has a group of flags with its name, and a folder (:func:`stage_folder`)."""

_SCORE_FORMERLY = "glue"
"""Name of the stage ``score`` in earlier versions."""

CANDIDATES = "candidates"
"""The stage after the search in a run with a task: all other stages, for one student after the other."""


def stage_folder(run: Path, stage: str) -> Path:
    """Return the folder of a stage in the folder of a run.

    The stage ``score`` fills ``scores``; a run of an earlier version keeps its folder ``glue``.
    """
    if stage != "score":
        return run / stage
    earlier = run / _SCORE_FORMERLY
    return earlier if earlier.exists() else run / "scores"


def stage_named(name: str) -> str:
    """Return the current name of a stage that this or an earlier version recorded."""
    return "score" if name == _SCORE_FORMERLY else name


def _set_by_run(*names: str, **values: Any) -> Callable[[type[KindT]], type[KindT]]:
    """Turn the options of a command into those of a stage: options that the run sets have no flag.

    Args:
        *names: Options that the run sets.
        **values: Further such options, with their defaults.
    """
    suppress: Any = tyro.conf.Suppress

    def mark(kind: type[KindT]) -> type[KindT]:
        hints = get_type_hints(kind)
        for name in (*names, *values):
            kind.__annotations__[name] = suppress[hints[name]]
        for name, value in values.items():
            setattr(kind, name, value)
        kind.SET_BY_RUN = (*names, *values)  # type: ignore[attr-defined]
        return kind

    return mark


_COMPUTE: dict[str, Any] = {"device": None, "threads": None, "cache_dir": None}


@dataclass(frozen=True)
@_set_by_run(teacher="demo", task=TaskOptions(), limits=LimitOptions(), seed=0, **_COMPUTE, out=None, resume=None)
class SearchStage(SearchOptions):
    """How the students are searched."""

    STAGE: ClassVar[Stage] = "search"


@dataclass(frozen=True)
@_set_by_run("run", task=TaskOptions(), family=("best",), students=(), seed=None, **_COMPUTE, out=None)
class DistillStage(DistillOptions):
    """How the best are distilled. On 12,000 samples by default, where kdnas distill takes all."""

    STAGE: ClassVar[Stage] = "distill"

    run: str = ""
    corpus: TextOptions = field(default_factory=lambda: TextOptions(max_samples=12_000))


@dataclass(frozen=True)
@_set_by_run(model=None, models=(), teacher=None, seed=0, **_COMPUTE, out=None, resume=None)
class ScoreStage(ScoreOptions):
    """How the distilled students are scored. One seed and no undistilled rows by default, unlike kdnas score."""

    STAGE: ClassVar[Stage] = "score"

    rows: tuple[str, ...] = ("teacher", "student")
    """teacher, student, closed-forms, embeddings, random. The teacher gives speed-ups and shares of its score; the
    majority class is always there."""
    seeds: int = 1
    """Number of seeds per score; several seeds give its standard deviation."""


@dataclass(frozen=True)
@_set_by_run("model", out=None, push=None, public=False)
class ExportStage(ExportOptions):
    """How the distilled students are exported. Push one with kdnas export."""

    STAGE: ClassVar[Stage] = "export"

    model: str = "student"


@dataclass(frozen=True)
class PipelineOptions(SeedOption, TrainingOptions, RunOptions, RecordedOptions):
    """Search, distill, score and export in one run folder, which can be resumed.

    With a task, the run makes a classifier from its labels and your limits; with the task embedding, an embedding
    model. The best student of the search is distilled, learns the task from its teacher, and is exported. If the
    exported file breaks a limit, the next best student follows. --keep is the minimum share of the teacher's score;
    with the task embedding, the minimum of Spearman's correlation with the teacher's similarities.

    Without flags: the embedded teacher (all-MiniLM-L6-v2) and corpus, 16 students searched that are at least 5 times as
    fast as the teacher, the best distilled on 12,000 samples for 3 epochs, scored on rotten_tomatoes beside the teacher
    with one seed, and exported to ONNX: about half an hour on two cores.
    """

    COMMAND: ClassVar[str] = "run"
    PATHS: ClassVar[tuple[str, ...]] = (
        "teacher",
        "search.corpus.source",
        "search.corpus.without",
        "search.space.file",
        "distill.corpus.source",
        "distill.corpus.without",
        *TaskOptions.PATHS,
        *("score.data", "score.tasks", "score.task.validation_file", "score.task.test_file"),
    )
    NO_PATHS: ClassVar[Collection[str]] = TaskOptions.NO_PATHS
    UNRECORDED: ClassVar[Mapping[str, Any]] = {"limits": {"speedup": 0.0}}
    RENAMED: ClassVar[Mapping[str, str]] = {_SCORE_FORMERLY: "score"}

    teacher: str = "demo"
    """Name on the hub or folder of an encoder: BERT, RoBERTa, ModernBERT, MPNet, or any other that AutoModel loads;
    with a task also a checkpoint with a head for its labels."""
    task: TaskOptions = field(default_factory=TaskOptions)
    limits: Annotated[LimitOptions, tyro.conf.arg(name="")] = field(default_factory=LimitOptions)
    candidates: int = 3
    """With a task: maximum number of students that are tried, until an exported file keeps the limits."""
    family: tuple[Family, ...] = ("best",)
    """Which best student is distilled, scored and exported: best of all, of a family, or of every family that was
    searched (all); see --search.space.families."""
    stages: tuple[Stage, ...] = STAGES
    """Stages to run. Finished stages are not repeated."""
    search: SearchStage = field(default_factory=SearchStage)
    distill: DistillStage = field(default_factory=DistillStage)
    score: ScoreStage = field(default_factory=ScoreStage)
    export: ExportStage = field(default_factory=ExportStage)
    resume: str | None = None
    """Run folder to resume; all other settings are read from it. Settings of stages not begun may be changed."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise KDNASError(f"no stage is named; choose `stages` from {' '.join(STAGES)}")
        if not self.family:
            raise KDNASError("no family is named; give best, all, or families, such as `family=['bert', 'albert']`")
        check_whole("candidates", self.candidates, at_least=1)

    @property
    def shared(self) -> dict[str, Any]:
        """Options that all training stages share."""
        return {name: getattr(self, name) for name in ("seed", "device", "threads", "cache_dir")}

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {"out": IN_PLACE} if self.resume is not None else {}
        for stage in STAGES:
            reasons = within(stage, getattr(self, stage).ineffective())
            why |= {name: re.sub("`([^`]+)`", rf"`{stage}.\1`", reason) for name, reason in reasons.items()}
        why |= within("task", self.task.ineffective())
        if self.task.name is None:
            why["candidates"] = "without a task; name it with `task`"
            return why | within("limits", self.limits.ineffective())
        scored = (f"score.{field.name}" for field in fields(ScoreStage))
        why |= dict.fromkeys(scored, "with `task`: the exported file is scored on it")
        why |= dict.fromkeys(
            ("stages", "family", "export.to"), "with `task`: the run does every step up to the exported file"
        )
        return why

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Restore options of :meth:`to_dict`, also of a run that an earlier version made.

        Raises:
            RunError: See :meth:`RecordedOptions.from_dict`.
        """
        stages = data.get("stages")
        names = [stage_named(name) for name in stages] if isinstance(stages, list | tuple) else stages
        return super().from_dict({**data, "stages": names} if "stages" in data else data)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that determine the results as plain data, without those set by the run in its stages."""
        stages = {
            name: {
                key: value
                for key, value in asdict(stage).items()
                if key not in (*stage.SET_BY_RUN, *getattr(stage, "PLACES", ()))
            }
            for name, stage in ((name, getattr(self, name)) for name in STAGES)
        }
        return super().to_dict() | stages

    def places(self, *given: str) -> dict[str, Any]:
        """Return the options that must be given again on resuming, including those of stages."""
        nested = [
            f"{name}.{place}"
            for name in STAGES
            for place in getattr(getattr(self, name), "PLACES", ())
            if place not in getattr(self, name).SET_BY_RUN
        ]
        return super().places(*given) | non_defaults(self, nested)

    def check_unchanged(self, recorded: Self) -> None:
        """Refuse options that differ from the recorded ones, except those of stages that have not begun.

        Raises:
            RunError: Naming every difference.
        """
        assert self.resume is not None
        folder = expanded(self.resume)
        folders = {stage: stage_folder(folder, stage) for stage in STAGES}
        if recorded.task.name is not None:
            folders |= dict.fromkeys(STAGES[1:], folder / CANDIDATES)
        free: list[str] = ["stages", "candidates", *(stage for stage in STAGES if not folders[stage].exists())]
        if "distill" in free:
            free.append("family")
        super(PipelineOptions, replace(self, **{name: getattr(recorded, name) for name in free})).check_unchanged(
            recorded
        )
