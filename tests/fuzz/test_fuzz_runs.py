"""Corrupt run folders: options, states, results, scores, lineages and learning curves."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from filelock import FileLock
from fuzzing import BATCH, fuzz, spoilt_json, survive
from small_tables import planted_metadata
from test_fuzz_untrusted import PROBE, RECORD_TEXT, STUDENT

from kdnas_env.bench.race import RACE
from kdnas_env.bench.race import _prepare_folder as opened_race
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.student.folder import LINEAGE, Lineage, read_lineage
from kdnas_env.distillation.training.kd_trainer import CURVE, read_curve
from kdnas_env.evaluators.planted import PLANTED_TEACHER
from kdnas_env.pipeline.distill.chosen import choose
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.study import StudyOptions
from kdnas_env.pipeline.table.build import TableBuildOptions
from kdnas_env.searching.journal import Journal
from kdnas_env.searching.run_folder import CONFIG, RESULTS, RUN, RunFolder, recorded_options
from kdnas_env.tabulation.build import WORKLOAD, read_workload
from kdnas_env.tasks.comparison import Cell, CellStore
from kdnas_env.tasks.scores import TaskScore

OPTIONS: tuple[Any, ...] = (
    SearchOptions(),
    PipelineOptions(),
    DistillOptions(run="x"),
    ScoreOptions(model="x", tasks=("rte",)),
    StudyOptions(what="proxy", run="x"),
    TableBuildOptions(name="small", out="x"),
)

CONFIGURATIONS = [{"command": options.COMMAND, **options.to_dict()} for options in OPTIONS]

LINEAGE_OF_A_STUDENT = Lineage(
    STUDENT,
    "demo",
    "0" * 64,
    {"source": "demo", "max_length": 50},
    {"epochs": 2, "learning_rate": 1e-3},
    ({"stage": "mini-kd", "epochs": 1},),
    {"kdnas": "0.1.0"},
)

ROWS: list[dict[str, Any]] = [
    {"student": STUDENT.to_dict(), "status": "ok", "reward": reward, "parameters": 3} for reward in (0.5, 0.25)
]

SEARCHED = {"students": ROWS, "best": ROWS[0], "rounds": [], "teacher": {"parameters": 9}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@fuzz("run folder")
def test_options_and_states(rng: Random, folder: Path) -> None:
    run = RunFolder(folder, FileLock(folder / ".lock"))
    state = {"state": "running", "fingerprints": {"teacher": "0"}, "stages": {"search": "finished"}}
    for _ in range(BATCH // 2):
        options, configuration = rng.choice(list(zip(OPTIONS, CONFIGURATIONS, strict=True)))
        data = spoilt_json(rng, configuration)
        (folder / CONFIG).write_bytes(data)
        survive(_gone_on, folder, options, told=data, reader="options")
        data = spoilt_json(rng, state)
        (folder / RUN).write_bytes(data)
        survive(run.read_run, told=data, reader="state")


@fuzz("journal")
def test_journals(rng: Random, folder: Path) -> None:
    path = folder / "journal.jsonl"
    entries = [{"asked": [0, 3, 1]}, {"told": [0, 3, 1], "evaluation": json.loads(RECORD_TEXT)}]
    for _ in range(BATCH):
        data = spoilt_json(rng, rng.choice(entries))
        path.write_bytes(json.dumps(entries[0]).encode() + b"\n" + data + b"\n")
        survive(lambda: Journal(path).close(), told=data)


@fuzz("results")
def test_results(rng: Random, folder: Path) -> None:
    race = {**_Wanted().settings(), "tables": {"a": "0"}}
    (folder / "race").mkdir(exist_ok=True)
    space = SearchSpace.from_dict({"num_hidden_layers": [3, 6]}, PLANTED_TEACHER)
    metadata = planted_metadata(space).to_dict()
    for _ in range(BATCH // 4):
        data = spoilt_json(rng, SEARCHED)
        (folder / RESULTS).write_bytes(data)
        survive(choose, folder, ("all",), told=data, reader="results")
        data = spoilt_json(rng, race)
        (folder / "race" / RACE).write_bytes(data)
        survive(opened_race, folder / "race", _Wanted(), {"a": "0"}, told=data, reader="race")
        data = spoilt_json(rng, metadata)
        (folder / WORKLOAD).write_bytes(data)
        survive(lambda: read_workload(folder).search_space, told=data, reader="workload")
        data = spoilt_json(rng, [{"step": step, "seconds": 1.0, "unexplained": 0.5} for step in range(2)])
        (folder / CURVE).write_bytes(data)
        survive(read_curve, folder, told=data, reader="curve")


@fuzz("lineage")
def test_lineages(rng: Random, folder: Path) -> None:
    whole = LINEAGE_OF_A_STUDENT.to_dict()
    for _ in range(BATCH):
        data = spoilt_json(rng, whole)
        (folder / LINEAGE).write_bytes(data)
        survive(_told, folder, told=data)


@fuzz("scores")
def test_scores(rng: Random, folder: Path) -> None:
    store, cell = CellStore(folder / "cells"), Cell("student", "rte", 0)
    score = TaskScore(
        "rte",
        "fine-tuning",
        0,
        {"validation": {"accuracy": 0.5}},
        details={"steps": 3},
        seconds=1.0,
        scored=("validation",),
    )
    store.put(cell, score)
    store.put_latency("student", PROBE)
    scored, timed = score.to_dict(), asdict(PROBE)
    for _ in range(BATCH // 2):
        data = spoilt_json(rng, scored)
        (folder / "cells" / "student-rte-0.json").write_bytes(data)
        survive(store.get, cell, told=data, reader="scores")
        data = spoilt_json(rng, timed)
        (folder / "cells" / "latency-student.json").write_bytes(data)
        survive(store.get_latency, "student", told=data, reader="latency")


class _Wanted:
    def settings(self) -> dict[str, Any]:
        return {"budget": 5, "unit": "evaluations", "simulated_workers": None, "decision_time": "zero"}


def _gone_on(folder: Path, options: Any) -> None:
    recorded = recorded_options(folder, type(options))
    if hasattr(recorded, "resume"):
        recorded = replace(recorded, resume=str(folder))
    recorded.check_unchanged(recorded.placed_as(options) if not hasattr(recorded, "resume") else recorded)
    json.dumps(recorded.to_dict())


def _told(folder: Path) -> None:
    from kdnas_env.exporting.cards.template import lineage_section

    if (found := read_lineage(folder)) is not None:
        lineage_section(found)
