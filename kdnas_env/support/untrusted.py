"""Untrusted plain data: read from JSON and YAML, and validated into dataclasses.

For any input, these functions either return or raise a ``ValueError``; the caller adds the name of the file.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from inspect import unwrap
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, TypeGuard, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_SHOWN = 300
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$|[-+]\.[0-9][0-9_]*$")
"""Numbers that YAML 1.1 reads as texts: with an exponent that lacks a sign or a point before it, or with a sign and
no digit before the point. Each digit can match in one place only, so that matching takes linear time, not
quadratic time."""

_TOO_DEEP = "it is nested too deeply"
_DEEPEST = 200
"""Maximum nesting depth of YAML, somewhat less than Python's recursion limit allows."""

_LARGEST_BITS = 1024
"""Maximum size of integers. Larger ones are not quantities, and Python refuses to print very large ones."""


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read JSON.

    Args:
        text: The text.
        finite: Whether to refuse numbers that are not finite, because they cannot be written as JSON.

    Raises:
        ValueError: If it is malformed, has a key twice, or is nested too deeply.
    """
    try:
        if not finite:
            return json.loads(text, object_pairs_hook=_unique)
        return json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        _check_unique([key for key, _ in pairs])
    return mapping


def _check_unique(keys: Sequence[str]) -> None:
    """Refuse duplicate keys in a mapping, because readers would silently keep only the last."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the key {shown(key)} occurs twice; keep one of them")
        seen.add(key)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text[:20]}, which is not finite")
    return number


def parse_yaml(text: str) -> Any:
    """Read YAML (or JSON) that holds only mappings with texts as keys, lists, texts, numbers, booleans and null.

    Aliases are refused, because with them a short text can expand to more data than memory holds. Numbers may also be
    written as in YAML 1.2, JSON and Python, such as ``1e-3``.

    Raises:
        ValueError: If it is malformed, holds any other type, has a key twice, or is nested too deeply.
    """
    import yaml

    try:
        value = yaml.load(text, _loader())
        _check_plain(value)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError:
        raise
    except Exception as error:  # PyYAML raises many types of errors for scalars with a tag, such as KeyError
        raise ValueError(str(error)) from error
    return value


def plain_copy(value: Any) -> Any:
    """Return plain data as a round trip through JSON returns them, tuples as lists.

    Raises:
        ValueError: If they hold anything that JSON cannot represent.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return a value as an array; if that fails, as for lists of different lengths, an empty array of dtype object."""
    try:
        return np.asarray(value)
    except Exception:  # the conversion of an object to an array may raise anything
        return np.empty(0, dtype=object)


def is_whole(array: npt.NDArray[Any]) -> bool:
    """Whether an array holds whole numbers."""
    return array.dtype.kind in "iu"


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def shown(value: object) -> str:
    """Return a value shortened for messages."""
    shortener = Repr()
    shortener.maxstring = shortener.maxother = 80
    try:
        text = shortener.repr(value)
    except Exception:  # Python does not print numbers of some thousand digits, and an object may raise anything
        return f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def restore(kind: type[T], data: Any) -> T:
    """Make a dataclass from a mapping of its fields, and convert each value to the declared type.

    Where the declared type requires it, lists become tuples, mappings become dataclasses, and texts become paths or
    members of enumerations. For other classes, a value must be an instance. Fields with a default may be left out.
    Supported are the types of plain data, optional types, unions and literals.

    Raises:
        ValueError: If it is not a mapping, a field is missing, unknown or of a wrong type, or the class raises one.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{shown(data)} is not a mapping of the fields of a {kind.__name__}")
    hints = _hints(cast(Any, kind))
    unknown = [name for name in data if name not in hints]
    if unknown:
        raise ValueError(f"unknown field(s) {shown(unknown)}; known fields are {list(hints)}")
    values = {name: _field(name, hints[name], value) for name, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from error


def settle(made: Any) -> None:
    """Convert each field of a dataclass instance, frozen or not, to its declared type; see :func:`restore`.

    Fields declared as ``Sequence`` become lists, as JSON returns them.

    Raises:
        ValueError: If a field is of a wrong type; the message names it, its value, and the expected type.
    """
    for name, hint in _hints(cast(Any, type(made))).items():
        object.__setattr__(made, name, _field(name, hint, getattr(made, name)))


def typed_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of a function or class, each converted to its declared type; see :func:`restore`.

    Raises:
        ValueError: If an argument is of a wrong type. Unknown arguments are returned unchanged.
    """
    while isinstance(function, partial):
        function = function.func
    bases = reversed(function.__mro__) if isinstance(function, type) else ()
    hints: dict[str, Any] = {}
    for maker in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [function]:
        maker = unwrap(maker)
        annotations = getattr(maker, "__annotations__", {})
        given = {name: annotation for name, annotation in annotations.items() if name in arguments}
        hints |= _resolved(given, getattr(maker, "__globals__", {}))
    return {name: _field(name, hints.get(name, Any), value) for name, value in arguments.items()}


