"""Study whether the proxy reward predicts quality on tasks."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import TrainingOptions, options_of
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.pipeline.work import Finished, noted, working
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.searching.run_folder import RESULTS, RunFolder, recorded_options
from kdnas_env.support.atomic import expanded, write_json
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.shell import call
from kdnas_env.tasks.data import check_task, load_task, task_name
from kdnas_env.tasks.own import OwnTask, is_own
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, EMBEDDED_TASKS, TASKS, TaskData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdnas_env.studies.findings import Findings
    from kdnas_env.studies.proxy import ProxyStudy
    from kdnas_env.studies.texts import StudyText


@dataclass(frozen=True)
class StudyTextOptions:
    """Unlabelled text on which students are distilled and judged; no task contains any of it."""

    source: str | None = None
    """Name of a hub dataset, folder or file; by default the corpus of the search (all of it if that is the demo)."""
    max_samples: int = 12000
    """Maximum number of texts to distil on, drawn at random."""
    judged: int = 5000
    """Maximum number of other texts on which students are compared with the teacher of a task."""
    max_length: int = 64
    """Maximum length in the long distillation, in tokens."""


@dataclass(frozen=True)
class StudyOptions(TrainingOptions, RecordedOptions):
    """Does the proxy reward predict quality on tasks? Compare the rewards of a search with scores on tasks.

    A sample of students of all sizes is evaluated as in the search, for either quality. Then each student gets a long
    distillation and learns every task from the task's teacher. Its outputs are compared with those of that teacher. Run
    the command again to resume the study.
    """

    COMMAND: ClassVar[str] = "study"
    PLACES: ClassVar[tuple[str, ...]] = ("run", "out", "cache_dir", "workers")
    PATHS: ClassVar[tuple[str, ...]] = ("text.source", "data", "tasks", "task.validation_file", "task.test_file")
    NO_PATHS: ClassVar[Collection[str]] = tuple(TASKS)

    what: Annotated[Literal["proxy"], tyro.conf.Positional]
    """What to study: proxy, whether a short evaluation ranks students as tasks do after a long distillation."""
    run: Annotated[str, tyro.conf.Positional]
    """Run folder of a kdnas search, whose space, effort and reward are studied."""
    students: int = 24
    """Number of students, drawn from all sizes."""
    repeated: int = 6
    """How many of them are judged on tasks a second time, with another seed, to estimate the noise; at most all."""
    short_seeds: int = 2
    """Number of seeds of the short evaluation."""
    least_speedup: float = 1.0
    """Leave out students that need more than 1/N of the teacher's operations, where N is this number."""
    text: StudyTextOptions = field(default_factory=StudyTextOptions)
    epochs: int = 1
    """Passes over the text in the long distillation."""
    batch_size: int = 32
    """Batch size of the long distillation."""
    tasks: tuple[str, ...] = (EMBEDDED_TASK,)
    """Tasks that students learn: embedded ones, of GLUE, or your own (a file, a folder, or a dataset of the hub)."""
    task_epochs: int = 1
    """Passes over the texts of a task and the unlabelled texts."""
    teacher_rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Learning rates that are tried for the teacher of a task, as multiples of the default."""
    data: str | None = None
    """Folder that holds GLUE; by default the hub."""
    task: OwnTask = field(default_factory=OwnTask)
    seed: int = 0
    """Seed of the sample, and the first of the distillations."""
    workers: int = 1
    """Number of processes, each of which evaluates one student at a time."""
    out: str | None = None
    """Folder of the study; by default study-proxy in the run folder."""

    def __post_init__(self) -> None:
        for name, least in (
            *(("students", 4), ("repeated", 0), ("short_seeds", 1), ("epochs", 1), ("task_epochs", 1), ("workers", 1)),
            *(("batch_size", 1), ("seed", 0)),
        ):
            check_whole(name, getattr(self, name), at_least=least)
        for name in ("max_samples", "judged"):
            check_whole(f"text.{name}", getattr(self.text, name), at_least=1)
        if not self.tasks or len(set(self.names)) < len(self.tasks):
            raise KDNASError(f"tasks is {list(self.tasks)}; expected one task or more, each once and of its own name")
        check_number("least_speedup", self.least_speedup, above=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {}
        if not any(map(is_own, self.tasks)):
            laid_out = (f"task.{own.name}" for own in fields(OwnTask))
            why = dict.fromkeys(laid_out, "without a task of your own; name its file with `tasks`")
        if all(task in EMBEDDED_TASKS or is_own(task) for task in self.tasks):
            why["data"] = f"on the tasks {', '.join(self.tasks)}, which are not GLUE tasks; name another of `tasks`"
        return why

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(map(task_name, self.tasks))

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return expanded(self.out) if self.out else expanded(self.run) / f"study-{self.what}"


PICTURE = "proxy.png"

_README = """# A run of `kdnas study proxy` or `kdnas_env.study`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the run, versions, machine |
| `training.jsonl`, `judging.jsonl` | texts without labels that students are distilled on, and judged on |
| `judgements/` | every student after a short evaluation (`short`), or a long distillation and tasks (`long`) |
| `results.json` | agreements, noise ceilings and regrets |
| `proxy.png` | the same in a picture |

