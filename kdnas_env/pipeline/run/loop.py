"""How a run goes through its stages, and what it writes at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from filecmp import cmpfiles
from pathlib import Path
from typing import Any

import torch

from kdnas_env.errors import ExportError, KDNASError
from kdnas_env.exporting.folder import digests, files_in, written_whole
from kdnas_env.pipeline.distill.chosen import choose
from kdnas_env.pipeline.distill.products.product import Product
from kdnas_env.pipeline.distill.result import DISTILLED
from kdnas_env.pipeline.run.candidates import Candidate, best_candidate, read_candidates
from kdnas_env.pipeline.run.opening import FINISHED, OpenedRun, open_run
from kdnas_env.pipeline.run.options import STAGES, PipelineOptions
from kdnas_env.pipeline.run.progress import StepProgress, announced, going_on
from kdnas_env.pipeline.run.result import PICTURE, PipelineRun
from kdnas_env.pipeline.run.stages import Report, Result, do_stage
from kdnas_env.pipeline.search.finished import read_results
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import REPORT, RESULTS, STUDENT
from kdnas_env.support.atomic import read_json, write_json, write_text
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import Progress

SUMMARY = "summary.json"


def run_stages(options: PipelineOptions, progress: Progress, on_result: Report) -> PipelineRun:
    """Run the missing stages of a run; see :func:`kdnas_env.pipeline.run.run`.

    Raises:
        KDNASError: For bad input.
    """
    threads = options.threads or torch.get_num_threads()
    options = replace(options, threads=threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise KDNASError("kdnas run works in one process; distil in several with kdnas distill, on a finished search")
    work_on = open_run(options)
    opening, product = work_on.opening, work_on.product
    names: Sequence[str] = STAGES if product is None else product.steps
    resumed = options.resume is not None
    steps = StepProgress(
        progress,
        names,
        None if opening is None else opening.effort,
        since="since it was resumed" if resumed else "so far",
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
        except KDNASError as error:  # a finished run can be seen again without its teacher
            progress.say(f"{REPORT} was not written: {error}", "warning")
    return done


def place_products(run: Path, product: Product, best: Candidate | None) -> dict[str, Path]:
    """Copy the product of the chosen candidate, and its export, into the run folder; each completely or not at all.

    They are copies, because archives and some file systems lose links. The folders of the candidates stay, so that a
    run can be resumed with more candidates.

    Args:
        run: The run folder, which no other process writes to.
        product: Kind of product.
        best: The chosen candidate; None if there is none.

    Returns:
        The folders by their names.

    Raises:
        ExportError: If they cannot be written, or a folder of the candidate has changed since it was measured. Earlier
            copies stay.
    """
    for name in product.places:
        for unfinished in run.glob(f".{name}.*"):
            shutil.rmtree(unfinished)
    if best is None:
        return {}
    placed = {name: run / name for name in product.places}
    for name, target in placed.items():
        source = best.files[name]
        if not _is_copy(target, source):
            _check_whole(source, best.contents.get(name))
            with written_whole(target) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
    return placed


def _check_whole(folder: Path, recorded: Mapping[str, str] | None) -> None:
    """Refuse a folder whose files have changed since they were measured; kdnas 0.1 recorded no digests."""
    if recorded is None:
        return
    present = digests(folder) if folder.is_dir() else {}
    changed = [name for name, digest in recorded.items() if present.get(name) != digest]
    if changed:
        raise ExportError(
            f"{str(folder)!r} is not what was measured: {changed[0]!r} is missing or has changed; restore it, or "
            "delete the folder of this candidate, and resume the run"
        )


def _is_copy(target: Path, source: Path) -> bool:
    files = files_in(source)
    if not target.is_dir() or files_in(target) != files:
        return False
    same, _, _ = cmpfiles(source, target, files, shallow=False)
    return len(same) == len(files)


def summary_of(run: OpenedRun) -> dict[str, Any]:
    """Return the results of the finished stages, as ``summary.json`` has them."""
    states = run.states()
    done = [stage for stage in STAGES if states.get(stage) == FINISHED]
    scores = read_json(run.at("score") / RESULTS) if "score" in done else None
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


def task_summary_of(run: OpenedRun, product: Product, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return the limits and the measurements of all candidates, as ``summary.json`` has them."""
    best = best_candidate(candidates)
    students = [candidate.to_dict(run.path) for candidate in candidates]
    return {
        "teacher": run.options.teacher,
        "stages": [stage for stage in run.stages if run.states().get(stage) == FINISHED],
        "tasks": [run.options.task.name],
        "limits": asdict(run.options.limits),
        "products": {} if best is None else {name: name for name in product.places},
        "best": None if best is None else str(best.place),
        "keeps_limits": best is not None and best.keeps_limits,
        "warning": None if best is None else best.measured.warning,
        "students": students,
    }
