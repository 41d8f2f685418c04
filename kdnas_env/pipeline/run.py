"""From a teacher's name to distilled, scored and exported students, in one run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.reward import TASK
from kdnas_env.envs.render import save_figure
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.folder import EXPORT
from kdnas_env.exporting.report import ExportReport
from kdnas_env.latency.onnx_runtime import require_onnx
from kdnas_env.latency.settings import INT8
from kdnas_env.pipeline.candidates import (
    Candidate,
    best_candidate,
    draw_candidates,
    read_candidates,
    try_candidates,
)
from kdnas_env.pipeline.distill import DISTILLED, DistillRun, distill
from kdnas_env.pipeline.export import export
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.score import Scores, score
from kdnas_env.pipeline.search import SearchRun, check_installed, search
from kdnas_env.pipeline.searched import choose, read_results
from kdnas_env.pipeline.stages import CANDIDATES, STAGES, PipelineOptions, SearchStage
from kdnas_env.pipeline.work import Finished, StageProgress, noted, working
from kdnas_env.searching.run_folder import (
    CONFIG,
    REPORT,
    RESULTS,
    STUDENT,
    RunFolder,
    new_run_path,
    recorded_options,
)
from kdnas_env.support.atomic import expanded, read_json, write_json, write_text
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.shell import call
from kdnas_env.tasks.data import check_task, load_task
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdnas_env.bench.page import Page

SUMMARY, PICTURE = "summary.json", "candidates.png"

_FINISHED = "finished"
_NEEDS: dict[str, str] = {"distill": "search", "glue": "distill", "export": "distill"}
_README = """# A run of `kdnas run`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run and of each stage, versions, machine |
| `search/` | the search: a run of `kdnas search` |
| `distill/NAME/student/` | the distilled students: a run of `kdnas distill` |
| `glue/` | their scores beside the teacher: a run of `kdnas score` |
| `export/NAME/` | their exports, with a model card each |
| `summary.json` | students with size, speed-up, scores, share of the teacher's score, and where their files are |
| `report.html` | all of it on a page: open it in a browser |

What is missing is yet to come, or was left out (`--stages`). Go on with an interrupted or failed run, or see the
summary of a finished one again, with

    kdnas run --resume {folder}

What a stage has finished can be used already.
"""

_TASK_README = """# A run of `kdnas run --task`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run and of each stage, versions, machine |
| `search/` | the search: a run of `kdnas search` |
| `candidates/1/` | the best student of the search; `2/` the next best, where the first breaks a limit; and so on |
| `candidates/1/distill/` | the student, and in `NAME/classifier/` with a head for the task: a run of `kdnas distill` |
| `candidates/1/export/` | the classifier for ONNX Runtime, with a model card |
| `candidates/1/measured.json` | size, speed and score of the exported file, beside the teacher's |
| `summary.json` | what was asked for and what was measured, line by line, of all candidates; the one that is chosen |
| `candidates.png` | share of the teacher's score against speed-up, in a picture |
| `report.html` | all of it on a page: open it in a browser |

Go on with an interrupted or failed run, see the summary of a finished one again, or try more candidates, with

    kdnas run --resume {folder} [--candidates N]
"""

Result = SearchRun | DistillRun | Scores | ExportReport | Candidate
"""What came of a stage, of the export of one student, or of a candidate."""

Report = Callable[[Result], object]


@dataclass(frozen=True, eq=False, repr=False)
class PipelineRun(Finished):
    """A run whose wanted stages are done.

    Attributes:
        path: Its folder.
        options: What was asked for.
        results: What came of the stages that this call did, in order.
        summary: What came of all stages that are done: what ``summary.json`` says.
        candidates: With a task: the students that were tried, in order.
    """

    path: Path
    options: PipelineOptions
    results: tuple[Result, ...]
    summary: dict[str, Any]
    candidates: tuple[Candidate, ...] = ()

    def about(self) -> dict[str, object]:
        """Return what is shown of it beside its folder."""
        return {"students": [str(StudentConfig.from_dict(row["student"])) for row in self.summary["students"]]}

    @property
    def best(self) -> Candidate | None:
        """The first candidate that keeps the limits, else the one that comes closest; None without candidates."""
        return best_candidate(self.candidates)

    @property
    def keeps_limits(self) -> bool:
        """Whether there is a classifier that keeps all that was asked for, also on what is scored."""
        return self.best is not None and self.best.keeps_limits

    def plot(self) -> Figure:
        """Draw the candidates: share of the teacher's score against speed-up."""
        return draw_candidates(self.candidates, self.options.limits)

    def report(self) -> Page:
        """Return the run as a page; its ``to_html()`` is what ``report.html`` holds.

        Raises:
            RunError: If its search is not finished.
        """
        from kdnas_env.pipeline.run_page import run_page

        return run_page(self)

    def table(self) -> list[dict[str, Any]]:
        """Return a flat row for each student: what it is, what it was measured to be, and where its files are."""
        return [
            {
                **{name: value for name, value in student.items() if not isinstance(value, dict | list)},
                "student": str(StudentConfig.from_dict(student["student"])),
                **{name: str(self.path / file) for name, file in student["files"].items()},
            }
            for student in self.summary["students"]
        ]


