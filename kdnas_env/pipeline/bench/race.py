"""Races of agents on tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.bench import race as races
from kdnas_env.bench.curves import Runs, regrets_of
from kdnas_env.bench.leaderboard import join
from kdnas_env.bench.plots import FORMATS, draw_curves, draw_improvement, draw_profiles, draw_targets
from kdnas_env.bench.race_page import race_page
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import standings_tex, summarise
from kdnas_env.bench.truth import TARGETS, Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.options import OutOption, options_of
from kdnas_env.pipeline.work import Finished, working
from kdnas_env.searching.run_folder import RESULTS, new_run_path
from kdnas_env.support.atomic import expanded, write_json, write_text
from kdnas_env.support.checks import check_whole
from kdnas_env.support.figures import save_figure
from kdnas_env.support.machine import processor_name
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.shell import call, non_defaults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "race.html"

_NAMED = 3
"""Maximum number of tasks that a line of progress names; above it, the line shows their number."""


@dataclass(frozen=True, kw_only=True)
class SearchesOptions(OutOption):
    """Base class of options for commands that run many searches of agents."""

    agents: tuple[str, ...] = ("random", "local-search", "evolution", "lstm", "optuna")
    """Agents, each as NAME or NAME:SETTING=VALUE,..., such as optuna:sampler=gp; `kdnas agents` lists them."""
    seeds: int = 20
    """Number of searches of each agent on each task."""
    workers: int = os.cpu_count() or 1
    """Number of processes."""

    def __post_init__(self) -> None:
        for name in ("seeds", "workers"):
            check_whole(name, getattr(self, name), at_least=1)

    def placed(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Return the folder, and the options by name of a call that resumes in it."""
        folder = new_run_path(name) if self.out is None else expanded(self.out)
        here = replace(self, out=str(folder))
        return folder, non_defaults(here, [field.name for field in fields(here) if field.default is not MISSING])


