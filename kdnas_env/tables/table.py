"""A table of evaluations: every architecture of a space, distilled with several seeds, epoch by epoch.

Tables hold raw quantities only; look-ups compute the reward (:mod:`kdnas_env.core.reward`). This module does not import
torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.support.arrays import Bools, Floats32, Ints
from kdnas_env.support.checks import check_whole
from kdnas_env.support.untrusted import restore, shown

SCHEMA_VERSION = 1

CURVES = ("train_loss", "heldout_loss", "train_unexplained", "heldout_unexplained", "epoch_seconds")
"""Quantities by epoch: the last axis of ``Table.curves``; the names are those of an ``Evaluation``."""

LATENCIES = ("median_ms", "iqr_ms", "count", "teacher_median_ms", "teacher_iqr_ms", "ratio", "ratio_iqr")
"""Quantities by device: the last axis of ``Table.latencies``; the names are those of a ``Latency``."""

_MOST_POINTS = 2**62
"""Flat indices are int64."""

_POSITIVE_LATENCIES = ("median_ms", "teacher_median_ms", "ratio")

STATUSES = ("ok", "diverged", "out_of_memory", "invalid", "stopped", "failed", "missing", str(Status.INFEASIBLE))
"""Status of a cell, by its code in ``Table.status``; the last code marks a cell that was never evaluated."""

MISSING = STATUSES.index("missing")

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Pattern of names that are safe as file names, without folders."""


