"""Predictions of a surrogate for all students of its space, so that the optimum of a race on it is exact.

Listing 1.5 million students takes one or two minutes on one core, and 40 MB in the folder of
:func:`kdnas_env.support.atomic.default_cache_directory`. A listing is cached by the fingerprint of
everything it depends on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig, count_parameters
from kdnas_env.errors import TableError
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.disk_cache import cached
from kdnas_env.support.progress import OnProgress
from kdnas_env.tables.archive import check_arrays, read_archive, write_archive
from kdnas_env.tables.surrogates.surrogate import FIT_VERSION, PREDICTED_LATENCIES
from kdnas_env.tables.table import CURVES

LARGEST_LISTING = 4_000_000
"""Maximum number of points of a space to list."""

_KIND = "listing"
_VERSION = 2
_BATCH = 16  # larger batches repeatedly allocate and free system memory
_BATCHES_PER_REPORT = 500
_BATCH_OF_RECIPES = 256
_NETWORKS_PER_REPORT = 10
_SECONDS = CURVES.index("epoch_seconds")
_RATIO, _MEDIAN = PREDICTED_LATENCIES.index("ratio"), PREDICTED_LATENCIES.index("median_ms")


@dataclass(frozen=True, eq=False)
class Listing:
    """Predicted means over seeds of ``n`` students.

    Attributes:
        index: Flat index of each student in the space, ascending, int64 ``(n,)``.
        loss: Loss after the last epoch, float64 ``(n,)``.
        ratio: Latency divided by the teacher's, float64 ``(n,)``.
        latency_ms: Median latency in milliseconds, float64 ``(n,)``.
        seconds: Total duration of the first epochs, float64 ``(n,)``.
        parameters: Number of parameters, embeddings included, int64 ``(n,)``.
    """

    index: Ints
    loss: Floats
    ratio: Floats
    latency_ms: Floats
    seconds: Floats
    parameters: Ints

    ARRAYS = ("index", "loss", "ratio", "latency_ms", "seconds", "parameters")

    def __post_init__(self) -> None:
        shape = (len(self.index),)
        integers = {"index": np.int64, "parameters": np.int64}
        check_arrays(vars(self), dict.fromkeys(self.ARRAYS, shape), integers)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Listing:
        """Return some of the students, chosen by bool ``(n,)``."""
        return Listing(*(getattr(self, name)[chosen] for name in self.ARRAYS))


def list_students(
    evaluator: SurrogateEvaluator, curve: str, epochs: int, on_progress: OnProgress = lambda done, total: None
) -> Listing:
    """List all students of a surrogate's space, or read the cached listing.

    Args:
        evaluator: Predicts means over seeds.
        curve: Name of the loss, one of ``CURVES``.
        epochs: Number of epochs for ``seconds``.
        on_progress: Called with the number of listed points and the total.

    Raises:
        TableError: If the space is too large.
    """
    size = evaluator.space.size
    if size > LARGEST_LISTING:
        raise TableError(
            f"the space of the surrogate of {evaluator.surrogate.metadata.name!r} has {size:,} points; regret needs "
            f"the optimum, which is computed for up to {LARGEST_LISTING:,}. Race on its table, or on a surrogate that "
            "kdnas table fit makes of a smaller table"
        )
    parts = [str((_KIND, _VERSION, FIT_VERSION)), evaluator.fingerprint, curve, str(epochs)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def make() -> Listing:
        if evaluator.space.recipe_choices:
            return _listed_by_network(evaluator, curve, epochs, on_progress)
        return _listed(evaluator, curve, epochs, evaluator.space.students(), on_progress)

    return cached(f"{_KIND}-{key[:32]}.npz", _read, make, _write)


def sample_students(
    evaluator: SurrogateEvaluator, curve: str, epochs: int, points: int, rng: np.random.Generator
) -> Listing:
    """Return the predictions of a surrogate for random students of its space.

    Args:
        evaluator: Predicts means over seeds.
        curve: Name of the loss, one of ``CURVES``.
        epochs: Number of epochs for ``seconds``.
        points: Number of points to draw; invalid and equivalent ones are left out.
        rng: Random generator.

    Raises:
        TableError: If no drawn point is valid.
    """
    space = evaluator.space
    drawn = np.unique(space.canonical(space.grid.flat(space.grid.draw(rng, points, ()))))
    named = ((index, space.decode(space.from_index(index))) for index in drawn.tolist())
    students = [(index, student) for index, student in named if space.is_valid(student)]
    if not students:
        raise TableError(f"none of {points} points of the surrogate's space can be built; draw more")
    return _listed(evaluator, curve, epochs, iter(students))


def _listed(
    evaluator: SurrogateEvaluator,
    curve: str,
    epochs: int,
    points: Iterator[tuple[int, StudentConfig]],
    on_progress: OnProgress = lambda done, total: None,
) -> Listing:
    """Return the predictions for students, given with ascending flat indices."""
    surrogate, space = evaluator.surrogate, evaluator.space
    parts: list[Listing] = []
    while batch := list(islice(points, _BATCH)):
        if len(parts) % _BATCHES_PER_REPORT == 0:
            on_progress(batch[0][0], space.size)
        index = np.array([index for index, _ in batch], dtype=np.int64)
        inputs = surrogate.features([config for _, config in batch], extrapolate=evaluator.extrapolate)
        parameters = np.array([count_parameters(config, space.teacher) for _, config in batch], dtype=np.int64)
        parts.append(_predicted(evaluator, curve, epochs, index, inputs, parameters))
    on_progress(space.size, space.size)
    return _joined(parts)


def _listed_by_network(evaluator: SurrogateEvaluator, curve: str, epochs: int, on_progress: OnProgress) -> Listing:
    """Return the predictions for all students of a joint space, network by network.

    The dimensions of the recipe come last, so the students of a network are consecutive. Their inputs differ only in
    the columns of the recipe, which are the same for all networks, so they are computed only once.
    """
    surrogate, space = evaluator.surrogate, evaluator.space
    recipes = math.prod(len(values) for values in space.recipe_choices.values())
    places = np.arange(recipes)
    inputs = surrogate.features([space.decode(space.from_index(place)) for place in range(recipes)])
    of_network = ~surrogate.range.recipe_columns
    parts: list[Listing] = []
    for number, first in enumerate(range(0, space.size, recipes)):
        if number % _NETWORKS_PER_REPORT == 0:
            on_progress(first, space.size)
        index, student = first + places, space.decode(space.from_index(first))
        index = index[space.canonical(index) == index]
        if not len(index) or not space.is_valid(student):
            continue
        given = inputs[index - first]
        given[:, of_network] = surrogate.features([student], extrapolate=evaluator.extrapolate)[0, of_network]
        parameters = np.full(len(index), count_parameters(student, space.teacher), dtype=np.int64)
        for start in range(0, len(index), _BATCH_OF_RECIPES):
            part = slice(start, start + _BATCH_OF_RECIPES)
            parts.append(_predicted(evaluator, curve, epochs, index[part], given[part], parameters[part]))
    on_progress(space.size, space.size)
    return _joined(parts)


def _predicted(
    evaluator: SurrogateEvaluator, curve: str, epochs: int, index: Ints, inputs: Floats, parameters: Ints
) -> Listing:
    """Return the predictions for students, given their inputs (:meth:`Surrogate.features`)."""
    surrogate = evaluator.surrogate
    device, last = surrogate.metadata.device_position(evaluator.device), surrogate.metadata.epochs
    seconds = [surrogate.output("epoch_seconds", epoch) for epoch in range(epochs + 1)]
    latencies = [surrogate.output(name, device) for name in PREDICTED_LATENCIES]
    predicted = surrogate.mean(inputs, [surrogate.output(curve, last), *latencies, *seconds])
    return Listing(
        index,
        predicted.curves[:, -1, CURVES.index(curve)],
        predicted.latencies[:, device, _RATIO],
        predicted.latencies[:, device, _MEDIAN],
        predicted.curves[:, : epochs + 1, _SECONDS].sum(axis=1),
        parameters,
    )


def _joined(parts: Sequence[Listing]) -> Listing:
    return Listing(*(np.concatenate([getattr(part, name) for part in parts]) for name in Listing.ARRAYS))


def _read(path: Path) -> Listing:
    _, arrays = read_archive(path, _KIND, _VERSION, Listing.ARRAYS)
    try:
        return Listing(**arrays)
    except ValueError as error:
        raise TableError(f"listing {str(path)!r} is malformed: {error}; remove it") from error


def _write(listing: Listing, path: Path) -> None:
    write_archive(path, {name: getattr(listing, name) for name in Listing.ARRAYS}, {"schema_version": _VERSION}, _KIND)