@dataclass(frozen=True, kw_only=True)
class BenchOptions(SearchesOptions):
    """Race agents on tables of evaluations: regret, intervals, tests, pictures. Run it again to resume or add agents.

    A table answers in microseconds what a distillation would measure in minutes.
    """

    tasks: tuple[str, ...] = ("rotten-tomatoes",)
    """Tables, each as NAME or FILE.npz, or with settings: NAME:alpha=-0.2,device=torch; kdnas table inspect lists them.
    FILE.npz may also be a surrogate of kdnas table fit; the race first lists all its students, in a minute or two.
    Settings are alpha, beta, loss, device, epochs, duplicates, and seed: sample (noisy), mean, or one of the table.
    Limits are set likewise, NAME:speedup=8,keep=0.6 (also latency_ms, size_mb, parameters, format): the optimum is then
    the best student within the limits. With constraints=cost, limits do not change the reward. With infeasible=charge,
    a student that breaks a limit costs an evaluation."""
    budget: float = 100
    """Budget of each search, in --budget-unit."""
    budget_unit: str = "evaluations"
    """evaluations, epochs, or seconds as the table gives them."""
    simulated_workers: int | None = None
    """Number of simulated workers, for agents with ask and tell; by default, agents search in rounds of their own
    size."""
    decision_time: str = "zero"
    """Time that each decision takes in the simulation: zero, measured, or seconds."""
    submissions: tuple[str, ...] = ()
    """Files of kdnas bench submit: agents of others, whose searches are replayed and join the comparison."""
    reference: str | None = None
    """Agent that the others are tested against; by default random if it is in the race, else the first."""
    repetitions: int = 2000
    """Number of bootstrap repetitions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("repetitions", self.repetitions, at_least=1)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return {} if self.simulated_workers else {"decision_time": "without `simulated_workers`: there is no clock"}

    def to_race(self) -> races.Race:
        """Return the race that the options describe.

        Raises:
            KDNASError: If an agent, task or number is malformed.
        """
        whole = self.budget_unit != "seconds" and float(self.budget).is_integer()
        word = self.decision_time
        try:
            decision = word if word in ("zero", "measured") else float(word)
        except ValueError:
            raise KDNASError(f"decision-time is {word!r}; expected zero, measured or seconds") from None
        return races.Race(
            tuple(AgentSpec.parse(agent) for agent in self.agents),
            tuple(Task.parse(task) for task in self.tasks),
            self.seeds,
            Budget(int(self.budget) if whole else self.budget, self.budget_unit),
            self.simulated_workers,
            decision,
        )


@dataclass(frozen=True, eq=False, repr=False)
class RaceResults(Finished):
    """A race and its results.

    Attributes:
        path: Its folder.
        summary: Result of :func:`kdnas_env.bench.summary.summarise`. The first view covers all tasks, each other one
            task.
    """

    path: Path
    summary: Mapping[str, Any]

    def about(self) -> dict[str, object]:
        """Return what is shown of it beside its folder."""
        return {"agents": list(self.summary["views"][0]["agents"])}

    def table(self, view: int = 0) -> list[dict[str, Any]]:
        """Return one row per agent, lowest regret first.

        Args:
            view: Index of the view; 0 covers all tasks.
        """
        standings, reference = self.summary["views"][view], self.summary["reference"]
        rows = [
            {
                "agent": name,
                "regret": agent["final"]["value"],
                "regret_low": agent["final"]["low"],
                "regret_high": agent["final"]["high"],
                "regret_on_the_way": agent["area"]["value"],
                "wins": (standings["improvement"][name].get(reference) or {}).get("value"),
                "p": None if agent["test"] is None else agent["test"]["corrected"],
                "mean_rank": agent["mean_rank"],
                "top_1_percent": agent["targets"]["top_1_percent"]["reached"],
                "top_1_percent_after": agent["targets"]["top_1_percent"]["median"],
                "optimum": agent["targets"]["optimum"]["reached"],
                "hypervolume": agent["hypervolume"]["value"],
                "duplicates": agent["duplicates"],
                "agent_ms": agent["agent_ms"],
                "failures": agent["failures"],
            }
            for name, agent in standings["agents"].items()
        ]
        return sorted(rows, key=lambda row: float(row["regret"]))

    def plot(self, view: int = 0) -> Figure:
        """Draw the regret of each agent over the budget.

        Args:
            view: Index of the view; 0 covers all tasks.
        """
        return draw_curves(self.summary, self.summary["views"][view])


def race(
    agents: Sequence[str] | BenchOptions | None = None,
    table: str | Sequence[str] | None = None,
    *,
    progress: Progress = SILENT,
    **settings: Any,
) -> RaceResults:
    """Race agents on tables, compare them, and write the results. The same call again resumes a race.

    Args:
        agents: The agents, each as ``NAME`` or ``NAME:SETTING=VALUE,...``; or all options.
        table: The table or tables that are searched, each by name or file.
        progress: Receives the progress.
        **settings: Options of :class:`BenchOptions` by name, such as ``budget=50``, ``seeds=10`` or ``out``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    if table is not None:
        settings["tasks"] = [table] if isinstance(table, str) else list(table)
    progress = checked(progress)
    options = options_of(BenchOptions, settings, agents=agents)
    wanted = options.to_race()
    wanted.check_agents()
    own = [str(agent) for agent in wanted.agents]
    folder, again = options.placed("bench")
    with working(None, call("race", **again)):
        truths = []
        for task in wanted.tasks:
            progress.begin(f"preparing the optimum of {task}")
            truths.append(Truth.of(task, progress.advance))
        for truth in truths:  # reject a budget that leaves no regret before anything runs
            regrets_of(truth.best, truth, wanted.budget, wanted.simulated_workers or 1)
        if options.submissions:
            progress.begin("replaying the submissions")
        guests, submitted = join(options.submissions, wanted, truths, progress.advance)
        reference = _reference(options.reference, [*own, *submitted])
        tasks = ", ".join(map(str, wanted.tasks)) if len(wanted.tasks) <= _NAMED else f"{len(wanted.tasks)} tasks"
        progress.begin(f"racing {len(own)} agents on {tasks} with {wanted.seeds} seeds: {folder}")
        trajectories = races.race(wanted, folder, workers=options.workers, on_progress=progress.advance)
        progress.begin("comparing")
        summary = summarise(
            Runs.of([*trajectories, *guests], truths),
            reference=reference,
            repetitions=options.repetitions,
            submitted=submitted,
        )
    write_race(folder, summary)
    return RaceResults(folder, summary)


def write_race(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the results of a race, its page and its pictures into its folder.

    Pictures are PNG, SVG and PDF files. The standings are also a LaTeX table. File names of views after the first end
    in the number of the view.

    Raises:
        RunError: If a file cannot be written.
    """
    results = {**summary, "machine": processor_name()}
    write_json(folder / RESULTS, results)
    write_text(folder / PAGE, race_page(results).to_html())
    for place, view in enumerate(summary["views"]):
        end = "" if not place else f"-{place}"
        write_text(folder / f"standings{end}.tex", standings_tex(summary, view))
        pictures = {
            "curves": draw_curves(summary, view),
            "profiles": draw_profiles(summary, view),
            "improvement": draw_improvement(summary, view),
            "targets": draw_targets(summary, view, next(iter(TARGETS))),
        }
        for name, figure in pictures.items():
            for kind in FORMATS:
                save_figure(figure, folder / f"{name}{end}.{kind}")


def _reference(wanted: str | None, agents: Sequence[str]) -> str | None:
    """Return the name of the reference in the race."""
    if wanted is None or wanted in agents:
        return wanted
    name = str(AgentSpec.parse(wanted))
    if name not in agents:
        raise KDNASError(f"reference is {wanted!r}; expected one of {list(agents)}")
    return name
