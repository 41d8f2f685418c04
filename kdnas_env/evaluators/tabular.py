"""Look up evaluations in a table."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.evaluators.cells import FAILED, INVALID, MASKED, OK, UNMEASURED, Cells, KnownCells
from kdnas_env.support.arrays import Ints
from kdnas_env.support.checks import check_choice
from kdnas_env.support.untrusted import is_integer
from kdnas_env.tables.storage import load_table
from kdnas_env.tables.table import LATENCIES, MISSING, Table

MISSING_POLICIES = ("error", "failed")
"""Policies for masked cells: raise an error, or return a failed evaluation."""


_MOST_KNOWN = 5_000
"""Tables of at most this many students are looked up as a whole, larger ones student by student."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class TabularEvaluator:
    """Looks evaluations up in a table, in microseconds.

    Every distillation of a table ran for all its epochs. Epoch 1 is therefore an intermediate result, not the end of a
    one-epoch distillation, whose learning rate would already have fallen to 0. The seconds of an evaluation are the
    recorded times of its epochs: a simulated clock.

    Attributes:
        table: The table.
        seed: A seed of the table; ``"mean"`` for the mean over its seeds, which is the reference for regret; or
            ``"sample"``: the seed of the fidelity draws one of the table's seeds for each architecture, so that all
            searches of one episode see the same values in any order.
        device: Name of the device for latencies; None for the table's first.
        missing: Policy for masked cells: ``error`` raises an error, ``failed`` returns a failed evaluation. Means use
            only the available seeds.

    Raises:
        TableError: If the seed, the device or the policy is unknown.
    """

    table: Table
    seed: int | str = "mean"
    device: str | None = None
    missing: str = "error"

    deterministic = True
    tabular = True

    def __post_init__(self) -> None:
        seeds = self.table.metadata.seeds
        known = not isinstance(self.seed, bool) and (self.seed in ("mean", "sample") or self.seed in seeds)
        if not known:
            raise TableError(f"seed is {self.seed!r}; expected 'mean', 'sample', or one of the table's {list(seeds)}")
        check_choice("missing", self.missing, MISSING_POLICIES, error=TableError)
        self.table.metadata.device_position(self.device)

    @classmethod
    def of(cls, name: str | os.PathLike[str], **settings: Any) -> TabularEvaluator:
        """Load a table by its name or path; see :func:`kdnas_env.tables.storage.load_table`."""
        return cls(load_table(name), **settings)

    @property
    def space(self) -> SearchSpace:
        """The space of the table."""
        return self.table.space

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the table's contents, the seed and the device."""
        digest = hashlib.sha256(
            json.dumps([self.table.metadata.workload, self.seed, self.device, self.missing]).encode()
        )
        for name in Table.ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self.table, name)).tobytes())
        return digest.hexdigest()

    @cached_property
    def teacher_milliseconds(self) -> float:
        """Median latency of the teacher on the device, over all students; NaN if nothing was measured."""
        measured = self.table.latencies[:, self._position, LATENCIES.index("teacher_median_ms")]
        known = measured[np.isfinite(measured)]
        return float(np.median(known)) if len(known) else math.nan

    def query(self, config: StudentConfig, at: int | None = None, *, seed: int = 0) -> Evaluation:
        """Return the evaluation of one student.

        Args:
            config: The student.
            at: Number of finished epochs, 0 for before any step; None for all epochs.
            seed: Draws the table's seed if the policy is ``"sample"``.

        Raises:
            SpaceError: If the student is not in the table.
            TableError: If the epoch is out of range, or the cell is masked and masked cells are errors.
        """
        epochs = self.table.metadata.epochs if at is None else at
        if not is_integer(epochs) or epochs < 0:
            raise TableError(f"at is {at!r}; expected an epoch from 0 to {self.table.metadata.epochs}")
        row = self.table.row(config)
        if row < 0:
            raise self._absent(config)
        fidelity = Fidelity(epochs=int(epochs), seed=seed)
        return self._cells(np.array([row], dtype=np.int64), fidelity, lambda place: config).record(0)

    def trajectory(self, config: StudentConfig, *, seed: int = 0) -> list[Evaluation]:
        """Return the evaluations of one student after every epoch, from 0 (before any step) to the last."""
        return [self.query(config, epoch, seed=seed) for epoch in range(self.table.metadata.epochs + 1)]

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Look up a batch; one record per config, in order. Invalid or forbidden students are ``invalid``.

        Raises:
            SpaceError: If a student is allowed, but not in the table.
            TableError: If the fidelity is not in the table, or a cell is masked and masked cells are errors.
        """
        rows = np.array([self.table.row(config) for config in configs], dtype=np.int64)
        cells = self._cells(rows, fidelity, configs.__getitem__)
        return [cells.record(place, on_epoch) for place in range(len(configs))]

    def look_up(self, index: Ints, fidelity: Fidelity) -> Cells:
        """Look up several points of the space by their flat indices, int64 ``(n,)``.

        Raises:
            SpaceError: If a point is allowed, but not in the table.
            TableError: If the fidelity is not in the table, or a cell is masked and masked cells are errors.
        """
        space = self.space
        return self._cells(
            self.table.rows_of(index), fidelity, lambda place: space.decode(space.from_index(int(index[place])))
        )

    def known(self, fidelity: Fidelity) -> KnownCells | None:
        """Return the results of all students of the table, without records; None if the table is large.

        The results of the last seed are kept, at every number of epochs.

        Raises:
            TableError: If the fidelity is not in the table.
        """
        if len(self.table) > _MOST_KNOWN or self.table.sampled:
            return None
        if fidelity not in self._known:
            if any(other.seed != fidelity.seed for other in self._known):
                self._known.clear()
            rows, config_at = np.arange(len(self.table)), partial(_config_of, self.space, self.table.index)
            cells = replace(self, missing="failed")._cells(rows, fidelity, config_at)
            self._known[fidelity] = KnownCells.of(cells, self.table.rows_of(np.arange(self.space.size)))
        return self._known[fidelity]

    @cached_property
    def _known(self) -> dict[Fidelity, KnownCells]:
        return {}

    def columns(self, rows: Ints, seed: int) -> Ints:
        """Return the index of the table's seed for each row, int64 ``(n,)``; -1 for the mean of all seeds."""
        seeds = self.table.metadata.seeds
        if self.seed == "mean":
            return np.full(len(rows), -1, dtype=np.int64)
        if self.seed == "sample":
            return draws(rows, seed, len(seeds))
        return np.full(len(rows), seeds.index(int(self.seed)), dtype=np.int64)

    def _absent(self, config: StudentConfig) -> SpaceError:
        reason = self.space.violation(config) or "it is none of the space's choices"
        return SpaceError(f"{config} is not in table {self.table.metadata.name!r}: {reason}")

    def _cells(self, rows: Ints, fidelity: Fidelity, config_at: Callable[[int], StudentConfig]) -> Cells:
        """Return the cells of table rows (-1 for no row); ``config_at`` returns the student at an index of ``rows``."""
        table, epochs = self.table, fidelity.epochs + 1
        table.metadata.check_fidelity(fidelity)
        errors = {}
        for place in np.flatnonzero(rows < 0).tolist():
            violation = self.space.violation(config_at(place))
            if violation is None:
                raise self._absent(config_at(place))
            errors[place] = violation
        if self.seed == "mean":
            means, columns_of = self._means(epochs)
            curves, columns = means[rows], columns_of[rows]
        else:
            columns = self.columns(rows, fidelity.seed)
            curves = table.curves[rows, columns, :epochs].astype(np.float64)
        reached = table.valid[rows, columns, :epochs].sum(axis=1)
        # A distillation that fails in a later epoch is usable until then.
        status = np.where(reached == epochs, OK, table.status[rows, columns])
        status[rows < 0] = INVALID
        latencies = table.latencies[rows, self._position].astype(np.float64)
        masked = status == MISSING
        unmeasured = (status == OK) & ~np.isfinite(latencies).all(axis=1)
        if self.missing == "error" and masked.any():
            raise TableError(
                f"{config_at(int(masked.argmax()))} with seed {self.seed!r} is a masked cell of table "
                f"{table.metadata.name!r}: it was never evaluated. Choose another seed, or missing='failed' to treat "
                "it as a failure"
            )
        errors |= dict.fromkeys(np.flatnonzero(masked).tolist(), MASKED)
        errors |= dict.fromkeys(np.flatnonzero(unmeasured).tolist(), UNMEASURED)
        status[masked | unmeasured] = FAILED
        return Cells(table, self._position, fidelity, rows, status, reached, curves, latencies, errors, config_at)

    @cached_property
    def _position(self) -> int:
        return self.table.metadata.device_position(self.device)

    def _means(self, epochs: int) -> tuple[npt.NDArray[np.float64], Ints]:
        """Return the mean curves of all rows, and for each row a seed with the status of the mean; see :class:`Cells`.

        The mean is over the seeds that reached the last epoch; if there are none, it is the first evaluated seed.
        """
        if epochs not in self._known_means:
            table = self.table
            counted = np.asarray(table.valid[:, :, :epochs].all(axis=2))
            none = np.flatnonzero(~counted.any(axis=1))
            counted[none, (table.status[none] == MISSING).argmin(axis=1)] = True
            sums = np.where(counted[..., None, None], table.curves[:, :, :epochs], 0).sum(axis=1, dtype=np.float64)
            self._known_means[epochs] = sums / counted.sum(axis=1)[:, None, None], counted.argmax(axis=1)
        return self._known_means[epochs]

    @cached_property
    def _known_means(self) -> dict[int, tuple[npt.NDArray[np.float64], Ints]]:
        return {}


def _config_of(space: SearchSpace, indices: Ints, place: int) -> StudentConfig:
    return space.decode(space.from_index(int(indices[place])))


def draws(rows: Ints, seed: int, seeds: int) -> Ints:
    """Draw a number below ``seeds`` for each row from row and seed only (SplitMix64; Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        key = np.uint64(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        mixed = key + (rows.astype(np.uint64) + np.uint64(1)) * _ODD
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(seeds)).astype(np.int64)
