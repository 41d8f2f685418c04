"""Assign the text files of a folder to splits, following ``datasets`` and the YAML header of a hub README.md."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.distillation.text.layout import TextLayout
from kdnas_env.distillation.text.text_files import KINDS, suffix_of
from kdnas_env.errors import CorpusError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_READ_HERE = ("csv", "json", "parquet", "text")
_DESCRIPTIONS = ("config.json", "dataset_info.json", "dataset_infos.json")
_UNITS = {"line": "line", "document": "file"}
_NO_QUOTES = 3  # csv.QUOTE_NONE
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """Files of a source.

    Attributes:
        splits: Files of each split, in order.
        layout: Layout of the files.
    """

    splits: Mapping[str, tuple[Path, ...]]
    layout: TextLayout


def folder_files(folder: Path, config_name: str | None, layout: TextLayout, scratch: Path) -> Files | DatasetBuilder:
    """Return the files of each split of a folder; for files other than text files, the builder of ``datasets``.

    Args:
        folder: The folder.
        config_name: Configuration, if the folder has several.
        layout: Layout of the files; overrides README.md.
        scratch: Folder for temporary files.

    Raises:
        CorpusError: If the folder is empty, or its README.md uses options that are not supported.
    """
    from datasets import load_dataset_builder

    if not any(entry.is_file() for entry in folder.rglob("*")):
        raise CorpusError(f"corpus folder {str(folder)!r} is empty")
    root = folder.resolve()
    place = _mirrored(root, scratch) if re.search(r"[*?\[\]]|::", str(root)) else root
    builder = load_dataset_builder(str(place), config_name, cache_dir=str(scratch / "cache"))
    if builder.name not in _READ_HERE:
        return builder
    splits = {
        str(split): tuple(root / Path(file).relative_to(place) for file in files)
        for split, files in builder.config.data_files.items()
    }
    if list(builder.builder_configs) == ["default"]:  # no README.md selects the files
        _warn_of_unread(root, {file for files in splits.values() for file in files})
    return Files(splits, TextLayout(**{**_layout_of(builder.config, folder), **layout.given()}))


def _mirrored(root: Path, scratch: Path) -> Path:
    """Return a folder of links under a plain name, because ``datasets`` reads paths as patterns."""
    mirror = scratch.resolve() / "folder"
    for place, _, names in os.walk(root):
        inner = mirror / Path(place).relative_to(root)
        inner.mkdir(parents=True)
        for name in names:
            (inner / name).symlink_to(Path(place, name))
    return mirror


def _layout_of(config: Any, folder: Path) -> dict[str, Any]:
    """Return the layout that the configuration of a builder requests."""
    from datasets import BuilderConfig

    common = {field.name for field in fields(BuilderConfig)}
    default = type(config)()
    asked = {
        field.name: value
        for field in fields(config)
        if field.name not in common and (value := getattr(config, field.name)) != getattr(default, field.name)
    }
    layout: dict[str, Any] = {}
    for name, value in asked.items():
        if name in ("sep", "delimiter"):
            layout["separator"] = value
        elif name == "encoding":
            layout["encoding"] = value
        elif name == "header" and value in (None, 0):
            layout["header"] = value == 0
        elif name == "quoting":
            layout["quoted"] = value != _NO_QUOTES
        elif name == "sample_by" and value in _UNITS:
            layout["unit"] = _UNITS[value]
        else:
            raise CorpusError(
                f"the README.md of corpus folder {str(folder)!r} asks for {name}={value!r}, which kdnas does not "
                "support; name one of its files instead of the folder"
            )
    return layout


def _warn_of_unread(root: Path, read: set[Path]) -> None:
    """Log the text files in no split: ``datasets`` ignores files of a rarer kind, and files that match no split."""
    unread = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith((".", "__")) for part in parts)
        if suffix_of(path) in KINDS and path.name not in _DESCRIPTIONS and not hidden and path not in read:
            unread.append(str(path.relative_to(root)))
    if unread:
        shown = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
        _logger.warning("corpus folder %r: these files are in no split, and are not read: %s", str(root), shown)
