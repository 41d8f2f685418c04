"""What a proposal costs: milliseconds of every agent per evaluation, the environment's own time taken off.

    python benchmarks/agent_overhead.py --json FILE

Every agent searches the planted landscape of 100,000 points with the same budget. Its overhead is the time between
steps, that is proposing, learning and bookkeeping. It falls on the first candidate of a round, so it is averaged over
each round; the median and the largest of the rounds are shown.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import tyro
from landscapes import SPACE
from machine import machine_facts
from rich.console import Console
from rich.progress import track
from rich.table import Table

import kdnas_env
from kdnas_env.support.atomic import write_json


@dataclass(frozen=True)
class Options:
    """Measure what a proposal costs."""

    json: str | None = None
    """File for the figures."""
    budget: int = 500
    """Evaluations of a search."""
    round_size: int = 8
    """Candidates per round."""
    agents: tuple[str, ...] = ()
    """Names of agents; all by default."""


class StopWatch(gym.Wrapper[Any, Any, Any, Any]):
    """Notes the time between two steps."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.seconds: list[float] = []
        self._left = time.perf_counter()

    def reset(self, **arguments: Any) -> Any:
        """Begin an episode."""
        answer = self.env.reset(**arguments)
        self._left = time.perf_counter()
        return answer

    def step(self, action: Any) -> Any:
        """Step, and note how long the agent took to ask for it."""
        self.seconds.append(time.perf_counter() - self._left)
        answer = self.env.step(action)
        self._left = time.perf_counter()
        return answer


def main(options: Options) -> None:
    """Measure, print and write the figures."""
    rows: dict[str, dict[str, float]] = {}
    for name in track(options.agents or tuple(kdnas_env.agent_names()), description="searching"):
        env = StopWatch(gym.make("kdnas/Planted-v0", space=SPACE, budget=options.budget, round_size=options.round_size))
        began = time.perf_counter()
        result = kdnas_env.make_agent(name).search(env, seed=0)
        seconds = time.perf_counter() - began
        size = options.round_size
        per_round = [sum(env.seconds[at : at + size]) / size for at in range(0, len(env.seconds), size)]
        rows[name] = {
            "median_ms": 1e3 * statistics.median(per_round),
            "largest_ms": 1e3 * max(per_round),
            "seconds": seconds,
            "evaluations": len(result.actions),
            "best_reward": result.best_reward or 0.0,
        }
    table = Table(title=f"Overhead per proposal, budget {options.budget}, rounds of {options.round_size}")
    table.add_column("agent")
    for heading in ("median ms", "largest ms", "whole search, s"):
        table.add_column(heading, justify="right")
    for name, row in sorted(rows.items(), key=lambda item: item[1]["median_ms"]):
        table.add_row(name, f"{row['median_ms']:.3f}", f"{row['largest_ms']:.2f}", f"{row['seconds']:.1f}")
    Console().print(table)
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "options": asdict(options), "agents": rows})


if __name__ == "__main__":
    main(tyro.cli(Options))
