"""The flags of ``kdnas bench``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kdnas_env.support.checks import check_whole


@dataclass(frozen=True)
class BenchOptions:
    """Race agents on tables of evaluations: regret, intervals, tests and pictures. Run it again to go on or add agents.

    A table answers in microseconds what distillation would find in minutes.
    """

    agents: tuple[str, ...] = ("random", "local-search", "evolution", "lstm", "optuna")
    """Agents, each as NAME or NAME:SETTING=VALUE,..., such as optuna:sampler=gp; kdnas agents lists them."""
    tasks: tuple[str, ...] = ("rotten-tomatoes",)
    """Tables, each as NAME or FILE.npz, or with settings: NAME:alpha=-0.2,device=torch; kdnas table inspect lists them.
    FILE.npz may be a surrogate of kdnas table fit as well, all students of which are listed first, in a minute or two.
    Settings are alpha, beta, loss, device, epochs, duplicates, and seed: sample (noisy), mean, or one of the table."""
    budget: float = 100
    """What each search may spend."""
    budget_unit: str = "evaluations"
    """evaluations, epochs, or seconds as they would be."""
    seeds: int = 20
    """Searches of each agent on each task."""
    workers: int = os.cpu_count() or 1
    """Processes."""
    simulated_workers: int | None = None
    """Evaluations at a time on a simulated clock, for agents with ask and tell; by default rounds as agents like."""
    decision_time: str = "zero"
    """Of a simulation, what a decision costs: zero, measured, or seconds."""
    submissions: tuple[str, ...] = ()
    """Files of kdnas bench submit: agents of others, whose searches are replayed and stand beside those of the race."""
    reference: str | None = None
    """Agent that the others are tested against; by default random, if it is there, else the first."""
    repetitions: int = 2000
    """Bootstrap repetitions."""
    out: str | None = None
    """Folder, made if it does not exist; by default a new one under runs."""

    def __post_init__(self) -> None:
        for name in ("seeds", "workers", "repetitions"):
            check_whole(name, getattr(self, name), at_least=1)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return {} if self.simulated_workers else {"decision_time": "without --simulated-workers N: there is no clock"}

    @property
    def folder(self) -> Path | None:
        """The folder, if one was named."""
        return None if self.out is None else Path(self.out).expanduser()
