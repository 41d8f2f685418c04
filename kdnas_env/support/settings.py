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
    """Read settings, each once.

    Args:
        texts: The settings, each as ``NAME=VALUE``; see :func:`parse_value`.

    Raises:
        KDNASError: If one is malformed or given twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise KDNASError(f"{shown(text)} is no setting; write it as NAME=VALUE")
        if name in settings:
            raise KDNASError(f"the setting {name!r} is given twice; keep one of them")
        settings[name] = parse_value(value)
    return settings


def parse_value(text: str) -> Any:
    """Read a value: JSON, or YAML without quotes, such as ``gp``, ``1e-3``, ``true``, ``null`` or ``[loss,latency]``.

    ``None`` is null, as Python writes it. A text that looks like something else is put into double quotes.

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
    """Base of a dataclass of settings, each of which gets the type that its field declares.

    A subclass that checks more in ``__post_init__`` begins with ``super().__post_init__()``.

    Raises:
        KDNASError: If a value is not of the type that its field declares, or the subclass refuses it.
    """

    def __post_init__(self) -> None:
        try:
            settle(self)
        except KDNASError:
            raise
        except ValueError as error:
            raise KDNASError(str(error)) from None

    def check_numbers(self, *names: str, **bounds: Unpack[Bounds]) -> None:
        """Refuse numbers that are out of bounds; what is None is not looked at.

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
        """Refuse settings that change nothing beside the others, unless they have their defaults.

        Args:
            names: The settings.
            because: Why they change nothing.

        Raises:
            KDNASError: Naming the first that is set.
        """
        for field in fields(cast(Any, self)):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if field.name in names and getattr(self, field.name) != default:
                value = shown(getattr(self, field.name))
                raise KDNASError(f"{field.name} is {value}, but changes nothing: {because}; leave it out")

    def make_plain(self, *names: str) -> None:
        """Turn mappings into what JSON gives back.

        Raises:
            KDNASError: If one holds anything that JSON cannot.
        """
        for name in names:
            try:
                object.__setattr__(self, name, plain_copy(getattr(self, name)))
            except ValueError as error:
                raise KDNASError(f"{name} is {shown(getattr(self, name))}; expected plain data: {error}") from error
