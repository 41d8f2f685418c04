"""From a teacher's name to the folder of its best student."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import (
    IN_PLACE,
    CorpusOptions,
    LatencyOptions,
    RewardOptions,
    RunOptions,
    SeedOption,
    SpaceOptions,
    TrainingOptions,
    within,
)
from kdnas_env.searching.recorded import RecordedOptions


@dataclass(frozen=True)
class SearchOptions(SeedOption, TrainingOptions, RunOptions, RecordedOptions):
    """Search for a small, fast student of a teacher, and keep the best.

    Without flags: the embedded teacher (all-MiniLM-L6-v2) and corpus (Rotten Tomatoes), in a few minutes.
    """

    COMMAND: ClassVar[str] = "search"
    PLACES: ClassVar[tuple[str, ...]] = (
        *RecordedOptions.PLACES,
        "workers",
        "ray",
        "gpus_per_worker",
        "timeout",
    )
    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "corpus.source", "space.file")

    teacher: str = "demo"
    """Name on the hub or folder of a BERT, RoBERTa, XLM-R, ALBERT, DistilBERT or ELECTRA encoder."""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    space: SpaceOptions = field(default_factory=SpaceOptions)
    agent: str = "lstm"
    """Who searches: lstm, random, or any other of kdnas agents."""
    agent_settings: tuple[str, ...] = ()
    """Hyper-parameters of the agent, as NAME=VALUE."""
    budget: int = 16
    """Students to evaluate."""
    round_size: int = 4
    """Students per round; the agent learns after each."""
    epochs: int = 1
    """Epochs of mini-KD per student; 0 stops at the closed forms."""
    data_fraction: float = 0.2
    """Share of the training sentences that each student sees."""
    recipe: str = "default"
    """default, or seed for the recipe of the KD-NAS paper."""
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    reward: RewardOptions = field(default_factory=RewardOptions)
    workers: int = 1
    """Students evaluated at a time, each in a process of its own."""
    ray: str | None = None
    """Evaluate on Ray: local (a cluster of its own, which other machines cannot reach), auto (the cluster that this
    machine is part of; also where no address follows), or the address of its head, whose ports other machines reach.
    Without it, workers are processes of this machine."""
    gpus_per_worker: float = 0.0
    """GPUs, or a fraction of one, that Ray gives each worker."""
    timeout: float | None = None
    """Seconds after which a worker that says nothing is replaced, and its student tried again."""
    asynchronous: bool = False
    """Without rounds: a free worker gets the agent's next proposal at once. What is proposed then depends on the order
    in which students are finished."""
    stop: Literal["none", "asha", "hyperband", "median"] = "none"
    """Early stopping of students that do worse than others did after as many epochs."""

    def __post_init__(self) -> None:
        for name, of in (("budget", "student"), ("round_size", "student"), ("workers", "process")):
            if getattr(self, name) < 1:
                raise KDNASError(f"{name} is {getattr(self, name)}; expected 1 {of} or more")
        if self.timeout is not None and not self.timeout > 0:
            raise KDNASError(f"timeout is {self.timeout}; expected seconds, or leave it out for no limit")

    @property
    def in_this_process(self) -> bool:
        """Whether the process of the search evaluates the students itself."""
        return self.workers == 1 and self.ray is None and not self.asynchronous

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {**within("corpus", self.corpus.ineffective()), **within("space", self.space.ineffective())}
        if self.ray is None:
            why["gpus_per_worker"] = "without --ray; processes of this machine share the GPU of --device"
        if self.in_this_process:
            why["timeout"] = "without workers; add --workers N, --asynchronous or --ray"
        if self.asynchronous:
            why["round_size"] = "with --asynchronous, which has no rounds"
        if self.reward.alpha == 0:
            why["reward.beta"] = "with --reward.alpha 0, which leaves the latency out"
        if self.resume is not None:
            why["out"] = IN_PLACE
        return why
