"""The flags of ``kdnas bench submit`` and ``kdnas bench verify``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class SubmitOptions:
    """Write the searches of an agent as a submission, which others compare with theirs without running them again."""

    race: Annotated[str, tyro.conf.Positional]
    """Folder of a race."""
    agent: str
    """The agent, as the race has it."""
    to: str
    """File to write (parquet)."""
    description: str = ""
    """What the agent is, and where its code is to be found."""


@dataclass(frozen=True)
class VerifyOptions:
    """Replay every search of a submission against the tables that are installed here."""

    submission: Annotated[str, tyro.conf.Positional]
    """File of kdnas bench submit."""
