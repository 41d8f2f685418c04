"""``kdnas bench``: agents against each other, on tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from kdnas_env.bench.pictures import draw_curves, draw_improvement, draw_profiles, draw_targets
from kdnas_env.bench.race import TRAJECTORIES, Race, race
from kdnas_env.bench.race_page import race_page
from kdnas_env.bench.runs import Runs, regrets_of
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.truth import TARGETS, Task, Truth
from kdnas_env.cli.bench_options import BenchOptions
from kdnas_env.cli.interruption import working
from kdnas_env.cli.run_folder import RESULTS, new_run_path
from kdnas_env.cli.task_progress import TaskProgress
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.render import save_figure
from kdnas_env.errors import KDNASError
from kdnas_env.files import write_json, write_text
from kdnas_env.latency.machine import processor_name

PAGE = "race.html"


def run_bench(options: BenchOptions) -> int:
    """Race, say who won, and write it down; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = Console()
    wanted = wanted_race(options)
    agents = [str(agent) for agent in wanted.agents]
    if options.reference is not None and str(AgentSpec.parse(options.reference)) not in agents:
        raise KDNASError(f"reference is {options.reference!r}; expected one of {agents}")
    folder = options.folder or new_run_path("bench")
    truths = [Truth.of(task) for task in wanted.tasks]
    for truth in truths:  # a budget that leaves no regret is told before anything runs
        regrets_of(truth.best, truth, wanted.budget, wanted.simulated_workers or 1)
    go_on = f"kdnas bench with the same flags and --out {folder}"
    with working(console, None, go_on), TaskProgress(console, MofNCompleteColumn()) as progress:
        progress.begin(f"racing {len(agents)} agents on {len(truths)} tasks, {wanted.seeds} seeds: {folder}")
        trajectories = race(wanted, folder, workers=options.workers, on_progress=progress.advance)
        progress.begin("comparing")
        reference = None if options.reference is None else str(AgentSpec.parse(options.reference))
        summary = summarise(Runs.of(trajectories, truths), reference=reference, repetitions=options.repetitions)
    write_race(folder, summary)
    for view in summary["views"]:
        console.print(standings(summary, view))
    _say_where(console, folder, summary)
    return 0


def wanted_race(options: BenchOptions) -> Race:
    """Return the race that is asked for.

    Raises:
        KDNASError: If an agent, task or number is malformed.
    """
    whole = options.budget_unit != "seconds" and float(options.budget).is_integer()
    word = options.decision_time
    try:
        decision = word if word in ("zero", "measured") else float(word)
    except ValueError:
        raise KDNASError(f"decision-time is {word!r}; expected zero, measured or seconds") from None
    return Race(
        tuple(AgentSpec.parse(agent) for agent in options.agents),
        tuple(Task.parse(task) for task in options.tasks),
        options.seeds,
        Budget(int(options.budget) if whole else options.budget, options.budget_unit),
        options.simulated_workers,
        decision,
    )


def write_race(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the results of a race, its page and its pictures into its folder.

    Raises:
        RunError: If a file cannot be written.
    """
    results = {**summary, "machine": processor_name()}
    write_json(folder / RESULTS, results)
    write_text(folder / PAGE, race_page(results).to_html())
    for place, view in enumerate(summary["views"]):
        end = "" if not place else f"-{place}"
        save_figure(draw_curves(summary, view), folder / f"curves{end}.png")
        save_figure(draw_profiles(summary, view), folder / f"profiles{end}.png")
        save_figure(draw_improvement(summary, view), folder / f"improvement{end}.png")
        save_figure(draw_targets(summary, view, next(iter(TARGETS))), folder / f"targets{end}.png")


def standings(summary: Mapping[str, Any], view: Mapping[str, Any]) -> Table:
    """Return the agents of a view, the least regret first."""
    table = Table(title=f"{view['title']}: {summary['budget']:g} {summary['unit']}, {summary['seeds']} seeds")
    table.box = box.SIMPLE_HEAD
    reference = summary["reference"]
    table.add_column("agent", overflow="fold")
    headings = ("regret", "interval", "area", f"beats {reference}", "p (Holm)", "top 1 %", "optimum", "rank", "ms")
    for heading in headings:
        table.add_column(heading, justify="right")
    for agent in sorted(summary["agents"], key=lambda name: float(view["agents"][name]["final"]["value"])):
        told = view["agents"][agent]
        test, final = told["test"], told["final"]
        beats = view["improvement"][agent].get(reference)
        table.add_row(
            escape(agent),
            f"{final['value']:.3f}",
            f"{final['low']:.3f} - {final['high']:.3f}",
            f"{told['area']['value']:.3f}",
            "-" if beats is None else f"{beats['value']:.2f}",
            "-" if test is None else f"{test['corrected']:.2g}",
            f"{told['targets']['top_1_percent']['reached']:.0%}",
            f"{told['targets']['optimum']['reached']:.0%}",
            f"{told['mean_rank']:.2f}",
            f"{told['agent_ms']:.2f}",
        )
    return table


def _say_where(console: Console, folder: Path, summary: Mapping[str, Any]) -> None:
    console.print(
        "regret: 0 is the optimum of the table, 1 the exact median of random search without noise; top 1 %, optimum: "
        "share of the searches that found it; ms: processor time of a decision",
        style="dim",
        highlight=False,
    )
    # The first view has all tasks.
    for agent, told in summary["views"][0]["agents"].items():
        if told["failures"]:
            console.print(
                f"{escape(agent)} failed in {told['failures']} searches: {escape(told['errors'][0])}",
                style="red",
                highlight=False,
            )
    console.print(f"results:      {escape(str(folder / RESULTS))}", highlight=False, soft_wrap=True)
    console.print(f"page:         {escape(str(folder / PAGE))}", highlight=False, soft_wrap=True)
    console.print(f"trajectories: {escape(str(folder / TRAJECTORIES))}", highlight=False, soft_wrap=True)
