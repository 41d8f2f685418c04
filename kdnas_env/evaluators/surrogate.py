"""Evaluations predicted by a surrogate model, for spaces that are too large to tabulate."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig, count_parameters, forward_flops
from kdnas_env.core.choices import ORDERED, RECIPE
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Latency, Status, report_epochs
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.support.untrusted import is_integer
from kdnas_env.tables.surrogates.inputs import Range
from kdnas_env.tables.surrogates.storage import TableNames, fitted, load_source
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import CURVES, Table, TableMetadata

FFN_STEP = 1
"""Step of the feed-forward sizes in the derived space; a step of 1 gives more than a million students."""

_LOSS = CURVES.index("heldout_unexplained")
_SECONDS = CURVES.index("epoch_seconds")


@dataclass(frozen=True, eq=False)
class SurrogateEvaluator:
    """Predicts evaluations with a surrogate, for any student within the range of its table.

    A surrogate's predictions are smooth: it predicts no failures, and its latencies have no spread. As in a table,
    epoch 1 is the first epoch of a full distillation, and the seconds are predicted training times.

    Attributes:
        surrogate: The surrogate.
        seed: ``"mean"`` returns the mean over seeds. An integer adds a deviation that depends only on student and seed.
            ``"sample"`` uses the seed of the fidelity in this way, so that all searches of one episode see the same
            values in any order. The deviation is the noise between seeds. It does not include the model uncertainty,
            which :meth:`kdnas_env.tables.surrogates.surrogate.Surrogate.predict` returns.
        device: Name of the device for latencies; None for the table's first.
        extrapolate: Whether to predict students outside the table's numeric range too.
        search_space: The space; None for :func:`surrogate_space`.

    Raises:
        TableError: If the seed or the device is unknown.
        SpaceError: If the space exceeds the table's range and ``extrapolate`` is not set.
    """

    surrogate: Surrogate
    seed: int | str = "mean"
    device: str | None = None
    extrapolate: bool = False
    search_space: SearchSpace | None = None

    deterministic = True
    tabular = True

    def __post_init__(self) -> None:
        check_seed(self.seed)
        self.surrogate.metadata.device_position(self.device)
        if self.search_space is not None:
            check_space(self.search_space, self.surrogate.range, extrapolate=self.extrapolate)

    @classmethod
    def of(cls, names: TableNames, **settings: Any) -> SurrogateEvaluator:
        """Load a surrogate from its file, or fit one to one or more tables, by name or path."""
        return cls(fitted(load_source(names)), **settings)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        if self.search_space is not None:
            return self.search_space
        return surrogate_space(self.surrogate.metadata, self.surrogate.range, extrapolate=self.extrapolate)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the fitted arrays, the seed, the device and the space."""
        settings = [self.surrogate.metadata.workload, self.seed, self.device, self.extrapolate, self.space.to_dict()]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, array in sorted(self.surrogate.arrays.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def teacher_milliseconds(self) -> float:
        """Latency of the teacher on the device in milliseconds, as predicted for the first student of the space."""
        _, student = next(self.space.students())
        _, (median_ms, ratio) = self._predicted(student, 0)
        return median_ms / ratio

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Predict a batch; one record per config, in order. Invalid or forbidden students are ``invalid``.

        Raises:
            SpaceError: If a student is outside the table's range and ``extrapolate`` is not set.
            TableError: If the fidelity has more epochs than the table, or uses a fraction of the data.
        """
        self.surrogate.metadata.check_fidelity(fidelity)
        violations = [self.space.violation(config) for config in configs]
        return [
            self._record(config, fidelity, (place, len(configs)), on_epoch)
            if violation is None
            else Evaluation(config, fidelity, Status.INVALID, error=violation)
            for place, (config, violation) in enumerate(zip(configs, violations, strict=True))
        ]

    def _predicted(self, config: StudentConfig, seed: int) -> tuple[npt.NDArray[np.float64], list[float]]:
        """Return curves, float64 ``(epochs + 1, len(CURVES))``, and latencies on the device.

        Students are predicted one at a time: rounding depends on the size of matrix products, and a result must not
        depend on the other students of the batch.
        """
        inputs = self.surrogate.features([config], extrapolate=self.extrapolate)
        if self.seed == "mean":
            predicted = self.surrogate.mean(inputs)
        else:
            drawn = seed if self.seed == "sample" else int(self.seed)
            predicted = self.surrogate.sampled(inputs, _normals(config, drawn, self.surrogate.curve_outputs)[None])
        position = self.surrogate.metadata.device_position(self.device)
        return predicted.curves[0], predicted.latencies[0, position].tolist()

    def _record(
        self,
        config: StudentConfig,
        fidelity: Fidelity,
        place: tuple[int, int],
        on_epoch: EpochCallback | None,
    ) -> Evaluation:
        curves, latencies = self._predicted(config, fidelity.seed)
        ended, reached = Status.OK, fidelity.epochs + 1
        seconds = np.cumsum(curves[:, _SECONDS]).tolist()
        stopped = report_epochs(config, *place, fidelity.epochs, curves[:reached, _LOSS].tolist(), seconds, on_epoch)
        if stopped is not None:
            ended, reached = Status.STOPPED, stopped
        columns: dict[str, Any] = {
            name: tuple(column) for name, column in zip(CURVES, curves[:reached].T.tolist(), strict=True)
        }
        teacher, first = self.surrogate.metadata.encoder, self.surrogate.metadata.devices[0]
        return Evaluation(
            config,
            fidelity,
            ended,
            **columns,
            wall_seconds=seconds[reached - 1],
            latency=self._latency(*latencies) if ended is Status.OK else None,
            parameters=count_parameters(config, teacher),
            flops=forward_flops(config, teacher, batch=first.batch_size, length=first.sequence_length),
            device=self.surrogate.metadata.trained_on,
        )

    def _latency(self, median_ms: float, ratio: float) -> Latency:
        device = self.surrogate.metadata.devices[self.surrogate.metadata.device_position(self.device)]
        return Latency(
            median_ms=median_ms,
            iqr_ms=0.0,
            count=0,
            teacher_median_ms=median_ms / ratio,
            teacher_iqr_ms=0.0,
            ratio=ratio,
            ratio_iqr=0.0,
            **device.probe,
        )


def source_metadata(source: Surrogate | Sequence[Table]) -> TableMetadata:
    """Return the metadata of the first table, or of the first table to which a surrogate was fitted."""
    return source.metadata if isinstance(source, Surrogate) else source[0].metadata


def source_range(source: Surrogate | Sequence[Table]) -> Range:
    """Return the range of the students of some tables, or of the tables to which a surrogate was fitted."""
    return source.range if isinstance(source, Surrogate) else Range.of(*source)


def surrogate_space(
    metadata: TableMetadata, trusted: Range, *, extrapolate: bool = False, ffn_step: int = FFN_STEP
) -> SearchSpace:
    """Derive the large space around a table's teacher, within the table's range and cap; joint spaces stay unchanged.

    The space has all numbers of layers; head counts that divide the teacher's; widths in steps of the teacher's head
    count, so that every head count divides every width; feed-forward sizes in steps of ``ffn_step``; and the table's
    activations and families.

    Args:
        metadata: Metadata of the table.
        trusted: Range of the table's students.
        extrapolate: Whether to replace the table's range by: 1 layer, 1 head, a quarter of the teacher's width and 1/32
            of its feed-forward size, up to the teacher's sizes. The cap stays.
        ffn_step: Step of the feed-forward sizes.
    """
    teacher = metadata.encoder
    if metadata.search_space.recipe_choices:
        return metadata.search_space
    largest = teacher.as_student()
    heads = largest.num_attention_heads
    least = {"hidden_size": largest.hidden_size // 4, "intermediate_size": largest.intermediate_size // 32}
    bounds = {
        name: (least.get(name, 1), int(getattr(largest, name))) if extrapolate else _whole(trusted.numbers[name])
        for name in ORDERED
    }
    steps = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": heads, "intermediate_size": ffn_step}
    choices: dict[str, tuple[Any, ...]] = {}
    for name, (low, high) in bounds.items():
        step = steps[name]
        values = {low, high, *range(-(-low // step) * step, high + 1, step)}
        if name == "num_attention_heads":
            values = {value for value in values if heads % value == 0}
        elif name == "hidden_size":
            values = {value for value in values if value % heads == 0}
        choices[name] = tuple(sorted(values or {high}))
    choices |= trusted.names
    return SearchSpace(
        {name: values for name, values in choices.items() if len(values) > 1 or values[0] != getattr(largest, name)},
        teacher,
        trusted.max_parameters,
    )


def check_space(space: SearchSpace, trusted: Range, *, extrapolate: bool) -> None:
    """Check that a surrogate can predict a space.

    Raises:
        SpaceError: If the space has names unknown to the table, or if it has numbers or a cap outside the table's range
            and ``extrapolate`` is not set.
    """
    largest = space.teacher.as_student()
    given = {name for name in space.choices if name.startswith(RECIPE)}
    known = {name for name in (*trusted.names, *trusted.numbers) if name.startswith(RECIPE)}
    if given != known:
        raise SpaceError(f"the space searches {sorted(given)} of the recipe, but the table has {sorted(known)}")
    for name, values in trusted.names.items():
        for value in space.choices.get(name) or (getattr(largest, name),):
            if value not in values and not _alias(name, value, values):
                raise SpaceError(f"{name} {value!r} is none of the table's {list(values)}; leave it out of the space")
    if extrapolate:
        return
    for name, (low, high) in trusted.numbers.items():
        for value in space.choices.get(name) or (getattr(largest, name),):
            if not low <= value <= high:
                raise SpaceError(
                    f"{name} {value} is beyond the table's {low} to {high}; leave it out of the space, or set "
                    "extrapolate=True"
                )
    if trusted.max_parameters is not None and (space.max_parameters or math.inf) > trusted.max_parameters:
        raise SpaceError(
            f"max_parameters of the space is {space.max_parameters}, but the table has students only up to "
            f"{trusted.max_parameters}; lower it, or set extrapolate=True"
        )


def check_seed(seed: object) -> None:
    """Check a seed policy.

    Raises:
        TableError: If the seed is not ``"mean"``, ``"sample"`` or an integer of at least 0.
    """
    if seed not in ("mean", "sample") and not (is_integer(seed) and seed >= 0):
        raise TableError(f"seed is {seed!r}; expected 'mean', 'sample', or a whole number from 0")


def _alias(name: str, value: Any, values: Sequence[str]) -> bool:
    if name != "hidden_act":
        return False
    return StudentConfig(1, 1, 1, 1, hidden_act=value).hidden_act in values


def _normals(config: StudentConfig, seed: int, count: int) -> npt.NDArray[np.float64]:
    """Draw standard normal numbers that depend only on student and seed, float64 ``(count,)``."""
    digest = hashlib.blake2b(str(config).encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")]).standard_normal(count)


def _whole(pair: tuple[int | float, int | float]) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])
