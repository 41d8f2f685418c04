"""``kdnas run``: from a teacher's name to distilled, scored and exported students, in one run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.distill import DISTILLED, run_distill
from kdnas_env.cli.export import run_export
from kdnas_env.cli.flags import naming_flags
from kdnas_env.cli.glue import run_glue
from kdnas_env.cli.search import check_installed, run_search
from kdnas_env.cli.searched import choose
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.teacher.loading import load_teacher_architecture
from kdnas_env.envs.tasks import resolve_space
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.folder import EXPORT
from kdnas_env.latency.onnx_runtime import require_onnx
from kdnas_env.pipeline.run import STAGES, PipelineOptions, Stage, stage_folder
from kdnas_env.pipeline.work import noted, working
from kdnas_env.searching.run_folder import CONFIG, RESULTS, STUDENT, RunFolder, new_run_path, recorded_options
from kdnas_env.support.atomic import expanded, read_json, write_json
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.shell import command
from kdnas_env.tasks.scores import glue_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, task_spec

SUMMARY = "summary.json"

_FINISHED = "finished"
_NEEDS: dict[Stage, Stage] = {"distill": "search", "glue": "distill", "export": "distill"}
_README = """# A run of `kdnas run`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run and of each stage, versions, machine |
| `search/` | the search: a run of `kdnas search` |
| `distill/NAME/student/` | the distilled students: a run of `kdnas distill` |
| `glue/` | their scores beside the teacher: a run of `kdnas glue` |
| `export/NAME/` | their exports, with a model card each |
| `summary.json` | students with size, speed-up, scores, share of the teacher's score, and where their files are |

What is missing is yet to come, or was left out (`--stages`). Go on with an interrupted or failed run, or see the
summary of a finished one again, with

    kdnas run --resume {folder}

