"""``kdnas table fit``: a surrogate in a file, for spaces that are too large to tabulate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.table_options import TableFitOptions
from kdnas_env.cli.table_report import fitted_in_words
from kdnas_env.evaluators.surrogate import surrogate_space
from kdnas_env.support.shell import command
from kdnas_env.tables.archive import checked_path
from kdnas_env.tables.storage import load_table
from kdnas_env.tables.surrogates.card import judge, judge_parts
from kdnas_env.tables.surrogates.fits import fitted
from kdnas_env.tables.surrogates.surrogate import write_surrogate


def run_fit(options: TableFitOptions) -> int:
    """Fit a surrogate and write it; the exit status of the command.

    Raises:
        KDNASError: If there is no such table, it has too few students, or the tables are of different workloads.
    """
    console = SafeConsole()
    target = checked_path(options.to, "surrogate")
    first, *further = [load_table(table) for table in options.tables]
    surrogate = fitted((first, *further))
    alone = fitted((first,))
    for table in further:
        told = judge(alone, table)
        console.print(
            f"the held-out loss of the {told['students']} students of {escape(table.metadata.name)} is predicted by "
            f"{escape(first.metadata.name)} alone with {_quality(told)}; by both, each without having been seen, with "
            f"{_quality(judge_parts(first, table))}",
            highlight=False,
            soft_wrap=True,
        )
    write_surrogate(surrogate, target)
    points = surrogate_space(surrogate.metadata, surrogate.range).size
    console.print(
        f"surrogate fitted to {escape(fitted_in_words(surrogate))}, {target.stat().st_size / 1e6:.2f} MB: "
        f"{escape(str(target))}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f'search its space of {points:,} points: gym.make("kdnas/Surrogate-v0", table={escape(repr(options.to))})\n'
        f"how good it is: {escape(command('table', 'inspect', options.tables[0], '--surrogate'))}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _quality(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {told[name]:.3f}" for name in ("r2", "tau") if told[name] is not None) or "no agreement"
