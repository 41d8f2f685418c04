"""Agents of a race with their settings, in one command-line argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdnas_env.support.specs import format_spec, parse_spec


@dataclass(frozen=True)
class AgentSpec:
    """An agent of a race.

    Attributes:
        name: Its name; see :func:`kdnas_env.searching.registry.agent_names`.
        settings: Hyper-parameters that differ from the defaults: plain data.

    Raises:
        KDNASError: If the name or a setting cannot be written in this form.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        format_spec(self.name, self.settings)

    @classmethod
    def parse(cls, text: str) -> AgentSpec:
        """Parse a text such as ``optuna:sampler=gp``; ``str`` is the inverse.

        Raises:
            KDNASError: If it is malformed.
        """
        return cls(*parse_spec(text))

    def __str__(self) -> str:
        return format_spec(self.name, self.settings)
