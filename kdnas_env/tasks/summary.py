"""Summary of scores: means over seeds, shares of the teacher's score, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas_env.core.evaluation import Latency
from kdnas_env.support.figures import BLUE, GREY, ORANGE, RED
from kdnas_env.tasks.baselines import RANDOM
from kdnas_env.tasks.comparison import Cell
from kdnas_env.tasks.rows import MAJORITY, STUDENT, TEACHER, Row
from kdnas_env.tasks.scores import TaskScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {TEACHER: GREY, STUDENT: BLUE, RANDOM: RED}
_OTHER = ORANGE
_LOG_FROM, _LABEL_GAP = 5, 0.045


@dataclass(frozen=True)
class Statistic:
    """Statistics of a score over seeds.

    Attributes:
        mean: Mean.
        sd: Sample standard deviation; None for a single seed.
        count: Number of seeds with a score.
        kept: Share of the teacher's mean; None if the teacher is unknown or no better than the majority class.
    """

    mean: float
    sd: float | None
    count: int
    kept: float | None = None


@dataclass(frozen=True)
class Summary:
    """A row of the table.

    Attributes:
        name: Name of the row.
        title: Display name.
        parameters: Number of parameters of the encoder.
        speedup: Latency of the teacher divided by that of the row; None if not measured.
        latency_ms: Median milliseconds of a forward pass; None if not measured.
        tasks: Score on each task; tasks on which all seeds failed are left out.
        metrics: For each task and split, the mean of each metric over seeds.
        average: Score averaged over the tasks, per seed; None unless at least one seed has scores on all tasks.
        failed: Number of cells without a score.
    """

    name: str
    title: str
    parameters: int
    speedup: float | None
    latency_ms: float | None
    tasks: Mapping[str, Statistic]
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    average: Statistic | None
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def summarise(
    rows: Sequence[Row],
    tasks: Sequence[str],
    scores: Mapping[Cell, TaskScore],
    latencies: Mapping[str, Latency],
) -> list[Summary]:
    """Return the rows of the table, in the order of ``rows``.

    Args:
        rows: The rows.
        tasks: Names of the tasks.
        scores: Scores of the cells; other rows and tasks are ignored.
        latencies: Latencies by row.
    """
    table = {row.name: _by_task(row.name, tasks, scores) for row in rows}
    averages = {name: _averages(values, tasks) for name, values in table.items()}
    teacher, majority = table.get(TEACHER, {}), table.get(MAJORITY, {})
    reference = {task: _reference(teacher.get(task), majority.get(task)) for task in tasks}
    average_reference = _reference(averages.get(TEACHER), averages.get(MAJORITY))
    return [
        Summary(
            name=row.name,
            title=row.title,
            parameters=row.parameters,
            speedup=_speedup(row, latencies),
            latency_ms=_latency_ms(row, latencies),
            tasks={task: _statistic(values, reference[task]) for task, values in table[row.name].items() if values},
            metrics=_metrics(row.name, tasks, scores),
            average=_statistic(averages[row.name], average_reference) if averages[row.name] else None,
            failed=sum(cell.row == row.name and not score.ok for cell, score in scores.items()),
        )
        for row in rows
    ]


def _by_task(row: str, tasks: Sequence[str], scores: Mapping[Cell, TaskScore]) -> dict[str, dict[int, float]]:
    return {
        task: {
            cell.seed: score.score
            for cell, score in scores.items()
            if cell.row == row and cell.task == task and score.ok
        }
        for task in tasks
    }


def _averages(values: Mapping[str, Mapping[int, float]], tasks: Sequence[str]) -> dict[int, float]:
    """Average over tasks, for each seed that has scores on all of them."""
    seeds = set.intersection(*(set(values[task]) for task in tasks)) if tasks else set()
    return {seed: float(np.mean([values[task][seed] for task in tasks])) for seed in sorted(seeds)}


def _reference(teacher: Mapping[int, float] | None, majority: Mapping[int, float] | None) -> float | None:
    if not teacher or not majority:
        return None
    mean = float(np.mean(list(teacher.values())))
    return mean if mean > float(np.mean(list(majority.values()))) else None


def _statistic(values: Mapping[int, float], reference: float | None) -> Statistic:
    scores = list(values.values())
    mean = float(np.mean(scores))
    sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Statistic(mean, sd, len(scores), None if not reference else mean / reference)


def _metrics(
    row: str, tasks: Sequence[str], scores: Mapping[Cell, TaskScore]
) -> dict[str, dict[str, dict[str, float]]]:
    means: dict[str, dict[str, dict[str, float]]] = {}
    for task in tasks:
        kept = [score for cell, score in scores.items() if cell.row == row and cell.task == task and score.ok]
        if kept:
            means[task] = {
                split: {name: float(np.mean([score.metrics[split][name] for score in kept])) for name in metrics}
                for split, metrics in kept[0].metrics.items()
            }
    return means


def _speedup(row: Row, latencies: Mapping[str, Latency]) -> float | None:
    if row.name == TEACHER:
        return 1.0
    return 1.0 / latencies[row.name].ratio if row.name in latencies else None


def _latency_ms(row: Row, latencies: Mapping[str, Latency]) -> float | None:
    if row.name == TEACHER:
        return float(np.median([latency.teacher_median_ms for latency in latencies.values()])) if latencies else None
    return latencies[row.name].median_ms if row.name in latencies else None


def draw_comparison(summaries: Sequence[Summary], *, title: str, method: str) -> Figure:
    """Plot score against speed-up or, if no speed was measured, against parameters. Bubble size shows parameters.

    Args:
        summaries: Rows of the table.
        title: Title of the figure.
        method: Scoring method, for the axis label.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), dpi=144, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    axes.set_ylabel(f"score by {method}, %")
    shown = [row for row in summaries if row.average is not None and row.parameters]
    if not shown:
        axes.text(0.5, 0.5, "no score", transform=axes.transAxes, ha="center", va="center", color=_COLOURS[TEACHER])
        return figure
    timed = all(row.speedup is not None for row in shown)
    axes.set_xlabel("speed-up over the teacher" if timed else "parameters of the encoder, millions")
    largest = max(row.parameters for row in shown)
    places = [row.speedup if timed and row.speedup else row.parameters / 1e6 for row in shown]
    for row, place in zip(shown, places, strict=True):
        assert row.average is not None
        colour, mean = _colour(row), 100 * row.average.mean
        deviation = 100 * row.average.sd if row.average.sd else None
        size = 40 + 360 * row.parameters / largest
        # Draw students on top of the rows that they are compared with.
        front = 5 if row.name.startswith(STUDENT) else 3
        axes.errorbar(place, mean, yerr=deviation, color=colour, capsize=3, linewidth=1.2, zorder=2)
        axes.scatter(place, mean, s=size, color=colour, alpha=0.75, linewidths=0, zorder=front)
    floor = next((row.average for row in summaries if row.name == MAJORITY and row.average is not None), None)
    if floor is not None:
        axes.axhline(100 * floor.mean, color=_COLOURS[TEACHER], linestyle="--", linewidth=1.2)
        axes.annotate(
            "majority class",
            (0.5, 100 * floor.mean),
            xycoords=("axes fraction", "data"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
            color=_COLOURS[TEACHER],
        )
    if max(places) > _LOG_FROM * min(places):
        _use_log_scale(axes)
    axes.margins(0.12, 0.12)
    _label(axes, shown, places)
    return figure


def _colour(row: Summary) -> str:
    return _COLOURS.get(STUDENT if row.name.startswith(STUDENT) else row.name, _OTHER)


def _label(axes: Axes, rows: Sequence[Summary], places: Sequence[float]) -> None:
    """Write each row's name beside its bubble, towards the middle, without overlaps."""
    low, high = axes.get_ylim()
    marks = axes.transLimits.transform(axes.transScale.transform([(place, low) for place in places]))
    for left in (True, False):
        side = [index for index in range(len(rows)) if (marks[index][0] < 0.5) == left]
        means = [100 * row.average.mean for row in (rows[index] for index in side) if row.average is not None]
        heights = spread(means, _LABEL_GAP * (high - low))
        for index, mean, height in zip(side, means, heights, strict=True):
            row = rows[index]
            axes.annotate(
                f"{row.title} ({row.parameters / 1e6:.1f}M)",
                (places[index], mean),
                xytext=(marks[index][0] + (0.04 if left else -0.04), (height - low) / (high - low)),
                textcoords="axes fraction",
                ha="left" if left else "right",
                va="center",
                fontsize=8,
                color=_colour(row),
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": _colour(row), "shrinkA": 0, "shrinkB": 0},
            )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move values apart until neighbours differ by at least ``gap``; keep their order and stay near the originals."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    # Groups of touching values: their members, and the mean of their original values.
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        groups.append([index])
        centres.append(values[index])
        while len(groups) > 1 and centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            merged = groups[-2] + groups[-1]
            groups[-2:] = [merged]
            centres[-2:] = [sum(values[member] for member in merged) / len(merged)]
    moved = list(values)
    for group, centre in zip(groups, centres, strict=True):
        for place, member in enumerate(group):
            moved[member] = centre + gap * (place - (len(group) - 1) / 2)
    return moved


def _use_log_scale(axes: Any) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
