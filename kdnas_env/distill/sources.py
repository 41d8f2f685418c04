"""Sources of text: hub datasets, local files and folders, the embedded default; all as a ``datasets.Dataset``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.distill.demo import demo_texts
from kdnas_env.distill.libraries import one_line, quiet_datasets
from kdnas_env.errors import CorpusError, KDNASError
from kdnas_env.files import expanded
from kdnas_env.scratch import scratch_folder

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Without keep_default_na=False pandas turns the texts "null", "NA" and "nan" into missing values.
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_TEXT_NAMES = ("text", "sentence", "content", "document", "review")


@contextmanager
def open_source(source: str | os.PathLike[str], *, config_name: str | None, split: str) -> Iterator[Dataset]:
    """Open a corpus source as a ``datasets.Dataset``, valid inside the ``with`` block.

    Local files are converted into a private temporary folder, never into the user's ``datasets`` cache: nothing stale
    can come back, nothing is left behind, and any number of processes may read the same file.

    Args:
        source: See ``load_corpus``.
        config_name: Configuration of a hub dataset or of a folder in hub layout.
        split: Split name, in the notation of ``datasets`` (``"train"``, ``"train[:10%]"``).

    Raises:
        CorpusError: If the source does not exist, cannot be reached or cannot be parsed.
        DependencyError: If the source is ``"demo"`` and the extra is not installed.
    """
    with scratch_folder("corpus") as scratch, quiet_datasets():
        try:
            dataset = _load(os.fspath(source), config_name, split, str(scratch))
        except (KDNASError, MemoryError):
            raise
        except Exception as error:
            # Each format's reader has exceptions of its own: ArrowInvalid, UnicodeDecodeError, StopIteration ...
            raise CorpusError(_unreadable(source, config_name, split, error)) from error
        if dataset.num_rows == 0:
            raise CorpusError(f"corpus {os.fspath(source)!r} is empty: split {split!r} holds no rows")
        yield dataset


def open_stream(source: str | os.PathLike[str], *, config_name: str | None, split: str) -> IterableDataset:
    """Open a corpus source as a ``datasets.IterableDataset``, which is read as it is iterated over, never as a whole.

    Args:
        source: See ``load_corpus``.
        config_name: Configuration of a hub dataset or of a folder in hub layout.
        split: Split name; a stream has no parts of splits.

    Raises:
        CorpusError: If the source does not exist or cannot be reached.
        DependencyError: If the source is ``"demo"`` and the extra is not installed.
    """
    from datasets import load_dataset

    name = os.fspath(source)
    path = expanded(name)
    try:
        with quiet_datasets():
            if name == "demo" or name.startswith("demo:") or _is_stored(path):
                stored: Dataset = _load_demo(name, split) if name.startswith("demo") else _load_stored(path, split)
                return stored.to_iterable_dataset()
            if path.is_file():
                builder, options = _builder_of(path)
                return load_dataset(builder, data_files=str(path.resolve()), split=split, streaming=True, **options)
            if not path.is_dir():
                if _looks_like_path(name):
                    raise CorpusError(f"corpus {name!r} is not there: no such file or folder")
                _require_hub_dataset(name)
            place = str(path.resolve()) if path.is_dir() else name
            return load_dataset(place, config_name, split=split, streaming=True)
    except KDNASError:
        raise
    except Exception as error:
        raise CorpusError(_unreadable(source, config_name, split, error)) from error


@contextmanager
def reading(source: str | os.PathLike[str]) -> Iterator[None]:
    """Read rows of an opened source in the block: text is decoded no sooner.

    Raises:
        CorpusError: If they cannot be read.
    """
    try:
        with quiet_datasets():
            yield
    except (KDNASError, MemoryError):
        raise
    except Exception as error:
        raise CorpusError(f"corpus {os.fspath(source)!r} cannot be read: {one_line(error)}") from error


def resolve_text_columns(
    dataset: Dataset | IterableDataset, requested: str | Sequence[str] | None, source: str
) -> tuple[str, ...]:
    """Return the one or two columns that hold the text.

    With ``requested=None``: the only string column, else the first of ``text``, ``sentence``, ``content``,
    ``document`` and ``review`` that exists.

    Raises:
        CorpusError: If a requested column is missing, more than two are asked for, or none can be told apart.
    """
    columns: list[str] = dataset.column_names
    if requested is not None:
        names = (requested,) if isinstance(requested, str) else tuple(requested)
        if not 1 <= len(names) <= 2 or len(set(names)) != len(names):
            raise CorpusError(f"text_columns={list(names)} is not one column, or two different ones for sentence pairs")
        missing = [name for name in names if name not in columns]
        if missing:
            raise CorpusError(f"corpus {source!r} has no column {missing[0]!r}; its columns are {columns}")
        return names
    strings = [name for name in columns if getattr(dataset.features[name], "dtype", "") in ("string", "large_string")]
    if len(strings) == 1:
        return (strings[0],)
    for name in _TEXT_NAMES:
        if name in columns:
            return (name,)
    raise CorpusError(
        f"cannot tell which column of corpus {source!r} holds the text: its columns are {columns}, of which {strings} "
        "hold strings; name one with text_columns, or two for sentence pairs"
    )


def _load(source: str, config_name: str | None, split: str, scratch: str) -> Dataset:
    from datasets import load_dataset

    if source == "demo" or source.startswith("demo:"):
        return _load_demo(source, split)
    if not source:
        raise CorpusError("corpus '' is not a file, a folder, 'demo' or the name of a hub dataset")
    path = expanded(source)
    if os.path.isfile(path):
        return _load_file(path, split, scratch)
    if path.is_dir():
        return _load_folder(path, config_name, split, scratch)
    if _looks_like_path(source):
        raise CorpusError(f"corpus {source!r} is not there: no such file or folder")
    _require_hub_dataset(source)
    return load_dataset(source, config_name, split=split)


def _load_demo(source: str, split: str) -> Dataset:
    from datasets import Dataset, ReadInstruction

    texts = demo_texts(source)
    parts = ReadInstruction.from_spec(split).to_absolute({"train": len(texts)})
    return Dataset.from_dict({"text": [text for part in parts for text in texts[part.from_ : part.to]]})


def _load_file(path: Path, split: str, scratch: str) -> Dataset:
    from datasets import load_dataset

    builder, options = _builder_of(path)
    return load_dataset(builder, data_files=str(path.resolve()), split=split, cache_dir=scratch, **options)


def _builder_of(path: Path) -> tuple[str, dict[str, Any]]:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSIONS]
    if not suffixes or suffixes[-1] not in _BUILDERS:
        raise CorpusError(f"corpus file {str(path)!r} is of no known kind; expected one of {sorted(_BUILDERS)}")
    if path.stat().st_size == 0:
        raise CorpusError(f"corpus file {str(path)!r} is empty (0 bytes)")
    return _BUILDERS[suffixes[-1]]


def _is_stored(path: Path) -> bool:
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _load_stored(path: Path, split: str) -> Dataset:
    from datasets import Dataset, load_from_disk

    stored = load_from_disk(str(path))
    if isinstance(stored, Dataset):
        return stored
    if split not in stored:
        raise CorpusError(f"corpus folder {str(path)!r} has no split {split!r}; it has {sorted(stored)}")
    return stored[split]


def _load_folder(path: Path, config_name: str | None, split: str, scratch: str) -> Dataset:
    from datasets import load_dataset_builder

    if _is_stored(path):
        return _load_stored(path, split)
    if not any(entry.is_file() for entry in path.rglob("*")):
        raise CorpusError(f"corpus folder {str(path)!r} is empty")
    builder = load_dataset_builder(str(path.resolve()), config_name, cache_dir=scratch)
    if hasattr(builder.config, "keep_default_na"):
        builder.config.keep_default_na = False
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    return (
        path.is_absolute()
        or source.startswith((".", "~"))
        or any(suffix in _BUILDERS for suffix in path.suffixes)
        or len(path.parts) > 2
    )


def _require_hub_dataset(source: str) -> None:
    """Ask the hub once, so that a misspelt name or a missing network is told at once and not after many retries."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    cached = any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{source.replace('/', '___')}*"))
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


def _unreadable(source: str | os.PathLike[str], config_name: str | None, split: str, error: Exception) -> str:
    asked = f"split {split!r}" + ("" if config_name is None else f", config {config_name!r}")
    if "corresponds to no data" in str(error):
        return f"corpus {os.fspath(source)!r} is empty: {asked} holds no rows"
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return f"corpus {os.fspath(source)!r} ({asked}) cannot be read: {one_line(cause)}"
