"""What a network learns of the choices of an action: one row for each, and a few for a whole wide dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdnas_env.agents.ranking import Ints
from kdnas_env.core.wide_dimensions import bumps, coarse_counts, is_wide


class ChoiceRows(nn.Module):
    """Where the choices of each dimension stand among the rows of a parameter.

    A choice of a narrow dimension has a row of its own. The choices of a wide one are sums of a few rows, weighted by
    bumps along the scale (:mod:`kdnas_env.core.wide_dimensions`), so that neighbours have nearly the same. Holds no
    parameters itself.

    Args:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.

    Attributes:
        counts: Rows per dimension.
    """

    def __init__(self, nvec: Ints) -> None:
        super().__init__()
        self.counts: list[int] = coarse_counts(nvec).tolist()
        self._wide = is_wide(nvec).tolist()
        for axis, count in enumerate(nvec.tolist()):
            weights = torch.from_numpy(bumps(count)).float() if self._wide[axis] else None
            self.register_buffer(f"bumps_{axis}", weights, persistent=False)

    def of(self, axis: int, rows: Tensor) -> Tensor:
        """Return what stands for the choices of a dimension, ``(..., nvec[axis], width)``, given its rows."""
        return self.get_buffer(f"bumps_{axis}") @ rows if self._wide[axis] else rows

    def forward(self, rows: Tensor) -> Tensor:
        """Return what stands for all choices, one dimension after the other.

        Args:
            rows: Of shape ``(..., sum(counts), width)``.

        Returns:
            Of shape ``(..., sum(nvec), width)``.
        """
        if not any(self._wide):
            return rows
        return torch.cat(
            [self.of(axis, part) for axis, part in enumerate(torch.split(rows, self.counts, dim=-2))], dim=-2
        )
