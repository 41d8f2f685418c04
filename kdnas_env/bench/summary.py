"""Summary of a race, with uncertainty: as plain data, and as a LaTeX table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.comparisons import (
    LEAST_AGENTS,
    LEAST_TASKS,
    critical_difference,
    friedman,
    mean_ranks,
    paired_tests,
)
from kdnas_env.bench.curves import Runs
from kdnas_env.bench.scores import area_under_curve, ecdf, performance_profile, profile_band
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import TARGETS, Truth
from kdnas_env.support.checks import check_choice
from kdnas_env.support.statistics import improvement_interval, iqm, probability_of_improvement, stratified_bootstrap

SCHEMA_VERSION = 2

ALL = "all"
"""Name of the view of all tasks, if there are several."""

THRESHOLDS = np.linspace(0, 2, 81).round(3)
"""Normalised regrets of the performance profile."""

CONFIDENCE = 0.95

_HEADINGS = (
    "Agent",
    "Regret",
    "Interval",
    "On the way",
    "Rank",
    r"Top 1\,\%",
    "Optimum",
    "Hypervolume",
    "Wins",
    "$p$ (Holm)",
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def summarise(
    runs: Runs,
    *,
    reference: str | None = None,
    repetitions: int = 2000,
    seed: int = 0,
    submitted: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return all results of a race.

    Scores are normalised regrets; see :attr:`kdnas_env.bench.curves.Runs.regrets`. An estimate is a mapping of
    ``value``, ``low`` and ``high``; the latter are the ends of its 95 % interval, by a bootstrap over seeds within each
    task.

    Args:
        runs: The race.
        reference: Agent that the others are compared with; None for ``random`` if present, else the first.
        repetitions: Bootstrap repetitions.
        seed: Seed of the bootstrap.
        submitted: Facts on submitted agents, by name, as plain data.

    Returns:
        ``schema_version``, ``agents``, ``tasks`` (facts on each), ``seeds``, ``budget``, ``unit``, ``workers``,
        ``reference``, ``submitted``, ``confidence``, ``repetitions``, ``timing`` (see :func:`_timing`), ``spent`` (axis
        of the curves), ``thresholds`` (axis of the profiles) and ``views``: of all tasks, if there are several, and of
        each task; see :func:`_view`.

    Raises:
        KDNASError: If the reference is not in the race, or random search finds an optimum within the budget.
    """
    reference = reference or ("random" if "random" in runs.agents else runs.agents[0])
    check_choice("reference", reference, runs.agents)
    guests = {name: dict(facts) for name, facts in (submitted or {}).items()}
    parts = {ALL: runs} if len(runs.truths) > 1 else {}
    parts |= {task: runs.only(task) for task in runs.truths}
    return {
        "schema_version": SCHEMA_VERSION,
        "agents": list(runs.agents),
        "tasks": [_task(truth, runs) for truth in runs.truths.values()],
        "seeds": len(runs.seeds),
        "budget": runs.budget.amount,
        "unit": runs.budget.unit,
        "workers": runs.workers,
        "reference": reference,
        "submitted": guests,
        "confidence": CONFIDENCE,
        "repetitions": repetitions,
        "timing": _timing(runs, [agent for agent in runs.agents if agent not in guests]),
        "spent": runs.spent.tolist(),
        "thresholds": THRESHOLDS.tolist(),
        "views": [
            {"name": name, "title": _title(name, part), **_view(part, reference, repetitions, seed)}
            for name, part in parts.items()
        ],
    }


def _title(name: str, part: Runs) -> str:
    return f"all {len(part.truths)} tasks" if name == ALL else part.truths[name].task.title


def _timing(runs: Runs, agents: Sequence[str]) -> dict[str, float | None]:
    """Return the time of the searches that were run here, because times on other machines are not comparable.

    ``agent_seconds`` is the agents' total processor time, ``wall_seconds`` the total duration of the searches, and
    ``share`` the ratio of the two; the rest is spent on look-ups in tables and on recording.
    """
    searches = [search for agent in agents for row in runs.of_agent(agent) for search in row]
    taken = float(sum(search.agent_total for search in searches))
    wall = float(sum(search.wall_seconds for search in searches))
    return {"agent_seconds": taken, "wall_seconds": wall, "share": taken / wall if wall else None}


def _task(truth: Truth, runs: Runs) -> dict[str, Any]:
    """Return facts on a task."""
    affordable = truth.affordable(runs.budget)
    return {
        "name": str(truth.task),
        "title": truth.task.title,
        "table": truth.title,
        "students": len(truth.reward),
        "infeasible": truth.infeasible,
        "points": truth.space.size,
        "best": truth.best,
        "optima": len(truth.optima),
        "tolerance": truth.tolerance,
        "random_median": truth.random_median(affordable),
        "random_evaluations": affordable,
        "targets": {name: truth.threshold(share) for name, share in TARGETS.items()},
        "reference_point": list(truth.reference),
        "hypervolume": truth.volume,
        "front": truth.costs_of(truth.front).tolist(),
    }


