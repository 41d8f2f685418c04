"""What agents find in a space of which no table has all students, without listing it.

    python benchmarks/joint.py --json FILE --agents random least-squares --searches 20

`kdnas bench` lists the space of a surrogate for the exact optimum, which takes minutes. Here the optimum is where
steepest ascents end that change one or two dimensions at a time, from several random starts, and the best 1 % and .1 %
are those of random points. Searches that FILE has are not made again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command import run_command
from kept_scores import kept_scores
from machine import machine_facts
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.truth import Truth
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.searching.registry import make_agent
from kdnas_env.support.arrays import Floats
from kdnas_env.support.atomic import write_json

POINTS, START_POINTS = 20_000, 400
"""Random points of the thresholds, and those of which the best one begins an ascent."""

Actions = NDArray[np.int64]


@dataclass(frozen=True)
class Arguments:
    """Race agents on a surrogate.

    Attributes:
        json: File of the searches; those that it holds are kept.
        task: The task, without limits.
        agents: The agents, each as NAME or NAME:SETTING=VALUE,...
        searches: Searches of each agent.
        budget: Evaluations of a search.
        ascents: Ascents to the optimum.
    """

    json: Path
    task: str = "joint-sentences"
    agents: tuple[str, ...] = ("random", "evolution", "local-search", "least-squares", "bayesian-linear")
    searches: int = 20
    budget: int = 100
    ascents: int = 6


def rewards_of(task: Task, evaluator: SurrogateEvaluator, actions: Actions) -> Floats:
    """Return the rewards of actions, float64 ``(n,)``; that of a failure for students that cannot be built."""
    space, surrogate = evaluator.space, evaluator.surrogate
    students = [space.decode(action) for action in actions]
    valid = [place for place, student in enumerate(students) if space.is_valid(student)]
    last = [surrogate.output("heldout_unexplained", surrogate.metadata.epochs), surrogate.output("ratio", 0)]
    outputs = np.exp(surrogate.log_mean(surrogate.features([students[place] for place in valid]), last))[:, last]
    rewards = np.full(len(students), task.reward.failure)
    rewards[valid] = [task.reward.score(loss, ratio) for loss, ratio in outputs.tolist()]
    return rewards


def neighbours(space: SearchSpace, action: Actions) -> Iterator[Actions]:
    """Yield all actions that differ in one dimension or two."""
    moves = [(dim, value) for dim, count in enumerate(space.nvec) for value in range(count) if value != action[dim]]
    pairs = (pair for pair in itertools.combinations(moves, 2) if pair[0][0] != pair[1][0])
    for changes in itertools.chain(((move,) for move in moves), pairs):
        near = action.copy()
        for dim, value in changes:
            near[dim] = value
        yield near


def ascend(task: Task, evaluator: SurrogateEvaluator, rng: np.random.Generator) -> float:
    """Return the reward at which a steepest ascent ends."""
    near = rng.integers(evaluator.space.nvec, size=(START_POINTS, len(evaluator.space.nvec)))
    best = -np.inf
    while True:
        rewards = rewards_of(task, evaluator, near)
        if rewards.max() <= best:
            return best
        best = float(rewards.max())
        near = np.stack([*neighbours(evaluator.space, near[rewards.argmax()])])


def search(task: Task, agent: str, budget: int, seed: int) -> dict[str, Any]:
    """Search once; return the rewards in order, and the milliseconds of this process by evaluation."""
    spec, began = AgentSpec.parse(agent), time.process_time()
    result = make_agent(spec.name, **spec.settings).search(task.make_env(Budget(budget)), seed=seed)
    milliseconds = 1e3 * (time.process_time() - began) / budget
    return {"rewards": [float(reward) for reward in result.rewards], "milliseconds": milliseconds}


def main(arguments: Arguments) -> None:
    """Race, write the searches and print what was found."""
    task = Task.parse(arguments.task)
    evaluator = SurrogateEvaluator.of(task.table)
    drawn = np.sort(Truth.sampled(task, POINTS, np.random.default_rng(1)).reward)[::-1]
    aims = {"1 %": float(drawn[len(drawn) // 100 - 1]), ".1 %": float(drawn[len(drawn) // 1000 - 1])}
    optima = [ascend(task, evaluator, np.random.default_rng([0, start])) for start in range(arguments.ascents)]
    aims["optimum"] = max(optima) - 1e-9
    settings = {"task": str(task), "budget": arguments.budget}
    scores: list[dict[str, Any]] = kept_scores(arguments.json, settings, [])
    known = {(score["agent"], score["seed"]) for score in scores}
    # All agents search with one seed before any does with the next, so that an interrupted race is fair.
    for seed, agent in itertools.product(range(arguments.searches), arguments.agents):
        if (agent, seed) not in known:
            scores.append({"agent": agent, "seed": seed, **search(task, agent, arguments.budget, seed)})
            write_json(arguments.json, {"settings": settings, "scores": scores, "aims": aims, **machine_facts()})
    Console().print(compared(scores, arguments.agents, aims))
    Console().print(
        f"{sum(found >= max(optima) - 1e-9 for found in optima)} of {len(optima)} ascents end at the optimum"
    )


def compared(scores: list[dict[str, Any]], agents: tuple[str, ...], aims: dict[str, float]) -> Table:
    """Return a row an agent: mean best rewards, the searches that reach each aim, and median evaluations to it."""
    table = Table(
        "agent",
        "searches",
        "after a quarter",
        "after all",
        *(f"{aim}: {least:.4f}" for aim, least in aims.items()),
        "ms",
    )
    for agent in agents:
        own = [score for score in scores if score["agent"] == agent]
        if not own:
            continue
        best = np.maximum.accumulate(np.array([score["rewards"] for score in own]), axis=1)
        reached = [f"{(best[:, -1] >= least).mean():.0%}{first_in_words(best, least)}" for least in aims.values()]
        ends = [f"{best[:, place].mean():.3f}" for place in (best.shape[1] // 4 - 1, -1)]
        table.add_row(agent, str(len(own)), *ends, *reached, f"{np.mean([score['milliseconds'] for score in own]):.1f}")
    return table


def first_in_words(best: Floats, least: float) -> str:
    """Return the median evaluations to a reward; nothing where half of the searches do not reach it."""
    first = np.where(best[:, -1] >= least, (best >= least).argmax(axis=1) + 1.0, np.inf)
    return f", {np.median(first):.3g}" if np.isfinite(np.median(first)) else ""


if __name__ == "__main__":
    run_command(main, Arguments)
