"""Which agent searches best: every agent, tuned on one table with an equal budget, raced on another.

    python benchmarks/race.py --out FOLDER --json FILE

Every agent with hyper-parameters has six settings, its defaults among them, which search the tuning table with the same
seeds; the setting with the least regret on the way, in the interquartile mean, is raced on the other table, at every
budget with as many seeds as asked. Two agents have nothing to tune.

It takes some hours of two cores, goes on where it was stopped, and leaves a folder a race, each with a
page to click through (``race.html``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from machine import machine_facts
from rich.console import Console
from rich.table import Table

from kdnas_env.bench.curves import Runs
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.pipeline.bench.race import write_race
from kdnas_env.searching.run_folder import RESULTS
from kdnas_env.support.atomic import write_json
from kdnas_env.support.progress import ConsoleProgress

TUNING = "tuning"
OURS = "lstm-ensemble"

_LSTM: list[dict[str, Any]] = [
    {"learning_rate": 0.003},
    {"epsilon_start": 0.5},
    {"hidden_size": 32},
    {"context": "bests"},
    {"epochs": 50},
]
_INITIAL: list[dict[str, Any]] = [{"initial": 5}, {"initial": 8}, {"initial": 15}, {"initial": 20}]
_ON_POLICY: list[dict[str, Any]] = [
    {"learning_rate": 0.001},
    {"learning_rate": 0.01},
    {"ent_coef": 0.1},
    {"update_every": 4},
    {"update_every": 16},
]
_OFF_POLICY: list[dict[str, Any]] = [
    {"learning_rate": 0.001},
    {"learning_rate": 0.01},
    {"exploration_initial_eps": 1.0},
    {"gradient_steps": 40},
    {"update_every": 4},
]
CHANGES: dict[str, list[dict[str, Any]]] = {
    "random": [],
    "parameter-count": [],
    "local-search": [{"starts": 1}, {"starts": 4}, {"starts": 8}, {"move": "first"}, {"reach": 1}],
    "evolution": [
        {"population_size": 10},
        {"population_size": 20},
        {"sample_size": 5},
        {"adjacent": 1.0},
        {"adjacent": 0.0},
    ],
    "least-squares": [*_INITIAL, {"replay_size": 50}],
    "bayesian-linear": [*_INITIAL, {"replay_size": 50}],
    "random-forest": [{"initial": 5}, {"initial": 20}, {"trees": 20}, {"trees": 200}, {"features": 0.5}],
    "reinforce": [
        {"learning_rate": 0.01},
        {"learning_rate": 0.1},
        {"entropy_weight": 0.1},
        {"entropy_weight": 1.0},
        {"hidden_size": 32},
    ],
    "lstm": _LSTM,
    "lstm-greedy": [change if "epsilon_start" not in change else {"ordinal": 1.0} for change in _LSTM],
    "lstm-shuffled": _LSTM,
    "lstm-ensemble": [
        {"design": 5},
        {"design": 20},
        {"epsilon_start": 0.0},
        {"learning_rate": 0.01},
        {"members": 10},
    ],
    "optuna": [
        {"sampler_options": {"n_startup_trials": 5}},
        {"sampler_options": {"n_startup_trials": 20}},
        {"sampler_options": {"multivariate": False}},
        {"sampler_options": {"n_ei_candidates": 100}},
        {"choices": "categorical"},
    ],
    "optuna:sampler=gp": [
        {"sampler_options": {"n_startup_trials": 5}},
        {"sampler_options": {"n_startup_trials": 20}},
        {"sampler_options": {"deterministic_objective": True}},
        {"sampler_options": {"deterministic_objective": True, "n_startup_trials": 5}},
        {"choices": "categorical"},
    ],
    "a2c": _ON_POLICY,
    "ppo": _ON_POLICY,
    "trpo": [change if "ent_coef" not in change else {"target_kl": 0.03} for change in _ON_POLICY],
    "maskable-ppo": _ON_POLICY,
    "recurrent-ppo": _ON_POLICY,
    "dqn": _OFF_POLICY,
    "qr-dqn": _OFF_POLICY,
}
"""Settings that are tried beside the defaults, by agent."""


@dataclass(frozen=True)
class Options:
    """Tune every agent on one table, race it on another."""

    out: str = "runs/race-study"
    """Folder of the races, made if it does not exist."""
    json: str | None = None
    """File for the figures."""
    agents: tuple[str, ...] = tuple(CHANGES)
    """The agents."""
    tuning_task: str = "imdb"
    """Table that settings are chosen on."""
    task: str = "rotten-tomatoes"
    """Table that is reported."""
    tuning_budget: int = 100
    """Evaluations of a search that settings are chosen by."""
    tuning_seeds: int = 10
    """Searches that a setting is judged by."""
    budgets: tuple[int, ...] = (25, 50, 100, 200)
    """Evaluations of the searches that are reported."""
    seeds: int = 200
    """Searches of each agent at each budget."""
    workers: int = 2
    """Processes."""


def main(options: Options) -> None:
    """Race, print, write."""
    console = Console()
    with ConsoleProgress(console) as progress:

        def raced(name: str, agents: Sequence[AgentSpec], task: str, seeds: int, budget: int) -> dict[str, Any]:
            folder = Path(options.out) / name
            wanted = Race(tuple(agents), (Task.parse(task),), seeds, Budget(budget))
            progress.begin(f"{name}: {len(agents)} agents, {seeds} seeds, {budget} evaluations of {task}")
            trajectories = race(wanted, folder, workers=options.workers, on_progress=progress.advance)
            truths = [Truth.of(task) for task in wanted.tasks]
            summary = summarise(Runs.of(trajectories, truths), reference=str(agents[0]))
            if name == TUNING:
                write_json(folder / RESULTS, summary)  # too many agents for a picture
            else:
                write_race(folder, summary)
            return summary

        candidates = {name: settings_of(name) for name in options.agents}
        flat = [spec for specs in candidates.values() for spec in specs]
        tuning = raced(TUNING, flat, options.tuning_task, options.tuning_seeds, options.tuning_budget)
        chosen = {name: choose(tuning, specs) for name, specs in candidates.items()}
        specs = list(chosen.values())
        races = {
            budget: raced(f"{options.task}-{budget}", specs, options.task, options.seeds, budget)
            for budget in options.budgets
        }
    figures: dict[str, Any] = {
        "chosen": {name: str(spec) for name, spec in chosen.items()},
        "races": {str(budget): figures_of(summary) for budget, summary in races.items()},
    }
    for budget, told in figures["races"].items():
        console.print(standings(f"{options.task}, {budget} evaluations, {options.seeds} seeds", told))
    if options.json is not None:
        write_json(Path(options.json), {"machine": machine_facts(), **figures})


def settings_of(agent: str) -> list[AgentSpec]:
    """Return the settings of an agent that are tried, its defaults first."""
    spec = AgentSpec.parse(agent)
    return [AgentSpec(spec.name, {**spec.settings, **change}) for change in ({}, *CHANGES[agent])]


def choose(tuning: Mapping[str, Any], specs: Sequence[AgentSpec]) -> AgentSpec:
    """Return the setting with the least regret on the way; of equals, the first."""
    agents = tuning["views"][0]["agents"]
    return min(specs, key=lambda spec: float(agents[str(spec)]["area"]["value"]))


def figures_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is told of every agent of a race, by its name with its settings, the best first."""
    view = summary["views"][0]
    ours = next((name for name in summary["agents"] if name.partition(":")[0] == OURS), None)
    found = {}
    for agent, told in sorted(view["agents"].items(), key=lambda item: float(item[1]["area"]["value"])):
        found[agent] = {
            "final": told["final"],
            "on_the_way": told["area"],
            "optimum": told["targets"]["optimum"]["reached"],
            "median_to_top_1_percent": told["targets"]["top_1_percent"]["median"],
            "agent_ms": told["agent_ms"],
            "ours_wins": None if ours in (None, agent) else view["improvement"][ours].get(agent),
        }
    return found


def standings(title: str, figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the agents of a race as a table, the least regret on the way first; ours is :data:`OURS`."""
    table = Table(title=title, title_justify="left")
    table.add_column("agent", overflow="fold")
    for heading in ("regret", "on the way", "optimum", "ours wins", "ms"):
        table.add_column(heading, justify="right")
    for agent, told in figures.items():
        table.add_row(
            agent,
            f"{told['final']['value']:.2f}",
            f"{told['on_the_way']['value']:.2f}",
            f"{told['optimum']:.0%}",
            "-" if told["ours_wins"] is None else "{value:.2f} ({low:.2f}, {high:.2f})".format(**told["ours_wins"]),
            f"{told['agent_ms']:.2f}",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
