"""The flags of ``kdnas study``, which are also the record of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.tasks.specs import EMBEDDED_TASK


@dataclass(frozen=True)
class StudyTextOptions:
    """What students are distilled on for long."""

    source: str | None = None
    """Name of a hub dataset, folder or file; by default the corpus of the search, and of the embedded one all of it."""
    max_samples: int | None = 12000
    """Use at most so many samples, drawn at random."""
    max_length: int = 64
    """Longest sample in tokens."""
    pair_fraction: float = 0.0
    """Share of the samples that are two texts in a row."""


@dataclass(frozen=True)
class StudyOptions(RecordedOptions):
    """Does the proxy mean anything? Compare what a search goes by with a long distillation and a task.

    A sample of students of all sizes is judged in every way. Run it again to go on where it stopped.
    """

    COMMAND: ClassVar[str] = "study"
    PLACES: ClassVar[tuple[str, ...]] = ("run", "out", "cache_dir", "workers")
    PATHS: ClassVar[tuple[str, ...]] = ("text.source", "data")

    what: Annotated[Literal["proxy"], tyro.conf.Positional]
    """What to study: proxy, whether a short distillation ranks students as a long one and a task do."""
    run: Annotated[str, tyro.conf.Positional]
    """Run folder of a kdnas search, whose space, effort and reward are studied."""
    n: int = 40
    """Students, drawn from all sizes."""
    repeated: int = 8
    """How many of them are distilled for long and scored a second time, with another seed, to tell the noise."""
    mini_seeds: int = 2
    """Seeds of the short distillation."""
    least_speedup: float = 1.0
    """Leave out students with more than one over so many of the teacher's operations."""
    text: StudyTextOptions = field(default_factory=StudyTextOptions)
    epochs: int = 2
    """Passes over the text in a long distillation."""
    batch_size: int = 32
    """Samples per step."""
    task: str = EMBEDDED_TASK
    """Task that students are scored on: the embedded one, or one of GLUE."""
    data: str | None = None
    """Folder that holds GLUE; by default the hub."""
    finetune: bool = True
    """Fine-tune students on the task; otherwise a linear probe is fitted on their frozen states."""
    seed: int = 0
    """Seed of the sample, and the first of the distillations."""
    device: str | None = None
    """Where to train: cpu, cuda, cuda:1; by default a GPU if there is one."""
    threads: int | None = None
    """Threads that each process trains with; by default all."""
    workers: int = 1
    """Processes, each of which judges a student at a time."""
    cache_dir: str | None = None
    """Folder of the teacher's hidden states."""
    out: str | None = None
    """Folder of the study; by default study-proxy in the run folder."""

    def __post_init__(self) -> None:
        for name, least in (("n", 4), ("repeated", 0), ("mini_seeds", 1), ("epochs", 1), ("workers", 1)):
            check_whole(name, getattr(self, name), at_least=least)
        if self.repeated > self.n:
            raise KDNASError(f"repeated is {self.repeated}; expected at most n, {self.n}")
        check_number("least_speedup", self.least_speedup, above=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        if self.task != EMBEDDED_TASK:
            return {}
        return {"data": f"on the task {EMBEDDED_TASK}, which comes with kdnas[demo]; name another --task"}

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return expanded(self.out) if self.out else expanded(self.run) / f"study-{self.what}"
