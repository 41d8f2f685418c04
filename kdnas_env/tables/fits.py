"""Fits of surrogates that are kept, since a fit takes seconds, and is not the same everywhere.

A fit is found by what it is a fit of: the fingerprints of its tables, in order, and the version of the fitting code.
That to the tables of ``kdnas/Surrogate-v0`` comes with the package (0.2 MB), so that its predictions are equal to the
last digit on all machines, which a fit of their own would not be: linear algebra rounds by processor and library. Fits
to other tables are kept in the folder of :func:`kdnas_env.files.default_cache_directory`, and in this process where
that folder cannot be written.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from kdnas_env.errors import RunError, TableError
from kdnas_env.files import default_cache_directory
from kdnas_env.tables.storage import DATA
from kdnas_env.tables.surrogate import FIT_VERSION, SURROGATE_SCHEMA_VERSION, Surrogate, read_surrogate, write_surrogate
from kdnas_env.tables.table import Table

SHIPPED = DATA / "fits"
"""Where the fits lie that come with the package."""


@dataclass(frozen=True)
class _Fit:
    """A fit to tables, equal to another if its key is."""

    key: str
    tables: tuple[Table, ...] = field(compare=False)

    def path(self, folder: Path) -> Path:
        return folder / f"surrogate-{self.key[:32]}.npz"


def fitted(source: Surrogate | Sequence[Table]) -> Surrogate:
    """Return a surrogate as it is, or the fit to tables: one that is kept, or else a new one, which is kept then.

    The arrays of a fit are read-only, since others in this process have the same.

    Raises:
        TableError: As :meth:`kdnas_env.tables.surrogate.Surrogate.fit`.
    """
    return source if isinstance(source, Surrogate) else _fitted(_fit_of(source))


def fit_path(tables: Sequence[Table], folder: Path = SHIPPED) -> Path:
    """Return where the fit to some tables lies in a folder, if it is there."""
    return _fit_of(tables).path(folder)


def _fit_of(tables: Sequence[Table]) -> _Fit:
    parts = [f"fit {FIT_VERSION}, schema {SURROGATE_SCHEMA_VERSION}", *(table.fingerprint for table in tables)]
    return _Fit(hashlib.sha256("\n".join(parts).encode()).hexdigest(), tuple(tables))


@lru_cache(maxsize=8)
def _fitted(fit: _Fit) -> Surrogate:
    surrogate = _read(fit.path(SHIPPED)) or _cached(fit)
    for array in surrogate.arrays.values():
        array.setflags(write=False)
    return surrogate


def _cached(fit: _Fit) -> Surrogate:
    """Return a fit from the cache folder; if it is not there, or damaged, fit and keep it."""
    path = fit.path(default_cache_directory())
    found = _read(path)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of several processes one fits, and the others wait for it
            found = _read(path)
            if found is None:
                found = Surrogate.fit(*fit.tables)
                write_surrogate(found, path)
    except (OSError, RunError) as error:
        warnings.warn(
            f"the fit of a surrogate cannot be kept for other processes: {error}. Set KDNAS_CACHE to a folder that you "
            "may write, or write the fit to a file of your own with kdnas table fit",
            RuntimeWarning,
            stacklevel=2,
        )
    return found or Surrogate.fit(*fit.tables)


def _read(path: Path) -> Surrogate | None:
    """Return a fit; None if it is not there, or not whole."""
    with suppress(TableError):
        return read_surrogate(path)
    return None
