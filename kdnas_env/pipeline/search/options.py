"""Options of a search, and checks of workers and packages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

import tyro

from kdnas_env.distillation.text.demo import check_demo
from kdnas_env.envs.assemble import SearchSettings
from kdnas_env.errors import KDNASError
from kdnas_env.latency.settings import ONNX_RUNTIMES
from kdnas_env.pipeline.options import (
    IN_PLACE,
    CorpusOptions,
    LatencyOptions,
    LimitOptions,
    RewardOptions,
    RunOptions,
    SeedOption,
    SpaceOptions,
    TaskOptions,
    TrainingOptions,
    within,
)
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.support.packages import require
from kdnas_env.tasks.own import OwnTask
from kdnas_env.tasks.specs import EMBEDDING


@dataclass(frozen=True)
class SearchOptions(SeedOption, TrainingOptions, RunOptions, RecordedOptions):
    """Search for a small, fast student of a teacher, and keep the best.

    Without flags: the embedded teacher (all-MiniLM-L6-v2) and corpus (Rotten Tomatoes), students at least 5 times as
    fast as the teacher, in a few minutes.
    """

    COMMAND: ClassVar[str] = "search"
    PLACES: ClassVar[tuple[str, ...]] = (
        *RecordedOptions.PLACES,
        "workers",
        "ray",
        "gpus_per_worker",
        "timeout",
    )
    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "corpus.source", "corpus.without", "space.file", *TaskOptions.PATHS)
    NO_PATHS: ClassVar[Collection[str]] = TaskOptions.NO_PATHS
    UNRECORDED: ClassVar[Mapping[str, Any]] = {"limits": {"speedup": 0.0}}

    teacher: str = SearchSettings.teacher
    """Name on the hub or folder of an encoder: BERT, RoBERTa, ModernBERT, MPNet, or any other that AutoModel loads."""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    space: SpaceOptions = field(default_factory=SpaceOptions)
    task: TaskOptions = field(default_factory=TaskOptions)
    limits: Annotated[LimitOptions, tyro.conf.arg(name="")] = field(default_factory=LimitOptions)
    agent: str = "lstm"
    """Search agent: lstm, random, or another that `kdnas agents` lists."""
    agent_settings: tuple[str, ...] = ()
    """Hyper-parameters of the agent, as NAME=VALUE."""
    budget: int = int(SearchSettings.budget)
    """Number of students to evaluate."""
    round_size: int = SearchSettings.round_size
    """Number of students per round; the agent learns after each round."""
    epochs: int = SearchSettings.epochs
    """Epochs of mini-KD per student; 0 stops at the closed forms."""
    data_fraction: float = SearchSettings.data_fraction
    """Share of the training sentences that each student is trained on."""
    recipe: str = "default"
    """default; few-texts, better where the text has few tokens; kd-nas, the recipe of the KD-NAS paper."""
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    reward: RewardOptions = field(default_factory=RewardOptions)
    workers: int = SearchSettings.workers
    """Number of students evaluated in parallel, each in its own process."""
    ray: str | None = SearchSettings.ray
    """Evaluate on Ray: local (a new cluster, which other machines cannot reach), auto (the cluster of this machine;
    also if no address follows), or the address of its head, whose ports other machines reach. Without it, workers are
    processes of this machine."""
    gpus_per_worker: float = SearchSettings.gpus_per_worker
    """GPUs, or a fraction of one, that Ray gives each worker."""
    timeout: float | None = SearchSettings.timeout
    """Seconds without a sign of life after which a worker is replaced and its student evaluated again."""
    asynchronous: bool = False
    """Search without rounds: a free worker gets the agent's next proposal at once. Proposals then depend on the order
    in which students finish."""
    stop: Literal["none", "asha", "hyperband", "median"] = "none"
    """Early stopping of students that are worse than others were after the same number of epochs."""

    def __post_init__(self) -> None:
        for name, of in (("budget", "students"), ("round_size", "students"), ("workers", "processes")):
            check_whole(name, getattr(self, name), of=of, at_least=1)
        if self.timeout is not None:
            check_number("timeout", self.timeout, of="seconds", above=0, advice="leave it out for no limit")

    @property
    def in_this_process(self) -> bool:
        """Whether the process of the search evaluates the students itself."""
        return self.workers == 1 and self.ray is None and not self.asynchronous

    @property
    def settings(self) -> SearchSettings:
        """The settings of the search as its parts take them."""
        corpus = {name: value for name, value in asdict(self.corpus).items() if value not in (None, ())}
        given = {
            "corpus": corpus,
            "space": self.space.file,
            "families": self.space.families or None,
            "max_parameters": self.space.max_parameters,
            "latency": asdict(self.latency),
            "limits": asdict(self.limits),
            "task": self._task,
            **asdict(self.reward),
        }
        names = {field.name for field in fields(self)} & {field.name for field in fields(SearchSettings)}
        return SearchSettings(**{name: getattr(self, name) for name in names} | given)

    @property
    def _task(self) -> dict[str, Any] | None:
        task = self.task
        if task.name is None:
            return None
        own = {field.name: getattr(task, field.name) for field in fields(OwnTask)}
        teacher = {
            "teachers": task.teachers,
            "rates": task.teacher_rates,
            "seed": task.seed_or(self.seed),
            "finetuning": {"max_length": task.max_length, "epochs": task.teacher_epochs},
        }
        places = {"data": task.data, "unlabelled": task.unlabelled}
        return {"name": task.name, **places, "own": own, "teacher": teacher}

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = within("task", self.task.ineffective())
        for name in ("unlabelled_samples", "epochs", "dropout"):
            why[f"task.{name}"] = "in a search, where students learn the task only for a short time, on its corpus"
        if self.task.name == EMBEDDING:
            why["task.max_length"] = "in a search for the task embedding; `corpus.max_length` is that of its text"
        for group in ("corpus", "space", "limits"):
            why |= within(group, getattr(self, group).ineffective())
        if self.ray is None:
            why["gpus_per_worker"] = "without `ray`; processes of this machine share the GPU of `device`"
        if self.in_this_process:
            why["timeout"] = "without workers; add `workers`, `asynchronous` or `ray`"
        if self.asynchronous:
            why["round_size"] = "with `asynchronous`, which has no rounds"
        if self.reward.alpha == 0:
            why["reward.beta"] = "with `reward.alpha=0`, which leaves the latency out"
        if self.resume is not None:
            why["out"] = IN_PLACE
        return why


def check_workers(options: SearchOptions) -> None:
    """Refuse workers that would always be idle.

    Raises:
        KDNASError: If there are more workers than students per round.
    """
    if not options.asynchronous and options.workers > options.round_size:
        raise KDNASError(
            f"workers is {options.workers}, but a round has {options.round_size} students; raise `round_size`, or "
            "search with `asynchronous`, which has no rounds"
        )


def check_installed(options: SearchOptions) -> None:
    """Check that the optional packages of a search are installed. Its agent and early stopping check their own.

    Raises:
        DependencyError: If one is not installed.
    """
    check_demo(options.teacher, options.corpus.source)
    if options.ray is not None:
        require("`ray`", "ray", "ray")
    if options.latency.runtime in ONNX_RUNTIMES:
        from kdnas_env.latency.onnx_runtime import require_onnx

        require_onnx(f"`latency.runtime={options.latency.runtime!r}`")
