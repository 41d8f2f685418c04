"""Inspection of tables and surrogates from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.table.fit import fit_surrogate
from kdnas_env.pipeline.table.inspect import (
    LEAST_AGREEMENT,
    Inspection,
    SurrogateInspection,
    inspect_table,
    shipped_tables,
)
from kdnas_env.tables.storage import checksum, load_table, table_names, write_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(planted_table(), tmp_path / "small.npz")
    return tmp_path / "small.npz"


def test_the_tables_of_the_package_are_a_row_each() -> None:
    rows = shipped_tables()
    assert [row["table"] for row in rows] == table_names()
    row, table = rows[-1], load_table(table_names()[-1])
    assert (row["students"], row["seeds"]) == (len(table), len(table.metadata.seeds))
    assert {type(row["tau"]) for row in rows} == {float, type(None)}


def test_a_table_is_inspected(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = inspect_table(table)
    assert isinstance(found, Inspection)
    rows = found.table()
    assert len(rows) == len(found.source) == 24
    assert found.best is not None
    best = max(rows, key=lambda row: row["reward"])
    assert found.best.config.to_dict().items() <= best.items()
    assert found.plot().axes
    figures = found.to_dict()
    assert (figures["sha256"], figures["hardness"]["points"]) == (checksum(table), 24)
    assert figures.keys() == {"table", "sha256", "noise", "hardness"}
    against = [found.against(str(table))]
    assert found.to_dict(searches={"random-forest": {}}, against=against) == {
        **figures,
        "searches": {"random-forest": {}},
        "against": against,
    }
    assert found.missing == 0
    assert found.agreement is not None
    assert (found.agreement < LEAST_AGREEMENT) == (found.source.metadata.noise["tau"][-1] < 0.95)
    assert capfd.readouterr().out == ""


def test_a_table_is_inspected_as_a_task(table: Path) -> None:
    """With limits, the best student and the hardness are found among the students that keep the limits."""
    whole = inspect_table(table)
    assert isinstance(whole, Inspection)
    speedup = float(np.median([1 / row["latency_ratio"] for row in whole.table()]))
    limited = inspect_table(f"{table}:speedup={speedup},alpha=-0.1")
    assert isinstance(limited, Inspection)
    kept = [row for row in limited.table() if 1 / row["latency_ratio"] >= speedup]
    assert limited.hardness is not None
    assert limited.hardness["points"] == len(kept) < 24
    assert limited.best is not None
    best = max(kept, key=lambda row: row["reward"])
    assert limited.best.config.to_dict().items() <= best.items()
    assert best["reward"] != whole.reward(limited.best).reward
    assert limited.against(str(table))["points"] == len(kept)
    with pytest.raises(KDNASError, match="unknown setting"):
        inspect_table(f"{table}:speed=8")


def test_a_file_may_have_a_name_that_no_task_can_have(table: Path) -> None:
    for ending in (".npz", ".json"):
        table.with_suffix(ending).rename(table.with_name(f"a:b{ending}"))
    found = inspect_table(table.with_name("a:b.npz"))
    assert isinstance(found, Inspection)
    assert found.hardness is not None
    assert found.hardness["points"] == 24


def test_a_surrogate_has_a_hardness_by_random_points(table: Path, tmp_path: Path) -> None:
    fit = fit_surrogate([table], tmp_path / "surrogate.npz")
    name = str(fit.path)
    inspection = inspect_table(f"{name}:speedup=2")
    assert isinstance(inspection, SurrogateInspection)
    assert inspection.sha256 == checksum(fit.path)
    found = inspection.hardness(against=[f"{name}:alpha=-1.0", name], points=40)
    assert 0 < found["feasible"] < 1
    assert [comparison["points"] for comparison in found["against"]] == [found["points"]] * 2
    assert found["against"][0]["tau"] < found["against"][1]["tau"] == pytest.approx(1)
    assert found == inspection.hardness(against=[f"{name}:alpha=-1.0", name], points=40)
