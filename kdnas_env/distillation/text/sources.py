"""Sources of text as rows of one or two texts: local files and folders, hub datasets, the embedded default."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.text.columns import Columns, choose_columns
from kdnas_env.distillation.text.demo import demo_texts
from kdnas_env.distillation.text.folders import Files, folder_files
from kdnas_env.distillation.text.layout import AS_NAMED, TextLayout
from kdnas_env.distillation.text.splits import cut, splits_named
from kdnas_env.distillation.text.text_files import KINDS, columns_of, field_of, kind_of, read_rows
from kdnas_env.errors import CorpusError, KDNASError, one_line
from kdnas_env.support.atomic import expanded
from kdnas_env.support.quiet import quiet_datasets
from kdnas_env.support.scratch import scratch_folder

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

_BATCH = 1024

Texts = tuple[str | None, ...]
"""A row of one or two texts: an empty string for a missing text, None for a value of another type."""


@dataclass(frozen=True, eq=False)
class TextRows:
    """Rows of a source, by number.

    Attributes:
        columns: The one or two text columns.
        dataset: The dataset that holds the rows.
        as_text: Converts a value of the dataset to text.
    """

    columns: tuple[str, ...]
    dataset: Dataset
    as_text: Callable[[Any], str | None]

    def __len__(self) -> int:
        return int(self.dataset.num_rows)

    def take(self, rows: NDArray[np.int64]) -> list[Texts]:
        """Return some rows, in the order given."""
        batch = self.dataset[rows]
        return list(zip(*(map(self.as_text, batch[column]) for column in self.columns), strict=True))


@dataclass(frozen=True, eq=False)
class TextStream:
    """Rows of a source, read lazily during iteration.

    Attributes:
        columns: The one or two text columns.
        rows: Mappings with these columns.
    """

    columns: tuple[str, ...]
    rows: IterableDataset

    def texts(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Texts]:
        """Return the texts of rows of the stream."""
        return (tuple(as_text(field_of(row, column)) for column in self.columns) for row in rows)

    def head(self, rows: int) -> TextRows:
        """Return the first rows."""
        from datasets import Dataset, Features, Value

        taken = list(self.texts(islice(self.rows, rows)))
        held = {column: [row[index] for row in taken] for index, column in enumerate(self.columns)}
        features = Features(dict.fromkeys(self.columns, Value("large_string")))
        return TextRows(self.columns, Dataset.from_dict(held, features), _unchanged)


@contextmanager
def open_source(
    source: str | os.PathLike[str],
    *,
    config_name: str | None = None,
    split: str = "train",
    text_columns: str | Sequence[str] | None = None,
    layout: TextLayout = AS_NAMED,
) -> Iterator[TextRows]:
    """Open a corpus source, valid inside the ``with`` block.

    Local files are converted into a private temporary folder instead of the user's ``datasets`` cache. This avoids
    stale data and leftover files, and any number of processes may read the same file.

    Args:
        source: See ``load_corpus``.
        config_name: Configuration of a hub dataset or of a folder in hub layout.
        split: Split name, in the notation of ``datasets`` (``"train"``, ``"train[:10%]"``).
        text_columns: The column that holds the text, or two; None to find it.
        layout: Layout of local files.

    Raises:
        CorpusError: If the source does not exist, cannot be reached or parsed, or lacks the split or a column.
        DependencyError: If the source is ``"demo"`` and the extra is not installed.
    """
    name = os.fspath(source)
    with scratch_folder("corpus") as scratch, quiet_datasets():
        with reporting(f"corpus {name!r} ({_asked(config_name, split)})"):
            rows = _open(name, config_name, split, text_columns, layout, scratch)
        if len(rows) == 0:
            raise CorpusError(f"corpus {name!r} is empty: split {split!r} holds no rows")
        yield rows


def draw_texts(source: str | os.PathLike[str], samples: int | None, seed: int, **reading: Any) -> list[tuple[str, ...]]:
    """Read a random selection of the rows of a source.

    Args:
        source: See ``load_corpus``.
        samples: Maximum number of rows; None for all.
        seed: Seed of the draw.
        **reading: Further arguments of :func:`open_source`.

    Returns:
        The non-empty texts of each row, in the order of the draw.

    Raises:
        CorpusError: See :func:`open_source`.
        DependencyError: See :func:`open_source`.
    """
    with open_source(source, **reading) as rows:
        drawn = np.random.default_rng(seed).permutation(len(rows))[:samples]
        return [tuple(text for text in row if text) for row in rows.take(drawn)]


def open_stream(
    source: str | os.PathLike[str],
    *,
    config_name: str | None = None,
    split: str = "train",
    text_columns: str | Sequence[str] | None = None,
    layout: TextLayout = AS_NAMED,
) -> TextStream:
    """Open a corpus source that is read lazily during iteration.

    Args:
        source: See ``load_corpus``.
        config_name: Configuration of a hub dataset or of a folder in hub layout.
        split: Split name; streams of files do not support parts of splits.
        text_columns: The column that holds the text, or two; None to find it.
        layout: Layout of local files.

    Raises:
        CorpusError: If the source does not exist or cannot be reached, or lacks the split or a column.
        DependencyError: If the source is ``"demo"`` and the extra is not installed.
    """
    from datasets import IterableDataset, load_dataset

    name = os.fspath(source)
    with (
        scratch_folder("corpus") as scratch,
        quiet_datasets(),
        reporting(f"corpus {name!r} ({_asked(config_name, split)})"),
    ):
        located = locate(name, config_name, layout, scratch)
        if isinstance(located, Files):
            if split not in located.splits:
                splits_named(split, located.splits, name)
                raise CorpusError(
                    f"a stream needs a whole split, not {split!r}; name one of its splits, or do not stream"
                )
            files = located.splits[split]
            columns = choose_columns(columns_of_files(files, name, split, located.layout), text_columns, name)
            reading = {"files": [str(file) for file in files], "columns": columns, "layout": located.layout}
            return TextStream(columns, IterableDataset.from_generator(_file_rows, gen_kwargs=reading))
        if isinstance(located, Mapping):
            rows = cut(split, located, name).to_iterable_dataset()
        elif located is not None:
            rows = located.as_streaming_dataset(split=split)
        else:
            rows = load_dataset(name, config_name, split=split, streaming=True)
        # Some formats reveal their columns only with the first row.
        rows = rows if rows.column_names is not None else rows._resolve_features()
        return TextStream(choose_columns(columns_of_features(rows.features), text_columns, name), rows)


@contextmanager
def reading(source: str | os.PathLike[str]) -> Iterator[None]:
    """Context for reading rows of an opened source, because text is decoded only when it is read.

    Raises:
        CorpusError: If the rows cannot be read.
    """
    with quiet_datasets(), reporting(f"corpus {os.fspath(source)!r}"):
        yield


def as_text(value: Any) -> str | None:
    """Return a string unchanged, a missing value as an empty string, and any other value as None."""
    return "" if value is None else value if isinstance(value, str) else None


def _unchanged(value: Any) -> str | None:
    return value  # type: ignore[no-any-return]


def _open(
    name: str,
    config_name: str | None,
    split: str,
    text_columns: str | Sequence[str] | None,
    layout: TextLayout,
    scratch: Path,
) -> TextRows:
    from datasets import load_dataset

    located = locate(name, config_name, layout, scratch)
    if isinstance(located, Files):
        splits = {part: located.splits[part] for part in splits_named(split, located.splits, name)}
        files = [file for of_split in splits.values() for file in of_split]
        columns = choose_columns(columns_of_files(files, name, split, located.layout), text_columns, name)
        stored = {
            part: _stored(_file_rows(of_split, columns, located.layout), columns, scratch / f"{number}.arrow")
            for number, (part, of_split) in enumerate(splits.items())
        }
        return TextRows(columns, cut(split, stored, name), _unchanged)
    if isinstance(located, Mapping):
        dataset = cut(split, located, name)
    elif located is not None:
        located.download_and_prepare()
        dataset = located.as_dataset(split=split)
    else:
        dataset = load_dataset(name, config_name, split=split)
    columns = choose_columns(columns_of_features(dataset.features), text_columns, name)
    within = any(column not in dataset.column_names for column in columns)
    return TextRows(columns, (dataset.flatten() if within else dataset).select_columns(list(columns)), as_text)


def locate(
    name: str, config_name: str | None, layout: TextLayout, scratch: Path
) -> Files | Mapping[str, Dataset] | DatasetBuilder | None:
    """Return the content of a source: files, datasets by split, or a dataset builder; None for a hub dataset.

    Args:
        name: A file, a folder, ``demo``, ``demo:NAME`` or the name of a hub dataset.
        config_name: Configuration of a folder or hub dataset with several.
        layout: Layout of the files.
        scratch: Folder for unpacked files.

    Raises:
        CorpusError: If there is no such source, it cannot be read, or an option does not apply to it.
        DependencyError: If the source needs a package that is missing.
    """
    if not name:
        raise CorpusError("corpus '' is not a file, a folder, 'demo' or the name of a hub dataset")
    path = expanded(name)
    everything = {"config_name": config_name, **layout.given()}
    if name == "demo" or name.startswith("demo:"):
        _refuse(name, everything, "an embedded corpus")
        return _embedded(name)
    if os.path.isfile(path):
        kind_of(path)
        _refuse(name, {"config_name": config_name}, "a file")
        return Files({"train": (Path(os.path.abspath(path)),)}, layout)
    if path.is_dir() and _is_stored(path):
        _refuse(name, everything, "a saved dataset")
        return _saved(path)
    if path.is_dir():
        listed = folder_files(path, config_name, layout, scratch)
        if not isinstance(listed, Files):
            _refuse(name, layout.given(), f"a folder of files that are read as {listed.name}")
        return listed
    if _looks_like_path(name):
        raise CorpusError(f"{name!r} does not exist: no such file or folder")
    _refuse(name, layout.given(), "a dataset of the hub")
    _require_hub_dataset(name)
    return None


def _refuse(name: str, options: Mapping[str, Any], what: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise CorpusError(f"corpus {name!r} is {what}, to which {option}={value!r} does not apply; leave it out")


def _embedded(name: str) -> dict[str, Dataset]:
    from datasets import Dataset

    return {"train": Dataset.from_dict({"text": demo_texts(name)})}


def _is_stored(path: Path) -> bool:
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _saved(path: Path) -> dict[str, Dataset]:
    """Return the splits written by ``save_to_disk``; a single dataset is also available as ``train``."""
    from datasets import Dataset, load_from_disk

    stored = load_from_disk(str(path))
    if isinstance(stored, Dataset):
        return {"train": stored, **({} if stored.split is None else {str(stored.split): stored})}
    return dict(stored)


def columns_of_files(files: Sequence[Path], name: str, split: str, layout: TextLayout) -> Columns:
    """Return the columns of the first file with rows.

    Raises:
        CorpusError: If no file has rows, or a file cannot be read.
    """
    for file in files:
        columns = columns_of(file, layout)
        if columns is not None:
            return columns
    raise CorpusError(f"corpus {name!r} is empty: split {split!r} holds no rows")


def columns_of_features(features: Mapping[str, Any]) -> Columns:
    """Return the columns described by the features of ``datasets``."""
    textual = [name for name, kind in features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    within = features.flatten()  # type: ignore[attr-defined]
    return Columns(tuple(dict.fromkeys([*features, *within])), tuple(textual))


def _file_rows(files: Sequence[str | Path], columns: tuple[str, ...], layout: TextLayout) -> Iterator[dict[str, Any]]:
    for file in files:
        for _, values in read_rows(Path(file), columns, layout):
            yield dict(zip(columns, values, strict=True))


def _stored(rows: Iterator[Mapping[str, Any]], columns: tuple[str, ...], place: Path) -> Dataset:
    """Write texts into a memory-mapped file."""
    import pyarrow as pa
    from datasets import Dataset

    schema = pa.schema([(column, pa.large_string()) for column in columns])
    with pa.OSFile(str(place), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            texts = {column: [as_text(row[column]) for row in batch] for column in columns}
            writer.write_batch(pa.RecordBatch.from_pydict(texts, schema=schema))
    return Dataset.from_file(str(place))


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    return (
        path.is_absolute()
        or source.startswith((".", "~"))
        or any(suffix in KINDS for suffix in path.suffixes)
        or len(path.parts) > 2
    )


def _require_hub_dataset(source: str) -> None:
    """Query the hub once, so that a misspelt name or a missing network fails at once instead of after many retries."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    cached = any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{escape(source.replace('/', '___'))}*"))
    try:
        HfApi().dataset_info(source, timeout=10)
    except HFValidationError as error:
        raise CorpusError(f"corpus {source!r} is neither a file, a folder nor a valid dataset name: {error}") from error
    except RepositoryNotFoundError as error:
        raise CorpusError(
            f"unknown corpus {source!r}: there is no such file or folder, and the hub has no dataset of that name that "
            "you may read"
        ) from error
    except Exception as error:
        if not cached:
            raise CorpusError(
                f"corpus {source!r}: there is no such file or folder, the hub cannot be reached ({one_line(error)}) "
                "and no copy of a dataset of that name is cached; name a local file or folder, or 'demo'"
            ) from error


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Convert errors in the block, such as those of file formats and of the hub, to errors of the package.

    Args:
        what: The source, as the message names it.

    Raises:
        CorpusError: For any error except memory errors and those of the package.
    """
    try:
        yield
    except (KDNASError, MemoryError):
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise CorpusError(f"{what} cannot be read: {one_line(cause)}") from error


def _asked(config_name: str | None, split: str) -> str:
    return f"split {split!r}" + ("" if config_name is None else f", config {config_name!r}")
