"""The tables that come with the package are what they say they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdnas_env.core.architecture import count_parameters
from kdnas_env.tables.noise_ceiling import noise_ceiling
from kdnas_env.tables.storage import DATA, load_table, table_names
from kdnas_env.tables.surrogates.card import judge, judge_parts
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import LATENCIES
from kdnas_env.tabulation.build import Cell
from kdnas_env.tabulation.verify import draw_cells, open_live, replay

LARGEST_BYTES = 5_000_000

BETWEEN = ["rotten-tomatoes-between"]
"""Tables of students between those of a table, for its surrogate."""

WHOLE = [name for name in table_names() if name not in BETWEEN]


def test_there_are_several_tasks_in_little_room() -> None:
    assert len(WHOLE) >= 2
    assert sum(path.stat().st_size for path in DATA.iterdir()) < LARGEST_BYTES
    workloads = {load_table(name).metadata.workload for name in WHOLE}
    assert len(workloads) == len(WHOLE)


@pytest.mark.parametrize("name", table_names())
def test_a_table_is_whole_and_its_numbers_make_sense(name: str) -> None:
    table = load_table(name)
    assert table.metadata.name == name
    assert len(table) >= (96 if name in BETWEEN else 600)
    assert table.complete == 1
    assert table.valid.all()
    assert [count_parameters(config, table.teacher) for config in table.configs()] == table.parameters.tolist()
    assert (table.curve("epoch_seconds") > 0).all()
    assert ((table.curve("heldout_unexplained") > 0) & (table.curve("heldout_unexplained") < 1)).all()
    assert {device.runtime for device in table.metadata.devices} == {"torch", "onnxruntime", "analytic"}
    for position, device in enumerate(table.metadata.devices):
        latencies = dict(zip(LATENCIES, table.latencies[:, position].T, strict=True))
        assert (latencies["median_ms"] > 0).all()
        assert (latencies["ratio"] > 0).all()
        assert ((latencies["count"] > 0) == (device.runtime != "analytic")).all()


@pytest.mark.parametrize("name", WHOLE)
def test_seeds_agree_about_the_ranking(name: str) -> None:
    table = load_table(name)
    found = noise_ceiling(table)
    assert found.keys() == table.metadata.noise.keys()
    for measure, value in found.items():
        assert value == pytest.approx(table.metadata.noise[measure]), measure
    assert found["students"] == len(table)
    assert min(found["tau"]) > 0.95


@pytest.mark.parametrize("name", BETWEEN)
def test_students_between_make_the_surrogate_good_there(name: str) -> None:
    table, between = load_table(name.removesuffix("-between")), load_table(name)
    alone, apart = judge(Surrogate.fit(table), between), judge_parts(table, between, folds=3)
    assert apart["students"] == len(between)
    assert alone["tau"] > 0.9
    assert apart["tau"] > max(0.95, alone["tau"])
    assert apart["r2"] > max(0.97, alone["r2"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of one text share the states of its teacher."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("name", table_names())
def test_a_table_says_what_distillation_finds(name: str, cache: Path) -> None:
    table = load_table(name)
    live, allowed = open_live(table, device="cpu", cache_dir=cache)
    quickest = int(np.argmin(table.curve("epoch_seconds").sum(axis=(1, 2))))
    cells = [Cell(table.configs()[quickest], table.metadata.seeds[-1])]
    if name in WHOLE:  # students between are distilled as those of the whole table are
        cells += draw_cells(table, 1, np.random.default_rng(0))
    assert max(one.difference for one in replay(table, live, cells, lambda done, total: None)) <= allowed
