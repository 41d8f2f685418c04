"""Fits of surrogates that are kept, since a fit takes seconds, and is not the same everywhere.

A fit is found by what it is a fit of: the fingerprints of its tables, in order, and the version of the fitting code.
That to the tables of ``kdnas/Surrogate-v0`` comes with the package (0.2 MB), so that its predictions are equal to the
last digit on all machines, which a fit of their own would not be: linear algebra rounds by processor and library. Fits
to other tables are kept in the folder of :func:`kdnas_env.support.atomic.default_cache_directory`, and in this process
where that folder cannot be written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from kdnas_env.support.kept import kept, read_whole
from kdnas_env.tables.storage import DATA
from kdnas_env.tables.surrogates.surrogate import (
    FIT_VERSION,
    SURROGATE_SCHEMA_VERSION,
    Surrogate,
    read_surrogate,
    write_surrogate,
)
from kdnas_env.tables.table import Table

SHIPPED = DATA / "fits"
"""Where the fits lie that come with the package."""


@dataclass(frozen=True)
class _Fit:
    """A fit to tables, equal to another if its key is."""

    key: str
    tables: tuple[Table, ...] = field(compare=False)

    @property
    def name(self) -> str:
        return f"surrogate-{self.key[:32]}.npz"


def fitted(source: Surrogate | Sequence[Table]) -> Surrogate:
    """Return a surrogate as it is, or the fit to tables: one that is kept, or else a new one, which is kept then.

    The arrays of a fit are read-only, since others in this process have the same.

    Raises:
        TableError: As :meth:`kdnas_env.tables.surrogates.surrogate.Surrogate.fit`.
    """
    return source if isinstance(source, Surrogate) else _fitted(_fit_of(source))


def fit_path(tables: Sequence[Table], folder: Path = SHIPPED) -> Path:
    """Return where the fit to some tables lies in a folder, if it is there."""
    return folder / _fit_of(tables).name


def _fit_of(tables: Sequence[Table]) -> _Fit:
    parts = [f"fit {FIT_VERSION}, schema {SURROGATE_SCHEMA_VERSION}", *(table.fingerprint for table in tables)]
    return _Fit(hashlib.sha256("\n".join(parts).encode()).hexdigest(), tuple(tables))


@lru_cache(maxsize=8)
def _fitted(fit: _Fit) -> Surrogate:
    surrogate = read_whole(SHIPPED / fit.name, read_surrogate) or kept(
        fit.name, read_surrogate, lambda: Surrogate.fit(*fit.tables), write_surrogate
    )
    for array in surrogate.arrays.values():
        array.setflags(write=False)
    return surrogate
