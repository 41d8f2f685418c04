"""Samplers of Optuna that choose among the points of a grid that are left.

Optuna's own choose from the whole box. What they find is soon known, or not allowed: where a fifth of the points is,
eight of ten proposals of the Gaussian process had to be drawn at random in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from kdnas_env.agents.ranking import Bools
from kdnas_env.core.grid import Grid, Ints, Seen

WHOLE_SPACE = 100_000
"""Grids up to this many points are listed to choose from."""

_CHUNK = 2048
"""Points whose acquisition is computed at once: of each there is a joint sample with all that are running."""


@dataclass(frozen=True, eq=False)
class Left:
    """The points that may be proposed.

    Attributes:
        grid: The grid.
        taken: Numbers of its points that may not be proposed any more.
    """

    grid: Grid
    taken: Seen

    def listed(self) -> Ints | None:
        """Return them, int64 of shape ``(n, dims)``; None if the grid is too large to list."""
        small = self.grid.size <= WHOLE_SPACE
        return self.grid.actions(self.grid.remaining(self.taken)) if small else None

    def among(self, actions: Ints) -> Bools:
        """Return which of the actions are left, bool of shape ``(n,)``."""
        return self.grid.are_left(actions, self.taken)


class LeftSampler(BaseSampler):
    """Base of samplers that choose among the points that are left.

    Attributes:
        left: The points; None: the whole box is sampled.

    Args:
        names: The parameters, in the order in which actions have them.
        options: Those of Optuna's sampler.
    """

    left: Left | None = None

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._names = tuple(names)


class LeftTPESampler(LeftSampler, TPESampler):
    """Tree-structured Parzen estimator that proposes the best of its candidates that is left.

    If none of them is, a known one is proposed. Where parameters are sampled one by one, it is Optuna's.
    """

    def _compute_acquisition_func(
        self, samples: dict[str, npt.NDArray[np.float64]], mpe_below: Any, mpe_above: Any
    ) -> npt.NDArray[np.float64]:
        acquisition: npt.NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        left = self.left
        if left is None or any(
            count > 1 and name not in samples for name, count in zip(self._names, left.grid.nvec, strict=True)
        ):
            return acquisition
        constant = np.zeros_like(acquisition)
        actions = np.stack([np.rint(samples.get(name, constant)) for name in self._names], axis=-1)
        return np.where(left.among(actions.astype(np.int64)), acquisition, -np.inf)


class LeftGPSampler(LeftSampler, GPSampler):
    """Gaussian process that proposes the point of those left at which its acquisition is highest.

    If they are too many to list, it searches the whole box, as Optuna's does.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample parameters together."""
        self._searched = search_space
        return super().sample_relative(study, trial, search_space)

    def _optimize_acqf(self, acqf: Any, best_params: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        actions = None if self.left is None else self.left.listed()
        if actions is None:
            return super()._optimize_acqf(acqf, best_params)
        normalised = self._normalised(acqf.search_space, actions)
        chunks = np.array_split(normalised, -(-len(normalised) // _CHUNK))
        acquisition = np.concatenate([acqf.eval_acqf_no_grad(chunk) for chunk in chunks])
        best: npt.NDArray[np.float64] = normalised[np.argmax(acquisition)]
        return best

    def _normalised(self, space: Any, actions: Ints) -> npt.NDArray[np.float64]:
        """Return actions as the Gaussian process sees them, float64 of shape ``(n, parameters that vary)``."""
        columns = [self._names.index(name) for name in self._searched]
        most = actions.max(axis=0)
        rows = [dict(zip(self._names, np.minimum(row, most).tolist(), strict=True)) for row in range(most.max() + 1)]
        levels = space.get_normalized_params([None] * len(rows), rows)
        normalised: npt.NDArray[np.float64] = levels[actions[:, columns], np.arange(len(columns))]
        return normalised
