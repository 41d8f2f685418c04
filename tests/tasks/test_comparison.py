"""Comparisons on tasks: rows, cells and the resulting table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from progress_log import ProgressLog
from torch import nn

from kdnas_env.core.evaluation import Status
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.latency import LatencySettings
from kdnas_env.tasks.comparison import Cell, CellStore, Comparison
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.rows import Model, Row, build_rows, load_model, teacher_name
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.summary import draw_comparison, spread, summarise

FAST = {"rte": FinetuneSettings(epochs=1, batch_size=8, device="cpu")}


@pytest.fixture(scope="module")
def models(student_folder: Path) -> tuple[Model, Model]:
    """The student and its teacher."""
    named = teacher_name(student_folder, None)
    assert named is not None
    return load_model(student_folder), load_model(named)


def embeddings(encoder: Any) -> torch.Tensor:
    weights: torch.Tensor = encoder.embeddings.word_embeddings.weight
    return weights.detach()


def query(encoder: Any) -> torch.Tensor:
    weights: torch.Tensor = encoder.encoder.layer[0].attention.self.query.weight
    return weights.detach()


def test_the_undistilled_rows_are_what_they_say(models: tuple[Model, Model], tmp_path: Path) -> None:
    student, teacher = models
    rows = {row.name: row for row in build_rows([student], teacher, cache_dir=tmp_path, device="cpu")}
    assert list(rows) == ["teacher", "student", "closed-forms", "embeddings", "random", "majority"]
    made: dict[str, Any] = {name: rows[name].encoder(0) for name in ("closed-forms", "embeddings", "random")}  # type: ignore[misc]
    distilled: Any = student.encoder.model
    for encoder in made.values():
        assert encoder.config.hidden_act == distilled.config.hidden_act
        assert {name: value.shape for name, value in encoder.state_dict().items()} == {
            name: value.shape for name, value in distilled.state_dict().items()
        }
        assert not torch.equal(query(encoder), query(distilled))
    # The recipe does not train embeddings, so the student still has those derived from its teacher.
    torch.testing.assert_close(embeddings(made["embeddings"]), embeddings(distilled))
    torch.testing.assert_close(embeddings(made["closed-forms"]), embeddings(distilled))
    assert not torch.allclose(embeddings(made["random"]), embeddings(distilled))
    assert float(query(made["embeddings"]).std()) == pytest.approx(0.02, rel=0.2)
    assert float(query(made["closed-forms"]).std()) > 0.04
    again, other = rows["random"].encoder(0), rows["random"].encoder(1)  # type: ignore[misc]
    assert torch.equal(query(again), query(made["random"]))
    assert not torch.equal(query(other), query(made["random"]))


def test_a_model_without_lineage_has_fewer_rows(tiny_teacher_dirs: dict[str, Path]) -> None:
    model = load_model(tiny_teacher_dirs["albert"])
    assert [row.name for row in build_rows([model], None)] == ["student", "random", "majority"]
    with pytest.raises(KDNASError, match=r"no row 'teacher'.*`teacher`"):
        build_rows([model], None, ["teacher"])
    with pytest.raises(KDNASError, match=r"no row 'embeddings'.*kdnas\.json"):
        build_rows([model], None, ["embeddings"])
    with pytest.raises(KDNASError, match="unknown row 'best'; choose from"):
        build_rows([model], None, ["best"])


def test_rows_can_be_chosen_and_models_added(models: tuple[Model, Model]) -> None:
    student, teacher = models
    rows = build_rows([student, teacher], teacher, ["student"])
    assert [row.name for row in rows] == ["student", "student-2", "majority"]
    assert [row.kind for row in rows] == ["student", "student", "majority"]


def test_another_teacher_is_refused(student_folder: Path, models: tuple[Model, Model], tmp_path: Path) -> None:
    copied = tmp_path / "student"
    copied.mkdir()
    for file in student_folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    lineage = json.loads((copied / "kdnas.json").read_text())
    (copied / "kdnas.json").write_text(json.dumps({**lineage, "teacher_fingerprint": "0" * 64}))
    rows = build_rows([load_model(copied)], models[1], ["embeddings"], cache_dir=tmp_path, device="cpu")
    with pytest.raises(RunError, match=r"the teacher .* is not what it was when the student was distilled"):
        rows[0].encoder(0)  # type: ignore[misc]


def comparison(rows: list[Row], hub_layout: Path, folder: Path, **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "rows": rows,
        "tasks": [load_task("rte", hub_layout)],
        "seeds": range(2),
        "settings": FAST,
        "store": CellStore(folder / "cells"),
        "device": "cpu",
    }
    return Comparison(**(values | changes))


def test_cells_are_kept_and_never_computed_twice(models: tuple[Model, Model], hub_layout: Path, tmp_path: Path) -> None:
    student, teacher = models
    wanted = comparison(build_rows([student], teacher, ["teacher", "student"]), hub_layout, tmp_path)
    kept: list[int] = []
    log = ProgressLog(on_say=lambda: kept.append(len(list((tmp_path / "cells").iterdir()))))
    first = wanted.run(log)
    assert kept == [1, 2, 3, 4, 5]  # Two rows have two seeds each; the majority class has no seeds.
    assert list(first) == wanted.cells
    (tmp_path / "cells" / "student-rte-1.json").unlink()
    log = ProgressLog()
    again = wanted.run(log)
    assert log.begun == [f"{student.title}, rte, seed 1 (3 of 5 scores done)"]
    assert len(log.said) == 5
    assert {cell: score.metrics for cell, score in again.items()} == {
        cell: score.metrics for cell, score in first.items()
    }


def test_a_damaged_cell_is_told(models: tuple[Model, Model], hub_layout: Path, tmp_path: Path) -> None:
    wanted = comparison(build_rows([models[0]], None, ["random"]), hub_layout, tmp_path)
    (tmp_path / "cells").mkdir()
    for content in ("{", "{}"):
        (tmp_path / "cells" / "random-rte-0.json").write_text(content)
        with pytest.raises(RunError, match=r"cannot be read|not of this version"):
            wanted.run()


class Exhausting(nn.Module):
    def forward(self, **_: Any) -> Any:
        raise MemoryError("no memory")


@pytest.mark.parametrize("settings", [FAST, None])
def test_what_goes_wrong_with_a_model_is_recorded(
    models: tuple[Model, Model], hub_layout: Path, tmp_path: Path, settings: Any
) -> None:
    student, teacher = models
    broken = load_model(teacher.encoder.name).encoder.model
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    exhausting: Any = Exhausting()
    exhausting.config = student.encoder.model.config
    tokenizer = student.encoder.tokenizer
    rows = [
        Row("teacher", "diverging", "", encoder=lambda seed: broken, tokenizer=tokenizer),
        Row("student", "exhausting", "", encoder=lambda seed: exhausting, tokenizer=tokenizer),
        Row("random", "failing", "", encoder=lambda seed: nn.Linear(2, 2), tokenizer=tokenizer),
        Row("majority", "majority class", ""),
    ]
    wanted = comparison(rows, hub_layout, tmp_path, seeds=range(1), settings=settings)
    scores = wanted.run()
    statuses = [score.status for score in scores.values()]
    assert statuses == [Status.DIVERGED, Status.OUT_OF_MEMORY, Status.FAILED, Status.OK]
    assert all(score.error for score in scores.values() if not score.ok)
    assert wanted.run() == scores
    summaries = summarise(rows, ["rte"], scores, {})
    assert [(row.failed, row.average is None) for row in summaries] == [(1, True)] * 3 + [(0, False)]
    draw_comparison(summaries, title="rte", method="fine-tuning")


def test_latencies_are_of_shapes_and_kept(models: tuple[Model, Model], hub_layout: Path, tmp_path: Path) -> None:
    student, teacher = models
    rows = build_rows([student], teacher)
    wanted = comparison(rows, hub_layout, tmp_path)
    found = wanted.latencies(LatencySettings(runtime="torch", sequence_length=16, min_rounds=1, max_seconds=0.05))
    assert set(found) == {"student", "closed-forms", "embeddings", "random"}
    assert len({id(latency) for latency in found.values()}) == 1
    assert wanted.latencies(LatencySettings(runtime="analytic")) == found
    assert comparison(rows[1:], hub_layout, tmp_path / "other").latencies(LatencySettings()) == {}


def scores_of(values: dict[str, list[float]], task: str = "rte") -> Iterator[tuple[Cell, TaskScore]]:
    for row, found in values.items():
        for seed, value in enumerate(found):
            yield (
                Cell(row, task, seed),
                TaskScore(task, "fine-tuning", seed, {"validation": {"accuracy": value}}, scored=("validation",)),
            )


def test_means_deviations_and_shares() -> None:
    rows = [Row(name, name, "") for name in ("teacher", "student", "majority")]
    scores = dict(scores_of({"teacher": [0.8, 0.9], "student": [0.6, 0.7], "majority": [0.5]}))
    scores |= dict(scores_of({"teacher": [0.5, 0.5], "student": [0.5, 0.4], "majority": [0.5]}, "wnli"))
    teacher, student, majority = summarise(rows, ["rte", "wnli"], scores, {})
    assert student.tasks["rte"].mean == pytest.approx(0.65)
    assert student.tasks["rte"].sd == pytest.approx(math.sqrt(0.005))
    assert student.tasks["rte"].kept == pytest.approx(0.65 / 0.85)
    assert student.tasks["wnli"].kept is None, "the teacher is no better than the majority class"
    assert student.average is not None
    assert student.average.mean == pytest.approx(0.55)
    assert student.average.sd == pytest.approx(0.0, abs=1e-12)
    assert student.average.kept == pytest.approx(0.55 / 0.675)
    assert teacher.tasks["rte"].kept == pytest.approx(1.0)
    assert teacher.speedup == 1.0
    assert majority.tasks["rte"].sd is None
    assert student.metrics["rte"]["validation"]["accuracy"] == pytest.approx(0.65)


@given(st.lists(st.floats(-100, 100), max_size=12), st.floats(0.01, 10))
def test_spreading_keeps_order_and_distance(values: list[float], gap: float) -> None:
    moved = spread(values, gap)
    order = sorted(range(len(values)), key=lambda index: values[index])
    assert all(moved[after] - moved[before] >= gap * 0.999 for before, after in pairwise(order))
    far = all(abs(a - b) >= gap for index, a in enumerate(values) for b in values[:index])
    assert not far or moved == pytest.approx(values)


@pytest.mark.parametrize("text", ["{}", "[]", '{"median_ms": "x"}', "[" * 100_000])
def test_damaged_records_are_told(text: str, tmp_path: Path) -> None:
    store, cell = CellStore(tmp_path), Cell("student", "rte", 0)
    (tmp_path / "latency-student.json").write_text(text)
    (tmp_path / "student-rte-0.json").write_text(text)
    with pytest.raises(RunError):
        store.get_latency("student")
    with pytest.raises(RunError):
        store.get(cell)