def _field(name: str, hint: Any, value: Any) -> Any:
    try:
        return _converted(hint, value)
    except _UnfitError as error:
        raise ValueError(f"{name} is {shown(value)}; expected {error}") from None


class _UnfitError(Exception):
    """A value is not of the expected type; the message names that type."""


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        hints |= _resolved(vars(base).get("__annotations__", {}), vars(sys.modules[base.__module__]))
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _resolved(annotations: Mapping[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """Return the types of annotations; Any for names that are imported only for type checking."""
    hints: dict[str, Any] = {}
    for name, annotation in annotations.items():
        try:
            hints |= get_type_hints(SimpleNamespace(__annotations__={name: annotation}), names)
        except (NameError, TypeError, AttributeError):
            hints[name] = Any
    return hints


def _converted(hint: Any, value: Any) -> Any:
    """Return a value converted to its declared type.

    Raises:
        _UnfitError: If the value is of another type.
        ValueError: If the declared type is a dataclass and the value is malformed.
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
    if origin in _SEQUENCES:
        return _SEQUENCES[origin](_elements(arguments, value))
    if origin in (dict, Mapping):
        return _mapping(arguments, value)
    if not isinstance(origin, type) or isinstance(value, origin):  # a type variable, or already an instance
        return value
    if issubclass(origin, Enum):
        return _member(origin, value)
    if not is_dataclass(origin):
        raise _UnfitError(f"a {origin.__name__}")
    if not isinstance(value, Mapping):
        raise _UnfitError(f"a mapping of the fields of a {origin.__name__}")
    return restore(origin, value)


def _elements(hints: Sequence[Any], value: Any) -> list[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _UnfitError("a list")
    if not hints or hints[-1] is Ellipsis or len(hints) == 1:
        return [_converted(hints[0] if hints else Any, element) for element in value]
    if len(value) != len(hints):
        raise _UnfitError(f"a list of {len(hints)}")
    return [_converted(hint, element) for hint, element in zip(hints, value, strict=True)]


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
    return {key: _converted(hints[1], element) if hints else element for key, element in value.items()}


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
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot encode
        raise _UnfitError("a text that UTF-8 can hold") from None
    return str(value)


def _whole(value: Any) -> int:
    if not is_integer(value) or int(value).bit_length() > _LARGEST_BITS:
        raise _UnfitError("a whole number")
    return int(value)


def _number(value: Any) -> float:
    if not is_number(value):
        raise _UnfitError("a finite number")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise _UnfitError("true or false")
    return bool(value)


def _nothing(value: Any) -> None:
    if value is not None:
        raise _UnfitError("nothing")


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


_PLAIN = {str: _text, int: _whole, float: _number, bool: _truth, NoneType: _nothing, Path: _path}
_SEQUENCES: dict[Any, Any] = {tuple: tuple, list: list, Sequence: list}


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, element in value.items():
            if not isinstance(key, str):
                raise ValueError(f"key {shown(key)} is not a text; put it into quotes")
            _check_plain(element)
    elif isinstance(value, list):
        for element in value:
            _check_plain(element)
    elif isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise ValueError("it holds a number of very many digits")
    elif not isinstance(value, str | int | float | NoneType):
        raise ValueError(f"it holds {shown(value)}, a {type(value).__name__}; put a text into quotes")


@cache
def _loader() -> Any:
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """Refuses aliases and duplicate keys."""

        def fetch_flow_collection_start(self, TokenClass: Any) -> None:
            if self.flow_level >= _DEEPEST:  # checked here, because PyYAML's look-ahead is slow in deep nesting
                raise RecursionError
            super().fetch_flow_collection_start(TokenClass)

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not read; write the values out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            if isinstance(node, yaml.MappingNode):
                _check_unique([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return super().construct_mapping(node, deep)

    PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
    return PlainLoader