What a stage has finished can be used already.
"""


@dataclass(frozen=True)
class _Run:
    """A run that is worked on.

    Attributes:
        folder: Its folder.
        options: What was asked for.
        command: The command that goes on with it.
    """

    folder: RunFolder
    options: PipelineOptions
    command: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder.path

    @property
    def shared(self) -> dict[str, Any]:
        """What all stages that train have in common."""
        return {name: getattr(self.options, name) for name in ("seed", "device", "threads", "cache_dir")}

    def states(self) -> dict[str, str]:
        """Return the state of every stage that was begun."""
        found: dict[str, str] = self.folder.read_run().get("stages", {})
        return found

    def record(self, state: str, stage: Stage | None = None, stage_state: str | None = None) -> None:
        """Write down the state of the run, and that of a stage."""
        own = {} if stage is None else {stage: stage_state or state}
        self.folder.record(state, stages={**self.states(), **own})

    def at(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        return stage_folder(self.path, stage)

    def names(self) -> list[str]:
        """Return the names of the students."""
        return [chosen.name for chosen in choose(self.at("search"), self.options.family)]

    def student(self, name: str) -> Path:
        """Return the folder of a distilled student."""
        return self.at("distill") / name / STUDENT

    def placed(self, stage: Stage) -> dict[str, Any]:
        """Return where a stage goes on, or begins."""
        folder = self.at(stage)
        if (folder / CONFIG).exists():
            return {"resume": str(folder)}
        # Killed before it wrote down what it does.
        shutil.rmtree(folder, ignore_errors=True)
        return {"out": str(folder)}


def run_pipeline(options: PipelineOptions) -> int:
    """Do the stages that are wanted and not done, and say what came of it; the exit status of the command.

    An interrupted run (Ctrl-C, SIGTERM, SIGKILL) goes on with ``--resume``, within the stage where it stopped.

    Raises:
        KDNASError: For bad input. What earlier stages finished is kept.
    """
    console = SafeConsole()
    if options.threads is None:
        options = replace(options, threads=torch.get_num_threads())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KDNASError("kdnas run works in one process; distil in several with kdnas distill, on a finished search")
    run = _opened(options)
    wanted = [stage for stage in STAGES if stage in options.stages]
    with (
        working(run.folder, run.command) as work,
        pinned_threads(options.threads or torch.get_num_threads()),
    ):
        work.begin()
        statuses = [_do(console, run, stage) for stage in wanted]
        summary = _summary(run)
        write_json(run.path / SUMMARY, summary)
    console.print()
    print_summary(console, run.path, summary)
    return max(statuses, default=0)


def _opened(options: PipelineOptions) -> _Run:
    """Return the run, new or to go on with. What is cheap to check is checked before anything is made.

    Raises:
        KDNASError: For bad input.
    """
    for task in options.glue.tasks:
        task_spec(task)
    if options.resume is None:
        _check_needs(options.stages, {})
        _check_installed(options)
        _check_families(options)
        name = Path(options.teacher).name or "teacher"
        path = expanded(options.out or new_run_path(name, options.search.agent, options.seed))
        return _Run(RunFolder.create(path, options, _README), options, _command(options, path))
    recorded = recorded_options(options.resume, PipelineOptions)
    folder = RunFolder.reopen(options.resume)
    command = _command(options, folder.path, () if options.stages == recorded.stages else options.stages)
    run = _Run(folder, options, command)
    try:
        _check_needs(options.stages, run.states())
        # Settings of stages that have not begun may be new.
        now = replace(options, stages=recorded.stages)
        folder.write_options(now)
    except BaseException:
        folder.release()
        raise
    return run


def _check_needs(stages: Sequence[Stage], states: dict[str, str]) -> None:
    for stage, needed in _NEEDS.items():
        if stage in stages and needed not in stages and states.get(needed) != _FINISHED:
            raise KDNASError(
                f"the stage {stage} needs {needed}, which is not done; add it to --stages, or --resume a run with it"
            )


def _check_installed(options: PipelineOptions) -> None:
    """Check now what a stage would fail without, hours later perhaps."""
    if "search" in options.stages:
        check_installed(replace(options.search, teacher=options.teacher))
    if "glue" in options.stages:
        glue_metric(EMBEDDED_TASK)
    if "export" in options.stages and options.export.to == "onnx":
        require_onnx("the stage export")


def _check_families(options: PipelineOptions) -> None:
    wanted = [family for family in options.family if family not in ("best", "all")]
    if not wanted:
        return
    searched = options.search.space
    space = resolve_space(
        searched.file,
        load_teacher_architecture(options.teacher),
        searched.families or None,
        searched.max_parameters,
    )
    families = space.choices.get("family", (space.teacher.as_student().family,))
    missing = [family for family in wanted if family not in families]
    if missing:
        raise KDNASError(
            f"family {missing[0]} is to be distilled, but {list(families)} are searched; add it to "
            "--search.space.families, or leave it out of --family"
        )


def _command(options: PipelineOptions, path: Path, stages: Sequence[str] = ()) -> str:
    chosen = ["--stages", *stages] if stages else []
    return command("run", "--resume", path, *chosen, *options.place_flags("out", "resume"))


def _do(console: Console, run: _Run, stage: Stage) -> int:
    """Do a stage, unless it is done; the exit status of its command.

    Raises:
        KeyboardInterrupt: If it was interrupted.
        KDNASError: If it failed.
    """
    if run.states().get(stage) == _FINISHED:
        console.print(f"[bold]{stage}[/]: done before", highlight=False)
        return 0
    console.print(f"\n[bold]{stage}[/] ({STAGES.index(stage) + 1} of {len(STAGES)})", highlight=False)
    run.record("running", stage)
    try:
        with naming_flags(type(getattr(run.options, stage))):
            status = _STAGES[stage](run)
    except KeyboardInterrupt as error:
        with noted(error):
            run.record("interrupted", stage)
        raise
    except BaseException as error:
        with noted(error):
            run.record("failed", stage)
        _say_failed(console, run, stage)
        raise
    run.record("running", stage, _FINISHED)
    return status


def _say_failed(console: Console, run: _Run, stage: Stage) -> None:
    """Say how to go on: again, with other flags where nothing has begun, or without the stage."""
    changes = "" if run.at(stage).exists() else f" (its flags, --{stage}..., may be changed)"
    said = [f"the stage {stage} failed; what others finished is kept. go on{changes} with", run.command]
    others = [
        other
        for other in STAGES
        if other in run.options.stages and other != stage and run.states().get(other) != _FINISHED
    ]
    if others and stage not in _NEEDS.values():
        said += ["or without it, with", _command(run.options, run.path, others)]
    for sentence, again in zip(said[::2], said[1::2], strict=True):
        console.print(f"\n{sentence}\n\n    {escape(again)}\n", highlight=False, soft_wrap=True)


def _search(run: _Run) -> int:
    options = replace(run.options.search, teacher=run.options.teacher, **run.shared, **run.placed("search"))
    if not options.in_this_process:
        options = replace(options, threads=None)  # the cores are shared out among the workers
    return run_search(options, go_on=run.command)


def _distill(run: _Run) -> int:
    run.placed("distill")
    options = replace(
        run.options.distill,
        run=str(run.at("search")),
        family=run.options.family,
        out=str(run.at("distill")),
        **run.shared,
    )
    return run_distill(options, go_on=run.command)


def _glue(run: _Run) -> int:
    first, *others = (str(run.student(name)) for name in run.names())
    options = replace(run.options.glue, model=first, models=tuple(others), **run.shared, **run.placed("glue"))
    return run_glue(options)


def _export(run: _Run) -> int:
    for unfinished in run.at("export").glob(".*"):
        shutil.rmtree(unfinished)
    for name in run.names():
        out = run.at("export") / name
        if not (out / EXPORT).exists():
            out.parent.mkdir(exist_ok=True)
            run_export(replace(run.options.export, model=str(run.student(name)), out=str(out)))
    return 0


_STAGES: dict[Stage, Callable[[_Run], int]] = {
    "search": _search,
    "distill": _distill,
    "glue": _glue,
    "export": _export,
}


def _summary(run: _Run) -> dict[str, Any]:
    """Return what came of the stages that are done."""
    done = [stage for stage in STAGES if run.states().get(stage) == _FINISHED]
    scores = read_json(run.at("glue") / RESULTS) if "glue" in done else None
    return {
        "teacher": run.options.teacher,
        "stages": done,
        "tasks": [] if scores is None else [task["name"] for task in scores["tasks"]],
        "students": [_student(run, number, done, scores) for number in range(len(run.names()))],
    }


def _student(run: _Run, number: int, done: Sequence[Stage], scores: dict[str, Any] | None) -> dict[str, Any]:
    chosen = choose(run.at("search"), run.options.family)[number]
    searched = read_json(run.at("search") / RESULTS)["students"]
    found = next(row for row in searched if row["student"] == chosen.config.to_dict() and row["status"] == "ok")
    summary: dict[str, Any] = {
        "name": chosen.name,
        "student": chosen.config.to_dict(),
        "parameters": found["parameters"],
        "speedup": found["speedup"],
        "reward": found["reward"],
        "unexplained": None,
        "score": None,
        "kept": None,
        "files": {},
    }
    if "distill" in done:
        summary["unexplained"] = read_json(run.at("distill") / chosen.name / DISTILLED)["unexplained"]
        summary["files"]["student"] = str(run.student(chosen.name).relative_to(run.path))
    if scores is not None:
        row = next(
            row for row in scores["rows"] if row["name"] == ("student" if number == 0 else f"student-{number + 1}")
        )
        average = row["average"] or {}
        summary |= {"score": average.get("mean"), "kept": average.get("kept")}
        summary["speedup"] = row["speedup"] or summary["speedup"]
    if "export" in done:
        summary["files"]["export"] = str((run.at("export") / chosen.name).relative_to(run.path))
    return summary


def print_summary(console: Console, path: Path, summary: dict[str, Any]) -> None:
    """Print what a run made.

    Args:
        console: Where.
        path: Folder of the run.
        summary: What its ``summary.json`` says.
    """
    table = Table(title="Students", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("student", overflow="fold")
    for name in ("params", "speed", "loss", "score", "kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for student in summary["students"]:
        table.add_row(
            student["name"],
            str(StudentConfig.from_dict(student["student"])),
            f"{student['parameters'] / 1e6:.2f}M",
            f"{student['speedup']:.2f}x",
            _shown(student["unexplained"], ".4f"),
            _shown(student["score"], ".1f", 100),
            _shown(student["kept"], ".1f", 100, "%"),
        )
    table.caption, table.caption_justify = _caption(summary["tasks"]), "left"
    console.print(table)
    for student in summary["students"]:
        for kind, file in student["files"].items():
            console.print(f"{kind + ':':<12}{escape(str(path / file))}", highlight=False, soft_wrap=True)
    console.print(f"run folder: {escape(str(path))} (README.md says what is where)", highlight=False, soft_wrap=True)


def _caption(tasks: Sequence[str]) -> str | None:
    if not tasks:
        return None
    scored = tasks[0] if len(tasks) == 1 else f"average of {len(tasks)} tasks"
    return f"score: {scored}, %; kept: share of the teacher's score"


def _shown(value: float | None, form: str, factor: float = 1.0, unit: str = "") -> str:
    return "" if value is None else f"{factor * value:{form}}{unit}"
