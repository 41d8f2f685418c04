"""The flags of ``kdnas table``; those of ``build`` are also the record of a build."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import CorpusOptions, SpaceOptions, within
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.tabulation.build import check_name, parse_shard

MEASURED = ("torch", "onnxruntime")


@dataclass(frozen=True)
class TableLatencyOptions:
    """How students are timed beside the teacher."""

    batch_size: int = 1
    """Sentences per pass."""
    sequence_length: int = 50
    """Tokens per sentence."""
    threads: int = 1
    """Threads of the runtime."""


@dataclass(frozen=True, kw_only=True)
class TableBuildOptions(RecordedOptions):
    """Distil every student of a space with several seeds, and time each. Run it again to go on where it stopped."""

    COMMAND: ClassVar[str] = "table build"
    PLACES: ClassVar[tuple[str, ...]] = (
        "out",
        "cache_dir",
        "workers",
        "skip_losses",
        "skip_latencies",
        "evaluations",
        "latencies",
    )
    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "corpus.source", "space.file")

    name: tyro.conf.Positional[str]
    """Short name of the table, by which environments find it."""
    out: str
    """Folder of the build, made if it does not exist."""
    title: str = ""
    """What is distilled, in words; by default teacher and corpus."""
    teacher: str = "demo"
    """Name on the hub or folder of a BERT, RoBERTa, XLM-R, ALBERT, DistilBERT or ELECTRA encoder."""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    space: SpaceOptions = field(default_factory=SpaceOptions)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initialisation and data order that every student is distilled with."""
    epochs: int = 3
    """Epochs of every distillation."""
    recipe: str = "default"
    """default, or seed for the recipe of the KD-NAS paper."""
    runtimes: tuple[str, ...] = MEASURED
    """Runtimes that students are timed with: torch, onnxruntime. Modelled latencies are always there."""
    latency: TableLatencyOptions = field(default_factory=TableLatencyOptions)
    shard: str = "1/1"
    """I/N: the I-th of N equal parts of the work, each for a machine; kdnas table export joins them."""
    device: str | None = None
    """Where students are trained: cpu, cuda, cuda:1; by default a GPU if there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the training; in float32 a GPU finds what a CPU finds, but for the last digits."""
    threads: int = 1
    """Threads that each process trains with. Recorded, since the last digits of the results depend on it."""
    workers: int = 1
    """Processes, each of which distils a student at a time."""
    skip_losses: bool = False
    """Only time the students."""
    skip_latencies: bool = False
    """Only distil the students."""
    evaluations: str | None = None
    """Store of another build or a search to start from: what it has of the same distillations is not done again."""
    latencies: str | None = None
    """Folder of another build under the same teacher, whose latencies are taken over; the text does not matter."""
    cache_dir: str | None = None
    """Folder of the teacher's hidden states."""

    def __post_init__(self) -> None:
        check_name(self.name)
        parse_shard(self.shard)
        for name in ("epochs", "threads", "workers"):
            check_whole(name, getattr(self, name), at_least=1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise KDNASError(f"seeds are {list(self.seeds)}; expected one or more different numbers from 0")
        unknown = sorted(set(self.runtimes) - set(MEASURED))
        if unknown:
            raise KDNASError(f"runtimes name {unknown}; expected some of {list(MEASURED)}")

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {**within("corpus", self.corpus.ineffective()), **within("space", self.space.ineffective())}
        if self.skip_latencies:
            why["runtimes"] = "with --skip-latencies: nothing is timed"
        if self.skip_losses:
            why["workers"] = "with --skip-losses: nothing is distilled, and students are timed one after another"
        return why

    @property
    def folder(self) -> Path:
        """Folder of the build."""
        return expanded(self.out)


@dataclass(frozen=True)
class TableExportOptions:
    """Make a table of what one or more builds of the same distillations have found."""

    folders: tyro.conf.Positional[tuple[str, ...]]
    """Folders of kdnas table build."""
    to: str
    """The table, an npz file; a JSON file of the same name comes beside it."""


@dataclass(frozen=True)
class TableInspectOptions:
    """List the tables of the package, or tell what one holds, how noisy it is and how hard to search."""

    table: tyro.conf.Positional[str | None] = None
    """Name of a table of the package, or an npz file of a table or a surrogate."""
    to: str | None = None
    """Draw its students to this PNG, SVG or PDF file: loss against latency."""
    surrogate: bool = False
    """Judge the surrogate that is fitted to it, by students it has not seen; takes some seconds."""
    json: str | None = None
    """Write all figures to this file."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = "without a table: the tables of the package are listed; name one"
        return dict.fromkeys(("to", "surrogate", "json"), why) if self.table is None else {}


@dataclass(frozen=True)
class TableFitOptions:
    """Fit a surrogate to a table, for spaces that are too large to tabulate, and write it to a file."""

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Name or npz file of a table; further ones of the same workload, such as of students between those of the first,
    make it better there."""
    to: str
    """The surrogate, an npz file; a JSON file of the same name comes beside it."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise KDNASError("there is nothing to fit to; name a table, or the npz file of one")


@dataclass(frozen=True)
class TableAgreementOptions:
    """Does a surrogate rank agents as its table does? Race them on both; each student is told without having been seen.

    Run it again with the same folder to go on.
    """

    table: tyro.conf.Positional[str]
    """Name of a table of the package, or an npz file."""
    agents: tuple[str, ...] = ("random", "local-search", "evolution", "lstm", "optuna")
    """Agents, each as NAME or NAME:SETTING=VALUE,...; kdnas agents lists them."""
    budget: int = 100
    """Evaluations of a search."""
    seeds: int = 20
    """Searches of each agent on both."""
    workers: int = os.cpu_count() or 1
    """Processes."""
    out: str | None = None
    """Folder, made if it does not exist; by default a new one under runs."""

    def __post_init__(self) -> None:
        for name in ("budget", "seeds", "workers"):
            check_whole(name, getattr(self, name), at_least=1)
        if len(set(self.agents)) < 2:
            raise KDNASError(f"agents are {list(self.agents)}; expected two or more, to be ranked")

    @property
    def folder(self) -> Path | None:
        """The folder, if one was named."""
        return None if self.out is None else expanded(self.out)


@dataclass(frozen=True)
class TableVerifyOptions:
    """Check that a table is whole, that its numbers make sense, and that distillation finds them again."""

    table: tyro.conf.Positional[str]
    """Name of a table of the package, or an npz file."""
    replay: int = 0
    """Distil so many random cells anew and compare."""
    seed: int = 0
    """Seed of the draw of the cells."""
    device: str | None = None
    """Where they are distilled; by default a GPU if there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the training: that of the table's build."""
    cache_dir: str | None = None
    """Folder of the teacher's hidden states."""

    def __post_init__(self) -> None:
        check_whole("replay", self.replay, of="cells", at_least=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = "without --replay N: nothing is distilled anew"
        return {} if self.replay else dict.fromkeys(("seed", "device", "precision", "cache_dir"), why)