def run(
    teacher: str | PipelineOptions | None = None,
    *,
    progress: Progress = SILENT,
    on_result: Report = lambda result: None,
    **settings: Any,
) -> PipelineRun:
    """Search, distill, score and export in one run folder; with a task, from its labels and limits to a classifier.

    What is done already is not done again. An interrupted run (Ctrl-C, SIGTERM, SIGKILL) goes on with ``resume``,
    within the stage where it stopped.

    Args:
        teacher: Name or folder of the teacher, ``demo`` by default; or all options.
        progress: Receives what is done.
        on_result: Called with what came of each stage as it is done.
        **settings: Options of :class:`PipelineOptions` by name, such as ``search={"budget": 32}``, ``task="my.csv"``,
            ``limits={"speedup": 8, "size_mb": 10, "keep": 0.97}`` or ``resume``.

    Raises:
        KDNASError: For bad input; its ``stage`` is the one where it was raised. What earlier stages finished is kept.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    progress = checked(progress)
    options = options_of(PipelineOptions, settings, teacher=teacher)
    threads = options.threads or torch.get_num_threads()
    options = replace(options, threads=threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KDNASError("kdnas run works in one process; distil in several with kdnas distill, on a finished search")
    work_on = _opened(options)
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        on_result(result)

    with working(work_on.folder, work_on.go_on) as work, pinned_threads(threads):
        work.begin()
        for stage in work_on.stages:
            _do(work_on, stage, progress, report)
        candidates = () if options.task.name is None else tuple(read_candidates(work_on.path, options))
        summary = _summary(work_on) if options.task.name is None else _task_summary(work_on, candidates)
        write_json(work_on.path / SUMMARY, summary)
        done = PipelineRun(work_on.path, options, tuple(results), summary, candidates)
        if candidates:
            save_figure(done.plot(), work_on.path / PICTURE)
        try:
            write_text(work_on.path / REPORT, done.report().to_html())
        except KDNASError as error:  # a finished run can be seen again where its teacher is not there any more
            progress.say(f"{REPORT} was not written: {error}", "warning")
    return done


@dataclass(frozen=True)
class _Run:
    """A run that is worked on.

    Attributes:
        folder: Its folder.
        options: What was asked for.
        go_on: The call that goes on with it.
    """

    folder: RunFolder
    options: PipelineOptions
    go_on: str

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def shared(self) -> dict[str, Any]:
        """What all stages that train have in common."""
        return {name: getattr(self.options, name) for name in ("seed", "device", "threads", "cache_dir")}

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are wanted, in their order."""
        if self.options.task.name is not None:
            return ("search", CANDIDATES)
        return tuple(stage for stage in STAGES if stage in self.options.stages)

    def states(self) -> dict[str, str]:
        """Return the state of every stage that was begun."""
        states: dict[str, str] = self.folder.read_run().get("stages", {})
        return states

    def record(self, state: str, stage: str, stage_state: str | None = None) -> None:
        """Write down the state of the run, and that of a stage."""
        self.folder.record(state, stages={**self.states(), stage: stage_state or state})

    def at(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return self.path / stage

    def students(self) -> dict[str, Path]:
        """Return the folders of the distilled students, by name."""
        chosen = choose(self.at("search"), self.options.family)
        return {student.name: self.at("distill") / student.name / STUDENT for student in chosen}

    def placed(self, stage: str) -> dict[str, Any]:
        """Return where a stage goes on, or begins."""
        folder = self.at(stage)
        if (folder / CONFIG).exists():
            return {"resume": str(folder)}
        # Killed before it wrote down what it does.
        shutil.rmtree(folder, ignore_errors=True)
        return {"out": str(folder)}


def _opened(options: PipelineOptions) -> _Run:
    """Return the run, new or to go on with. What is cheap to check is checked before anything is made.

    Raises:
        KDNASError: For bad input.
    """
    for task in options.glue.tasks:
        check_task(task)
    if options.task.name is not None and options.resume is None:
        # Its faults are told now, not after the search.
        load_task(options.task.name, options.task.data, options.task.own)
    if options.resume is None:
        if options.search.reward.quality == TASK and options.task.name is None:
            raise KDNASError(
                "`search.reward.quality` is task, but there is no task to measure it on; name it with `task`"
            )
        _check_needs(options.stages, {})
        _check_installed(options)
        _check_families(options)
        name = Path(options.teacher).name or "teacher"
        path = expanded(options.out or new_run_path(name, options.search.agent, options.seed))
        readme = _README if options.task.name is None else _TASK_README
        return _Run(RunFolder.create(path, options, readme), options, _call(options, path))
    recorded = recorded_options(options.resume, PipelineOptions)
    folder = RunFolder.reopen(options.resume)
    again = _call(options, folder.path, () if options.stages == recorded.stages else options.stages)
    reopened = _Run(folder, options, again)
    try:
        _check_needs(options.stages, reopened.states())
        # Settings of stages that have not begun may be new.
        folder.write_options(replace(options, stages=recorded.stages))
    except BaseException:
        folder.release()
        raise
    return reopened


def _check_needs(stages: Sequence[str], states: Mapping[str, str]) -> None:
    for stage, needed in _NEEDS.items():
        if stage in stages and needed not in stages and states.get(needed) != _FINISHED:
            raise KDNASError(
                f"the stage {stage} needs {needed}, which is not done; add it to `stages`, or go on with a run that "
                "has it (`resume`)"
            )


def _check_installed(options: PipelineOptions) -> None:
    """Check now what a stage would fail without, hours later perhaps."""
    if "search" in options.stages:
        check_installed(_search_options(options))
    if "glue" in options.stages:
        task_metric(TASKS[EMBEDDED_TASK])
    if "export" in options.stages and options.export.to == "onnx":
        require_onnx("the stage export")


def _check_families(options: PipelineOptions) -> None:
    wanted = [family for family in options.family if family not in ("best", "all")]
    if not wanted:
        return
    space = _search_options(options).settings.search_space
    families = space.choices.get("family", (space.teacher.as_student().family,))
    missing = [family for family in wanted if family not in families]
    if missing:
        raise KDNASError(
            f"family {missing[0]} is to be distilled, but {list(families)} are searched; add it to "
            "`search.space.families`, or leave it out of `family`"
        )


def _call(options: PipelineOptions, path: Path, stages: Sequence[str] = ()) -> str:
    chosen = {"stages": stages} if stages else {}
    return call("run", resume=path, **chosen, **options.places("out", "resume"))


def _do(run: _Run, stage: str, progress: Progress, report: Report) -> None:
    """Do a stage, unless it is done, and report what came of it."""
    # More candidates may be wanted than before.
    if run.states().get(stage) == _FINISHED and stage != CANDIDATES:
        progress.say(f"{stage}: done before")
        return
    stages = STAGES if run.options.task.name is None else run.stages
    progress.say(f"\n{stage} ({stages.index(stage) + 1} of {len(stages)})")
    run.record("running", stage)
    try:
        _STAGES[stage](run, progress, report)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        with noted(error):
            run.record("interrupted" if interrupted else "failed", stage)
        if isinstance(error, KDNASError) and stage != CANDIDATES:
            error.stage = stage
        if not interrupted:
            error.add_note(_how_to_go_on(run, stage))
        raise
    run.record("running", stage, _FINISHED)


def _how_to_go_on(run: _Run, stage: str) -> str:
    """Say how to go on after a failure: again, with other settings where nothing has begun, or without the stage."""
    fixed = stage == CANDIDATES or run.at(stage).exists()
    changes = "" if fixed else f" (the settings of {stage} may be changed)"
    note = f"the stage {stage} failed; what others finished is kept. go on{changes} with\n\n    `{run.go_on}`\n"
    states = run.states()
    others = [other for other in run.stages if other != stage and states.get(other) != _FINISHED]
    if others and stage not in _NEEDS.values():
        note += f"\nor without it, with\n\n    `{_call(run.options, run.path, others)}`\n"
    return note


def _search(run: _Run, progress: Progress, report: Report) -> None:
    options = replace(_search_options(run.options), **run.shared, **run.placed("search"))
    if not options.in_this_process:
        options = replace(options, threads=None)  # the cores are shared out among the workers
    report(search(options, progress=StageProgress(progress, "search")))


def _distill(run: _Run, progress: Progress, report: Report) -> None:
    run.placed("distill")
    options = replace(
        run.options.distill,
        run=str(run.at("search")),
        family=run.options.family,
        out=str(run.at("distill")),
        **run.shared,
    )
    report(distill(options, progress=StageProgress(progress, "distill")))


def _glue(run: _Run, progress: Progress, report: Report) -> None:
    first, *others = map(str, run.students().values())
    options = replace(run.options.glue, model=first, models=tuple(others), **run.shared, **run.placed("glue"))
    report(score(options, progress=progress))


def _export(run: _Run, progress: Progress, report: Report) -> None:
    for unfinished in run.at("export").glob(".*"):
        shutil.rmtree(unfinished)
    for name, student in run.students().items():
        out = run.at("export") / name
        if not (out / EXPORT).exists():
            out.parent.mkdir(exist_ok=True)
            options = replace(run.options.export, model=str(student), out=str(out))
            report(export(options, progress=progress))


def _search_options(options: PipelineOptions) -> SearchStage:
    """Return the options of the search: with a task it measures that and times what ships; --keep is for what ships."""
    limits, latency = options.limits, options.search.latency
    if options.task.name is not None:
        limits = replace(limits, keep=None)
        if latency.runtime == "torch":
            latency = replace(latency, runtime=INT8 if limits.format == "int8" else "onnxruntime")
    return replace(options.search, teacher=options.teacher, task=options.task, limits=limits, latency=latency)


def _candidates(run: _Run, progress: Progress, report: Report) -> None:
    for unfinished in run.at(CANDIDATES).glob("*/.*"):
        shutil.rmtree(unfinished)
    try_candidates(run.path, run.options, run.shared, progress, report)


_STAGES: dict[str, Callable[[_Run, Progress, Report], None]] = {
    "search": _search,
    "distill": _distill,
    "glue": _glue,
    "export": _export,
    CANDIDATES: _candidates,
}


def _summary(run: _Run) -> dict[str, Any]:
    """Return what came of the stages that are done."""
    states = run.states()
    done = [stage for stage in STAGES if states.get(stage) == _FINISHED]
    scores = read_json(run.at("glue") / RESULTS) if "glue" in done else None
    rows = {} if scores is None else {row["name"]: row for row in scores["rows"]}
    searched = [row for row in read_results(run.at("search"))["students"] if row["status"] == "ok"]
    students = []
    for place, chosen in enumerate(choose(run.at("search"), run.options.family), start=1):
        result = next(row for row in searched if row["student"] == chosen.config.to_dict())
        row = rows.get("student" if place == 1 else f"student-{place}", {})
        average = row.get("average") or {}
        folder, files, unexplained = run.at("distill") / chosen.name, {}, None
        if "distill" in done:
            unexplained = read_json(folder / DISTILLED)["unexplained"]
            files["student"] = str((folder / STUDENT).relative_to(run.path))
        if "export" in done:
            files["export"] = str((run.at("export") / chosen.name).relative_to(run.path))
        students.append(
            {
                "name": chosen.name,
                "student": chosen.config.to_dict(),
                "parameters": result["parameters"],
                "speedup": row.get("speedup") or result["speedup"],
                "reward": result["reward"],
                "unexplained": unexplained,
                "score": average.get("mean"),
                "kept": average.get("kept"),
                "files": files,
            }
        )
    return {
        "teacher": run.options.teacher,
        "stages": done,
        "tasks": [] if scores is None else [task["name"] for task in scores["tasks"]],
        "students": students,
    }


def _task_summary(run: _Run, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return what was asked for and what was measured, of all candidates."""
    best = best_candidate(candidates)
    students = [candidate.to_dict(run.path) for candidate in candidates]
    return {
        "teacher": run.options.teacher,
        "stages": [stage for stage in run.stages if run.states().get(stage) == _FINISHED],
        "tasks": [run.options.task.name],
        "limits": asdict(run.options.limits),
        "best": None if best is None else str(best.place),
        "keeps_limits": best is not None and best.keeps_limits,
        "students": students,
    }
