"""Surrogate files, and a cache of fits, because a fit takes seconds and depends on the machine.

The cache key of a fit is the ordered fingerprints of its tables and the version of the fitting code. The package ships
the fit for ``kdnas/Surrogate-v0`` (0.2 MB), so that its predictions are equal to the last digit on all machines. A
local fit would differ, because rounding in linear algebra depends on processor and library. Other fits are cached in
:func:`kdnas_env.support.atomic.default_cache_directory`, or only in this process if that folder is not writable.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from kdnas_env.core.choices import ORDERED
from kdnas_env.errors import TableError
from kdnas_env.support.disk_cache import cached, read_intact
from kdnas_env.support.untrusted import restore, shown
from kdnas_env.tables.archive import read_archive, write_archive
from kdnas_env.tables.storage import FITS, described_kind, load_table, table_path
from kdnas_env.tables.surrogates.gaussian_process import GaussianProcess
from kdnas_env.tables.surrogates.inputs import NAMED, Range
from kdnas_env.tables.surrogates.seed_deviation import SeedDeviation
from kdnas_env.tables.surrogates.surrogate import FIT_VERSION, Surrogate
from kdnas_env.tables.table import Table, TableMetadata

SURROGATE_SCHEMA_VERSION = 1

TableNames = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A table or surrogate by name or npz file, or several tables of one workload."""

_KIND = "surrogate"


def write_surrogate(surrogate: Surrogate, path: str | os.PathLike[str]) -> None:
    """Write a surrogate as ``path`` (npz) and its JSON file, like a table.

    Raises:
        TableError: If the path does not end in ``.npz``.
        RunError: If a file cannot be written.
    """
    trusted = surrogate.range
    record = {
        "kind": _KIND,
        "schema_version": SURROGATE_SCHEMA_VERSION,
        "table": surrogate.metadata.to_dict(),
        "numbers": {name: list(pair) for name, pair in trusted.numbers.items()},
        "names": {name: list(values) for name, values in trusted.names.items()},
        "max_parameters": trusted.max_parameters,
        "seeds": surrogate.seeds,
        "processes": len(surrogate.processes),
        "tables": [list(pair) for pair in surrogate.tables],
    }
    write_archive(path, surrogate.arrays, record, _KIND)


def read_surrogate(path: str | os.PathLike[str]) -> Surrogate:
    """Read a surrogate, and verify it.

    Raises:
        TableError: If a file is missing or damaged, is not a surrogate, or has a newer version.
    """
    record, arrays = read_archive(path, _KIND, SURROGATE_SCHEMA_VERSION)
    if record.get("kind") != _KIND:
        raise TableError(f"{str(path)!r} is not a surrogate; write one with kdnas table fit")
    try:
        # Count the processes from the arrays, because a manipulated number in the record could be huge.
        numbers = range(sum(name.endswith(".columns") for name in arrays))
        if record["processes"] != len(numbers):
            raise ValueError(f"it has {len(numbers)} processes, and the record says {shown(record['processes'])}")
        surrogate = Surrogate(
            TableMetadata.from_dict(record["table"]),
            restore(Range, {name: record[name] for name in ("numbers", "names", "max_parameters")}),
            float(record["seeds"]),
            tuple(arrays[f"{number}.columns"] for number in numbers),
            tuple(
                GaussianProcess(**{name: arrays[f"{number}.{name}"] for name in GaussianProcess.ARRAYS})
                for number in numbers
            ),
            SeedDeviation(**{name: arrays[f"noise.{name}"] for name in SeedDeviation.ARRAYS}),
            tuple((str(name), int(count)) for name, count in record["tables"]),
        )
        _check_layout(surrogate)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"surrogate {str(path)!r} is malformed: {error}; restore the file from a copy") from error
    return surrogate


def is_surrogate(name: str | os.PathLike[str]) -> bool:
    """Whether a name is the path of a surrogate's npz file, rather than a table or a missing file."""
    return described_kind(table_path(name)) == _KIND


