"""Export of the searches of a race as a dataset of Minari."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kdnas_env.pipeline.bench.submit import WrittenSearches
from kdnas_env.pipeline.options import options_of
from kdnas_env.support.packages import require

if TYPE_CHECKING:
    from kdnas_env.pipeline.bench.race import RaceResults


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
