"""Read all splits and arbitrary columns of a source, without conversion to text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdnas_env.distillation.text.columns import Columns
from kdnas_env.distillation.text.folders import Files
from kdnas_env.distillation.text.layout import AS_NAMED, TextLayout
from kdnas_env.distillation.text.samples import text_key
from kdnas_env.distillation.text.sources import columns_of_features, columns_of_files, locate, reporting
from kdnas_env.distillation.text.text_files import place_of, read_rows
from kdnas_env.support.quiet import quiet_datasets
from kdnas_env.support.scratch import scratch_folder

if TYPE_CHECKING:
    from datasets import Dataset

Record = tuple[str, tuple[Any, ...]]
"""Location of a row (for messages), and the values of its columns; None for a missing value."""


class Records(Protocol):
    """The splits of a source."""

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits."""

    def columns(self, split: str) -> Columns:
        """Return the columns of a split."""

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[Record]:
        """Read some columns of a split."""

    def class_names(self, split: str, column: str) -> tuple[str, ...]:
        """Return the class names of a column of numbers; empty if the numbers are not named classes."""


@contextmanager
def open_records(
    source: str | os.PathLike[str], *, config_name: str | None = None, layout: TextLayout = AS_NAMED
) -> Iterator[Records]:
    """Open a source, valid inside the ``with`` block.

    Args:
        source: A file (of the split ``train``), a folder, or a dataset of the hub.
        config_name: Configuration of a hub dataset or of a folder in hub layout.
        layout: Layout of local files.

    Raises:
        CorpusError: If the source does not exist, or cannot be reached or read.
    """
    from datasets import load_dataset

    name = os.fspath(source)
    with scratch_folder("records") as scratch, quiet_datasets(), reporting(f"{name!r}"):
        located = locate(name, config_name, layout, scratch)
        if isinstance(located, Files):
            yield _FileRecords(name, located)
            return
        if located is None:
            located = load_dataset(name, config_name)
        elif not isinstance(located, Mapping):
            located.download_and_prepare()
            located = located.as_dataset()
        yield _DatasetRecords(name, {str(split): dataset for split, dataset in located.items()})


def read_keys(source: str | os.PathLike[str]) -> frozenset[str]:
    """Return the keys (:func:`kdnas_env.distillation.text.samples.text_key`) of all texts of a source, in all splits.

    Raises:
        CorpusError: If it cannot be read.
    """
    keys = set[str]()
    with open_records(source) as records:
        for split in records.splits:
            for _, values in records.rows(split, records.columns(split).textual):
                keys.update(text_key(value) for value in values if isinstance(value, str) and value.strip())
    return frozenset(keys)


@dataclass(frozen=True)
class _FileRecords:
    name: str
    files: Files

    @property
    def splits(self) -> Sequence[str]:
        return tuple(self.files.splits)

    def columns(self, split: str) -> Columns:
        return columns_of_files(self.files.splits[split], self.name, split, self.files.layout)

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[Record]:
        for path in self.files.splits[split]:
            for number, values in read_rows(Path(path), columns, self.files.layout):
                yield place_of(path, number), values

    def class_names(self, split: str, column: str) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class _DatasetRecords:
    name: str
    datasets: Mapping[str, Dataset]

    @property
    def splits(self) -> Sequence[str]:
        return tuple(self.datasets)

    def columns(self, split: str) -> Columns:
        return columns_of_features(self.datasets[split].features)

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[Record]:
        dataset = self.datasets[split]
        if any(column not in dataset.column_names for column in columns):
            dataset = dataset.flatten()
        for number, row in enumerate(dataset.select_columns(list(columns)), start=1):
            yield f"{self.name}, split {split}, row {number}", tuple(row[column] for column in columns)

    def class_names(self, split: str, column: str) -> tuple[str, ...]:
        kind = self.datasets[split].features.flatten().get(column)
        return tuple(getattr(getattr(kind, "feature", kind), "names", None) or ())
