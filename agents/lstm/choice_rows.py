"""Parameter rows for the choices of an action: one row per choice, and few shared rows for a wide dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdnas_env.core.wide_dimensions import bumps, coarse_counts, is_wide
from kdnas_env.support.arrays import Ints


class ChoiceRows(nn.Module):
    """Maps the choices of each dimension to rows of a parameter.

    In a narrow dimension, each choice has its own row. In a wide dimension, choices are weighted sums of a few rows,
    with bump functions along the scale as weights (:mod:`kdnas_env.core.wide_dimensions`), so that neighbours are
    similar. The module has no parameters.

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
        """Return the vectors of a dimension's choices, ``(..., nvec[axis], width)``, from its rows."""
        return self.get_buffer(f"bumps_{axis}") @ rows if self._wide[axis] else rows

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors of all choices, dimensions concatenated.

        Args:
            rows: Shape ``(..., sum(counts), width)``.

        Returns:
            Shape ``(..., sum(nvec), width)``.
        """
        if not any(self._wide):
            return rows
        return torch.cat(
            [self.of(axis, part) for axis, part in enumerate(torch.split(rows, self.counts, dim=-2))], dim=-2
        )
