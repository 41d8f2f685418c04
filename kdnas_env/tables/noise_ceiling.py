"""The noise ceiling: agreement of rankings between seeds, an upper bound for any ranking by a search."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.evaluation import Status
from kdnas_env.support.arrays import Floats
from kdnas_env.support.statistics import kendall_tau
from kdnas_env.tables.table import STATUSES, Table


def noise_ceiling(table: Table, curve: str = "heldout_unexplained") -> dict[str, Any]:
    """Return the agreement of a loss between seeds, over the whole table and among students of equal width.

    Uses only students that succeeded with every seed; seeds without any successful student are ignored.

    Returns:
        ``students`` and ``seeds``: numbers of compared students and seeds. ``deviation``: root mean square deviation of
        one student's loss between seeds. ``spread``: deviation between students. ``tau`` and ``tau_within_width``
        (mean over widths): Kendall's tau-b by epoch, mean over pairs of seeds. ``tau_with_last``: Kendall's tau-b by
        epoch, between the mean over seeds at that epoch and at the last. If all losses are equal, tau is 0. Numbers are
        None for fewer than two seeds or students.
    """
    ended = table.status == STATUSES.index(str(Status.OK))
    seeds = np.flatnonzero(ended.any(axis=0))
    whole = ended[:, seeds].all(axis=1) if len(seeds) else np.zeros(len(table), dtype=np.bool_)
    losses = table.curve(curve)[whole][:, seeds].astype(np.float64)
    compared: dict[str, Any] = {"curve": curve, "students": len(losses), "seeds": len(seeds)}
    if len(losses) < 2:
        return {
            **compared,
            "deviation": None,
            "spread": None,
            "tau": None,
            "tau_within_width": None,
            "tau_with_last": None,
        }
    configs = table.configs()
    widths = np.array([configs[row].hidden_size for row in np.flatnonzero(whole)])
    last = losses[..., -1]
    mean = losses.mean(axis=1)
    several = len(seeds) > 1
    return {
        **compared,
        "deviation": float(np.sqrt(last.var(axis=1, ddof=1).mean())) if several else None,
        "spread": float(mean[:, -1].std(ddof=1)),
        "tau": _by_epoch(losses) if several else None,
        "tau_within_width": _within(losses, widths) if several else None,
        "tau_with_last": [kendall_tau(mean[:, epoch], mean[:, -1], constant=0.0) for epoch in range(mean.shape[1])],
    }


def _by_epoch(losses: Floats) -> list[float]:
    pairs = list(itertools.combinations(range(losses.shape[1]), 2))
    return [
        float(np.mean([kendall_tau(losses[:, a, epoch], losses[:, b, epoch], constant=0.0) for a, b in pairs]))
        for epoch in range(losses.shape[2])
    ]


def _within(losses: Floats, widths: npt.NDArray[np.int64]) -> list[float] | None:
    groups = [losses[widths == width] for width in np.unique(widths)]
    taus = [_by_epoch(group) for group in groups if len(group) > 1]
    return [float(value) for value in np.mean(taus, axis=0)] if taus else None
