"""Names with settings in one command-line argument: ``NAME:SETTING=VALUE,...``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdnas_env.errors import KDNASError
from kdnas_env.support.settings import parse_settings, parse_value
from kdnas_env.support.untrusted import shown


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME:SETTING=VALUE,...`` into the name and the settings.

    Values are those of :func:`kdnas_env.support.settings.parse_value`.

    Raises:
        KDNASError: If it is malformed.
    """
    name, _, rest = text.partition(":")
    if not name.strip():
        raise KDNASError(f"{shown(text)} has no name; write NAME or NAME:SETTING=VALUE,...")
    try:
        return name.strip(), parse_settings(_parts(rest) if rest else ())
    except KDNASError as error:
        raise KDNASError(f"{shown(text)} is not of the form NAME:SETTING=VALUE,...: {error}") from error


def format_spec(name: str, settings: Mapping[str, Any]) -> str:
    """Format a name and its settings for :func:`parse_spec`, with the settings sorted by name.

    Raises:
        KDNASError: If a name holds a colon, or a value is not plain data.
    """
    if not name or name != name.strip() or ":" in name:
        raise KDNASError(f"{shown(name)} cannot be a name: it is empty, or has a colon or spaces at its ends")
    wrong = [key for key in settings if not str(key).isidentifier()]
    if wrong:
        raise KDNASError(f"{wrong[0]!r} cannot be the name of a setting of {name!r}; use letters, digits and _")
    parts = [f"{key}={_text(settings[key], name)}" for key in sorted(settings)]
    return f"{name}:{','.join(parts)}" if parts else name


def _parts(text: str) -> Iterator[str]:
    """Split at commas outside brackets and quotes."""
    depth, start, quoted, escaped = 0, 0, False, False
    for place, letter in enumerate(text):
        if quoted:
            quoted = letter != '"' or escaped
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and not depth:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _text(value: Any, name: str) -> str:
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise KDNASError(f"a setting of {shown(name)} is {shown(value)}, which is not plain data: {error}") from error
    bare = isinstance(value, str) and value.replace("-", "_").isidentifier() and value.isascii()
    return value if bare and parse_value(value) == value else text
