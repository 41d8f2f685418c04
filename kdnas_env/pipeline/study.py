"""Whether what a search goes by means anything."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.envs.render import save_figure
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import TrainingOptions, options_of
from kdnas_env.pipeline.search import SearchOptions, SearchRun
from kdnas_env.pipeline.work import noted, working
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.searching.run_folder import RESULTS, RunFolder, recorded_options
from kdnas_env.support.atomic import expanded, write_json
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.support.places import local_path
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.support.shell import command
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, task_spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdnas_env.studies.findings import Findings
    from kdnas_env.studies.proxy import ProxyStudy


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
class StudyOptions(TrainingOptions, RecordedOptions):
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
    workers: int = 1
    """Processes, each of which judges a student at a time."""
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


PICTURE = "proxy.png"

_README = """# A run of `kdnas study proxy`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the run, versions, machine |
| `judgements/` | every student, distilled shortly (`mini-kd`) or for long and scored (`full-kd`), by seed |
| `results.json` | agreements, noise ceilings and regrets |
| `proxy.png` | the same in a picture |

Go on with an interrupted study by the same command again.
"""


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A study and what it found.

    Attributes:
        path: Its folder.
        options: What was asked for.
        findings: Agreements, noise ceilings and regrets.
    """

    path: Path
    options: StudyOptions
    findings: Findings

    def table(self) -> list[dict[str, Any]]:
        """Return a row a student: its choices, latency, and every quantity, of which more is better."""
        return self.findings.rows()

    def plot(self) -> Figure:
        """Draw the loss of the short distillation against that of the long one and the task score, a dot a student."""
        from kdnas_env.studies.findings import draw_findings

        return draw_findings(self.findings, task=self.options.task)

    def write(self) -> None:
        """Write ``results.json`` and the picture, if any student was judged in every way.

        Raises:
            RunError: If they cannot be written.
        """
        if self.findings.students:
            write_json(self.path / RESULTS, {"task": self.options.task, **self.findings.to_dict()})
            save_figure(self.plot(), self.path / PICTURE)


def study(
    run: str | os.PathLike[str] | SearchRun | StudyOptions, *, progress: Progress = SILENT, **settings: Any
) -> StudyRun:
    """Compare what a search goes by with a long distillation and a task. By the same call again a study goes on.

    An unfinished study is concluded too: the order of the judgements is such that it tells something.

    Args:
        run: Run folder of the search whose space, effort and reward are studied; or all options.
        progress: Told what is done.
        **settings: Options of :class:`StudyOptions` by name, such as ``n=20`` or ``text={"source": "x.txt"}``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.searched import check_as_searched
    from kdnas_env.studies.findings import find
    from kdnas_env.studies.proxy import judge_all, judgements, read_judgements, unjudged
    from kdnas_env.studies.sample import stratified_sample

    first = run.path if isinstance(run, SearchRun) else run
    options = options_of(StudyOptions, {"what": "proxy", **settings}, run=first)
    search = recorded_options(options.run, SearchOptions)
    task_metric(task_spec(options.task))
    rng = np.random.default_rng(options.seed)
    sample = stratified_sample(search.settings.search_space, options.n, rng, least_speedup=options.least_speedup)
    wanted = judgements(sample, mini_seeds=options.mini_seeds, repeated=options.repeated, seed=options.seed)
    proxy = _proxy(options, search)
    now = None
    if unjudged(proxy, wanted):
        now = _fingerprints(options, search, proxy)
        check_as_searched(expanded(options.run), now)
    folder = RunFolder.enter(options.folder, options, _README)

    def concluded() -> StudyRun:
        findings = find(read_judgements(proxy, wanted), search.settings.reward, options.seed)
        made = StudyRun(folder.path, options, findings)
        made.write()
        return made

    with working(folder, command("study", options.what, options.run, *options.place_flags("run"))) as work:
        if now is not None:
            work.begin(now)
        try:
            progress.begin(f"judging {options.n} students: {len(wanted)} distillations")
            judge_all(proxy, wanted, workers=options.workers, on_progress=progress.advance)
        except BaseException as error:
            with noted(error):
                if concluded().findings.students:
                    progress.say(f"what there is so far: {folder.path / RESULTS}")
            raise
        return concluded()


def _fingerprints(options: StudyOptions, search: SearchOptions, proxy: ProxyStudy) -> dict[str, str]:
    """Return what decides the judgements."""
    from kdnas_env.distillation.teacher.loading import load_teacher
    from kdnas_env.distillation.text.corpus import load_corpus
    from kdnas_env.pipeline.searched import fingerprints

    teacher = load_teacher(search.teacher)
    text = {**proxy.text, "max_length": min(proxy.text["max_length"], teacher.tokenizer.model_max_length)}
    source = text.pop("source")
    made_of = fingerprints(search, teacher, text=True)
    if local_path(source) is not None:
        made_of["text"] = load_corpus(source, teacher.tokenizer, min_samples=1, **text).fingerprint
    return {**made_of, "task": load_task(options.task, options.data).fingerprint}


def _proxy(options: StudyOptions, search: SearchOptions) -> ProxyStudy:
    import torch

    from kdnas_env.distillation.training.recipe import full_recipe
    from kdnas_env.pipeline.searched import searched_text
    from kdnas_env.studies.proxy import ProxyStudy

    text = options.text
    source = searched_text(search) if text.source is None else {"source": text.source}
    return ProxyStudy(
        mini=replace(
            search.settings.mini_kd,
            cache_dir=options.cache_dir,
            device=options.device,
            threads=options.threads or torch.get_num_threads(),
        ),
        fidelity=Fidelity(search.epochs, search.data_fraction, options.seed),
        text={
            **source,
            "text_columns": source.get("text_columns") or None,
            "max_samples": text.max_samples,
            "max_length": text.max_length,
            "pair_fraction": text.pair_fraction,
            "seed": options.seed,
        },
        recipe=full_recipe(search.recipe, options.batch_size),
        epochs=options.epochs,
        task=options.task,
        data=options.data,
        finetune=options.finetune,
        folder=str(options.folder),
    )