def _view(runs: Runs, reference: str, repetitions: int, seed: int) -> dict[str, Any]:
    """Return the results on one task or on all tasks.

    These are the number of ``tasks``, the ``agents`` (see :func:`_agent`), the probability of ``improvement`` of each
    agent over each other, the regret of ``random`` search's exact median along ``spent``, and ``seconds``, the axis of
    the curves over simulated time. With five tasks or more (else None), also the ``critical_difference`` of mean ranks
    and, for three agents or more, the ``friedman`` test (``chi_squared``, ``f``: None if it is infinite, ``p``).
    """
    final = runs.final
    ranks = mean_ranks(final)
    tests = paired_tests(final[reference], {agent: final[agent] for agent in runs.agents if agent != reference})
    ranked = len(runs.truths) >= LEAST_TASKS
    several = len(runs.agents) > 1
    agents = {}
    for agent in runs.agents:
        test = tests.get(agent)
        agents[agent] = {
            **_agent(runs, agent, repetitions, seed),
            "mean_rank": ranks[agent],
            "test": None if test is None else {"p": test.p, "corrected": test.corrected, "effect": test.effect},
        }
    return {
        "tasks": len(runs.truths),
        "agents": agents,
        "improvement": _improvements(runs, repetitions, seed),
        "random": runs.random.tolist(),
        "seconds": runs.seconds.tolist(),
        "critical_difference": critical_difference(len(runs.agents), len(runs.truths)) if ranked and several else None,
        "friedman": _friedman(final) if ranked and len(runs.agents) >= LEAST_AGENTS else None,
    }


def _friedman(final: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float | None]:
    test = friedman(final)
    return {"chi_squared": test.chi_squared, "f": test.f if np.isfinite(test.f) else None, "p": test.p}


def _agent(runs: Runs, agent: str, repetitions: int, seed: int) -> dict[str, Any]:
    """Return the results of an agent.

    ``final`` and ``area`` (mean along the budget) are estimates of the regret, ``median`` is the median of the final
    regret. ``curve`` is an estimate per point of ``spent``, ``seconds_curve`` a number per point of ``seconds``,
    ``profile`` an estimate of the share per threshold. ``targets`` have the ``reached`` share of searches, the
    ``median`` spent budget (None if most did not reach it), the number ``censored``, and an ``ecdf`` per point of
    ``spent``. ``hypervolume`` has the final estimate and a ``curve``. Means per search are ``evaluations``,
    ``duplicates``, ``invalid``, ``infeasible`` and ``failed`` (evaluations); ``simulated_seconds`` is a median.
    ``agent_ms`` is the median over searches of the time per decision; ``agent_seconds`` and ``wall_seconds`` are totals
    of all searches. ``gap`` is the mean of observed minus true reward of the final incumbent. ``failures`` is the
    number of searches that ended with an error.
    """
    regrets, final = runs.regrets[agent], runs.final[agent]
    searches = [search for row in runs.of_agent(agent) for search in row]
    volumes = runs.volumes(agent)
    # All agents use the same resamples, because they share the noise of a seed.
    below, above = profile_band(
        final, THRESHOLDS, np.random.default_rng(seed), repetitions=repetitions, confidence=CONFIDENCE
    )

    def estimate(scores: npt.NDArray[np.float64]) -> dict[str, Any]:
        low, high = stratified_bootstrap(
            scores, np.random.default_rng(seed), repetitions=repetitions, confidence=CONFIDENCE
        )
        middle = iqm(scores if scores.ndim == 2 else np.moveaxis(scores, -1, 0))
        return {"value": middle.tolist(), "low": low.tolist(), "high": high.tolist()}

    return {
        "final": estimate(final),
        "area": estimate(area_under_curve(regrets)),
        "median": float(np.median(final)),
        "curve": estimate(regrets),
        "seconds_curve": iqm(np.moveaxis(runs.regrets_by_second(agent), -1, 0)).tolist(),
        "profile": {
            "value": performance_profile(final, THRESHOLDS).tolist(),
            "low": below.tolist(),
            "high": above.tolist(),
        },
        "targets": {name: target_found(runs, agent, share) for name, share in TARGETS.items()},
        "hypervolume": {**estimate(volumes[..., -1]), "curve": iqm(np.moveaxis(volumes, -1, 0)).tolist()},
        "evaluations": _mean([search.counted.sum() for search in searches]),
        "duplicates": _mean([search.duplicate.sum() for search in searches]),
        "invalid": _mean([search.invalid.sum() for search in searches]),
        "infeasible": _mean([search.infeasible.sum() for search in searches]),
        "failed": _mean([(~search.ok & ~search.invalid & ~search.infeasible).sum() for search in searches]),
        "agent_ms": float(
            np.median([1e3 * search.agent_seconds.mean() if len(search) else 0.0 for search in searches])
        ),
        "agent_seconds": float(sum(search.agent_total for search in searches)),
        "wall_seconds": float(sum(search.wall_seconds for search in searches)),
        "simulated_seconds": float(np.median([search.finish.max(initial=0.0) for search in searches])),
        "gap": _mean([gap for search in searches if (gap := _gap(search)) is not None]),
        "failures": sum(bool(search.error) for search in searches),
        "errors": sorted({search.error for search in searches if search.error}),
    }


