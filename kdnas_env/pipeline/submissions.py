"""Exchange of the searches of a race: submissions, their replay, and datasets of Minari."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kdnas_env.bench.leaderboard import Verdict, submit, verify
from kdnas_env.pipeline.options import options_of
from kdnas_env.support.atomic import expanded
from kdnas_env.support.packages import require
from kdnas_env.support.progress import SILENT, Progress, checked

if TYPE_CHECKING:
    from kdnas_env.pipeline.race import RaceResults


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
class BenchExportOptions:
    """Write the searches of a race as a dataset of Minari: one episode per search, with the environment's answers."""

    race: Annotated[str, tyro.conf.Positional]
    """Folder of a race, or file of kdnas bench submit."""
    minari: str
    """Name of the dataset, such as kdnas/race-v0. It is written to the folder MINARI_DATASETS_PATH, by default
    ~/.minari/datasets."""
    task: str | None = None
    """Name of the task in the race; by default its only task."""
    agents: tuple[str, ...] = ()
    """Names of agents in the race; by default all."""


@dataclass(frozen=True)
class VerifyOptions:
    """Replay every search of a submission against the tables that are installed here."""

    submission: Annotated[str, tyro.conf.Positional]
    """File of kdnas bench submit."""


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


def verify_submission(submission: str | os.PathLike[str] | VerifyOptions, *, progress: Progress = SILENT) -> Verdict:
    """Replay every search of a submission against the tables that are installed here.

    Args:
        submission: File of the submission; or all options.
        progress: Receives the progress.

    Raises:
        RunError: If the file cannot be read, or is no submission.
    """
    options, progress = options_of(VerifyOptions, {}, submission=submission), checked(progress)
    progress.begin("replaying the searches")
    return verify(options.submission, progress.advance)


def export_searches(
    race: str | os.PathLike[str] | RaceResults | BenchExportOptions, **settings: Any
) -> WrittenSearches:
    """Write the searches of a race as a dataset of Minari.

    Args:
        race: Folder of the race, its result, or file of a submission; or all options.
        **settings: Options of :class:`BenchExportOptions` by name: ``minari``, ``task`` and ``agents``.

    Raises:
        DependencyError: If Minari is not installed.
        KDNASError: For bad input; see :func:`kdnas_env.integrations.minari.export_race`.
    """
    options = options_of(BenchExportOptions, settings, race=race)
    require("a dataset of Minari", "minari", "minari")
    from kdnas_env.integrations.minari import export_race

    made = export_race(options.race, options.minari, task=options.task, agents=options.agents)
    return WrittenSearches(made.storage.data_path.parent, int(made.total_episodes), int(made.total_steps))
