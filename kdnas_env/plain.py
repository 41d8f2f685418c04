"""Plain data that nobody has checked yet: read from JSON and YAML, and made into dataclasses.

Whatever a text holds, these functions return or raise a ``ValueError``; who calls them says of which file it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from numbers import Integral, Real
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_SHOWN = 300
_TOO_DEEP = "it is nested too deeply"
_LARGEST_BITS = 1024
"""Numbers of more digits are no quantity; Python refuses to print those of some thousand."""


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read JSON.

    Args:
        text: The text.
        finite: Whether numbers that are not finite are refused, which cannot be written again.

    Raises:
        ValueError: If it is malformed or nested too deeply.
    """
    try:
        if not finite:
            return json.loads(text)
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text[:20]}, which is not finite")
    return number


def parse_yaml(text: str) -> Any:
    """Read YAML (or JSON) that holds nothing but mappings with texts as keys, lists, texts, numbers, booleans and null.

    Aliases are refused: with them a short text stands for more data than any memory holds.

    Raises:
        ValueError: If it is malformed, holds something else, or is nested too deeply.
    """
    import yaml

    try:
        value = yaml.load(text, _loader())
        _check_plain(value)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError:
        raise
    except Exception as error:  # PyYAML fails in many ways over scalars with a tag, such as with a KeyError
        raise ValueError(str(error)) from error
    return value


def plain_copy(value: Any) -> Any:
    """Return plain data as JSON gives them back, tuples as lists.

    Raises:
        ValueError: If they hold anything that JSON cannot.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return an array of a value; an empty one of objects if none can be made, as of lists of different lengths."""
    try:
        return np.asarray(value)
    except Exception:  # an object may raise anything when it is asked for an array
        return np.empty(0, dtype=object)


def is_whole(array: npt.NDArray[Any]) -> bool:
    """Whether an array holds whole numbers."""
    return array.dtype.kind in "iu"


def is_number(value: object) -> bool:
    """Whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def shown(value: object) -> str:
    """Return a value as messages show it: short, however much it is."""
    shortener = Repr()
    shortener.maxstring = shortener.maxother = 80
    try:
        text = shortener.repr(value)
    except Exception:  # Python does not print numbers of some thousand digits, and an object may raise anything
        return f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def restore(kind: type[T], data: Any) -> T:
    """Make a dataclass of a mapping of its fields, each of the type that the class declares.

    Lists become tuples, mappings dataclasses and texts members of enumerations, where the field is declared so. Fields
    with a default may be left out. Known are the types of plain data, optional ones, and unions and literals of them.

    Raises:
        ValueError: If it is no mapping, a field is missing, unknown or of another type, or the class refuses its value.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{shown(data)} is no mapping of the fields of a {kind.__name__}")
    hints = _hints(cast(Any, kind))
    unknown = [name for name in data if name not in hints]
    if unknown:
        raise ValueError(f"unknown field(s) {shown(unknown)}; known fields are {list(hints)}")
    values = {}
    for name, value in data.items():
        try:
            values[name] = _converted(hints[name], value)
        except _UnfitError as error:
            raise ValueError(f"{name} is {shown(value)}; expected {error}") from None
    try:
        return kind(**values)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from error


class _UnfitError(Exception):
    """A value is not of the type that is wanted; the text names that type."""


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _converted(hint: Any, value: Any) -> Any:
    """Return a value as the type that it is declared with.

    Raises:
        _UnfitError: If it is of another.
        ValueError: If it is a dataclass, and malformed.
    """
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(arguments, value)
    if origin is Literal:
        if not isinstance(value, str | int) or value not in arguments:
            raise _UnfitError(f"one of {list(arguments)}")
        return value
    if origin in _PLAIN:
        return _PLAIN[origin](value)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _UnfitError("a list")
        return tuple(_converted(arguments[0], one) for one in value)
    if origin in (dict, Mapping):
        return _mapping(arguments, value)
    if issubclass(origin, Enum):
        return _member(origin, value)
    if not isinstance(value, Mapping):
        raise _UnfitError(f"a mapping of the fields of a {origin.__name__}")
    return restore(origin, value)


def _one_of(hints: Sequence[Any], value: Any) -> Any:
    wanted = []
    for hint in hints:
        try:
            return _converted(hint, value)
        except _UnfitError as error:
            wanted.append(str(error))
    raise _UnfitError(" or ".join(wanted))


def _mapping(hints: Sequence[Any], value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _UnfitError("a mapping of names")
    return {key: _converted(hints[1], one) if hints else one for key, one in value.items()}


def _member(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise _UnfitError(f"one of {[member.value for member in kind]}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnfitError("a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, which no file takes
        raise _UnfitError("a text that UTF-8 can hold") from None
    return str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value).bit_length() > _LARGEST_BITS:
        raise _UnfitError("a whole number")
    return int(value)


def _number(value: Any) -> float:
    if not is_number(value):
        raise _UnfitError("a finite number")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _UnfitError("true or false")
    return value


def _nothing(value: Any) -> None:
    if value is not None:
        raise _UnfitError("nothing")


_PLAIN = {str: _text, int: _whole, float: _number, bool: _truth, NoneType: _nothing}


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            if not isinstance(key, str):
                raise ValueError(f"key {shown(key)} is not a text; put it into quotes")
            _check_plain(one)
    elif isinstance(value, list):
        for one in value:
            _check_plain(one)
    elif isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise ValueError("it holds a number of very many digits")
    elif not isinstance(value, str | int | float | NoneType):
        raise ValueError(f"it holds {shown(value)}, a {type(value).__name__}; put a text into quotes")


@cache
def _loader() -> Any:
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """Reads no aliases."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not read; write the values out")
            return super().compose_node(parent, index)

    return PlainLoader