def load_source(names: TableNames) -> Surrogate | tuple[Table, ...]:
    """Return a surrogate from its file, or the tables to fit one to.

    Args:
        names: Name of a table, or the npz file of a table or of a surrogate; or several tables of one workload.

    Raises:
        TableError: If the file does not exist, is damaged, or has a newer version.
    """
    if isinstance(names, (str, os.PathLike)):
        return read_surrogate(table_path(names)) if is_surrogate(names) else (load_table(names),)
    if not names:
        raise TableError("no table is named; expected the name or npz file of one or more")
    return tuple(load_table(name) for name in names)


@dataclass(frozen=True)
class _Fit:
    """A fit to tables; two fits are equal if their keys are equal."""

    key: str
    tables: tuple[Table, ...] = field(compare=False)

    @property
    def name(self) -> str:
        return f"surrogate-{self.key[:32]}.npz"


def fitted(source: Surrogate | Sequence[Table]) -> Surrogate:
    """Return a surrogate unchanged, or the fit to tables: from the cache if possible, else a new fit, then cached.

    The arrays of a fit are read-only, because they are shared within this process.

    Raises:
        TableError: See :meth:`kdnas_env.tables.surrogates.surrogate.Surrogate.fit`.
    """
    return source if isinstance(source, Surrogate) else _fitted(_fit_of(source))


def fit_path(tables: Sequence[Table], folder: Path = FITS) -> Path:
    """Return the path of the fit to some tables in a folder, whether or not it exists."""
    return folder / _fit_of(tables).name


def _fit_of(tables: Sequence[Table]) -> _Fit:
    parts = [f"fit {FIT_VERSION}, schema {SURROGATE_SCHEMA_VERSION}", *(table.fingerprint for table in tables)]
    return _Fit(hashlib.sha256("\n".join(parts).encode()).hexdigest(), tuple(tables))


@lru_cache(maxsize=8)
def _fitted(fit: _Fit) -> Surrogate:
    surrogate = read_intact(FITS / fit.name, read_surrogate) or cached(
        fit.name, read_surrogate, lambda: Surrogate.fit(*fit.tables), write_surrogate
    )
    for array in surrogate.arrays.values():
        array.setflags(write=False)
    return surrogate


def _check_layout(surrogate: Surrogate) -> None:
    """Check that the arrays are consistent, because errors would otherwise appear only in predictions.

    Raises:
        ValueError: If they are not.
    """
    trusted = surrogate.range
    whole = set(ORDERED) <= set(trusted.numbers) and set(NAMED) <= set(trusted.names)
    if not whole or not surrogate.metadata.devices:
        raise ValueError("the range of its students is incomplete, or there is no device")
    positive = all(trusted.numbers[name][0] >= (name != "num_hidden_layers") for name in ORDERED)
    if not positive or not all(len(pair) == 2 and 0 <= pair[0] <= pair[1] for pair in trusted.numbers.values()):
        raise ValueError(f"numbers are {dict(trusted.numbers)}; expected a minimum and a maximum of each")
    if trusted.max_parameters is not None and trusted.max_parameters < 1:
        raise ValueError(f"max_parameters is {trusted.max_parameters}; expected a positive number or null")
    if any(count < 0 for _, count in surrogate.tables):
        raise ValueError(f"tables is {dict(surrogate.tables)}; expected numbers of students, 0 or more")
    if not 0 < surrogate.seeds < np.inf:
        raise ValueError(f"seeds is {surrogate.seeds}; expected a positive number")
    predicted = np.sort(np.concatenate(surrogate.columns))
    if len(predicted) != surrogate.outputs or not np.array_equal(predicted, np.arange(len(predicted))):
        raise ValueError("its processes do not predict every output once")
    surrogate.noise.check(len(ORDERED), surrogate.curve_outputs)
    for number, (part, process) in enumerate(zip(surrogate.columns, surrogate.processes, strict=True)):
        process.check(surrogate.width(number), len(part))