def _improvements(runs: Runs, repetitions: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the probability that the agent of the row has less regret than the agent of the column."""
    improvements: dict[str, dict[str, dict[str, float]]] = {agent: {} for agent in runs.agents}
    for place, x in enumerate(runs.agents):
        for y in runs.agents[place + 1 :]:
            value = probability_of_improvement(runs.final[x], runs.final[y])
            low, high = improvement_interval(
                runs.final[x],
                runs.final[y],
                np.random.default_rng(seed),
                repetitions=repetitions,
                confidence=CONFIDENCE,
            )
            improvements[x][y] = {"value": value, "low": low, "high": high}
            improvements[y][x] = {"value": 1 - value, "low": 1 - high, "high": 1 - low}
    return improvements


def target_found(runs: Runs, agent: str, share: float) -> dict[str, Any]:
    """Return statistics on reaching a target: ``reached``, ``median``, ``censored`` and ``ecdf``.

    A search has reached the target once its incumbent, chosen by observed rewards, is truly among the best share of
    students (for share 0: tied with the optimum). It still counts if noise later makes another student the incumbent.
    """
    spent, censored = runs.hits(agent, share)
    # If more than half of the searches never reach the target, the median is infinite.
    median = float(np.median(np.where(censored, np.inf, spent)))
    return {
        "reached": float(1 - censored.mean()),
        "median": median if np.isfinite(median) else None,
        "censored": int(censored.sum()),
        "ecdf": ecdf(spent, censored, runs.spent).tolist(),
    }


def _gap(search: Trajectory) -> float | None:
    seen = np.where(search.ok, search.observed, -np.inf)
    if not search.ok.any():
        return None
    best = int(seen.argmax())
    return float(seen[best] - search.true[best])


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def standings_tex(summary: Mapping[str, Any], view: Mapping[str, Any]) -> str:
    r"""Return the agents of a view, lowest regret first, as a LaTeX ``table`` that needs the package ``booktabs``.

    Args:
        summary: A summary of :func:`summarise`.
        view: One of its views.
    """
    caption = (
        f"{_escaped(view['title'])}: normalised regret after {summary['budget']:g} {summary['unit']} (interquartile "
        f"mean over {summary['seeds']} seeds, {100 * summary['confidence']:g}\\,\\% bootstrap interval); 0 is the "
        "optimum, 1 the median of random search. Top 1\\,\\% and Optimum: searches that found it at any time. Wins: "
        "how likely less regret than "
        f"{_escaped(summary['reference'])}, to which $p$ compares."
    )
    agents = sorted(view["agents"].items(), key=lambda item: float(item[1]["final"]["value"]))
    rows = [_tex_row(name, agent, view["improvement"][name].get(summary["reference"])) for name, agent in agents]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(_HEADINGS) - 1)}}}",
            r"\toprule",
            " & ".join(_HEADINGS) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex_row(name: str, agent: Mapping[str, Any], wins: Mapping[str, float] | None) -> list[str]:
    final, targets, test = agent["final"], agent["targets"], agent["test"]
    return [
        _escaped(name),
        f"{final['value']:.3f}",
        f"{final['low']:.3f}--{final['high']:.3f}",
        f"{agent['area']['value']:.3f}",
        f"{agent['mean_rank']:.2f}",
        f"{100 * targets['top_1_percent']['reached']:.0f}\\,\\%",
        f"{100 * targets['optimum']['reached']:.0f}\\,\\%",
        f"{100 * agent['hypervolume']['value']:.0f}\\,\\%",
        "--" if wins is None else f"{wins['value']:.2f}",
        "--" if test is None else f"{test['corrected']:.2g}",
    ]


def _escaped(text: str) -> str:
    """Return a text escaped for LaTeX, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
