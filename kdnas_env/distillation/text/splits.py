"""Whole or partial splits of a source, in the notation of ``datasets``: ``train``, ``train[:10%]``, ``train+test``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kdnas_env.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset

_ALL = "all"
_ANY_SIZE = 100


def splits_named(split: str, names: Iterable[str], source: str) -> tuple[str, ...]:
    """Return the distinct splits of a source that a split expression uses.

    Raises:
        CorpusError: If a split does not exist, or the notation is invalid.
    """
    return tuple(dict.fromkeys(part.splitname for part in _parts(split, dict.fromkeys(names, _ANY_SIZE), source)))


def cut(split: str, splits: Mapping[str, Dataset], source: str) -> Dataset:
    """Return the rows that a split expression selects from whole splits.

    Raises:
        CorpusError: If a split does not exist, or the notation is invalid.
    """
    from datasets import concatenate_datasets

    parts = _parts(split, {name: dataset.num_rows for name, dataset in splits.items()}, source)
    pieces = [splits[part.splitname].select(range(part.from_, max(part.from_, part.to))) for part in parts]
    return pieces[0] if len(pieces) == 1 else concatenate_datasets(pieces)


def _parts(split: str, rows: Mapping[str, int], source: str) -> list[Any]:
    from datasets import ReadInstruction

    if split in rows or split == _ALL:
        # Names may contain characters that the notation does not allow, such as hyphens.
        names = [split] if split in rows else rows
        return [part for name in names for part in ReadInstruction(name).to_absolute(dict(rows))]
    try:
        return list(ReadInstruction.from_spec(split).to_absolute(dict(rows)))
    except ValueError as error:
        reason = "" if str(error).startswith("Unknown split") else f" ({error})"
        raise CorpusError(
            f"corpus {source!r} has no split {split!r}{reason}; it has {sorted(rows)}, of which parts are written as "
            "train[:10%]"
        ) from error
