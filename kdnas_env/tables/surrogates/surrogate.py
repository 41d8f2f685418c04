"""A regression model of a table, for spaces that are too large to tabulate.

Gaussian processes map the logarithms of a student's sizes to the logarithms of the table's quantities: losses and
seconds by epoch, and latencies by device. All predictions are therefore positive, and time always increases. Two
uncertainties are separate: the variation between seeds (noise) and the model uncertainty (doubt). Inference is pure
NumPy.

In a joint space the losses have two stages (:attr:`Surrogate.staged`). The losses before training depend on few
dimensions, so that a process of their own predicts them well. A second process predicts by which factor training
changes them, from the same inputs and the loss before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.choices import ORDERED
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.tables.surrogates.gaussian_process import GaussianProcess
from kdnas_env.tables.surrogates.inputs import LEAST_STUDENTS, Range, features
from kdnas_env.tables.surrogates.seed_deviation import SeedDeviation
from kdnas_env.tables.surrogates.students import Students, ended_well
from kdnas_env.tables.table import CURVES, LATENCIES, Table, TableMetadata

FIT_VERSION = 1
"""Version of the fitting code. Increase it when :meth:`Surrogate.fit` or its dependencies give a different fit for the
same tables; this invalidates cached fits (:mod:`kdnas_env.tables.surrogates.storage`)."""

PREDICTED_LATENCIES = ("median_ms", "ratio")
"""Predicted quantities by device: the last axis of ``Quantities.latencies``."""

_SECONDS = CURVES.index("epoch_seconds")
_START = CURVES.index("heldout_unexplained")
_BEFORE, _TRAINED = 0, 1
_MOST, _MOST_STAGED = 200, 400


@dataclass(frozen=True, eq=False)
class Quantities:
    """Predictions for ``m`` students.

    Attributes:
        curves: ``CURVES`` by student and epoch, float64 ``(m, epochs + 1, len(CURVES))``.
        latencies: ``PREDICTED_LATENCIES`` by student and device, float64 ``(m, devices, 2)``.
    """

    curves: Floats
    latencies: Floats


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted model of a table, or of several of one workload.

    Attributes:
        metadata: Metadata of the first table.
        range: Range of the tables' students.
        seeds: Mean number of seeds per student in the averaged curves.
        columns: Indices of the outputs of each process, by process, int64 ``(k,)``; outputs are the curves by epoch,
            then the latencies by device.
        processes: The processes, on logarithms.
        noise: Deviation between seeds, on logarithms of the curves.
        tables: Names of the fitted tables, with the number of students from each.
    """

    metadata: TableMetadata
    range: Range
    seeds: float
    columns: tuple[Ints, ...]
    processes: tuple[GaussianProcess, ...]
    noise: SeedDeviation
    tables: tuple[tuple[str, int], ...]

    @classmethod
    def fit(cls, table: Table, *further: Table) -> Surrogate:
        """Fit to a table; masked and unsuccessful cells are ignored.

        Args:
            table: The table.
            further: Tables of other students of the same workload. A few students between those of the first table
                improve the surrogate there considerably.

        Raises:
            TableError: If fewer than ``LEAST_STUDENTS`` students succeeded, or were measured on a device of the table;
                or if the tables have different workloads, or disagree.
        """
        students = Students.of((table, *further))
        trusted, good = Range.of(table, *further), students.good
        inputs, groups = features(students.configs, table.metadata, trusted)
        logs = np.full((*good.shape, students.curves.shape[2] * len(CURVES)), np.nan)
        logs[good] = _log(students.curves[good].reshape(int(good.sum()), -1))
        # Seconds are comparable on one machine only.
        known = np.isfinite(students.curves) & good[..., None, None]
        with np.errstate(invalid="ignore"):
            means = np.where(known, students.curves, 0).sum(axis=1, dtype=np.float64) / known.sum(axis=1)
        targets = _log(means.reshape(len(means), -1))
        staged = bool(trusted.of_recipe)
        columns, processes = _curve_columns(targets.shape[1], staged=staged), []
        most = _MOST_STAGED if staged else _MOST
        for number, part in enumerate(columns):
            rows = np.flatnonzero(np.isfinite(targets[:, part]).all(axis=1))
            given, wanted, kinds = inputs[rows], targets[rows][:, part], groups
            if staged and number == _TRAINED:
                given, wanted = _after_start(given, targets[rows]), wanted - targets[rows][:, part % len(CURVES)]
                kinds = [*groups, max(groups) + 1]
            processes.append(GaussianProcess.fit(given, wanted, kinds, most=most))
        predicted = [LATENCIES.index(name) for name in PREDICTED_LATENCIES]
        for position, device in enumerate(table.metadata.devices):
            measured = np.flatnonzero(np.isfinite(students.latencies[:, position]).all(axis=-1))
            if len(measured) < LEAST_STUDENTS:
                raise TableError(
                    f"table {table.metadata.name!r} has {len(measured)} latencies of {device.name!r}; a surrogate "
                    f"needs at least {LEAST_STUDENTS}"
                )
            latencies = _log(students.latencies[measured, position][:, predicted])
            columns.append(targets.shape[1] + len(predicted) * position + np.arange(len(predicted)))
            processes.append(GaussianProcess.fit(inputs[measured], latencies, groups))
        noise = SeedDeviation.fit(inputs[:, : len(ORDERED)], logs)
        gave = tuple((source.metadata.name, int(ended_well(source).any(axis=1).sum())) for source in (table, *further))
        count = good.sum(axis=1)
        return cls(
            table.metadata, trusted, float(count[count > 0].mean()), tuple(columns), tuple(processes), noise, gave
        )

    def predict(
        self, configs: Sequence[StudentConfig], *, extrapolate: bool = False
    ) -> tuple[Quantities, Quantities, Quantities]:
        """Predict students.

        Args:
            configs: ``m`` students.
            extrapolate: Whether to predict students outside the table's numeric range too.

        Returns:
            The mean over seeds; the standard deviation between seeds (0 for latencies, and if the table has only one
            seed); and the standard deviation of the model uncertainty of the mean.

        Raises:
            SpaceError: If a student is outside the table's range.
        """
        inputs = self.features(configs, extrapolate=extrapolate)
        mean = np.exp(self.log_mean(inputs))
        noise = np.zeros_like(mean)
        noise[:, : self.curve_outputs] = self.log_noise(inputs)
        doubt = self._log_doubt(inputs, noise)
        return self._quantities(mean), self._quantities(mean * noise), self._quantities(mean * doubt)

    def features(self, configs: Sequence[StudentConfig], *, extrapolate: bool = False) -> Floats:
        """Return the inputs of the processes for some students, float64 ``(m, d)``.

        Raises:
            SpaceError: If a student is outside the table's range.
        """
        reason_of = self.range.unknown_name if extrapolate else self.range.outside
        for config in configs:
            reason = reason_of(config)
            if reason is not None:
                hint = "" if extrapolate else "; extrapolate=True predicts numbers beyond it"
                raise SpaceError(f"{config} is not for the surrogate of {self.metadata.name!r}: {reason}{hint}")
        return features(configs, self.metadata, self.range)[0]

    def log_mean(self, inputs: Floats, wanted: Sequence[int] | None = None) -> Floats:
        """Return the logarithms of outputs, float64 ``(m, outputs)``; with ``wanted``, other outputs may be NaN."""
        means = np.full((len(inputs), self.outputs), np.nan)
        needed = [wanted is None or bool(np.isin(part, wanted).any()) for part in self.columns]
        if self.staged:
            needed[_BEFORE] |= needed[_TRAINED]
        for number, (part, process) in enumerate(zip(self.columns, self.processes, strict=True)):
            if not needed[number]:
                continue
            if self.staged and number == _TRAINED:
                means[:, part] = means[:, part % len(CURVES)] + process.mean(_after_start(inputs, means))
            else:
                means[:, part] = process.mean(inputs)
        return means

    def log_noise(self, inputs: Floats) -> Floats:
        """Return the standard deviation between seeds of the logarithms of the curves, float64 ``(m, k)``."""
        return self.noise.deviation(inputs[:, : len(ORDERED)])

    def sampled(self, inputs: Floats, normals: Floats) -> Quantities:
        """Return simulated results of single seeds.

        Args:
            inputs: Result of :meth:`features`.
            normals: Standard normal numbers, one row per student, float64 ``(m, curve_outputs)``.
        """
        logs = self.log_mean(inputs)
        logs[:, : self.curve_outputs] += self.log_noise(inputs) * self.noise.draw(normals)
        return self._quantities(np.exp(logs))

    def mean(self, inputs: Floats, wanted: Sequence[int] | None = None) -> Quantities:
        """Return the mean over seeds for some students.

        Args:
            inputs: Result of :meth:`features`.
            wanted: Outputs (:meth:`output`) to predict; None for all. Outputs that are not predicted are NaN.
        """
        return self._quantities(np.exp(self.log_mean(inputs, wanted)))

    def output(self, name: str, place: int) -> int:
        """Return the output index of one of ``CURVES`` at an epoch, or of ``PREDICTED_LATENCIES`` on a device."""
        if name in CURVES:
            return len(CURVES) * place + CURVES.index(name)
        return self.curve_outputs + len(PREDICTED_LATENCIES) * place + PREDICTED_LATENCIES.index(name)

    @property
    def teacher(self) -> EncoderArchitecture:
        """The teacher's architecture."""
        return self.metadata.encoder

    @property
    def staged(self) -> bool:
        """Whether the second process predicts how training changes the losses that the first one predicts."""
        return bool(self.range.of_recipe)

    def width(self, number: int) -> int:
        """Return the number of inputs of a process."""
        return self.range.columns + (self.staged and number == _TRAINED)

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The fitted arrays, by name."""
        fitted = {f"noise.{name}": getattr(self.noise, name) for name in SeedDeviation.ARRAYS}
        for number, (part, process) in enumerate(zip(self.columns, self.processes, strict=True)):
            fitted[f"{number}.columns"] = part
            fitted |= {f"{number}.{name}": getattr(process, name) for name in GaussianProcess.ARRAYS}
        return fitted

    @property
    def curve_outputs(self) -> int:
        """Number of outputs for curves; the outputs after them are latencies."""
        return len(CURVES) * (self.metadata.epochs + 1)

    @property
    def outputs(self) -> int:
        """Number of outputs: curves and latencies."""
        return self.curve_outputs + len(PREDICTED_LATENCIES) * len(self.metadata.devices)

    def _log_doubt(self, inputs: Floats, noise: Floats) -> Floats:
        doubt = np.empty((len(inputs), self.outputs))
        for number, (part, process) in enumerate(zip(self.columns, self.processes, strict=True)):
            trained = self.staged and number == _TRAINED
            given = _after_start(inputs, self.log_mean(inputs, self.columns[_BEFORE].tolist())) if trained else inputs
            # Residual variance beyond the noise between seeds is specific to the student.
            peculiar = np.maximum(process.noise**2 - noise[:, part] ** 2 / self.seeds, 0)
            doubt[:, part] = np.sqrt(process.deviation(given) ** 2 + peculiar)
            if trained:
                doubt[:, part] = np.hypot(doubt[:, part], doubt[:, part % len(CURVES)])
        return doubt

    def _quantities(self, outputs: Floats) -> Quantities:
        curves, latencies = np.split(outputs, [self.curve_outputs], axis=1)
        return Quantities(
            curves.reshape(len(outputs), -1, len(CURVES)),
            latencies.reshape(len(outputs), -1, len(PREDICTED_LATENCIES)),
        )


def _curve_columns(outputs: int, *, staged: bool) -> list[Ints]:
    """Return the columns of the processes of the curves; the seconds come last."""
    places = np.arange(outputs)
    seconds, before = places % len(CURVES) == _SECONDS, places < len(CURVES)
    losses = [~seconds & before, ~seconds & ~before] if staged else [~seconds]
    return [np.flatnonzero(part) for part in (*losses, seconds)]


def _after_start(inputs: Floats, logs: Floats) -> Floats:
    """Return inputs with the logarithm of the held-out loss before training as a further column."""
    return np.column_stack([inputs, logs[:, _START]])


def _log(values: npt.NDArray[Any]) -> Floats:
    """Return logarithms; values of 0 (below the measured resolution) are replaced by a tiny number."""
    return np.log(np.maximum(values.astype(np.float64), 1e-9))
