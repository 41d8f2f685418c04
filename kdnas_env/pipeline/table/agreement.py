"""Compare the rankings of agents on a table and on its surrogate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from kdnas_env.bench.curves import Runs, regrets_of
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.bench.race import SearchesOptions
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import RESULTS
from kdnas_env.support.atomic import write_json
from kdnas_env.support.checks import check_whole
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.support.shell import call
from kdnas_env.tables.external import ExternalTable, write_external
from kdnas_env.tables.storage import checksum, load_table, table_path, write_table
from kdnas_env.tables.surrogates.agent_ranking import ranking_agreement, surrogate_table
from kdnas_env.tables.table import Table

PREDICTED = "predicted-{table}.npz"
"""The predictions of surrogates for a table, named by the table's checksum."""

STUDENTS = "students-{table}.npz"
"""The sampled students with their rewards, named by the checksum of their table."""


@dataclass(frozen=True, kw_only=True)
class TableAgreementOptions(SearchesOptions):
    """Does a surrogate rank agents as its table does? Race the agents on both and compare the rankings.

    The surrogate predicts each student from a fit that excludes that student. Run the command again with the same
    folder to resume it.
    """

    table: tyro.conf.Positional[str]
    """Name of a table of the package, or an npz file."""
    budget: int = 100
    """Number of evaluations per search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("budget", self.budget, at_least=1)
        if len(set(self.agents)) < 2:
            raise KDNASError(f"agents are {list(self.agents)}; expected two or more, to be ranked")


@dataclass(frozen=True, eq=False)
class RankingAgreement:
    """Agreement of a table and its surrogate on the ranking of agents.

    Attributes:
        path: Folder of the races.
        scores: Final regret of each search, by source (``table`` or ``surrogate``) and agent.
        ranking: Result of :func:`kdnas_env.tables.surrogates.agent_ranking.ranking_agreement`.
    """

    path: Path
    scores: Mapping[str, Mapping[str, list[float]]]
    ranking: Mapping[str, Any]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per agent with its mean regret (0 is the optimum) on table and surrogate.

        Rows are sorted by the regret on the table.
        """
        rows = [
            {"agent": agent, **{name: float(np.mean(self.scores[name][agent])) for name in ("table", "surrogate")}}
            for agent in self.scores["table"]
        ]
        return sorted(rows, key=lambda row: float(row["table"]))


def table_agreement(
    table: str | TableAgreementOptions, *, progress: Progress = SILENT, **settings: Any
) -> RankingAgreement:
    """Race agents on a table and on its surrogate, and compare the two rankings.

    If the table is a sample of a larger space, agents search only the sampled students.

    Args:
        table: Name or npz file of the table; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`TableAgreementOptions` by name, such as ``agents`` and ``budget``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    options = options_of(TableAgreementOptions, settings, table=table)
    agents, budget = tuple(AgentSpec.parse(agent) for agent in options.agents), Budget(options.budget)
    tabulated = load_table(options.table)
    folder, again = options.placed("agreement")
    scores: dict[str, dict[str, list[float]]] = {}
    with working(None, call("table_agreement", options.table, **again)):
        for name in ("table", "surrogate"):
            source = options.table
            if name == "surrogate":
                progress.begin(f"predicting the students of {tabulated.metadata.name}")
                made_of = checksum(table_path(options.table))[:12]
                source = _predicted(tabulated, folder / PREDICTED.format(table=made_of))
            truth = Truth.of(Task(_students(source, folder) if tabulated.sampled else source))
            regrets_of(truth.best, truth, budget)
            wanted = Race(agents, (truth.task,), options.seeds, budget)
            progress.begin(f"racing {len(agents)} agents on the {name}: {folder / name}")
            trajectories = race(wanted, folder / name, workers=options.workers, on_progress=progress.advance)
            final = Runs.of(trajectories, [truth]).final
            scores[name] = {agent: final[agent].ravel().tolist() for agent in final}
    ranking = ranking_agreement(scores["table"], scores["surrogate"], np.random.default_rng(0))
    write_json(
        folder / RESULTS, {"table": tabulated.metadata.name, "budget": options.budget, "scores": scores, **ranking}
    )
    return RankingAgreement(folder, scores, ranking)


def _predicted(table: Table, path: Path) -> str:
    """Return the path of the predictions, written on first use.

    They are cached because rounding differs between machines.
    """
    if not path.exists():
        write_table(surrogate_table(table, np.random.default_rng(0)), path)
    return str(path)


def _students(source: str, folder: Path) -> str:
    """Return the path of an external table with only the sampled students and their rewards; written on first use."""
    path = folder / STUDENTS.format(table=checksum(table_path(source))[:12])
    if not path.exists():
        table = load_table(source)
        truth = Truth.of_table(Task(source), table)
        order = np.argsort(truth.index)
        candidates = ExternalTable(
            name=table.metadata.name,
            title=f"Students of {table.metadata.title}",
            metric="reward",
            metrics=("reward",),
            choices=table.space.choices,
            index=truth.index[order],
            scores=truth.reward[order, None],
            seconds=truth.seconds[order],
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_external(candidates, path)
    return str(path)
