"""Tables from Python: surrogates, verification and imports."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_bench_bert import write_bench_bert
from small_tables import planted_table

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.table.fit import fit_surrogate
from kdnas_env.pipeline.table.import_nas_bench_bert import import_table
from kdnas_env.pipeline.table.inspect import ExternalInspection, SurrogateInspection, inspect_table
from kdnas_env.pipeline.table.verify import verify_table
from kdnas_env.tables.storage import checksum, write_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(planted_table(), tmp_path / "small.npz")
    return tmp_path / "small.npz"


def test_a_surrogate_is_fitted(table: Path, tmp_path: Path) -> None:
    fit = fit_surrogate([table], tmp_path / "surrogate.npz")
    assert fit.table() == []
    assert fit.points > 24
    assert isinstance(inspect_table(fit.path), SurrogateInspection)


def test_a_table_is_verified(table: Path) -> None:
    found = verify_table(str(table))
    assert found.table() == []
    assert found.allowed is None
    with pytest.raises(KDNASError, match="`seed` has no effect without `replay`"):
        verify_table(str(table), seed=3)


def test_an_external_table_is_imported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_bench_bert(tmp_path / "file.json")
    imported = import_table(file, to=tmp_path / "bert.npz", metric="mnli")
    assert imported.source.metric == "mnli"
    assert imported.repeated == 2
    assert imported.best[1] == imported.source.score.max() > imported.median
    assert imported.sha256 == checksum(tmp_path / "bert.npz")
    inspected = inspect_table(tmp_path / "bert.npz")
    assert isinstance(inspected, ExternalInspection)
    assert (inspected.best, inspected.sha256) == (imported.best, imported.sha256)
    assert capfd.readouterr().out == ""
