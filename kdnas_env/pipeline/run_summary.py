"""What came of the stages of a run: its ``summary.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kdnas_env.pipeline.candidates import Candidate, best_candidate
from kdnas_env.pipeline.distilled import DISTILLED
from kdnas_env.pipeline.finished_search import choose, read_results
from kdnas_env.pipeline.product import Product
from kdnas_env.pipeline.run_opening import FINISHED, OpenedRun
from kdnas_env.pipeline.run_options import STAGES
from kdnas_env.searching.run_folder import RESULTS, STUDENT
from kdnas_env.support.atomic import read_json


def summary_of(run: OpenedRun) -> dict[str, Any]:
    """Return what came of the stages that are done."""
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
    """Return what was asked for and what was measured, of all candidates."""
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
