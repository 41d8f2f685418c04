"""Commands and calls in messages, quoted so that they can be copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import MISSING, fields
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any


def command(*words: object) -> str:
    """Return a command line of kdnas, quoted for a shell."""
    return shlex.join(["kdnas", *map(str, words)])


def python_command(code: str) -> str:
    """Return a command line that runs a line of Python, with as few quotes as a shell needs."""
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def call(function: str, *arguments: object, **settings: object) -> str:
    """Return the Python call of a function of the package; paths become strings.

    Args:
        function: Its name within the package, such as ``search``.
        *arguments: Positional arguments.
        **settings: Keyword arguments; names with dots become entries of mappings.
    """
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, last = name.split(".")
        reduce(lambda within, group: within.setdefault(group, {}), groups, nested)[last] = _plain(value)
    given = [*(repr(_plain(value)) for value in arguments), *(f"{name}={value!r}" for name, value in nested.items())]
    return f"kdnas_env.{function}({', '.join(given)})"


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def non_defaults(options: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the values, by name, of those fields that differ from their defaults.

    Args:
        options: Options of a command.
        names: The fields to check; nested fields with dots.
    """
    values = {name: attrgetter(name)(options) for name in names}
    return {name: value for name, value in values.items() if value != default_of(type(options), name)}


def default_of(kind: type[Any], name: str) -> Any:
    """Return the default of an option; the names of nested fields have dots."""
    first, _, rest = name.partition(".")
    field = next(field for field in fields(kind) if field.name == first)
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return attrgetter(rest)(value) if rest else value
