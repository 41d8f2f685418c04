"""Plot the students of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.pareto import pareto_front
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.support.figures import ORANGE
from kdnas_env.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mean_students(table: Table) -> list[Evaluation]:
    """Return the mean over seeds of every student with a loss and a latency on the first device."""
    cells = TabularEvaluator(table, missing="failed").look_up(table.index, Fidelity(epochs=table.metadata.epochs))
    return [cells.record(place) for place in np.flatnonzero(cells.ok).tolist()]


def draw_table(table: Table) -> Figure:
    """Plot all students of a table: held-out loss against latency, by depth and width, with the Pareto front.

    Returns:
        A matplotlib figure outside pyplot's global state, 8 by 5 inches.
    """
    from matplotlib.figure import Figure

    students = mean_students(table)
    ratio = np.array([student.latency.ratio for student in students if student.latency])
    loss = np.array([student.heldout_unexplained[-1] for student in students])
    layers = np.array([student.config.num_hidden_layers for student in students])
    widths = np.array([student.config.hidden_size for student in students])
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{table.metadata.name}: {len(students)} students")
    axes.set_xlabel(f"latency ({table.metadata.devices[0].name}), share of the teacher's")
    axes.set_ylabel("held-out unexplained variance")
    for marker, width in zip("osD^vP*X", np.unique(widths), strict=False):
        chosen = widths == width
        points = axes.scatter(
            ratio[chosen],
            loss[chosen],
            c=layers[chosen],
            vmin=layers.min(),
            vmax=layers.max(),
            marker=marker,
            cmap="viridis",
            s=18,
            alpha=0.8,
            linewidths=0,
            label=f"{width} wide",
        )
    front = pareto_front(ratio, loss)
    axes.step(ratio[front], loss[front], where="post", color=ORANGE, linewidth=1.4, label="Pareto front")
    if len(students):
        figure.colorbar(points, ax=axes, pad=0.02, ticks=np.unique(layers)).set_label("layers")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure
