"""A table of what surrogates say: agents that are raced on it as well tell whether a surrogate ranks them alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kdnas_env.tables.surrogates.students import ended_well, without
from kdnas_env.tables.surrogates.surrogate import PREDICTED_LATENCIES, Surrogate
from kdnas_env.tables.table import LATENCIES, Table


def surrogate_table(table: Table, rng: np.random.Generator, *, folds: int = 10) -> Table:
    """Answer all students of a table by surrogates, each by one that was fitted without it.

    That is what a surrogate makes of students between those of its table, only that here the truth is known. What is
    masked or failed stays so, since surrogates know no failures.

    Args:
        table: The table.
        rng: Draws the folds and the noise between seeds.
        folds: Parts of the students, each of which is predicted from the others.

    Raises:
        TableError: If too few students ended well or were measured on a device.
    """
    good, configs = ended_well(table), table.configs()
    curves, latencies = table.curves.copy(), table.latencies.copy()
    rows = np.flatnonzero(good.any(axis=1))
    kinds = [LATENCIES.index(name) for name in PREDICTED_LATENCIES]
    for part in np.array_split(rng.permutation(rows), min(folds, len(rows))):
        surrogate = Surrogate.fit(without(table, part))
        inputs = surrogate.features([configs[row] for row in part.tolist()], extrapolate=True)
        for column in range(len(table.metadata.seeds)):
            drawn = surrogate.sampled(inputs, rng.standard_normal((len(part), surrogate.curve_outputs)))
            there = good[part, column]
            curves[part[there], column] = drawn.curves[there]
        told = surrogate.mean(inputs).latencies.astype(np.float32)
        measured = np.isfinite(latencies[part]).all(axis=-1)[..., None]
        latencies[part[:, None, None], np.arange(told.shape[1])[:, None], kinds] = np.where(
            measured, told, latencies[part][..., kinds]
        )
    return replace(table, curves=curves, latencies=latencies)
