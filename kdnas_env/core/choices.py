"""The choices of a search space: names of dimensions, checks of choices, and files that list them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from kdnas_env.core.architecture import FAMILIES, LARGEST_SIZE, SCALES, StudentConfig
from kdnas_env.errors import SpaceError
from kdnas_env.support.untrusted import is_integer, is_number, parse_yaml, shown

RECIPE = "recipe."
"""Prefix of the dimensions that change a field of the recipe, such as ``recipe.learning_rate``."""

DIMENSIONS = tuple(field.name for field in fields(StudentConfig) if field.name != "recipe")
"""Dimensions of a student that a space may search, in action order; those of the recipe follow, as they are given."""

ORDERED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
"""Dimensions of a student whose choices are numbers, so that neighbouring choices are similar students."""

SHIPPED_SPACES = ("joint",)
"""Spaces that come with the package, by name: ``joint`` searches architecture and recipe together."""

LARGEST_FILE = 200_000
"""Maximum size of a file that describes a space, in bytes."""


def checked_choices(choices: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the choices of a space in action order.

    Args:
        choices: Dimension name to its choices.

    Raises:
        SpaceError: If a name is unknown or a choice is malformed.
    """
    of_recipe = [name for name in choices if name.startswith(RECIPE)]
    unknown = sorted(set(choices) - set(DIMENSIONS) - set(of_recipe))
    if unknown:
        raise SpaceError(
            f"unknown dimension(s) {shown(unknown)}; expected some of {list(DIMENSIONS)}, or fields of the recipe, "
            f"such as {RECIPE}learning_rate"
        )
    names = [*(name for name in DIMENSIONS if name in choices), *of_recipe]
    return {name: _checked_dimension(name, choices[name]) for name in names}


def choices_from_dict(data: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the choices in plain data: a list of choices, or one value, for each dimension.

    Raises:
        SpaceError: If the data are not a mapping.
    """
    if not isinstance(data, Mapping):
        raise SpaceError(f"the space is {shown(data)}; expected a mapping of dimensions to their choices")
    return {
        name if isinstance(name, str) else shown(name): tuple(values) if isinstance(values, list | tuple) else (values,)
        for name, values in data.items()
        if name != "max_parameters"
    }


def read_space_file(path: str | Path) -> Any:
    """Read the plain data of a space from a YAML or JSON file, or one of ``SHIPPED_SPACES`` by its name.

    Raises:
        SpaceError: If the file cannot be read or parsed, or is larger than ``LARGEST_FILE``.
    """
    try:
        with open(_shipped(path), "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes; give each dimension fewer choices")
        return parse_yaml(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise SpaceError(f"search space file {str(path)!r} cannot be read as YAML or JSON: {error}") from error


def is_ordered(name: str, values: Sequence[Any]) -> bool:
    """Return whether the choices of a dimension are numbers, or words that stand for numbers."""
    return name in (*ORDERED, *SCALES) or (name.startswith(RECIPE) and all(is_number(value) for value in values))


def is_positive(value: object) -> bool:
    """Return whether a value is a positive integer."""
    return is_integer(value) and value > 0


def _checked_dimension(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise SpaceError(f"dimension {name!r} has no choices; expected at least one")
    for value in values:
        expected = _expected(name, value)
        if expected is not None:
            raise SpaceError(f"a choice of {name} is {shown(value)}; expected {expected}")
    duplicates = sorted(json.dumps(value) for value, count in Counter(values).items() if count > 1)
    if duplicates:
        raise SpaceError(f"{name} has the choice(s) {', '.join(duplicates[:5])} more than once; list each once")
    if name in SCALES:
        # The full size is the largest, though its number is 0.
        return tuple(sorted(values, key=lambda value: SCALES[name].get(value, value) or LARGEST_SIZE**2))
    return tuple(sorted(values)) if is_ordered(name, values) else tuple(values)


def _expected(name: str, value: Any) -> str | None:
    """Return what was expected of a choice of a dimension; None if the choice is one."""
    if name.startswith(RECIPE):
        plain = value is None or isinstance(value, str | int | float | bool)
        return None if plain else "a number, name, true, false or null"
    if name in ORDERED:
        if not is_integer(value) or value < (0 if name == "num_hidden_layers" else 1):
            return "a positive whole number"
        return None if value <= LARGEST_SIZE else f"at most {LARGEST_SIZE}"
    if name in SCALES:
        words = [*SCALES[name]]
        fits = value in words or (is_integer(value) and 0 <= value <= LARGEST_SIZE)
        return None if fits else f"a whole number, or one of {words}"
    if not isinstance(value, str):
        return "a name"
    return f"one of {list(FAMILIES)}" if name == "family" and value not in FAMILIES else None


def _shipped(path: str | Path) -> Path:
    """Return the path of a space; of the name of a shipped one, that of its file, unless there is such a file here."""
    given = Path(path)
    return (
        Path(__file__).parent / "spaces" / f"{path}.yaml" if path in SHIPPED_SPACES and not given.is_file() else given
    )
