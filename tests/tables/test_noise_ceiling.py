"""The agreement between seeds, of tables for which it is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.tables.noise_ceiling import noise_ceiling
from kdnas_env.tables.table import CURVES, MISSING, Table

UNEXPLAINED = CURVES.index("heldout_unexplained")


def with_losses(table: Table, losses: np.ndarray) -> Table:
    curves = table.curves.copy()
    curves[..., UNEXPLAINED] = losses
    return replace(table, curves=curves)


def without_cells(table: Table, rows: list[int], seeds: list[int]) -> Table:
    curves, valid, status = table.curves.copy(), table.valid.copy(), table.status.copy()
    for row, seed in zip(rows, seeds, strict=True):
        curves[row, seed], valid[row, seed], status[row, seed] = np.nan, False, MISSING
    return replace(table, curves=curves, valid=valid, status=status)


def test_seeds_that_agree_have_no_noise() -> None:
    found = noise_ceiling(planted_table(noise=0.0))
    assert (found["students"], found["seeds"]) == (24, 3)
    assert found["tau"] == pytest.approx([1.0] * 4)
    assert found["tau_within_width"] == pytest.approx([1.0] * 4)
    assert found["deviation"] == 0
    assert found["spread"] > 0
    assert found["tau_with_last"][-1] == pytest.approx(1)


def test_more_noise_is_less_agreement() -> None:
    taus = [noise_ceiling(planted_table(noise=noise))["tau"][-1] for noise in (0.01, 0.1, 1.0)]
    assert taus == sorted(taus, reverse=True)
    assert taus[-1] < 0.7 < taus[0]


def test_known_numbers() -> None:
    table = planted_table(seeds=(0, 1), epochs=1)
    rng = np.random.default_rng(0)
    ranks = np.arange(24, dtype=np.float64) + 1
    last = np.stack([ranks, ranks[::-1]], axis=1)
    losses = np.stack([rng.random((24, 2)), last], axis=2)
    found = noise_ceiling(with_losses(table, losses))
    assert found["tau"][1] == pytest.approx(-1)
    assert found["spread"] == pytest.approx(0, abs=1e-6)
    # The standard deviation of two numbers is their distance divided by the square root of 2.
    assert found["deviation"] == pytest.approx(np.sqrt(np.mean((ranks - ranks[::-1]) ** 2) / 2), rel=1e-6)


def test_agreement_within_a_width_is_not_that_between_widths() -> None:
    table = planted_table(seeds=(0, 1), epochs=0)
    rng = np.random.default_rng(1)
    wide = np.array([config.hidden_size > 400 for config in table.configs()])
    losses = rng.random((24, 2, 1)) + 10 * wide[:, None, None]
    found = noise_ceiling(with_losses(table, losses))
    assert found["tau"][0] > found["tau_within_width"][0] + 0.3


def test_only_students_with_all_seeds_count() -> None:
    table = without_cells(planted_table(noise=0.02), [0, 1, 1], [2, 0, 1])
    assert noise_ceiling(table)["students"] == 22


def test_a_seed_that_nobody_has_does_not_count() -> None:
    found = noise_ceiling(without_cells(planted_table(noise=0.02), list(range(24)), [2] * 24))
    assert (found["students"], found["seeds"]) == (24, 2)
    assert found["tau"] is not None


def test_one_seed_tells_nothing_of_agreement() -> None:
    found = noise_ceiling(planted_table(seeds=(5,)))
    assert (found["tau"], found["deviation"]) == (None, None)
    assert len(found["tau_with_last"]) == 4


def test_an_empty_table() -> None:
    table = planted_table()
    empty = without_cells(table, list(range(24)) * 3, sorted([0, 1, 2] * 24))
    assert noise_ceiling(empty) == {
        "curve": "heldout_unexplained",
        "students": 0,
        "seeds": 0,
        "deviation": None,
        "spread": None,
        "tau": None,
        "tau_within_width": None,
        "tau_with_last": None,
    }
