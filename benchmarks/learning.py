"""Who learns: the best reward that every agent finds, over many seeds, beside random search.

    python benchmarks/learning.py --json FILE

On a planted landscape of 100,000 points every learner should beat random search; on one with a hidden hill, which must
be explored to be found, the LSTM controller should beat its control without exploration as well. Searches that FILE
holds already are not run again, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from landscapes import LANDSCAPES
from machine import machine_facts
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import wilcoxon

import kdnas_env
from kdnas_env.support.atomic import write_json

Searches = dict[str, dict[str, dict[str, float]]]
"""Best reward by landscape, agent and seed."""


@dataclass(frozen=True)
class Options:
    """Measure who learns."""

    json: str | None = None
    """File for the figures, which is gone on with if it exists."""
    budget: int = 500
    """Evaluations of a search."""
    seeds: int = 20
    """Searches of each agent."""
    agents: tuple[str, ...] = ()
    """Names of agents; all by default. random is always among them."""
    landscapes: tuple[str, ...] = tuple(LANDSCAPES)
    """Names of landscapes."""
    workers: int = os.cpu_count() or 1
    """Processes."""


def main(options: Options) -> None:
    """Search what was not searched yet, print and write the figures."""
    agents = tuple(dict.fromkeys(("random", *(options.agents or kdnas_env.agent_names()))))
    searches = _earlier(options)
    wanted = [
        (landscape, agent, seed)
        for seed in range(options.seeds)
        for agent in agents
        for landscape in options.landscapes
        if str(seed) not in searches.get(landscape, {}).get(agent, {})
    ]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        futures = {pool.submit(search, *search_of, options.budget): search_of for search_of in wanted}
        for future in track(as_completed(futures), description="searching", total=len(wanted)):
            landscape, agent, seed = futures[future]
            searches.setdefault(landscape, {}).setdefault(agent, {})[str(seed)] = future.result()
            if options.json:
                write_json(options.json, {"machine": machine_facts(), "budget": options.budget, "best": searches})
    for landscape in options.landscapes:
        Console().print(_table(landscape, searches[landscape], agents, options))


def search(landscape: str, agent: str, seed: int, budget: int) -> float:
    """Return the best reward that an agent finds."""
    torch.set_num_threads(1)
    env = LANDSCAPES[landscape](budget)
    best = kdnas_env.make_agent(agent).search(env, budget=budget, round_size=8, seed=seed).best_reward
    return -1e9 if best is None else float(best)


def _earlier(options: Options) -> Searches:
    if options.json is None or not Path(options.json).exists():
        return {}
    recorded: dict[str, Any] = json.loads(Path(options.json).read_text())
    if recorded["budget"] != options.budget:
        raise SystemExit(f"{options.json} has a budget of {recorded['budget']}, not {options.budget}; name another")
    searches: Searches = recorded["best"]
    return searches


def _table(landscape: str, found: dict[str, dict[str, float]], agents: Sequence[str], options: Options) -> Table:
    rewards = {agent: np.array([found[agent][str(seed)] for seed in range(options.seeds)]) for agent in agents}
    top = max(float(row.max()) for row in rewards.values())
    table = Table(title=f"{landscape}: best of {options.budget} evaluations, {options.seeds} seeds")
    table.add_column("agent")
    for heading in ("median", "least", "share at the best", "p, no better than random"):
        table.add_column(heading, justify="right")
    for agent in sorted(agents, key=lambda name: -float(np.median(rewards[name]))):
        row = rewards[agent]
        share = float(np.mean(row >= top - 1e-9))
        p = wilcoxon(row, rewards["random"], alternative="greater", zero_method="zsplit").pvalue
        table.add_row(agent, f"{np.median(row):.4f}", f"{row.min():.4f}", f"{share:.2f}", f"{p:.1g}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Options))
