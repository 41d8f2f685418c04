"""Number of evaluations that agents need to find the best students of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from kdnas_env.bench.curves import Runs
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import target_found
from kdnas_env.bench.truth import TARGETS, Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.support.progress import OnProgress

MODELS = ("random-forest", "optuna:sampler=gp")
"""Agents with models that are common in benchmarks."""


def evaluations_needed(
    task: Task,
    agents: Sequence[str] = MODELS,
    *,
    searches: int,
    budget: int,
    workers: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Search a task without noise, and return the evaluations that agents need to reach each of ``TARGETS``.

    Args:
        task: The task; every student gets its mean over the seeds.
        agents: The agents, each as ``NAME`` or ``NAME:SETTING=VALUE,...``.
        searches: Number of searches per agent.
        budget: Evaluations per search.
        workers: Number of processes.
        on_progress: Called with the number of finished searches and the total.

    Returns:
        By agent and target: ``reached``, the share of searches that reach it, and ``median`` evaluations; None if most
        searches do not reach it.

    Raises:
        KDNASError: If there is no such table or agent, or a number is malformed.
    """
    quiet = replace(task, seed="mean")
    wanted = Race(tuple(map(AgentSpec.parse, agents)), (quiet,), searches, Budget(budget))
    wanted.check_agents()
    with TemporaryDirectory(prefix="kdnas-") as folder:
        runs = Runs.of(race(wanted, folder, workers=workers, on_progress=on_progress), [Truth.of(quiet)])
    needed: dict[str, dict[str, Mapping[str, Any]]] = {}
    for agent in runs.agents:
        outcomes = {name: target_found(runs, agent, share) for name, share in TARGETS.items()}
        needed[agent] = {
            name: {key: outcome[key] for key in ("median", "reached")} for name, outcome in outcomes.items()
        }
    return needed
