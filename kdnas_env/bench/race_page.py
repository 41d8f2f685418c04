"""The results of a race as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdnas_env.support.page import Chart, Interval, Matrix, Page, Series, Standings, View

COLUMNS = (
    "agent",
    "regret at the end",
    "95 % from",
    "to",
    "regret on the way",
    "mean rank",
    "top 1 % reached",
    "evaluations to top 1 %",
    "optimum reached",
    "hypervolume",
    "duplicates",
    "invalid",
    "seen above true",
    "agent, ms",
    "failed searches",
    "p (Holm)",
)
"""Headings of the standings; less regret is better."""


SIGNIFICANT = 0.05
"""P-value below which Friedman's test counts as significant."""

_TARGETS = {
    "top_1_percent": "the best 1 % of the students",
    "top_0.1_percent": "the best 0.1 %",
    "optimum": "the optimum, or what the seeds cannot tell from it",
}


def race_page(results: Mapping[str, Any]) -> Page:
    """Return the results page of a race.

    Args:
        results: A summary of :func:`kdnas_env.bench.summary.summarise`.
    """
    agents = list(results["agents"])
    budget = f"{results['budget']:g} {results['unit']}"
    simulated = f", {results['workers']} simulated workers" if results["workers"] > 1 else ""
    return Page(
        title="Race of search strategies",
        subtitle=f"agents: {len(agents)}, tasks: {len(results['tasks'])}, seeds: {results['seeds']}, "
        f"budget: {budget}{simulated}",
        agents=agents,
        views=[_view(results, view) for view in results["views"]],
        facts=_facts(results),
    )


def _view(results: Mapping[str, Any], view: Mapping[str, Any]) -> View:
    agents = view["agents"]
    unit = results["unit"]
    confidence = f"{results['confidence']:.0%}"
    spent, thresholds = results["spent"], results["thresholds"]
    charts = [
        Chart(
            "regret",
            f"Normalised regret of the incumbent (interquartile mean, {confidence} band)",
            unit,
            "normalised regret",
            spent,
            [_banded(name, figures["curve"]) for name, figures in agents.items()],
            log=True,
        ),
        Chart(
            "seconds",
            "The same over simulated seconds",
            "simulated seconds",
            "normalised regret",
            view["seconds"],
            [Series(name, figures["seconds_curve"]) for name, figures in agents.items()],
            log=True,
        ),
        *(
            Chart(
                f"ecdf {target}",
                f"Searches that reached {_TARGETS.get(target, target)}",
                unit,
                "share of the searches",
                spent,
                [Series(name, figures["targets"][target]["ecdf"]) for name, figures in agents.items()],
                floor=0,
                ceiling=1,
            )
            for target in next(iter(agents.values()))["targets"]
        ),
        Chart(
            "profile",
            f"Searches with at most this regret at the end ({confidence} band, pointwise)",
            "normalised regret",
            "share of the searches",
            thresholds,
            [_banded(name, figures["profile"]) for name, figures in agents.items()],
            floor=0,
            ceiling=1,
        ),
        Chart(
            "hypervolume",
            "Share of the exact front's hypervolume",
            unit,
            "share",
            spent,
            [Series(name, figures["hypervolume"]["curve"]) for name, figures in agents.items()],
        ),
    ]
    cells = {
        row: {
            column: Interval(estimate["value"], estimate["low"], estimate["high"])
            for column, estimate in columns.items()
        }
        for row, columns in view["improvement"].items()
    }
    better = Matrix(
        "improvement", "Probability that the agent of the row has less regret than the agent of the column", cells
    )
    return View(
        name=view["title"],
        about="Regret 0 is the exact optimum, 1 is the median of random search at the end; "
        "the incumbent is chosen by the observed rewards and judged by the mean over all seeds. A search has reached a "
        "target once its incumbent truly meets it, even if noise makes another look better later.",
        table=Standings(
            "standings",
            f"Less regret is better; p: Wilcoxon's test against {results['reference']}, corrected by Holm",
            COLUMNS,
            [_row(name, figures) for name, figures in agents.items()],
            sort=1,
        ),
        charts=charts,
        matrices=[better],
        notes=_notes(view),
    )


def _banded(name: str, estimate: Mapping[str, Any]) -> Series:
    return Series(name, estimate["value"], estimate["low"], estimate["high"])


def _row(name: str, figures: Mapping[str, Any]) -> list[Any]:
    targets = figures["targets"]
    return [
        name,
        figures["final"]["value"],
        figures["final"]["low"],
        figures["final"]["high"],
        figures["area"]["value"],
        figures["mean_rank"],
        targets["top_1_percent"]["reached"],
        targets["top_1_percent"]["median"],
        targets["optimum"]["reached"],
        figures["hypervolume"]["value"],
        figures["duplicates"],
        figures["invalid"],
        figures["gap"],
        figures["agent_ms"],
        figures["failures"],
        None if figures["test"] is None else figures["test"]["corrected"],
    ]


def _notes(view: Mapping[str, Any]) -> list[str]:
    notes = [*ranking_notes(view)]
    return notes + [f"{name}: {error}" for name, figures in view["agents"].items() for error in figures["errors"]]


def ranking_notes(view: Mapping[str, Any]) -> list[str]:
    """Return notes on the significance of the mean ranks of a view."""
    difference, test = view["critical_difference"], view["friedman"]
    if len(view["agents"]) == 1:
        return []
    if difference is None:
        return ["With fewer than five tasks, no critical difference of mean ranks is given: tasks are its sample size."]
    notes = [f"Mean ranks that differ by less than {difference:.2f} do not differ significantly (Nemenyi, 5 %)."]
    if test is None:
        return notes
    statistic = "infinite" if test["f"] is None else f"{test['f']:.3g}"
    verdict = f"Friedman's test of the ranks by task: F = {statistic}, p = {test['p']:.2g}"
    return (
        [f"{verdict}: some agents differ.", *notes]
        if test["p"] < SIGNIFICANT
        else [f"{verdict}: it shows no difference between the agents, so do not interpret their ranks."]
    )


def timing_in_words(timing: Mapping[str, Any]) -> str:
    """Return the share of a race's time that its agents used, as text."""
    if timing["share"] is None:
        return "unknown for searches of an earlier version"
    return (
        f"{timing['agent_seconds']:.1f} s of processor time in {timing['wall_seconds']:.1f} s of searches "
        f"({timing['share']:.0%}); the rest is spent on look-ups in tables and on recording"
    )


def _students(task: Mapping[str, Any]) -> str:
    students = f"{task['students']} students"
    return f"{students} that keep the limits and {task['infeasible']} others" if task["infeasible"] else students


def _facts(results: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    tasks = [
        (
            f"task {task['name']}",
            f"{task['table']}: {_students(task)}, best reward {task['best']:.4f}, random search's median "
            f"after {task['random_evaluations']} evaluations {task['random_median']:.4f}, rewards closer than "
            f"{task['tolerance']:.4f} cannot be told apart",
        )
        for task in results["tasks"]
    ]
    guests = [
        (
            name,
            f"{guest['description'] or 'no description'}; {guest['file']}, replayed; searched with "
            + ", ".join(f"{package} {number}" for package, number in guest["versions"].items()),
        )
        for name, guest in results["submitted"].items()
    ]
    return [
        *tasks,
        *guests,
        ("time of the agents", timing_in_words(results["timing"])),
        ("intervals", f"{results['confidence']:.0%}, stratified bootstrap of {results['repetitions']} repetitions"),
        *((name, str(results[name])) for name in ("machine",) if name in results),
    ]
