"""``kdnas table agreement``: whether a surrogate ranks agents as its table does."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from kdnas_env.bench.curves import Runs, regrets_of
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.truth import Task, Truth
from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.table_options import TableAgreementOptions
from kdnas_env.cli.table_report import grid
from kdnas_env.envs.budget import Budget
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import RESULTS, new_run_path
from kdnas_env.support.atomic import write_json
from kdnas_env.support.progress import TaskProgress
from kdnas_env.support.shell import command, flags
from kdnas_env.tables.storage import checksum, load_table, table_path, write_table
from kdnas_env.tables.surrogates.agent_ranking import ranking_agreement, surrogate_table
from kdnas_env.tables.table import Table

PREDICTED = "predicted-{table}.npz"
"""What surrogates say of a table, named by the table's checksum."""


def run_agreement(options: TableAgreementOptions) -> int:
    """Race on a table and on what surrogates say of it, and compare the ranks; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    agents, budget = tuple(AgentSpec.parse(agent) for agent in options.agents), Budget(options.budget)
    table = load_table(options.table)
    folder = options.folder or new_run_path("agreement")
    scores: dict[str, dict[str, list[float]]] = {}
    others = [field.name for field in fields(options) if field.name != "table"]
    go_on = command("table", "agreement", options.table, *flags(replace(options, out=str(folder)), others))
    with working(None, go_on), TaskProgress(console) as progress:
        for name in ("table", "surrogate"):
            source = options.table
            if name == "surrogate":
                progress.begin(f"predicting the students of {table.metadata.name}")
                made_of = checksum(table_path(options.table))[:12]
                source = _predicted(table, folder / PREDICTED.format(table=made_of))
            truth = Truth.of(Task(source))
            regrets_of(truth.best, truth, budget)
            wanted = Race(agents, (truth.task,), options.seeds, budget)
            progress.begin(f"racing {len(agents)} agents on the {name}: {folder / name}")
            trajectories = race(wanted, folder / name, workers=options.workers, on_progress=progress.advance)
            final = Runs.of(trajectories, [truth]).final
            scores[name] = {agent: final[agent].ravel().tolist() for agent in final}
    told = ranking_agreement(scores["table"], scores["surrogate"], np.random.default_rng(0))
    write_json(folder / RESULTS, {"table": table.metadata.name, "budget": options.budget, "scores": scores, **told})
    _print(console, scores, told)
    console.print(f"results: {escape(str(folder / RESULTS))}", highlight=False, soft_wrap=True)
    return 0


def _predicted(table: Table, path: Path) -> str:
    """Return the file of what surrogates say of a table, made if it is not there: another machine rounds otherwise."""
    if not path.exists():
        write_table(surrogate_table(table, np.random.default_rng(0)), path)
    return str(path)


def _print(console: Console, scores: dict[str, dict[str, list[float]]], told: dict[str, Any]) -> None:
    made = grid("agent", "regret on the table", "on the surrogate")
    for agent in sorted(scores["table"], key=lambda name: float(np.mean(scores["table"][name]))):
        made.add_row(agent, *(f"{np.mean(scores[name][agent]):.3f}" for name in ("table", "surrogate")))
    console.print(made)
    console.print(
        f"ranking agreement: tau {told['tau']:.2f} [{told['low']:.2f}, {told['high']:.2f}]; two samples of the table's "
        f"own searches agree with {told['ceiling']:.2f}, more than which cannot be asked for",
        highlight=False,
        soft_wrap=True,
    )
