"""Settings: parsed from a command line, and dataclasses whose fields are converted to their declared types."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any, Unpack, cast

from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import Bounds, check_number, check_whole
from kdnas_env.support.untrusted import parse_json, parse_yaml, plain_copy, settle, shown


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Parse settings from texts.

    Args:
        texts: The settings, each as ``NAME=VALUE``; see :func:`parse_value`.

    Raises:
        KDNASError: If a setting is malformed or given twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise KDNASError(f"{shown(text)} is not a setting; write it as NAME=VALUE")
        if name in settings:
            raise KDNASError(f"the setting {name!r} is given twice; keep one of them")
        settings[name] = parse_value(value)
    return settings


def parse_value(text: str) -> Any:
    """Parse a value: JSON, or YAML without quotes, such as ``gp``, ``1e-3``, ``true``, ``null`` or ``[loss,latency]``.

    ``None`` means null, as in Python. Put a text that looks like another type into double quotes.

    Raises:
        KDNASError: If it is not plain data.
    """
    try:
        return parse_json(text)
    except ValueError:
        pass
    if text.strip() == "None":
        return None
    try:
        value = parse_yaml(text)
        json.dumps(value)
    except ValueError as error:
        raise KDNASError(f"{shown(text)} is not plain data: {error}; put a text into double quotes") from error
    return value


class Settings:
    """Base class of dataclasses of settings; converts each value to the declared type of its field.

    A subclass with its own ``__post_init__`` must first call ``super().__post_init__()``.

    Raises:
        KDNASError: If a value cannot be converted to the declared type, or the subclass refuses it.
    """

    def __post_init__(self) -> None:
        try:
            settle(self)
        except KDNASError:
            raise
        except ValueError as error:
            raise KDNASError(str(error)) from None

    def check_numbers(self, *names: str, **bounds: Unpack[Bounds]) -> None:
        """Refuse numbers that are out of bounds; settings that are None are not checked.

        Raises:
            KDNASError: Naming the setting, its value, and the bounds.
        """
        for name in names:
            value = getattr(self, name)
            if isinstance(value, int):
                check_whole(name, value, **bounds)
            elif value is not None:
                check_number(name, value, **bounds)

    def check_idle(self, *names: str, because: str) -> None:
        """Refuse non-default values of settings that have no effect together with the other settings.

        Args:
            names: The settings.
            because: For the message: why they have no effect.

        Raises:
            KDNASError: Naming the first such setting.
        """
        for field in fields(cast(Any, self)):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if field.name in names and getattr(self, field.name) != default:
                value = shown(getattr(self, field.name))
                raise KDNASError(f"{field.name} is {value}, but changes nothing: {because}; leave it out")

    def make_plain(self, *names: str) -> None:
        """Convert mappings to plain data as JSON would return them.

        Raises:
            KDNASError: If a mapping holds anything that JSON cannot represent.
        """
        for name in names:
            try:
                object.__setattr__(self, name, plain_copy(getattr(self, name)))
            except ValueError as error:
                raise KDNASError(f"{name} is {shown(getattr(self, name))}; expected plain data: {error}") from error
