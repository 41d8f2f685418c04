"""Submission of the searches of an agent in a race."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kdnas_env.bench.leaderboard import submit
from kdnas_env.pipeline.options import options_of
from kdnas_env.support.atomic import expanded

if TYPE_CHECKING:
    from kdnas_env.pipeline.bench.race import RaceResults


@dataclass(frozen=True)
class SubmitOptions:
    """Write the searches of an agent as a submission, which others compare with theirs without running them again."""

    race: Annotated[str, tyro.conf.Positional]
    """Folder of a race."""
    agent: str
    """Name of the agent in the race."""
    to: str
    """File to write (parquet)."""
    description: str = ""
    """Description of the agent, with the address of its code."""


@dataclass(frozen=True)
class WrittenSearches:
    """A written submission or dataset.

    Attributes:
        path: The submission, or the folder of the dataset.
        searches: Number of its searches.
        evaluations: Number of evaluations in all its searches.
    """

    path: Path
    searches: int
    evaluations: int


def submit_searches(race: str | os.PathLike[str] | RaceResults | SubmitOptions, **settings: Any) -> WrittenSearches:
    """Write the searches of an agent in a race as a submission.

    Args:
        race: Folder of the race, or its result; or all options.
        **settings: Options of :class:`SubmitOptions` by name: ``agent``, ``to`` and ``description``.

    Raises:
        KDNASError: If the agent is not in the race, the race cannot be read, or the file cannot be written.
    """
    options = options_of(SubmitOptions, settings, race=race)
    written = submit(options.race, options.agent, options.to, description=options.description)
    return WrittenSearches(expanded(options.to), len(written), sum(map(len, written)))
