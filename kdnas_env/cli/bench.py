"""``kdnas bench``: races of agents on tables, and submissions of agents' searches."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from kdnas_env.bench.race import TRAJECTORIES
from kdnas_env.bench.race_page import ranking_notes, timing_in_words
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.pipeline.bench.export import BenchExportOptions, export_searches
from kdnas_env.pipeline.bench.race import PAGE, BenchOptions, RaceResults, race
from kdnas_env.pipeline.bench.submit import SubmitOptions, submit_searches
from kdnas_env.pipeline.bench.train import TrainOptions, train_controller
from kdnas_env.pipeline.bench.verify import VerifyOptions, verify_submission
from kdnas_env.searching.run_folder import RESULTS
from kdnas_env.support.progress import ConsoleProgress

_MOST_FAULTS = 10


def run_bench(options: BenchOptions) -> int:
    """Run a race, and print the standings; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        results = race(options, progress=progress)
    for table in standings(results):
        console.print(table)
    _say_more(console, results)
    return 0


def standings(results: RaceResults) -> Iterator[Table]:
    """Yield two tables of agents per view, lowest regret first: regret, and further figures; both fit 80 columns."""
    summary = results.summary
    for place, view in enumerate(summary["views"]):
        regret = grid(
            "agent",
            *("regret", f"{summary['confidence']:.0%} interval", "on the way", "wins", "p (Holm)"),
            title=f"{view['title']}: regret after {summary['budget']:g} {summary['unit']}, {summary['seeds']} seeds",
        )
        more = grid(
            "agent", *("rank", "top 1 %", "after", "optimum", "front", "repeated", "ms"), title="the same agents"
        )
        for row in results.table(place):
            regret.add_row(
                row["agent"],
                f"{row['regret']:.3f}",
                f"{row['regret_low']:.3f} - {row['regret_high']:.3f}",
                f"{row['regret_on_the_way']:.3f}",
                _number(row["wins"], ".2f"),
                _number(row["p"], ".2g"),
            )
            more.add_row(
                row["agent"],
                f"{row['mean_rank']:.2f}",
                f"{row['top_1_percent']:.0%}",
                _number(row["top_1_percent_after"], ".3g"),
                f"{row['optimum']:.0%}",
                f"{row['hypervolume']:.0%}",
                _number(row["duplicates"], ".3g"),
                f"{row['agent_ms']:.2f}",
            )
        yield regret
        yield more


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _say_more(console: SafeConsole, results: RaceResults) -> None:
    summary, folder = results.summary, results.path
    legend = (
        "regret: 0 for the optimum of the table, 1 for the exact median of random search without noise (with limits, "
        "of the students that keep them); on the way: mean regret over the budget; wins: probability of a lower "
        f"regret than that of {summary['reference']}, and p of this comparison; top 1 %, optimum: share of the "
        f"searches that evaluated such a student, even if noise hid it; after: median {summary['unit']} until then; "
        "front: share of the exact hypervolume; repeated: duplicates in a search; ms: processor time of a decision"
    )
    console.print(Text(legend), style="dim")
    first = summary["views"][0]  # has all tasks
    for note in ranking_notes(first) if first["critical_difference"] is not None else ():
        console.say(note)
    console.say(f"agents took {timing_in_words(summary['timing'])}")
    if summary["submitted"]:
        console.say("every step of the submitted searches was replayed; their ms were measured on another machine")
    for name, agent in first["agents"].items():
        if agent["failures"]:
            console.say(f"{name} failed in {agent['failures']} searches: {agent['errors'][0]}", "bad")
    console.say(f"results:      {folder / RESULTS}")
    console.say(f"page:         {folder / PAGE}")
    console.say(f"trajectories: {folder / TRAJECTORIES}")


def run_submit(options: SubmitOptions) -> int:
    """Write a submission; return the exit status."""
    written = submit_searches(options)
    SafeConsole().say(f"{written.searches} searches, {written.evaluations} evaluations: {options.to}")
    return 0


def run_export(options: BenchExportOptions) -> int:
    """Write the searches of a race for another library; return the exit status."""
    written = export_searches(options)
    SafeConsole().say(
        f"{written.searches} searches, {written.evaluations} evaluations; load them with "
        f"minari.load_dataset({options.minari!r}): {written.path}"
    )
    return 0


def run_train(options: TrainOptions) -> int:
    """Train a controller across tasks; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        trained = train_controller(options, progress=progress)
    settings = {name: value for name, value in trained.usage.items() if name != "agent"}
    spec = AgentSpec(trained.usage["agent"], settings)
    console.say(f"trained on {trained.tasks} tasks, loss {trained.loss:.3f}: {trained.path}")
    console.say(f"race it with: kdnas bench --agents {spec}")
    return 0


def run_verify(options: VerifyOptions) -> int:
    """Verify a submission; return the exit status: 1 if its replay fails."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        verdict = verify_submission(options, progress=progress)
    for fault in verdict.faults[:_MOST_FAULTS]:
        console.say(fault, "bad")
    if len(verdict.faults) > _MOST_FAULTS:
        console.say(f"and {len(verdict.faults) - _MOST_FAULTS} more", "bad")
    tasks = ", ".join(verdict.tasks)
    checked = f"{verdict.evaluations} evaluations of {verdict.agent}, {verdict.seeds} seeds of {tasks}"
    if verdict.holds:
        console.say(f"the replay confirms the whole submission: {checked}")
    else:
        console.say(f"the replay contradicts the submission: {checked}", "bad")
    return 0 if verdict.holds else 1
