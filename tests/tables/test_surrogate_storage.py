"""Cached fits of surrogates, found by the tables that they were fitted to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.envs.surrogate import SurrogateEnv
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.tables.storage import FITS, load_table
from kdnas_env.tables.surrogates import storage
from kdnas_env.tables.surrogates.storage import fit_path, fitted, read_surrogate
from kdnas_env.tables.surrogates.surrogate import FIT_VERSION, Surrogate
from kdnas_env.tables.table import Table

OF_THE_ENVIRONMENT = ("rotten-tomatoes", "rotten-tomatoes-between")


class Fitting:
    """Counts fits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        fit = Surrogate.fit

        def counted(*tables: Table) -> Surrogate:
            self.count += 1
            return fit(*tables)

        monkeypatch.setattr(Surrogate, "fit", counted)

    @staticmethod
    def forget() -> None:
        """Clear the cache in memory, as in a new process."""
        storage._fitted.cache_clear()


@pytest.fixture
def fitting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fitting:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    Fitting.forget()
    return Fitting(monkeypatch)


def test_the_fit_that_comes_with_the_package_is_a_fit_to_its_tables() -> None:
    tables = [load_table(name) for name in OF_THE_ENVIRONMENT]
    path = fit_path(tables)
    assert [*FITS.glob("surrogate-*.npz")] == [path], (
        "after a change of the tables or of FIT_VERSION: write_surrogate(Surrogate.fit(*tables), fit_path(tables)), "
        "and remove the earlier files"
    )
    shipped, fresh = read_surrogate(path), Surrogate.fit(*tables)
    assert shipped.metadata.to_dict() == tables[0].metadata.to_dict()
    assert (shipped.range, shipped.seeds, shipped.tables) == (fresh.range, fresh.seeds, fresh.tables)
    configs = [config for table in tables for config in table.configs()[::7]]
    for kept, made in zip(shipped.predict(configs), fresh.predict(configs), strict=True):
        np.testing.assert_allclose(kept.curves, made.curves, rtol=1e-5, atol=1e-9)
        # The fit is iterative: with other processor instructions (AVX2, AVX-512), results differ by up to 0.2 %.
        np.testing.assert_allclose(kept.latencies, made.latencies, rtol=5e-3)


def test_the_environment_fits_nothing(fitting: Fitting) -> None:
    env = SurrogateEnv()
    env.reset(seed=0)
    assert fitting.count == 0
    shipped = read_surrogate(fit_path([load_table(name) for name in OF_THE_ENVIRONMENT]))
    assert env.evaluator.fingerprint == SurrogateEvaluator(shipped).fingerprint


def test_tables_are_fitted_to_once(fitting: Fitting, tmp_path: Path) -> None:
    first = fitted([planted_table(noise=0.03)])
    assert fitted([planted_table(noise=0.03)]) is first
    fitting.forget()
    again = fitted([planted_table(noise=0.03)])
    assert fitting.count == 1
    assert again is not first
    assert SurrogateEvaluator(again).fingerprint == SurrogateEvaluator(first).fingerprint
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} >= {".npz", ".json"}
    with pytest.raises(ValueError, match="read-only"):
        first.noise.level[:] = 0


def test_other_tables_have_other_fits(fitting: Fitting) -> None:
    table = planted_table(noise=0.03)
    other = replace(table, metadata=replace(table.metadata, title="The same numbers of another text"))
    found = [fitted([one]) for one in (table, planted_table(noise=0.04), other)]
    assert fitting.count == 3
    assert [one.metadata.title for one in found] == [table.metadata.title, table.metadata.title, other.metadata.title]


def test_a_later_version_of_the_fit_is_another_fit(fitting: Fitting, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted([planted_table(noise=0.03)])
    monkeypatch.setattr(storage, "FIT_VERSION", FIT_VERSION + 1)
    fitted([planted_table(noise=0.03)])
    assert fitting.count == 2


def test_a_damaged_fit_is_made_anew(fitting: Fitting, tmp_path: Path) -> None:
    table = planted_table(noise=0.03)
    fitted([table])
    path = fit_path([table], tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-40])
    fitting.forget()
    fitted([table])
    assert fitting.count == 2
    assert read_surrogate(path)


def test_without_a_folder_a_fit_is_kept_in_the_process(
    fitting: Fitting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("KDNAS_CACHE", str(blocked / "cache"))
    with pytest.warns(RuntimeWarning, match="KDNAS_CACHE"):
        first = fitted([planted_table(noise=0.03)])
    assert fitted([planted_table(noise=0.03)]) is first
    assert fitting.count == 1
