"""Commands that are printed to be typed: quoted, and with every flag that they need."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import MISSING, fields
from functools import reduce
from operator import attrgetter
from typing import Any


def command(*words: object) -> str:
    """Return a command line of kdnas, as a shell takes it."""
    return shlex.join(["kdnas", *map(str, words)])


def python_command(code: str) -> str:
    """Return a command line that runs a line of Python, with as few quotes as a shell needs."""
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def flags(options: Any, names: Iterable[str]) -> list[str]:
    """Return the flags, with their values, of fields that are not at their defaults.

    Args:
        options: Options of a command.
        names: The fields, with dots where they are fields of fields.
    """
    words: list[str] = []
    for name in names:
        *path, last = name.split(".")
        owner = reduce(getattr, path, options)
        value = getattr(owner, last)
        if value == default_of(type(owner), last):
            continue
        dashed = last.replace("_", "-")
        prefix = "".join(f"{part}." for part in path)
        if isinstance(value, bool):
            words.append(f"--{prefix}{'' if value else 'no-'}{dashed}")
        else:
            words += [f"--{prefix}{dashed}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def default_of(kind: type[Any], name: str) -> Any:
    """Return the default of an option; its name has dots where it is a field of a field."""
    first, _, rest = name.partition(".")
    field = next(field for field in fields(kind) if field.name == first)
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return attrgetter(rest)(value) if rest else value
