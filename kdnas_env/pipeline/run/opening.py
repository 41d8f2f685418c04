"""Opens the folder of a run, new or resumed, after the checks that precede all work."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from kdnas_env.core.reward import TASK
from kdnas_env.core.smallest import check_possible
from kdnas_env.errors import KDNASError
from kdnas_env.latency.onnx_runtime import require_onnx
from kdnas_env.latency.settings import INT8
from kdnas_env.pipeline.distill.chosen import choose
from kdnas_env.pipeline.distill.products import product_of
from kdnas_env.pipeline.distill.products.product import Opening, Product
from kdnas_env.pipeline.run.options import CANDIDATES, STAGES, PipelineOptions, SearchStage, stage_folder, stage_named
from kdnas_env.pipeline.search import README as SEARCH_README
from kdnas_env.pipeline.search.options import check_installed
from kdnas_env.searching.run_folder import CONFIG, STUDENT, RunFolder, new_run_path, recorded_options, write_readme
from kdnas_env.support.atomic import expanded
from kdnas_env.support.shell import call
from kdnas_env.tasks.data import check_task
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, TASKS

FINISHED = "finished"
"""State of a finished stage."""

NEEDS: dict[str, str] = {"distill": "search", "score": "distill", "export": "distill"}
"""For each stage, the stage from which it takes its students."""

_README = """# A run of `kdnas run` or `kdnas_env.run`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run and of each stage, versions, machine |
| `search/` | the search: a run of `kdnas search` |
| `distill/NAME/student/` | the distilled students: a run of `kdnas distill` |
| `scores/` | their scores beside the teacher: a run of `kdnas score` |
| `export/NAME/` | their exports, with a model card each |
| `summary.json` | students with size, speed-up, scores, share of the teacher's score, and where their files are |
| `report.html` | all results on a page: open it in a browser |

A missing file belongs to a stage that has not run yet, or was left out (`--stages`). Resume an interrupted or failed
run, or see the summary of a finished one again, with

    kdnas run --resume {folder}
    kdnas_env.run(resume={path})  # in Python

The results of finished stages can be used before the run ends.
"""

_TASK_README = """# A run of `kdnas run --task` or `kdnas_env.run(task=...)`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run and of each stage, versions, machine |
| `$product/` | the chosen $words as $library loads it |
| `export/` | the same for ONNX Runtime, with a model card |
| `search/` | the search: a run of `kdnas search` |
| `candidates/1/` | the best student of the search; `2/` the next best, if the first breaks a limit; and so on |
| `candidates/1/distill/` | the student, and in `NAME/$product/` with a head for the task: a run of `kdnas distill` |
| `candidates/1/export/` | the $words for ONNX Runtime, with a model card |
| `candidates/1/measured.json` | size, speed and score of the exported file, beside the teacher's |
| `candidates/1/contents.json` | SHA-256 of the measured files |
| `summary.json` | limits and measured values of all candidates; the chosen candidate |
| `candidates.png` | plot of the share of the teacher's score against speed-up |
| `report.html` | all results on a page: open it in a browser |

`$product/` and `export/` are copies from the folder of the chosen candidate: the first that keeps the limits, else the
one with the least excess.

Resume an interrupted or failed run, see the summary of a finished one again, or try more candidates, with

    kdnas run --resume {folder} [--candidates N]
    kdnas_env.run(resume={path})  # in Python; with candidates=N for more
