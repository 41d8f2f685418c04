"""What agents need to find the best of a task."""

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
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task import Task
from kdnas_env.support.progress import OnProgress

MODELS = ("random-forest", "optuna:sampler=gp")
"""Agents with the models that benchmarks are usually judged by."""


def evaluations_needed(
    task: Task,
    agents: Sequence[str] = MODELS,
    *,
    searches: int,
    budget: int,
    workers: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Search a task without noise, and return how many evaluations agents need to each of ``TARGETS``.

    Args:
        task: The task; every student is answered with its mean over the seeds.
        agents: The agents, each as ``NAME`` or ``NAME:SETTING=VALUE,...``.
        searches: Searches of each.
        budget: Evaluations of a search.
        workers: Processes.
        on_progress: Called with the searches that are done, and with all.

    Returns:
        By agent and target: ``reached``, the share of the searches that find it, and ``median`` evaluations; None: most
        do not.

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
