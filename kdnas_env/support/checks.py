"""Checks of arguments and settings; their errors name the value and what was expected."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any, TypedDict, Unpack

from kdnas_env.errors import KDNASError
from kdnas_env.support.untrusted import is_integer, is_number, shown


class Bounds(TypedDict, total=False):
    """Bounds of a number."""

    at_least: float
    above: float
    at_most: float
    below: float


class Expected(Bounds, total=False):
    """What is expected of a number.

    Attributes:
        of: For the message: what is counted, or the unit.
        advice: The end of the message: what to do, if the bounds do not say it.
        error: Type of the error.
    """

    of: str
    advice: str
    error: type[KDNASError]


def check_whole(name: str, value: Any, **expected: Unpack[Expected]) -> int:
    """Return a whole number as int.

    Args:
        name: For messages: name of the value.
        value: The value.
        **expected: See :class:`Expected`.

    Raises:
        KDNASError: If it is something else or out of bounds; of the type that was given.
    """
    _check(name, value, whole=True, **expected)
    return int(value)


def check_number(name: str, value: Any, **expected: Unpack[Expected]) -> float:
    """Return a finite number as float; arguments and errors are those of :func:`check_whole`."""
    _check(name, value, whole=False, **expected)
    return float(value)


def check_choice(name: str, value: Any, choices: Collection[Any], *, error: type[KDNASError] = KDNASError) -> None:
    """Raise an error for a value that is not one of the choices.

    Raises:
        KDNASError: Naming the choices; of the type that was given.
    """
    if value not in (known := list(choices)):
        raise error(f"{name} is {shown(value)}; expected one of {known}")


def _check(
    name: str,
    value: Any,
    *,
    whole: bool,
    of: str = "",
    advice: str = "",
    error: type[KDNASError] = KDNASError,
    **bounds: Unpack[Bounds],
) -> None:
    is_valid = is_integer if whole else is_number
    if is_valid(value) and _within(value, bounds):
        return
    kind = "a whole number" if whole else "a number" if bounds else "a finite number"
    parts = filter(None, (f"{kind} of {of}" if of else kind, _words(bounds)))
    expected = (", " if whole else " ").join(parts)
    raise error(f"{name} is {shown(value)}; expected {expected}" + (f"; {advice}" if advice else ""))


def _within(value: Any, bounds: Bounds) -> bool:
    return (
        ("at_least" not in bounds or value >= bounds["at_least"])
        and ("above" not in bounds or value > bounds["above"])
        and ("at_most" not in bounds or value <= bounds["at_most"])
        and ("below" not in bounds or value < bounds["below"])
    )


def _words(bounds: Bounds) -> str:
    """Return bounds as text for messages, such as ``at least 0 and below 1``."""
    values: dict[str, Any] = {**bounds}
    return " and ".join(
        f"{name.replace('_', ' ')} {f'{value:,}' if isinstance(value, int) else f'{value:g}'}"
        for name, value in values.items()
    )


def meant(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the known name most similar to a wrong one; empty if there is none."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
