"""What ``kdnas table`` says of how hard a table is to search and how good its surrogate is, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from kdnas_env.bench.hardness import hardness, hardness_rows
from kdnas_env.tables.surrogates.card import RANDOM, card_rows, surrogate_card
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import MISSING, Table

_METRICS = {
    "r2": "R2",
    "tau": "tau",
    "tau_resolved": "resolved",
    "precision_at_10": "best 10",
    "coverage_90": "in 90 %",
}


def grid(first: str, *numbers: str, left: Sequence[str] = (), title: str | None = None) -> Grid:
    """Make an empty grid: names, numbers, and texts that may be folded."""
    made = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column(first, overflow="fold")
    for heading in numbers:
        made.add_column(heading, justify="right", no_wrap=True)
    for heading in left:
        made.add_column(heading, overflow="fold")
    return made


def print_hardness(console: Console, table: Table) -> dict[str, Any] | None:
    """Print how hard a table is to search by the default reward, and return it; None if it has too few students."""
    if (table.status != MISSING).any(axis=1).sum() < 2:
        console.print("hardness: unknown; it takes two students at least", highlight=False)
        return None
    report = hardness(table, np.random.default_rng(0))
    made = grid("how hard it is to search, by the default reward", "")
    for words, value in hardness_rows(report):
        made.add_row(words, value)
    console.print(made)
    return report


def print_card(console: Console, table: Table) -> dict[str, Any]:
    """Judge the surrogate of a table, print it and return it.

    Raises:
        TableError: If the table has too few students.
    """
    console.print("[dim]fitting surrogates to parts of the table[/]", highlight=False)
    card = surrogate_card(table)
    students, folds = card["students"], card["folds"]
    _, *rows = card_rows(card, splits=(RANDOM,), metrics=tuple(_METRICS))
    by_quantity = grid(
        "quantity",
        *_METRICS.values(),
        title=f"surrogate: {students} students, each predicted without it, in {folds} folds",
    )
    for _, quantity, _, *values in rows:
        by_quantity.add_row(quantity, *values)
    console.print(by_quantity)
    _, *rows = card_rows(card, ("reward",), metrics=tuple(_METRICS))
    by_split = grid(
        "split", "students", *_METRICS.values(), title="surrogate: the reward of students left out together"
    )
    for split, _, count, *values in rows:
        by_split.add_row(split, count, *values)
    console.print(by_split)
    console.print(
        "tau: Kendall's; resolved: of the pairs that seeds can tell apart; best 10: share of the ten predicted best "
        "that are among the ten best; in 90 %: share of the students within the interval that was foreseen",
        style="dim",
        highlight=False,
    )
    return card


def describe_surrogate(console: Console, surrogate: Surrogate, digest: str) -> None:
    """Print what a surrogate was fitted to, and what it answers for."""
    meta, trusted = surrogate.metadata, surrogate.range
    told = {
        "surrogate of": f"{meta.name}: {meta.title}",
        "fitted to": fitted_in_words(surrogate),
        **{name: f"{low} to {high}" for name, (low, high) in trusted.numbers.items()},
        **{name: ", ".join(values) for name, values in trusted.names.items()},
        "largest student": "any" if trusted.max_parameters is None else f"{trusted.max_parameters:,} parameters",
        "epochs": str(meta.epochs),
        "devices": ", ".join(device.name for device in meta.devices),
        "workload": meta.workload,
        "SHA-256": digest,
    }
    for name, value in told.items():
        console.print(f"{name}: {escape(value)}", highlight=False, soft_wrap=True)


def fitted_in_words(surrogate: Surrogate) -> str:
    """Say what a surrogate was fitted to."""
    return ", ".join(f"{count} students of {name}" for name, count in surrogate.tables)
