"""How many evaluations agents need to the optimum under limits, beside the race without limits.

    python benchmarks/limits.py --out FOLDER --json FILE

A student that breaks a limit known before distillation costs no evaluation, so that answers are counted beside
evaluations. A search has arrived when the student that it holds for the best is the optimum of the table among those
that keep the limits, or ties with it. It goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import machine_facts
from rich.console import Console
from rich.table import Table

from kdnas_env.bench.race import Race, race
from kdnas_env.bench.scores import hitting_times, incumbents
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.support.atomic import write_json
from kdnas_env.support.progress import ConsoleProgress


@dataclass(frozen=True)
class Options:
    """Race agents under limits and without."""

    out: str = "runs/limits"
    """Folder of the race, made if it does not exist."""
    json: str | None = None
    """File for the figures."""
    agents: tuple[str, ...] = (
        *("random", "evolution", "local-search", "reinforce", "lstm", "lstm-ensemble"),
        *("optuna", "optuna:sampler=gp"),
    )
    """The agents."""
    tasks: tuple[str, ...] = ("rotten-tomatoes", "rotten-tomatoes:speedup=8")
    """The tasks, with limits or without."""
    budget: int = 60
    """Evaluations of a search."""
    seeds: int = 10
    """Searches of each agent on each task."""
    workers: int = 2
    """Processes."""


def main(options: Options) -> None:
    """Race, print, write."""
    console = Console()
    wanted = Race(
        tuple(map(AgentSpec.parse, options.agents)),
        tuple(map(Task.parse, options.tasks)),
        options.seeds,
        Budget(options.budget),
    )
    with ConsoleProgress(console) as progress:
        progress.begin(f"{len(wanted.keys)} searches")
        searches = race(wanted, Path(options.out), workers=options.workers, on_progress=progress.advance)
    figures = {}
    for task in wanted.tasks:
        truth, name = Truth.of(task), str(task)
        figures[name] = {
            str(agent): figures_of([one for one in searches if one.key[:2] == (str(agent), name)], truth)
            for agent in wanted.agents
        }
        students = f"{len(truth.index)} of {len(truth.index) + truth.infeasible} students keep the limits"
        console.print(standings(f"{task.title}: {students}", figures[name]))
    if options.json is not None:
        write_json(Path(options.json), {"machine": machine_facts(), "tasks": figures})


def figures_of(searches: list[Trajectory], truth: Truth) -> dict[str, Any]:
    """Return how many searches arrive, and after how many evaluations and answers in the median.

    ``evaluations`` and ``answers`` are None where fewer than half of the searches arrive.
    """
    answers, evaluations = [], []
    for search in searches:
        held = incumbents(np.where(search.ok, search.observed, np.nan), search.true)
        time, missed = hitting_times(held, truth.threshold(0.0))
        answers.append(np.inf if missed else float(time))
        evaluations.append(np.inf if missed else search.cost[int(time) - 1])
    medians = {"evaluations": float(np.median(evaluations)), "answers": float(np.median(answers))}
    return {
        "arrived": float(np.isfinite(answers).mean()),
        **{name: median if np.isfinite(median) else None for name, median in medians.items()},
        "infeasible": float(np.mean([search.infeasible.sum() for search in searches])),
        "errors": sorted({search.error for search in searches if search.error}),
    }


def standings(title: str, figures: dict[str, dict[str, Any]]) -> Table:
    """Return the agents on a task as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("agent", overflow="fold")
    for heading in ("arrived", "evaluations", "answers", "infeasible"):
        table.add_column(heading, justify="right")
    for agent, told in figures.items():
        medians = ["-" if told[name] is None else f"{told[name]:.3g}" for name in ("evaluations", "answers")]
        table.add_row(agent, f"{told['arrived']:.0%}", *medians, f"{told['infeasible']:.1f}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