@dataclass(frozen=True)
class LatencyDevice:
    """A machine and a runtime for latency measurements.

    Attributes:
        name: Name in queries, such as ``torch`` or ``onnxruntime``.
        machine: Description of the processor or GPU.
        runtime: ``torch``, ``onnxruntime``, ``onnxruntime-int8`` or ``analytic``.
        device: ``cpu`` or ``cuda``.
        threads: Threads of the runtime.
        batch_size: Sequences per pass.
        sequence_length: Tokens per sequence.

    Raises:
        TableError: If the name is not a safe file name, or a number is not positive.
    """

    name: str
    machine: str
    runtime: str
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 1
    sequence_length: int = 50

    def __post_init__(self) -> None:
        if not FILE_NAME.fullmatch(self.name):
            raise TableError(f"the name of a device is {shown(self.name)}; expected letters, digits, '-', '_' and '.'")
        for name in ("threads", "batch_size", "sequence_length"):
            check_whole(f"{name} of device {self.name!r}", getattr(self, name), at_least=1, error=TableError)

    @property
    def probe(self) -> dict[str, Any]:
        """The fields of a :class:`kdnas_env.core.evaluation.Latency` that are the same for all students."""
        names = ("runtime", "device", "threads", "batch_size", "sequence_length")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TableMetadata:
    """Metadata of a table.

    Attributes:
        name: Short name, used by environments.
        title: Description of the table.
        workload: Fingerprint of teacher, corpus, recipe, precision and kind of device: the key of the store from which
            the table was exported.
        teacher: Name of the teacher.
        architecture: Fields of the teacher's ``EncoderArchitecture``.
        space: The space, in the form of ``SearchSpace.to_dict``.
        seeds: Seeds of initialisation and data order: the second axis of the curves.
        epochs: Epochs of every distillation; the learning rate falls to 0 at the last.
        devices: Devices of the latency measurements.
        corpus: The corpus: source, sentences, tokens.
        recipe: Fields of the recipe of the distillations.
        trained_on: Description of the training machine.
        versions: Versions of kdnas and its dependencies.
        noise: Agreement between seeds (:func:`kdnas_env.tables.noise_ceiling.noise_ceiling`), by group of students.
        alike: Fingerprints of the same workload on other kinds of devices, where losses differ only by rounding.
        schema_version: Version of this format.

    Raises:
        TableError: If the epochs or a seed are negative, a seed or device name is repeated, or the version is unknown.
    """

    name: str
    title: str
    workload: str
    teacher: str
    architecture: Mapping[str, Any]
    space: Mapping[str, Any]
    seeds: tuple[int, ...]
    epochs: int
    devices: tuple[LatencyDevice, ...]
    corpus: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    trained_on: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)
    alike: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "corpus.source", "corpus.without")
    """Fields that may name a file or folder; its location is recorded beside the table."""

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        wrong = {
            "epochs": self.epochs < 0,
            "seeds": min(self.seeds, default=0) < 0 or len(set(self.seeds)) < len(self.seeds),
            "devices": len(set(names)) < len(names),
            "schema_version": not 1 <= self.schema_version <= SCHEMA_VERSION,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            value = names if name == "devices" else getattr(self, name)
            raise TableError(f"table {self.name!r}: {name} is {shown(value)}, which is negative, unknown or not unique")

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as plain data; :meth:`from_dict` restores them."""
        devices = [asdict(device) for device in self.devices]
        return {**asdict(self), "seeds": list(self.seeds), "devices": devices, "alike": list(self.alike)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableMetadata:
        """Restore metadata from :meth:`to_dict`.

        Raises:
            TableError: If the data are malformed.
        """
        known = {field.name for field in fields(cls)}
        try:
            made = restore(cls, {name: value for name, value in data.items() if name in known})
            if made.search_space.size > _MOST_POINTS:
                raise ValueError(f"its space has {made.search_space.size} points")
        except (TypeError, ValueError, AttributeError) as error:
            raise TableError(f"the table's metadata are malformed: {error}; restore the file from a copy") from error
        return made

    @cached_property
    def encoder(self) -> EncoderArchitecture:
        """The teacher's architecture."""
        return restore(EncoderArchitecture, self.architecture)

    @cached_property
    def search_space(self) -> SearchSpace:
        """The tabulated space."""
        return SearchSpace.from_dict(self.space, self.encoder)

    def difference(self, other: TableMetadata, names: Sequence[str]) -> str | None:
        """Return a message on the first of some attributes that differs from another table's; None if all agree."""
        for name in names:
            ours, theirs = getattr(self, name), getattr(other, name)
            if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
                ours, theirs = _without_common(ours, theirs), _without_common(theirs, ours)
            if ours != theirs:
                return f"{name} is {_short(ours)} in the one and {_short(theirs)} in the other"
        return None

    def device_position(self, name: str | None) -> int:
        """Return the index of a device; for None, the first.

        Raises:
            TableError: If the device does not exist.
        """
        names = [device.name for device in self.devices]
        if name is not None and name not in names:
            raise TableError(f"table {self.name!r} has no latencies of {name!r}; choose one of {names}")
        return 0 if name is None else names.index(name)

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Check that the table has evaluations at a fidelity.

        Raises:
            TableError: If the fidelity has more epochs than the table, or uses a fraction of the data.
        """
        if fidelity.epochs > self.epochs:
            raise TableError(
                f"{fidelity.epochs} epochs are beyond the last of table {self.name!r}, which has {self.epochs}"
            )
        if fidelity.data_fraction != 1:
            raise TableError(
                f"data_fraction is {fidelity.data_fraction}; the table has evaluations on all of its sentences only"
            )


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A table of evaluations, in columns.

    If the space is too large to list, such as a joint space, the rows are a sample of it (:attr:`sampled`).

    Attributes:
        metadata: Metadata of the table.
        index: Flat index in the space of each architecture, sorted, int64 ``(n,)``.
        curves: ``CURVES`` by architecture, seed and epoch (0 is before any step), float32
            ``(n, seeds, epochs + 1, len(CURVES))``; NaN for missing values.
        valid: Whether values exist, bool ``(n, seeds, epochs + 1)``.
        status: Status of each distillation, an index into ``STATUSES``, uint8 ``(n, seeds)``.
        parameters: Parameters, embeddings included, int64 ``(n,)``.
        flops: Operations of one forward pass at the first device's batch and length, int64 ``(n,)``.
        latencies: ``LATENCIES`` by architecture and device, float32 ``(n, devices, len(LATENCIES))``; NaN if an
            architecture was not measured.

    Raises:
        TableError: If shapes or dtypes disagree, a value is unexpectedly not finite or is out of range, or an
            architecture is not in the space.
    """

    metadata: TableMetadata
    index: Ints
    curves: Floats32
    valid: Bools
    status: npt.NDArray[np.uint8]
    parameters: Ints
    flops: Ints
    latencies: Floats32

    def __repr__(self) -> str:
        return f"Table({self.metadata.name!r}, students={len(self.index)})"

    ARRAYS = ("index", "curves", "valid", "status", "parameters", "flops", "latencies")

    def __post_init__(self) -> None:
        meta, n = self.metadata, self.index.size
        seeds, epochs = len(meta.seeds), meta.epochs + 1
        expected: dict[str, tuple[tuple[int, ...], type]] = {
            "index": ((n,), np.int64),
            "curves": ((n, seeds, epochs, len(CURVES)), np.float32),
            "valid": ((n, seeds, epochs), np.bool_),
            "status": ((n, seeds), np.uint8),
            "parameters": ((n,), np.int64),
            "flops": ((n,), np.int64),
            "latencies": ((n, len(meta.devices), len(LATENCIES)), np.float32),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise TableError(
                    f"table {meta.name!r}: {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; "
                    "restore the file from a copy"
                )
            array.setflags(write=False)
        self._check_values()

    def _check_values(self) -> None:
        """Check the value ranges of all columns; this is the only place that does."""
        size, whole, missing = self.space.size, self.valid.all(axis=-1), self.status == MISSING
        latencies, measured = self.latencies, np.isfinite(self.latencies).all(axis=-1)
        positive = [LATENCIES.index(name) for name in _POSITIVE_LATENCIES]
        there = self.curves[self.valid]
        faults = {
            f"index is not rising within the space's {size} points": len(self.index)
            and (np.any(np.diff(self.index) <= 0) or self.index[0] < 0 or self.index[-1] >= size),
            f"status holds a code beyond {MISSING}": np.any(self.status > MISSING),
            "curves and valid disagree about which values exist": not np.array_equal(
                np.isfinite(self.curves).all(axis=-1), self.valid
            ),
            "a curve has values after a missing epoch": np.any(self.valid[..., 1:] > self.valid[..., :-1]),
            "status is ok where a curve is incomplete": np.any(
                (self.status == STATUSES.index(str(Status.OK))) & ~whole
            ),
            "status is missing where there is a curve": np.any(missing & self.valid.any(axis=-1)),
            "curves hold a loss or seconds below 0": np.any(there < 0),
            "parameters are not positive": np.any(self.parameters < 1),
            "flops are not positive": np.any(self.flops < 1),
            "latencies are neither measured nor NaN": np.any(~measured & ~np.isnan(latencies).all(axis=-1)),
            "latencies hold a number below 0": np.any(latencies < 0),
            f"latencies hold one of {list(_POSITIVE_LATENCIES)} that is 0": np.any(latencies[..., positive] == 0),
        }
        for fault in (fault for fault, is_there in faults.items() if is_there):
            raise TableError(f"table {self.metadata.name!r}: {fault}; restore the file from a copy")

    @property
    def teacher(self) -> EncoderArchitecture:
        """The teacher's architecture."""
        return self.metadata.encoder

    @property
    def space(self) -> SearchSpace:
        """The tabulated space."""
        return self.metadata.search_space

    @property
    def sampled(self) -> bool:
        """Whether the rows are a sample of a space that is too large to tabulate."""
        return not self.space.listable

    def check_whole(self) -> None:
        """Check that the table covers its space; in a sampled table, nearly all actions would have no evaluation.

        Raises:
            TableError: If the table is a sample.
        """
        if self.sampled:
            raise TableError(
                f"table {self.metadata.name!r} has {len(self):,} of the {self.space.size:,} points of its space, and "
                "cannot answer for the others; fit a surrogate to it, by kdnas table fit, and search that"
            )

    def rows_of(self, indices: Ints) -> Ints:
        """Return the rows of points of the space by their flat indices, int64 ``(n,)``; -1 for missing rows.

        If several flat indices name one student, each of them finds its row.
        """
        if not self.sampled:
            return self._row_of[indices]
        if not len(self):
            return np.full(len(indices), -1, dtype=np.int64)
        known, rows = self._sorted
        wanted = self.space.canonical(indices)
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[places] == wanted, rows[places], -1)

    def row(self, config: StudentConfig) -> int:
        """Return the row of a student; -1 if the table does not have it."""
        try:
            action = self.space.encode(config)
        except SpaceError:
            return -1
        return int(self.rows_of(np.array([self.space.grid.number(action)]))[0])

    @cached_property
    def _sorted(self) -> tuple[Ints, Ints]:
        """The sorted first flat indices of the rows, and the rows in that order."""
        first = self.space.canonical(self.index)
        order = np.argsort(first)
        return first[order], order

    @cached_property
    def _row_of(self) -> Ints:
        """Row of every point of a listable space, int64 ``(space.size,)``."""
        first = self.space.first_indices
        rows = np.full(self.space.size, -1, dtype=np.int64)
        rows[first[self.index]] = np.arange(len(self.index))
        return rows[first]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the table: its metadata and its arrays."""
        digest = hashlib.sha256(json.dumps(self.metadata.to_dict(), sort_keys=True).encode())
        for name in self.ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.index)

    def configs(self) -> list[StudentConfig]:
        """Return the architectures, by row."""
        return [self.space.decode(self.space.from_index(index)) for index in self.index.tolist()]

    def curve(self, name: str) -> Floats32:
        """Return one of ``CURVES``, float32 ``(n, seeds, epochs + 1)``."""
        return self.curves[..., CURVES.index(name)]

    @property
    def complete(self) -> float:
        """Fraction of the cells (pairs of architecture and seed) that were evaluated."""
        return float((self.status != MISSING).mean()) if len(self) else 0.0


def _without_common(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in others or others[name] != value}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
