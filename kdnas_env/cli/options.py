"""The flags of ``kdnas search``, which are also the record of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from kdnas_env.errors import KDNASError
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.atomic import expanded


@dataclass(frozen=True)
class SourceOptions:
    """Where text comes from, and how its files are laid out."""

    source: str | None = None
    """Name of a hub dataset, folder or file."""
    config_name: str | None = None
    """Configuration of the dataset, where it has several."""
    split: str = "train"
    """Split of the dataset, or a part of it such as train[:10%]."""
    text_columns: tuple[str, ...] = ()
    """The column with the text, or two for sentence pairs; found if not given. A field of a field is a.b."""
    encoding: str | None = None
    """Encoding of text files; by default UTF-8, or what a byte-order mark says."""
    separator: str | None = None
    r"""What separates the cells of csv and tsv files, such as ; or \t; by default what their names say."""
    quoted: bool | None = None
    """Whether cells of csv and tsv files may stand in double quotes; by default if tabs do not separate them."""
    header: bool | None = None
    """Whether the first row of csv and tsv files names the columns; without, they are 1, 2, ... By default it does, and
    a row that reads like text is refused."""
    unit: Literal["line", "file"] | None = None
    """Text of a txt file: each line (the default), or the whole file."""


@dataclass(frozen=True)
class CorpusOptions(SourceOptions):
    """Where the text comes from."""

    source: str = "demo"
    """Name of a hub dataset, folder or file (parquet, jsonl, json, csv, tsv, txt); demo: Rotten Tomatoes sentences."""
    max_length: int = 50
    """Longest sentence in tokens; longer ones are cut."""
    max_samples: int | None = None
    """Use at most so many sentences, drawn at random."""
    proxy_fraction: float = 0.3
    """Share of the sentences that mini-KD may train on."""
    heldout_fraction: float = 0.1
    """Share of the sentences that is held out to measure the loss."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return unconfigured(self.source)


@dataclass(frozen=True)
class SpaceOptions:
    """Which students are searched."""

    file: str | None = None
    """YAML or JSON file with the choices of each dimension; derived from the teacher if not given."""
    families: tuple[str, ...] = ()
    """Student families (bert, albert, roberta); the teacher's own if not given. More than one are mixed."""
    max_parameters: int | None = None
    """Largest student allowed, in parameters, embeddings included."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return {} if self.file is None else {"families": "beside --space.file; list them in that file, under 'family'"}


@dataclass(frozen=True)
class LatencyOptions:
    """How students are timed beside the teacher."""

    runtime: str = "torch"
    """torch, onnxruntime, or analytic (a model of a reference machine; equal runs give equal results)."""
    batch_size: int = 1
    """Sentences per pass."""
    sequence_length: int = 50
    """Tokens per sentence."""
    threads: int = 1
    """Threads of the runtime."""


@dataclass(frozen=True)
class RewardOptions:
    """(1 - loss) * (latency / (beta * teacher's latency)) ** alpha."""

    alpha: float = -0.06
    """Exponent of the latency: how much it counts; 0 ignores it."""
    beta: float = 0.6**6
    """Target latency as a share of the teacher's. As in the paper's formula, it multiplies all positive rewards by one
    constant and changes no choice; use alpha for that."""
    loss: str | None = None
    """heldout (unexplained variance), heldout_raw or train_raw; by default heldout, for recipe seed train_raw."""


@dataclass(frozen=True)
class SearchOptions(RecordedOptions):
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
    seed: int = 0
    """Seed of everything random."""
    device: str | None = None
    """Where students are trained: cpu, cuda, cuda:1; by default a GPU if there is one."""
    threads: int | None = None
    """Threads that train; by default all. Recorded, since the last digits of the results depend on it."""
    cache_dir: str | None = None
    """Folder of the teacher's hidden states."""
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
    out: str | None = None
    """Run folder, made if it does not exist; by default a new one under runs."""
    resume: str | None = None
    """Run folder of a search to go on with; all other flags are taken from it, but for those of workers."""

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


IN_PLACE = "with --resume; a run goes on in its own folder"


def within(group: str, ineffective: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a group that have no effect as those of the whole."""
    return {f"{group}.{name}": why for name, why in ineffective.items()}


def unconfigured(source: str | None) -> dict[str, str]:
    """Return what has no effect where a text has no configurations: in a file, and in the embedded corpora."""
    if source is None or not (source.partition(":")[0] == "demo" or os.path.isfile(expanded(source))):
        return {}
    return {"config_name": f"on {source!r}, which has no configurations"}
