"""``kdnas bench``: agents against each other, on tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdnas_env.bench.curves import Runs, regrets_of
from kdnas_env.bench.latex import standings_tex
from kdnas_env.bench.leaderboard import join
from kdnas_env.bench.plots import FORMATS, draw_curves, draw_improvement, draw_profiles, draw_targets
from kdnas_env.bench.race import TRAJECTORIES, Race, race
from kdnas_env.bench.race_page import race_page, ranking_notes, timing_in_words
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.truth import TARGETS, Task, Truth
from kdnas_env.cli.bench_options import BenchOptions
from kdnas_env.cli.console import SafeConsole
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.render import save_figure
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.work import working
from kdnas_env.searching.run_folder import RESULTS, new_run_path
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.machine import processor_name
from kdnas_env.support.progress import TaskProgress
from kdnas_env.support.shell import command, flags

PAGE = "race.html"


def run_bench(options: BenchOptions) -> int:
    """Race, say who won, and write it down; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    wanted = wanted_race(options)
    wanted.check_agents()
    own = [str(agent) for agent in wanted.agents]
    folder = options.folder or new_run_path("bench")
    go_on = command("bench", *flags(replace(options, out=str(folder)), [field.name for field in fields(options)]))
    with working(None, go_on), TaskProgress(console) as progress:
        truths = []
        for task in wanted.tasks:
            progress.begin(f"preparing the optimum of {task}")
            truths.append(Truth.of(task, progress.advance))
        for truth in truths:  # a budget that leaves no regret is told before anything runs
            regrets_of(truth.best, truth, wanted.budget, wanted.simulated_workers or 1)
        if options.submissions:
            progress.begin("replaying what was submitted")
        guests, submitted = join(options.submissions, wanted, truths)
        reference = _reference(options.reference, [*own, *submitted])
        tasks = ", ".join(str(task) for task in wanted.tasks)
        progress.begin(f"racing {len(own)} agents on {tasks} with {wanted.seeds} seeds: {folder}")
        trajectories = race(wanted, folder, workers=options.workers, on_progress=progress.advance)
        progress.begin("comparing")
        summary = summarise(
            Runs.of([*trajectories, *guests], truths),
            reference=reference,
            repetitions=options.repetitions,
            submitted=submitted,
        )
    write_race(folder, summary)
    for view in summary["views"]:
        for table in standings(summary, view):
            console.print(table)
    _say_more(console, folder, summary)
    return 0


def _reference(wanted: str | None, agents: Sequence[str]) -> str | None:
    """Return the name that the race has of the reference."""
    if wanted is None or wanted in agents:
        return wanted
    name = str(AgentSpec.parse(wanted))
    if name not in agents:
        raise KDNASError(f"reference is {wanted!r}; expected one of {list(agents)}")
    return name


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

    Pictures are PNG, SVG and PDF, the standings a LaTeX table as well; of the first view without, of others with its
    number.

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


def standings(summary: Mapping[str, Any], view: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the agents of a view, the least regret first: their regret, and what else they did; 80 columns do."""
    reference, budget = summary["reference"], f"{summary['budget']:g} {summary['unit']}"
    regret = _grid(
        f"{view['title']}: regret after {budget}, {summary['seeds']} seeds",
        "regret",
        f"{summary['confidence']:.0%} interval",
        "on the way",
        "wins",
        "p (Holm)",
    )
    more = _grid("the same agents", "rank", "top 1 %", "after", "optimum", "front", "repeated", "ms")
    for agent in sorted(summary["agents"], key=lambda name: float(view["agents"][name]["final"]["value"])):
        told = view["agents"][agent]
        test, final, targets = told["test"], told["final"], told["targets"]
        wins = view["improvement"][agent].get(reference)
        regret.add_row(
            agent,
            f"{final['value']:.3f}",
            f"{final['low']:.3f} - {final['high']:.3f}",
            f"{told['area']['value']:.3f}",
            "-" if wins is None else f"{wins['value']:.2f}",
            "-" if test is None else f"{test['corrected']:.2g}",
        )
        more.add_row(
            agent,
            f"{told['mean_rank']:.2f}",
            f"{targets['top_1_percent']['reached']:.0%}",
            _number(targets["top_1_percent"]["median"]),
            f"{targets['optimum']['reached']:.0%}",
            f"{told['hypervolume']['value']:.0%}",
            _number(told["duplicates"]),
            f"{told['agent_ms']:.2f}",
        )
    return regret, more


def _grid(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("agent", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _say_more(console: Console, folder: Path, summary: Mapping[str, Any]) -> None:
    console.print(
        "regret: 0 is the optimum of the table, 1 the exact median of random search without noise; on the way: its "
        f"mean over the budget; wins: how likely less than that of {escape(summary['reference'])}, with which p "
        f"compares; top 1 %, optimum: share of the searches that found it, after: {summary['unit']} in the median; "
        "front: share of the exact hypervolume; repeated: duplicates in a search; ms: processor time of a decision",
        style="dim",
        highlight=False,
    )
    # The first view has all tasks.
    first = summary["views"][0]
    for note in ranking_notes(first) if first["critical_difference"] is not None else ():
        console.print(note, highlight=False)
    console.print(f"agents took {timing_in_words(summary['timing'])}", highlight=False)
    if summary["submitted"]:
        console.print("of what was submitted, every step was replayed; its ms are of another machine", highlight=False)
    for agent, told in first["agents"].items():
        if told["failures"]:
            console.print(
                f"{escape(agent)} failed in {told['failures']} searches: {escape(told['errors'][0])}",
                style="red",
                highlight=False,
            )
    console.print(f"results:      {escape(str(folder / RESULTS))}", highlight=False, soft_wrap=True)
    console.print(f"page:         {escape(str(folder / PAGE))}", highlight=False, soft_wrap=True)
    console.print(f"trajectories: {escape(str(folder / TRAJECTORIES))}", highlight=False, soft_wrap=True)