Go on with an interrupted study by the same command or call again.
"""


@dataclass(frozen=True, eq=False, repr=False)
class StudyRun(Finished):
    """A study and what it found.

    Attributes:
        path: Its folder.
        options: Its settings.
        findings: Agreements, noise ceilings and regrets.
    """

    path: Path
    options: StudyOptions
    findings: Findings

    def table(self) -> list[dict[str, Any]]:
        """Return one row per student: its choices, latency, and all measured quantities; higher is better."""
        return self.findings.rows()

    def plot(self) -> Figure:
        """Draw either quality against the divergence from the teacher of the first task, one dot per student."""
        from kdnas_env.studies.findings import draw_findings

        return draw_findings(self.findings)

    def write(self) -> None:
        """Write ``results.json`` and the picture, if any student was judged in every way.

        Raises:
            RunError: If they cannot be written.
        """
        if self.findings.students:
            write_json(self.path / RESULTS, {"tasks": list(self.options.names), **self.findings.to_dict()})
            save_figure(self.plot(), self.path / PICTURE)


def study(
    run: str | os.PathLike[str] | SearchRun | StudyOptions, *, progress: Progress = SILENT, **settings: Any
) -> StudyRun:
    """Compare the rewards of a search with scores on tasks. The same call again resumes a study.

    An unfinished study also reports results, because students are evaluated in an order that makes partial results
    useful.

    Args:
        run: Run folder of the search whose space, effort and reward are studied; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`StudyOptions` by name, such as ``students=20`` or ``text={"source": "x.txt"}``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.search.finished import check_as_searched
    from kdnas_env.studies.findings import find
    from kdnas_env.studies.proxy import judge_all, judgements, read_judgements, stratified_sample, unjudged
    from kdnas_env.studies.texts import write_texts

    first = run.path if isinstance(run, SearchRun) else run
    progress = checked(progress)
    options = options_of(StudyOptions, {"what": "proxy", **settings}, run=first)
    search = recorded_options(options.run, SearchOptions)
    for task in options.tasks:
        check_task(task)
    task_metric(TASKS[EMBEDDED_TASK])  # Check its availability now, not after the work.
    rng = np.random.default_rng(options.seed)
    sample = stratified_sample(search.settings.search_space, options.students, rng, least_speedup=options.least_speedup)
    wanted = judgements(
        sample, short_seeds=options.short_seeds, repeated=min(options.repeated, options.students), seed=options.seed
    )
    proxy = _proxy(options, search)
    now, tasks = None, []
    if unjudged(proxy, wanted):
        tasks = [load_task(task, options.data, options.task) for task in options.tasks]
        now = _fingerprints(search, tasks)
        check_as_searched(expanded(options.run), now)
    folder = RunFolder.enter(options.folder, options, _README)

    def concluded() -> StudyRun:
        findings = find(read_judgements(proxy, wanted), options.names, search.settings.reward, options.seed)
        made = StudyRun(folder.path, options, findings)
        made.write()
        return made

    with working(folder, call("study", options.run, **options.places("run"))) as work:
        if now is not None:
            work.begin(now)
            progress.begin("drawing texts")
            write_texts(folder.path, _text(options, search), tasks)
        try:
            progress.begin(f"judging {options.students} students: {len(wanted)} judgements")
            judge_all(proxy, wanted, workers=options.workers, on_progress=progress.advance)
        except BaseException as error:
            with noted(error):
                if concluded().findings.students:
                    progress.say(f"results so far: {folder.path / RESULTS}")
            raise
        return concluded()


def _fingerprints(search: SearchOptions, tasks: Sequence[TaskData]) -> dict[str, str]:
    """Return fingerprints of all inputs of the judgements, except the text, which the folder holds."""
    from kdnas_env.distillation.teacher.loading import load_teacher
    from kdnas_env.pipeline.search.finished import fingerprints

    made_of = fingerprints(search, load_teacher(search.teacher), text=True)
    return {**made_of, **{f"task {task.name}": task.fingerprint for task in tasks}}


def _text(options: StudyOptions, search: SearchOptions) -> StudyText:
    from kdnas_env.pipeline.search.finished import searched_text
    from kdnas_env.studies.texts import StudyText

    text = options.text
    source = searched_text(search) if text.source is None else {"source": text.source}
    source = {**source, "text_columns": source.get("text_columns") or None}
    return StudyText(source, samples=text.max_samples, judged=text.judged, seed=options.seed)


def _proxy(options: StudyOptions, search: SearchOptions) -> ProxyStudy:
    import torch

    from kdnas_env.distillation.training.recipe import full_recipe
    from kdnas_env.studies.proxy import ProxyStudy
    from kdnas_env.tasks.distilling import TaskDistillationSettings
    from kdnas_env.tasks.search_task import SearchTask
    from kdnas_env.tasks.teacher import TeacherSettings

    teacher = TeacherSettings(rates=options.teacher_rates)
    learning = TaskDistillationSettings(label_epochs=0)
    finetuning = replace(learning.finetuning, epochs=options.task_epochs, device=options.device)
    return ProxyStudy(
        mini=replace(
            search.settings.mini_kd,
            cache_dir=options.cache_dir,
            device=options.device,
            threads=options.threads or torch.get_num_threads(),
        ),
        fidelity=Fidelity(search.epochs, search.data_fraction, options.seed),
        tasks=tuple(SearchTask(task, data=options.data, own=options.task, teacher=teacher) for task in options.tasks),
        max_length=options.text.max_length,
        recipe=full_recipe(search.recipe, options.batch_size),
        epochs=options.epochs,
        learning=replace(learning, finetuning=finetuning),
        folder=str(options.folder),
    )
