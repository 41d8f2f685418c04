"""Races from Python: results with rows for pandas and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from progress_log import ProgressLog
from small_tables import planted_table

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.bench.race import race
from kdnas_env.tables.storage import write_table


@pytest.mark.usefixtures("blank_pictures")
def test_agents_are_raced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_table(planted_table(), tmp_path / "small.npz")
    small: dict[str, Any] = {
        "table": str(tmp_path / "small.npz"),
        "budget": 6,
        "seeds": 3,
        "workers": 1,
        "repetitions": 50,
    }
    log = ProgressLog()
    results = race(["random", "evolution"], out=tmp_path / "race", progress=log, **small)
    assert capfd.readouterr().out == ""
    assert log.begun[-1] == "comparing"
    rows = results.table()
    assert {row["agent"] for row in rows} == {"random", "evolution"}
    assert rows[0]["regret"] <= rows[1]["regret"]
    assert all(not isinstance(value, (dict, list)) for row in rows for value in row.values())
    assert results.plot().axes
    assert (results.path / "race.html").exists()
    explained = (results.path / "README.md").read_text()
    files = {path.name for path in results.path.iterdir()} - {"README.md"}
    assert [name for name in files if f"`{name}`" not in explained and f"`{name.split('.')[0]}`" not in explained] == []
    with pytest.raises(KDNASError, match="nobody"):
        race(["nobody"], **small)
