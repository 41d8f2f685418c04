"""The stages of a run: each calls the function of a command and writes to a folder inside the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

from kdnas_env.errors import KDNASError
from kdnas_env.exporting.folder import EXPORT
from kdnas_env.exporting.report import ExportReport
from kdnas_env.pipeline.distill import distill
from kdnas_env.pipeline.distill.result import DistillRun
from kdnas_env.pipeline.export import export
from kdnas_env.pipeline.run.candidates import Candidate, try_candidates
from kdnas_env.pipeline.run.opening import FINISHED, NEEDS, OpenedRun, resuming_call, search_options
from kdnas_env.pipeline.run.options import CANDIDATES
from kdnas_env.pipeline.score import score
from kdnas_env.pipeline.score.result import Scores
from kdnas_env.pipeline.search import search
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.pipeline.work import StageProgress, noted
from kdnas_env.support.progress import Progress, enter_step

Result = SearchRun | DistillRun | Scores | ExportReport | Candidate
"""Result of a stage, of the export of a student, or of a candidate."""

Report = Callable[[Result], object]


def do_stage(run: OpenedRun, stage: str, progress: Progress, report: Report) -> None:
    """Run a stage and report its results; skip a finished stage."""
    # A resumed run may ask for more candidates, so this stage always runs.
    if run.states().get(stage) == FINISHED and stage != CANDIDATES:
        progress.say(f"{stage}: done before")
        return
    # With a task, the stage itself reports its steps.
    if run.options.task.name is None:
        enter_step(progress, stage)
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
    run.record("running", stage, FINISHED)


def _how_to_go_on(run: OpenedRun, stage: str) -> str:
    """Return how to continue after a stage has failed.

    The run can be resumed; with other settings of the stage, if its folder does not exist yet; or without the stage, if
    no other stage needs it.
    """
    fixed = stage == CANDIDATES or run.at(stage).exists()
    changes = "" if fixed else f" (the settings of {stage} may be changed)"
    note = f"the stage {stage} failed; finished stages are kept. Go on{changes} with\n\n    `{run.go_on}`\n"
    states = run.states()
    others = [other for other in run.stages if other != stage and states.get(other) != FINISHED]
    if others and stage not in NEEDS.values():
        note += f"\nor without it, with\n\n    `{resuming_call(run.options, run.path, others)}`\n"
    return note


def _search(run: OpenedRun, progress: Progress, report: Report) -> None:
    options = replace(search_options(run.options), **run.options.shared, **run.placed("search"))
    if not options.in_this_process:
        options = replace(options, threads=None)  # the threads of this process are divided among the workers
    report(search(options, progress=StageProgress(progress, "search")))


def _distill(run: OpenedRun, progress: Progress, report: Report) -> None:
    run.placed("distill")
    options = replace(
        run.options.distill,
        run=str(run.at("search")),
        family=run.options.family,
        out=str(run.at("distill")),
        **run.options.shared,
    )
    report(distill(options, progress=StageProgress(progress, "distill")))


def _score(run: OpenedRun, progress: Progress, report: Report) -> None:
    first, *others = map(str, run.students().values())
    options = replace(run.options.score, model=first, models=tuple(others), **run.options.shared, **run.placed("score"))
    report(score(options, progress=progress))


def _export(run: OpenedRun, progress: Progress, report: Report) -> None:
    for name, student in run.students().items():
        for unfinished in run.at("export").glob(f".{name}.*"):
            shutil.rmtree(unfinished)
        out = run.at("export") / name
        if not (out / EXPORT).exists():
            out.parent.mkdir(exist_ok=True)
            options = replace(run.options.export, model=str(student), out=str(out))
            report(export(options, progress=progress))


def _candidates(run: OpenedRun, progress: Progress, report: Report) -> None:
    for unfinished in run.at(CANDIDATES).glob("*/.export.*"):
        shutil.rmtree(unfinished)
    try_candidates(run.path, run.options, progress, report)


_STAGES: dict[str, Callable[[OpenedRun, Progress, Report], None]] = {
    "search": _search,
    "distill": _distill,
    "score": _score,
    "export": _export,
    CANDIDATES: _candidates,
}
