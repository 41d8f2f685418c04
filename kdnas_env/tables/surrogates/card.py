"""Quality of a surrogate, by cross-validation: each student's prediction comes from a model fitted without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdnas_env.core.choices import RECIPE
from kdnas_env.core.evaluation import Status
from kdnas_env.core.reward import KDReward
from kdnas_env.errors import TableError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.statistics import kendall_tau, resolved_tau, spearman_rho
from kdnas_env.tables.surrogates.inputs import LEAST_STUDENTS, Range, values_of
from kdnas_env.tables.surrogates.students import capped, ended_well, without
from kdnas_env.tables.surrogates.surrogate import PREDICTED_LATENCIES, Quantities, Surrogate
from kdnas_env.tables.table import CURVES, LATENCIES, STATUSES, Table

RANDOM = "random"
TOP_DECILE = "best tenth"

_LEVELS = {"coverage_50": 0.674490, "coverage_90": 1.644854, "coverage_95": 1.959964}
"""Central intervals of a normal distribution, in standard deviations."""

METRICS = ("r2", "rmse", "tau", "tau_resolved", "spearman", "precision_at_10", "precision_at_50", "nll", *_LEVELS)
"""Keys of :func:`prediction_quality` other than ``students``."""

_LOSS = CURVES.index("heldout_unexplained")
_OK = STATUSES.index(str(Status.OK))
_RATIO = PREDICTED_LATENCIES.index("ratio")


@dataclass(frozen=True)
class _Split:
    """Groups of held-out rows, by name of the split."""

    name: str
    unseen: tuple[Ints, ...]


def surrogate_card(table: Table, *, folds: int = 10, seed: int = 0, reward: KDReward | None = None) -> dict[str, Any]:
    """Evaluate the surrogate of a table.

    The splits are ``random`` (cross-validation); one split for each number of layers and each width, which holds out
    all students of that size (extrapolation, as tables have few widths); and ``best tenth``, which holds out the
    students of the highest reward.

    Args:
        table: The table; uses students that succeeded and were measured on its first device.
        folds: Number of cross-validation folds.
        seed: Seed of the folds.
        reward: The reward; None for the default.

    Returns:
        Plain data: ``table``, ``students``, ``seeds``, ``folds``, and ``splits``: the results of
        :func:`prediction_quality` by split and quantity. Quantities are ``reward``, the curves by epoch
        (``heldout_unexplained@3``), the ``seconds`` of all epochs, and the latencies by device (``ratio@torch``).
        Predicted deviations combine the model uncertainty and the noise of the mean over seeds. Splits that leave too
        few students for a fit are absent.

    Raises:
        TableError: If too few students succeeded and were measured on a device.
    """
    scored = reward or KDReward()
    measured = np.isfinite(table.latencies).all(axis=-1) & (table.status == _OK).any(axis=1)[:, None]
    for device, count in zip(table.metadata.devices, measured.sum(axis=0).tolist(), strict=True):
        if count < 2 * LEAST_STUDENTS:
            raise TableError(
                f"table {table.metadata.name!r} has {count} successful students with a latency on "
                f"{device.name!r}; a card needs at least {2 * LEAST_STUDENTS}"
            )
    usable = np.flatnonzero(measured[:, 0])
    truth = _truth(table)
    rewards = _rewards(truth, scored)
    cells = (table.status[usable] == _OK).sum(axis=1)
    splits = {}
    for split in _splits(table, usable, rewards, folds, np.random.default_rng(seed)):
        if any((np.delete(measured, part, axis=0).sum(axis=0) < LEAST_STUDENTS).any() for part in split.unseen):
            continue
        rows = np.concatenate(split.unseen)
        parts = [_predicted(table, part, scored) for part in split.unseen]
        predictions = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        splits[split.name] = {
            name: _quality_of(values[rows], predictions[name], float(cells.mean()), largest=name == "reward")
            for name, values in {"reward": rewards, **_flat(truth, table)}.items()
        }
    return {
        "table": table.metadata.name,
        "students": len(usable),
        "seeds": float(cells.mean()),
        "folds": min(folds, len(usable)),
        "splits": splits,
    }


def judge(surrogate: Surrogate, table: Table) -> dict[str, Any]:
    """Evaluate a surrogate on a table of other students, to which it was not fitted.

    Args:
        surrogate: The surrogate.
        table: A table of the same workload; uses students that succeeded and have only names known to the surrogate.

    Returns:
        Result of :func:`prediction_quality` for the held-out loss after the last epoch.
    """
    rows = _known_rows(surrogate.range, table)
    return _judged_losses(table, rows, _predicted_losses(surrogate, table, rows))


def judge_parts(first: Table, table: Table, *, folds: int = 10, seed: int = 0) -> dict[str, Any]:
    """Evaluate the surrogate of two tables by cross-validation over the students of the second.

    Args:
        first: The first table.
        table: The second table, of the same workload.
        folds: Number of folds of the second table; each is predicted from the first table and the other folds.
        seed: Seed of the folds.

    Returns:
        Result of :func:`judge`.
    """
    rows = _known_rows(Range.of(first), table)
    parts = np.array_split(np.random.default_rng(seed).permutation(rows), max(1, min(folds, len(rows))))
    predictions = [_predicted_losses(Surrogate.fit(first, without(table, part)), table, part) for part in parts]
    return _judged_losses(table, np.concatenate(parts), np.concatenate(predictions, axis=1))


def _known_rows(trusted: Range, table: Table) -> Ints:
    configs, rows = table.configs(), np.flatnonzero(ended_well(table).any(axis=1))
    return np.array([row for row in rows.tolist() if trusted.unknown_name(configs[row]) is None], dtype=np.int64)


def _predicted_losses(surrogate: Surrogate, table: Table, rows: Ints) -> Floats:
    """Return mean, noise and model uncertainty of the last held-out loss of rows, float64 ``(3, m)``."""
    configs = table.configs()
    predicted = surrogate.predict([configs[row] for row in rows.tolist()], extrapolate=True)
    return np.stack([part.curves[:, -1, _LOSS] for part in predicted])


def _judged_losses(table: Table, rows: Ints, predictions: Floats) -> dict[str, Any]:
    seeds = float(ended_well(table)[rows].sum(axis=1).mean()) if len(rows) else 1.0
    return _quality_of(_truth(table).curves[rows, -1, _LOSS], predictions, seeds, largest=False)


def prediction_quality(
    truth: Floats, mean: Floats, deviation: Floats, resolution: float, *, largest: bool
) -> dict[str, Any]:
    """Compare predictions of one quantity with the true values.

    Args:
        truth: The true values, float64 ``(n,)``.
        mean: Predicted means, float64 ``(n,)``.
        deviation: Predicted standard deviations, float64 ``(n,)``.
        resolution: Smaller differences are noise.
        largest: Whether larger values are better.

    Returns:
        ``students``; ``r2``; ``rmse``; ``tau`` (Kendall's tau-b); ``tau_resolved``, over the pairs whose true values
        differ by more than the resolution; ``spearman``; ``precision_at_10`` and ``precision_at_50``: fraction of
        the predicted best among the true best; ``nll``: mean negative log likelihood of a normal distribution; and
        ``coverage_50``, ``coverage_90``, ``coverage_95``: fraction of true values in the central intervals. Undefined
        values are None, such as a correlation with a constant.
    """
    n = len(truth)
    quality: dict[str, Any] = {"students": n, **dict.fromkeys(METRICS)}
    if n < 2:
        return quality
    errors, spread = truth - mean, float(((truth - truth.mean()) ** 2).sum())
    quality["r2"] = 1 - float((errors**2).sum()) / spread if spread > 0 else None
    quality["rmse"] = float(np.sqrt((errors**2).mean()))
    quality["tau"] = _defined(kendall_tau(truth, mean))
    quality["tau_resolved"] = _defined(resolved_tau(truth, mean, resolution))
    quality["spearman"] = _defined(spearman_rho(truth, mean))
    for k in (10, 50):
        if k <= n // 2:
            quality[f"precision_at_{k}"] = precision_at(truth, mean, k, largest=largest)
    if (deviation > 0).all():
        standard = errors / deviation
        quality["nll"] = float((0.5 * standard**2 + np.log(deviation)).mean() + 0.5 * math.log(2 * math.pi))
        quality |= {name: float((np.abs(standard) <= bound).mean()) for name, bound in _LEVELS.items()}
    return quality


def precision_at(truth: Floats, mean: Floats, k: int, *, largest: bool) -> float:
    """Return the fraction of the ``k`` predicted best that are among the ``k`` true best."""
    sign = -1.0 if largest else 1.0
    best, chosen = (np.argsort(sign * values, kind="stable")[:k] for values in (truth, mean))
    return len(np.intersect1d(best, chosen)) / k


def card_rows(
    card: Mapping[str, Any],
    quantities: Sequence[str] | None = None,
    *,
    splits: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
) -> list[tuple[str, ...]]:
    """Format a card as rows of text; the first row is the header.

    Args:
        card: Result of :func:`surrogate_card`.
        quantities: Quantities to show; None for the reward, the losses after the last epoch, the seconds and the
            ratios.
        splits: Splits to show; None for all.
        metrics: Metrics to show.
    """
    first = next(iter(card["splits"].values()))
    if quantities is None:
        last = max(int(name.rpartition("@")[2]) for name in first if name.startswith(CURVES[_LOSS]))
        shown = ("reward", "seconds", *(f"{name}@{last}" for name in CURVES if name != "epoch_seconds"))
        quantities = tuple(name for name in first if name in shown or name.startswith("ratio@"))
    head = ("split", "quantity", "students", *(name.replace("_", " ") for name in metrics))
    rows = [
        (split, name, str(judged[name]["students"]), *(_number(judged[name][metric]) for metric in metrics))
        for split, judged in card["splits"].items()
        if splits is None or split in splits
        for name in quantities
    ]
    return [head, *rows]


def _splits(table: Table, usable: Ints, rewards: Floats, folds: int, rng: np.random.Generator) -> Iterator[_Split]:
    shuffled = rng.permutation(usable)
    yield _Split(RANDOM, tuple(part for part in np.array_split(shuffled, min(folds, len(usable))) if len(part)))
    configs = table.configs()
    space = table.space
    numbers = [name for name, ordered in zip(space.dimensions, space.ordered, strict=True) if ordered]
    for name in ("num_hidden_layers", "hidden_size", *(name for name in numbers if name.startswith(RECIPE))):
        values = np.array([values_of(configs[row]).get(name) for row in usable])
        for value in np.unique(values):
            yield _Split(f"without {name} {value}", (usable[values == value],))
    best = usable[np.argsort(-rewards[usable], kind="stable")[: max(2, len(usable) // 10)]]
    yield _Split(TOP_DECILE, (best,))


def _predicted(table: Table, unseen: Ints, reward: KDReward) -> dict[str, Floats]:
    """Predict rows by a surrogate fitted without them: mean, noise and uncertainty by quantity, float64 ``(3, m)``."""
    configs = table.configs()
    fitted = Surrogate.fit(without(table, unseen))
    mean, noise, uncertainty = fitted.predict([configs[row] for row in unseen.tolist()], extrapolate=True)
    parts = [_flat(part, table) for part in (mean, noise, uncertainty)]
    predictions = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    # In one distillation all epochs are slow or fast together, so that deviations of the seconds add up.
    factors = np.array([reward.score(0.0, ratio) for ratio in mean.latencies[:, 0, _RATIO].tolist()])
    noisy, doubtful = (factors * part.curves[:, -1, _LOSS] for part in (noise, uncertainty))
    relative = uncertainty.latencies[:, 0, _RATIO] / mean.latencies[:, 0, _RATIO]
    by_latency = np.abs(reward.alpha) * relative * np.maximum(1 - mean.curves[:, -1, _LOSS], 0) * factors
    predictions["reward"] = np.stack([_rewards(mean, reward), noisy, np.hypot(doubtful, by_latency)])
    return predictions


def _quality_of(truth: Floats, predictions: Floats, seeds: float, *, largest: bool) -> dict[str, Any]:
    known = np.isfinite(truth)
    truth, (mean, noise, uncertainty) = truth[known], predictions[:, known]
    left = noise / np.sqrt(seeds)
    # Means over seeds that differ by less than this may be equal.
    resolution = float(np.sqrt(2 * (left**2).mean())) if len(left) else 0.0
    return prediction_quality(truth, mean, np.hypot(left, uncertainty), resolution, largest=largest)


def _truth(table: Table) -> Quantities:
    """Return the mean over the successful seeds of each row, of capped losses; NaN if there are none."""
    good = (table.status == _OK)[..., None, None]
    sums = np.where(good, capped(table.curves), 0).sum(axis=1, dtype=np.float64)
    count = good.sum(axis=1)
    curves = np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)
    kinds = [LATENCIES.index(name) for name in PREDICTED_LATENCIES]
    return Quantities(curves, table.latencies[..., kinds].astype(np.float64))


def _rewards(quantities: Quantities, reward: KDReward) -> Floats:
    losses, ratios = quantities.curves[:, -1, _LOSS], quantities.latencies[:, 0, _RATIO]
    return np.array([reward.score(*pair) for pair in zip(losses.tolist(), ratios.tolist(), strict=True)])


def _flat(quantities: Quantities, table: Table) -> dict[str, Floats]:
    curves, latencies = quantities.curves, quantities.latencies
    columns = {
        f"{name}@{epoch}": curves[:, epoch, place]
        for place, name in enumerate(CURVES)
        for epoch in range(curves.shape[1])
    }
    columns["seconds"] = curves[..., CURVES.index("epoch_seconds")].sum(axis=1)
    for position, device in enumerate(table.metadata.devices):
        for place, name in enumerate(PREDICTED_LATENCIES):
            columns[f"{name}@{device.name}"] = latencies[:, position, place]
    return columns


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
