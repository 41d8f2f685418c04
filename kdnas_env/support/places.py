"""Paths in records, which stay valid from another working folder or after the whole tree was moved.

A record holds each name as it was given. Under ``places`` it also holds two paths of the file or folder: one relative
to the folder of the record, which stays valid if the whole tree is moved, and the absolute one. A reader tries the
relative path, then the absolute path, then the name in the current folder. A name with recorded places is never looked
up on a hub.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import expanded

PLACES = "places"
"""Key of the places in a record."""


def local_path(name: str) -> Path | None:
    """Return the absolute path that the name of a teacher or corpus refers to; None if the name is not a path.

    An absolute path counts as a path even if it does not exist.
    """
    path = expanded(name)
    if not name or name == "demo" or name.startswith("demo:"):
        return None
    return Path(os.path.abspath(path)) if path.is_absolute() or os.path.exists(path) else None


def same_place(name: Any, other: Any) -> bool:
    """Whether two names, or lists of names, refer to the same files and folders."""
    ours, theirs = ([local_path(item) or item for item in _listed(value)] for value in (name, other))
    return bool(ours) and ours == theirs


def with_places(
    data: Mapping[str, Any],
    names: Iterable[str],
    folder: Path,
    *,
    absolute: bool = True,
    other: Collection[str] = (),
) -> dict[str, Any]:
    """Return a record with the places of the files and folders that it names.

    Args:
        data: The record: plain data.
        names: Fields that may hold such a name or a list of names; nested fields with dots.
        folder: Folder of the record.
        absolute: Whether absolute paths are recorded too; they depend on the machine.
        other: Values that are not paths, even if a file or folder has that name.

    Returns:
        The record with ``places``: by field, the places of each name in the order in which they are tried.
    """
    places_of = {}
    for field in names:
        value = _get(data, field)
        places = [[] if name in other else _places_of(name, folder)[: 2 if absolute else 1] for name in _listed(value)]
        if any(places):
            places_of[field] = places
    return {**data, PLACES: places_of} if places_of else dict(data)


def found_again(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record without its places, with the current paths of its files and folders.

    Args:
        data: What :func:`with_places` returned, or a record that has no places.
        folder: Folder of the record.

    Raises:
        RunError: If the places are malformed.
    """
    record = dict(data)
    places = record.pop(PLACES, {})
    if not _well_formed(places):
        raise RunError(f"the record in {str(folder)!r} is malformed: {PLACES} is not a mapping of lists of paths")
    for field, of_names in places.items():
        value = _get(record, field)
        names = _listed(value)
        if names and len(names) == len(of_names):  # else the record was edited
            new = [_current_path(name, tried, folder) for name, tried in zip(names, of_names, strict=True)]
            record = _with(record, field, new[0] if isinstance(value, str) else new)
    return record


def _places_of(name: str, folder: Path) -> list[str]:
    path = local_path(name)
    if path is None:
        return []
    # Links are resolved in all parts but the last, as the system does for "..": a link in the last part may be changed.
    real = os.path.join(os.path.realpath(path.parent), path.name)
    return [os.path.relpath(real, os.path.realpath(folder)), str(path)]


def _current_path(name: str, places: Sequence[str], folder: Path) -> str:
    if not places:
        return name
    candidates = [os.path.normpath(os.path.join(os.path.realpath(folder), place)) for place in places]
    there = next((place for place in candidates if os.path.exists(place)), None)
    if there is None:
        there = os.path.abspath(expanded(name)) if os.path.exists(expanded(name)) else candidates[-1]
    # The name as it was given, if it refers to the same file.
    return name if os.path.exists(expanded(name)) and os.path.samefile(expanded(name), there) else there


def _listed(value: Any) -> list[str]:
    several = value if isinstance(value, list | tuple) else [value]
    return [item for item in several if isinstance(item, str)]


def _get(data: Any, field: str) -> Any:
    for name in field.split("."):
        data = data.get(name) if isinstance(data, Mapping) else None
    return data if isinstance(data, str | list | tuple) else None


def _with(data: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    name, _, rest = field.partition(".")
    return {**data, name: _with(data[name], rest, value) if rest else value}


def _well_formed(places: Any) -> bool:
    return isinstance(places, Mapping) and all(
        isinstance(of_names, list)
        and all(isinstance(tried, list) and all(isinstance(place, str) for place in tried) for tried in of_names)
        for of_names in places.values()
    )
