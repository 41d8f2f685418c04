"""Render a search as text or picture, from its records only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdnas_env.core.pareto import pareto_front
from kdnas_env.envs.book import Book, Record
from kdnas_env.support.figures import BLUE, GREY, ORANGE, RED, figure_to_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT_ROWS = 10
"""Maximum number of Pareto-front rows in the text view."""

_LOG_FROM = 5
"""Ratio of the slowest to the fastest student above which the latency axis is logarithmic."""

LOSS_LABELS = {
    "heldout": "held-out unexplained variance",
    "heldout_raw": "held-out distillation loss",
    "train_raw": "training loss of the last epoch",
    "task": "unexplained share of the task teacher's soft labels",
}
"""Axis labels of the losses of a ``KDReward``."""

_HEADER = f"{'loss':>8} {'latency':>10} {'speed-up':>9} {'parameters':>11} {'reward':>8}  student"


def pareto_records(records: Sequence[Record]) -> list[Record]:
    """Return the Pareto front of loss and latency ratio, fastest first."""
    usable = [record for record in records if record.usable and not record.duplicate]
    front = pareto_front([record.reward.latency_ratio for record in usable], [record.reward.loss for record in usable])
    return [usable[index] for index in front]


def render_search(history: Book, mode: str, *, loss: str) -> str | npt.NDArray[np.uint8]:
    """Render a search as a text (mode ``ansi``) or a picture (``rgb_array``), uint8 ``(height, width, 3)``.

    Args:
        history: The records of the search.
        mode: Render mode of the environment.
        loss: Name of the loss that the reward goes by.
    """
    budget = int(history.budget.amount) if history.budget.unit == "evaluations" else None
    if mode == "ansi":
        return search_text(history, budget=budget)
    return figure_to_rgb(draw_search(history, budget=budget, round_size=history.round_size, loss=loss))


def search_text(history: Book, *, budget: int | None) -> str:
    """Describe a search in a few lines: progress, best and last student, Pareto front.

    Args:
        history: The records of the search.
        budget: Evaluations of the whole search, or None if the budget has another unit.
    """
    if budget is None:
        lines = [f"KD-NAS search: {history.evaluations} evaluations, round {history.round + 1}"]
    else:
        rounds = -(-budget // history.round_size)
        lines = [
            f"KD-NAS search: {history.evaluations} of {budget} evaluations, "
            f"round {min(history.round + 1, rounds)} of {rounds}"
        ]
    if history.last is None:
        return "\n".join([*lines, "nothing evaluated yet"])
    failed = sum(not record.usable for record in history if not record.duplicate)
    repeated = sum(record.duplicate for record in history)
    lines += [f"{failed} failed, {repeated} repeated", "", " " * 6 + _HEADER]
    for name, record in (("best", history.best), ("last", history.last)):
        lines.append(f"{name:<6}" + (_row(record) if record else "none yet"))
    front = pareto_records(history)
    if front:
        lines += ["", "Pareto front of loss and latency, fastest first", " " * 6 + _HEADER]
        lines += [" " * 6 + _row(record) for record in front[:FRONT_ROWS]]
    if len(front) > FRONT_ROWS:
        lines.append(" " * 6 + f"and {len(front) - FRONT_ROWS} slower")
    return "\n".join(lines)


def draw_search(
    records: Sequence[Record],
    *,
    budget: int | None = None,
    round_size: int | None = None,
    reference: float | None = None,
    reference_label: str = "best of random search",
    loss: str = "heldout",
    title: str = "KD-NAS search",
) -> Figure:
    """Plot a search: loss against latency with the Pareto front, and the best reward so far.

    Args:
        records: Answers in order. Answers not counted against the budget are not plotted.
        budget: Evaluations of the whole search, the right end of the axis; None ends it at the last evaluation.
        round_size: Evaluations per round, to mark the rounds; None for no marks.
        reference: A reward for a horizontal line, such as the best of random search with the same budget.
        reference_label: Label of that line.
        loss: The loss that the reward used, one of ``LOSS_LABELS``.
        title: Title of the picture.

    Returns:
        A matplotlib figure outside pyplot's global state, 11 by 4.5 inches.
    """
    from matplotlib.figure import Figure

    counted = [record for record in records if record.counted]
    figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    left, right = figure.subplots(1, 2)
    _draw_trade_off(left, counted, LOSS_LABELS[loss])
    _draw_progress(right, counted, budget, round_size, reference, reference_label)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.25, linewidth=0.6)
    return figure


def _row(record: Record) -> str:
    evaluation, reward = record.evaluation, record.reward
    if not evaluation.ok or evaluation.latency is None:
        reason = f" ({evaluation.error})" if evaluation.error else ""
        return f"{evaluation.status!s:>8} {'':>40} {reward.reward:8.4f}  {evaluation.config}{reason}"
    return (
        f"{reward.loss:8.4f} {evaluation.latency.median_ms:7.2f} ms {reward.speedup:8.2f}x "
        f"{evaluation.parameters / 1e6:10.2f}M {reward.reward:8.4f}  {evaluation.config}"
        + (" (repeated)" if record.duplicate else "")
    )


def _draw_trade_off(axes: Axes, records: Sequence[Record], loss_label: str) -> None:
    axes.set_title("Students")
    axes.set_xlabel("latency, share of the teacher's")
    axes.set_ylabel(loss_label)
    usable = [record for record in records if record.usable and not record.duplicate]
    if not usable:
        axes.text(0.5, 0.5, "no student yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        return
    ratio = np.array([record.reward.latency_ratio for record in usable])
    loss = np.array([record.reward.loss for record in usable])
    reward = [record.reward.reward for record in usable]
    points = axes.scatter(ratio, loss, c=reward, cmap="viridis", s=26, alpha=0.9, linewidths=0, zorder=2)
    bar = axes.figure.colorbar(points, ax=axes, pad=0.02)
    bar.set_label("reward")
    bar.outline.set_visible(False)
    front = pareto_front(ratio, loss)
    axes.step(ratio[front], loss[front], where="post", color=ORANGE, linewidth=1.2, zorder=1)
    axes.scatter(
        ratio[front], loss[front], s=60, facecolors="none", edgecolors=ORANGE, linewidths=1.4, label="Pareto front"
    )
    best = int(np.argmax(reward))
    axes.scatter(
        ratio[best],
        loss[best],
        marker="*",
        s=190,
        color=RED,
        edgecolors="white",
        linewidths=0.8,
        zorder=4,
        label="highest reward",
    )
    if ratio.max() > _LOG_FROM * ratio.min():
        _use_log_scale(axes)
    _legend_below(axes)


def _draw_progress(
    axes: Axes,
    records: Sequence[Record],
    budget: int | None,
    round_size: int | None,
    reference: float | None,
    reference_label: str,
) -> None:
    axes.set_title("Best reward so far")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("reward")
    end = max(budget or 1, len(records))
    axes.set_xlim(0, end + 0.5)
    number = np.arange(1, len(records) + 1)
    reward = np.array([record.reward.reward for record in records])
    usable = np.array([record.usable for record in records], dtype=bool)
    if round_size is not None:
        for last in range(round_size, end, round_size):
            axes.axvline(last + 0.5, color=GREY, linewidth=0.4, alpha=0.35, zorder=0)
    if usable.any():
        best = np.maximum.accumulate(np.where(usable, reward, -np.inf))
        first = int(np.argmax(usable))
        axes.scatter(number[usable], reward[usable], s=14, color=GREY, alpha=0.7, linewidths=0, label="student")
        axes.step(number[first:], best[first:], where="post", color=BLUE, linewidth=2, label="best so far")
    if not usable.all():
        # Failures all have the penalty, which would compress the scale, so they are ticks at the lower edge.
        failed = number[~usable]
        axes.plot(
            failed,
            np.zeros(len(failed)),
            "x",
            color=RED,
            markersize=6,
            label="failed",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    if reference is not None:
        axes.axhline(reference, color=ORANGE, linestyle="--", linewidth=1.4, label=reference_label)
    if axes.get_legend_handles_labels()[0]:
        _legend_below(axes)


def _use_log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend_below(axes: Axes) -> None:
    axes.legend(
        frameon=False,
        fontsize=9,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=4,
        columnspacing=1.2,
        handletextpad=0.3,
    )