"""


@dataclass(frozen=True)
class OpenedRun:
    """A run in progress.

    Attributes:
        folder: Its folder.
        options: Its settings.
        go_on: The call that resumes it.
        opening: What was read for the task of a new run.
    """

    folder: RunFolder
    options: PipelineOptions
    go_on: str
    opening: Opening | None = None

    @property
    def product(self) -> Product | None:
        """The kind of product that the run makes; None without a task."""
        return product_of(self.options.task)

    @property
    def path(self) -> Path:
        """Path of its folder."""
        return self.folder.path

    @property
    def stages(self) -> tuple[str, ...]:
        """The requested stages, in order."""
        if self.options.task.name is not None:
            return ("search", CANDIDATES)
        return tuple(stage for stage in STAGES if stage in self.options.stages)

    def states(self) -> dict[str, str]:
        """Return the state of every stage that has begun."""
        states: dict[str, str] = self.folder.read_run().get("stages", {})
        return {stage_named(name): state for name, state in states.items()}

    def record(self, state: str, stage: str, stage_state: str | None = None) -> None:
        """Record the state of the run and of a stage."""
        self.folder.record(state, stages={**self.states(), stage: stage_state or state})

    def at(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return stage_folder(self.path, stage)

    def students(self) -> dict[str, Path]:
        """Return the folders of the distilled students, by name."""
        chosen = choose(self.at("search"), self.options.family)
        return {student.name: self.at("distill") / student.name / STUDENT for student in chosen}

    def placed(self, stage: str) -> dict[str, Any]:
        """Return the option that places a stage: ``resume`` with its folder if it has begun, else ``out``."""
        folder = self.at(stage)
        if (folder / CONFIG).exists():
            return {"resume": str(folder)}
        # Killed before it wrote its settings.
        shutil.rmtree(folder, ignore_errors=True)
        return {"out": str(folder)}


def open_run(options: PipelineOptions) -> OpenedRun:
    """Open a run, new or resumed. The cheap checks run before anything is written.

    Raises:
        KDNASError: For bad input.
    """
    for task in options.score.tasks:
        check_task(task)
    opening: Opening | None = None
    product, readme = product_of(options.task), _README
    if product is not None:
        words = {"product": product.folder, "words": product.words, "library": product.library}
        readme = Template(_TASK_README).substitute(words)
        if options.resume is None:
            opening = product.opened(options.task, options.seed)  # Report errors of the task now, not after the search.
    if options.resume is None:
        if options.search.reward.quality == TASK and options.task.name is None:
            raise KDNASError(
                "`search.reward.quality` is task, but there is no task to measure it on; name it with `task`"
            )
        _check_needs(options.stages, {})
        _check_installed(options)
        _check_families(options)
        if "search" in options.stages:
            search = search_options(options)
            check_possible(search.limits, search.settings.search_space)
        name = Path(options.teacher).name or "teacher"
        path = expanded(options.out or new_run_path(name, options.search.agent, options.seed))
        return OpenedRun(RunFolder.create(path, options, readme), options, resuming_call(options, path), opening)
    recorded = recorded_options(options.resume, PipelineOptions)
    folder = RunFolder.reopen(options.resume, readme)
    again = resuming_call(options, folder.path, () if options.stages == recorded.stages else options.stages)
    reopened = OpenedRun(folder, options, again)
    try:
        _check_needs(options.stages, reopened.states())
        if (reopened.at("search") / CONFIG).exists():
            write_readme(reopened.at("search"), SEARCH_README)
        # Settings of stages that have not begun may have changed.
        folder.write_options(replace(options, stages=recorded.stages))
    except BaseException:
        folder.release()
        raise
    return reopened


def _check_needs(stages: Sequence[str], states: Mapping[str, str]) -> None:
    for stage, needed in NEEDS.items():
        if stage in stages and needed not in stages and states.get(needed) != FINISHED:
            raise KDNASError(
                f"the stage {stage} needs {needed}, which is not finished; add it to `stages`, or resume a run that "
                "has it (`resume`)"
            )


def _check_installed(options: PipelineOptions) -> None:
    """Check now for missing packages, because a stage would fail without them hours later."""
    if "search" in options.stages:
        check_installed(search_options(options))
    product = product_of(options.task)
    if product is not None:
        product.check(options.task)
    elif "score" in options.stages:
        task_metric(TASKS[EMBEDDED_TASK])
    if "export" in options.stages and options.export.to == "onnx":
        require_onnx("the stage export")


def _check_families(options: PipelineOptions) -> None:
    wanted = [family for family in options.family if family not in ("best", "all")]
    if not wanted:
        return
    space = search_options(options).settings.search_space
    families = space.choices.get("family", (space.teacher.as_student().family,))
    missing = [family for family in wanted if family not in families]
    if missing:
        raise KDNASError(
            f"family {missing[0]} is to be distilled, but {list(families)} are searched; add it to "
            "`search.space.families`, or leave it out of `family`"
        )


def resuming_call(options: PipelineOptions, path: Path, stages: Sequence[str] = ()) -> str:
    """Return the call that resumes a run, with other stages if they are given."""
    chosen = {"stages": stages} if stages else {}
    return call("run", resume=path, **chosen, **options.places("out", "resume"))


def search_options(options: PipelineOptions) -> SearchStage:
    """Return the options of the search.

    With a task, students are timed in the runtime of the exported file, and --keep applies to that file, not to the
    search.
    """
    limits, latency, product = options.limits, options.search.latency, product_of(options.task)
    if product is not None:
        limits = replace(limits, keep=None)
        if latency.runtime == "torch":
            latency = replace(latency, runtime=INT8 if limits.format == "int8" else "onnxruntime")
    task = options.task if product is None else product.searched(options.task, options.search.reward.quality)
    return replace(options.search, teacher=options.teacher, task=task, limits=limits, latency=latency)
