"""Tables from Python: records with rows for pandas and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tables import planted_table

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.inspecting import inspect_table
from kdnas_env.pipeline.tables import (
    fit_surrogate,
    verify_table,
)
from kdnas_env.tables.storage import write_table
from kdnas_env.tables.surrogates.surrogate import Surrogate


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(planted_table(), tmp_path / "small.npz")
    return tmp_path / "small.npz"


def test_a_surrogate_is_fitted(table: Path, tmp_path: Path) -> None:
    fit = fit_surrogate([table], tmp_path / "surrogate.npz")
    assert fit.table() == []
    assert fit.points > 24
    assert isinstance(inspect_table(fit.path), Surrogate)


def test_a_table_is_verified(table: Path) -> None:
    found = verify_table(str(table))
    assert found.table() == []
    assert found.allowed is None
    with pytest.raises(KDNASError, match="`seed` has no effect without `replay`"):
        verify_table(str(table), seed=3)
