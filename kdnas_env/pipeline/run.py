"""From a teacher's name to distilled, scored and exported students, in one run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.candidates import Candidate, best_candidate, read_candidates
from kdnas_env.pipeline.finished_run import PipelineRun
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.run_opening import open_run
from kdnas_env.pipeline.run_options import STAGES, PipelineOptions
from kdnas_env.pipeline.run_products import place_products
from kdnas_env.pipeline.run_progress import StepProgress, announced, going_on
from kdnas_env.pipeline.run_stages import Report, Result, do_stage
from kdnas_env.pipeline.run_summary import summary_of, task_summary_of
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import REPORT
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import SILENT, Progress, checked

SUMMARY, PICTURE = "summary.json", "candidates.png"


def run(
    teacher: str | PipelineOptions | None = None,
    *,
    progress: Progress = SILENT,
    on_result: Report = lambda result: None,
    **settings: Any,
) -> PipelineRun:
    """Search, distill, score and export in one run folder; with a task, up to a classifier or an embedding model.

    What is done already is not done again. An interrupted run (Ctrl-C, SIGTERM, SIGKILL) goes on with ``resume``,
    within the stage where it stopped.

    Args:
        teacher: Name or folder of the teacher, ``demo`` by default; or all options.
        progress: Receives what is done.
        on_result: Called with what came of each stage as it is done.
        **settings: Options of :class:`PipelineOptions` by name, such as ``search={"budget": 32}``, ``task="my.csv"``,
            ``task="embedding"``, ``limits={"speedup": 8, "size_mb": 10, "keep": 0.97}`` or ``resume``.

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
    work_on = open_run(options)
    opening, product = work_on.opening, work_on.product
    names: Sequence[str] = STAGES if product is None else product.steps
    resumed = options.resume is not None
    steps = StepProgress(
        progress, names, None if opening is None else opening.effort, since="since it went on" if resumed else "so far"
    )
    for line in going_on(options, work_on.path) if opening is None else announced(options, opening):
        steps.say(line)
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        on_result(result)

    with working(work_on.folder, work_on.go_on) as work, pinned_threads(threads):
        work.begin()
        for stage in work_on.stages:
            do_stage(work_on, stage, steps, report)
        candidates: tuple[Candidate, ...] = ()
        products: dict[str, Path] = {}
        if product is None:
            summary = summary_of(work_on)
        else:
            candidates = tuple(read_candidates(work_on.path, options))
            summary = task_summary_of(work_on, product, candidates)
            products = place_products(work_on.path, product, best_candidate(candidates))
        write_json(work_on.path / SUMMARY, summary)
        done = PipelineRun(work_on.path, options, tuple(results), summary, candidates, products)
        if candidates:
            save_figure(done.plot(), work_on.path / PICTURE)
        try:
            write_text(work_on.path / REPORT, done.report().to_html())
        except KDNASError as error:  # a finished run can be seen again where its teacher is not there any more
            progress.say(f"{REPORT} was not written: {error}", "warning")
    return done
