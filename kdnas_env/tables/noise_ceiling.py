"""How well rankings agree between seeds: no search can rank students better than the seeds agree."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.evaluation import Status
from kdnas_env.support.statistics import kendall_tau
from kdnas_env.tables.table import STATUSES, Table

Floats = npt.NDArray[np.float64]


def noise_ceiling(table: Table, curve: str = "heldout_unexplained") -> dict[str, Any]:
    """Return how well a loss agrees between seeds, over the table and among students of one width.

    Only students are counted that ended well with every seed that any student ended well with.

    Returns:
        ``students`` and ``seeds`` (how many were compared), ``deviation`` (of one student's loss between seeds, root
        mean square), ``spread`` (between students), and by epoch Kendall's tau (tau-b), the mean over pairs of
        seeds: ``tau`` and ``tau_within_width`` (mean over widths); ``tau_with_last``: of the mean over seeds with
        that after the last epoch. Losses that are all equal agree with nothing: their tau is 0.
        Numbers are None where fewer than two seeds or students are there.
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
