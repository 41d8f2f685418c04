"""The installed agents: their capabilities and settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from kdnas_env.errors import KDNASError
from kdnas_env.searching.registry import agent_class

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
    """List the installed agents and their capabilities, or the settings of one agent."""

    name: str | None = None
    """Show the settings of this agent instead."""


def capability_rows(names: list[str]) -> list[list[str]]:
    """Return a table of agents and their capabilities, read from their classes; the first row holds the headings."""
    rows = [["Agent", *_HEADINGS.values()]]
    for name in names:
        try:
            capabilities = agent_class(name).capabilities
        except KDNASError:  # an agent of another package must not hide the others
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


@dataclass(frozen=True)
class AgentSetting:
    """A setting of an agent.

    Attributes:
        name: Name of the setting.
        default: Default value.
        meaning: Description from the docstring of the agent's ``Config``; empty if it has none.
    """

    name: str
    default: Any
    meaning: str


def agent_settings(name: str) -> tuple[str, list[AgentSetting]]:
    """Return a one-sentence description of an agent, and its settings.

    Raises:
        KDNASError: If there is no such agent.
    """
    from docstring_parser import DocstringStyle, parse

    cls: Any = agent_class(name)
    meanings: dict[str, str] = {}
    for base in reversed(cls.Config.__mro__):
        described = parse(base.__doc__ or "", DocstringStyle.GOOGLE).params
        meanings |= {param.arg_name: " ".join((param.description or "").split()) for param in described}
    defaults, about = cls.Config(), (cls.__doc__ or "").strip().splitlines()
    settings = [
        AgentSetting(field.name, getattr(defaults, field.name), meanings.get(field.name, ""))
        for field in fields(defaults)
    ]
    return about[0] if about else "", settings
