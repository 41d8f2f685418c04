"""Deviation of a student's curves between seeds, as a function of the student's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdnas_env.support.arrays import Floats
from kdnas_env.tables.archive import check_arrays

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class SeedDeviation:
    """Deviations of logarithms between seeds: a scale that depends on the student, and a correlation of the outputs.

    Attributes:
        centre: Offset subtracted from the sizes of a student, float64 ``(d,)``.
        slopes: Change of the logarithm of the scale with the sizes, float64 ``(d, k)``.
        level: Standard deviation at the centre, float64 ``(k,)``; 0 if unknown.
        factor: A matrix square root of the correlation of the outputs, float64 ``(k, k)``.
    """

    centre: Floats
    slopes: Floats
    level: Floats
    factor: Floats

    ARRAYS = ("centre", "slopes", "level", "factor")

    @classmethod
    def fit(cls, sizes: Floats, logs: Floats) -> SeedDeviation:
        """Fit to the seeds of a table.

        Args:
            sizes: Sizes of the students, float64 ``(n, d)``.
            logs: Logarithms of outputs by student and seed, float64 ``(n, seeds, k)``; NaN for missing values.
        """
        known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(logs).all(axis=-1))
        several = known.sum(axis=1) > 1
        sizes, logs, known = sizes[several], logs[several], known[several]
        outputs, width = logs.shape[-1], sizes.shape[-1]
        if len(sizes) <= width + 1:
            return cls(np.zeros(width), np.zeros((width, outputs)), np.zeros(outputs), np.eye(outputs))
        count = known.sum(axis=1)
        logs = np.where(known[..., None], logs, 0.0)
        residuals = np.where(known[..., None], logs - (logs.sum(axis=1) / count[:, None])[:, None], 0.0)
        variance = (residuals**2).sum(axis=1) / (count - 1)[:, None]
        centre = sizes.mean(axis=0)
        design = np.hstack([np.ones((len(sizes), 1)), sizes - centre])
        slopes = np.linalg.lstsq(design, np.log(variance + _TINY), rcond=None)[0][1:] / 2
        scale = np.exp((sizes - centre) @ slopes)
        # The logarithm of a variance over few seeds is biased, so the level comes from the variances themselves.
        level = np.sqrt((variance / scale**2).mean(axis=0))
        standard = residuals / np.maximum(scale * level, _TINY)[:, None]
        flat = standard[known]
        correlation = flat.T @ flat / len(flat)
        diagonal = np.sqrt(np.maximum(np.diag(correlation), _TINY))
        values, vectors = np.linalg.eigh(correlation / np.outer(diagonal, diagonal))
        return cls(centre, slopes, level, vectors * np.sqrt(np.maximum(values, 0)))

    def check(self, width: int, outputs: int) -> None:
        """Check that the arrays are consistent.

        Args:
            width: Expected number of sizes per student.
            outputs: Expected number of outputs.

        Raises:
            ValueError: If they are not.
        """
        shapes = {
            "centre": (width,),
            "slopes": (width, outputs),
            "level": (outputs,),
            "factor": (outputs, outputs),
        }
        check_arrays({name: getattr(self, name) for name in shapes}, shapes)

    def deviation(self, sizes: Floats) -> Floats:
        """Return the standard deviation between seeds of the logarithms, float64 ``(m, k)``."""
        return self.level * np.exp((sizes - self.centre) @ self.slopes)

    def draw(self, normals: Floats) -> Floats:
        """Give independent standard normal numbers, float64 ``(m, k)``, the correlation of the outputs."""
        return normals @ self.factor.T
