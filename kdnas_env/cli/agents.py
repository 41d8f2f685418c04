"""``kdnas agents``: which agents are installed and what they can do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.errors import KDNASError
from kdnas_env.searching.registry import agent_class, agent_names

_HEADINGS = {
    "action_space": "Acts in",
    "masks": "Masks",
    "vector": "Vector",
    "multi_objective": "Objectives",
    "fidelity": "Fidelity",
    "resume": "Resume",
}


@dataclass(frozen=True)
class AgentsOptions:
    """List the installed agents, what they can do and, by name, their settings."""

    name: str | None = None
    """Show the settings of this agent instead."""


def run_agents(options: AgentsOptions) -> int:
    """Print the table of agents, or the settings of one.

    Raises:
        KDNASError: If there is no such agent.
    """
    console = SafeConsole()
    if options.name is not None:
        _print_settings(console, options.name)
        return 0
    table = Table(box=None, pad_edge=False)
    headings, *rows = capability_rows(agent_names())
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print("\nsettings of one: kdnas agents --name NAME", highlight=False)
    return 0


def capability_rows(names: list[str]) -> list[list[str]]:
    """Return a table of agents and what they can do, read off their classes; the first row holds the headings."""
    rows = [["Agent", *_HEADINGS.values()]]
    for name in names:
        try:
            capabilities = agent_class(name).capabilities
        except KDNASError:  # of another package, which shall not hide the rest
            rows.append([name, "cannot be used; kdnas doctor says why", *[""] * (len(_HEADINGS) - 1)])
            continue
        values = [getattr(capabilities, field) for field in _HEADINGS]
        rows.append([name, *(value if isinstance(value, str) else "yes" if value else "no" for value in values)])
    return rows


def capability_markdown(names: list[str]) -> str:
    """Return the same table in Markdown, as the README has it."""
    headings, *rows = capability_rows(names)
    lines = [headings, ["---"] * len(headings), *([f"`{row[0]}`", *row[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _print_settings(console: Console, name: str) -> None:
    cls: Any = agent_class(name)
    console.print(f"[bold]{name}[/]: {(cls.__doc__ or '').strip().splitlines()[0]}\n", highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "default"):
        table.add_column(heading)
    defaults = cls.Config()
    for field in fields(cls.Config):
        table.add_row(field.name, repr(getattr(defaults, field.name)))
    console.print(table)
    console.print("\nset one: kdnas search --agent " + name + " --agent-settings SETTING=VALUE", highlight=False)
