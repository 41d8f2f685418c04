"""Options of a command that are recorded with a run and become the defaults when the run is resumed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from functools import cache
from typing import Any, ClassVar, Self, get_type_hints

from kdnas_env.errors import RunError
from kdnas_env.support.places import same_place
from kdnas_env.support.shell import non_defaults
from kdnas_env.support.untrusted import restore

UNNAMED_GROUPS = ("limits",)
"""Groups of options whose flags have no group prefix."""

SHORT_FLAGS = {"limits.latency_ms": "--max-ms", "limits.size_mb": "--max-mb", "task.name": "--task"}
"""Short flags of some options, as used in the documentation; the long flags work too."""


class RecordedOptions:
    """Base class of dataclasses of options, whose fields are plain data, tuples of plain data, or such dataclasses.

    Attributes:
        COMMAND: Name of the command.
        PLACES: Fields for output and cache locations, which do not affect the results and are not recorded.
        PATHS: Fields that may name an input file or folder, with dots for nested fields. The content affects the
            results; its location is recorded beside the name.
        NO_PATHS: Values of ``PATHS`` that have another meaning, even if a file or folder with that name exists.
        FORMERLY: Former names of the command, whose runs can be resumed.
        UNRECORDED: Values of options that records of earlier versions lack, if they differ from the defaults.
        RENAMED: Current names of options, by their former names.
    """

    COMMAND: ClassVar[str]
    PLACES: ClassVar[tuple[str, ...]] = ("out", "resume", "cache_dir")
    PATHS: ClassVar[tuple[str, ...]] = ()
    NO_PATHS: ClassVar[Collection[str]] = ()
    FORMERLY: ClassVar[tuple[str, ...]] = ()
    UNRECORDED: ClassVar[Mapping[str, Any]] = {}
    RENAMED: ClassVar[Mapping[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the options that determine the results, as plain data, without ``PLACES``."""
        return {name: value for name, value in asdict(self).items() if name not in self.PLACES}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Restore options of :meth:`to_dict`.

        Raises:
            RunError: If they are of another version, malformed, or contain ``PLACES``: a run folder from elsewhere must
                not make kdnas write outside of it.
        """
        data = renamed(cls, data)
        placed = _places(cls, data)
        if placed:
            raise RunError(f"the recorded options contain {placed}, which are never recorded; remove them there")
        try:
            return restore(cls, {**_required_places(cls), **_completed(cls, data)})
        except ValueError as error:
            raise RunError(f"the recorded options are not of this version of kdnas: {error}") from error

    def placed_as(self, other: Self) -> Self:
        """Return these options with the ``PLACES`` of other options."""
        return replace(self, **{name: getattr(other, name) for name in self.PLACES if hasattr(other, name)})  # type: ignore[type-var]

    def places(self, *given: str) -> dict[str, Any]:
        """Return the options, by name, that must be given again on resuming, because they are not recorded.

        Args:
            *given: Fields to leave out.
        """
        return non_defaults(self, [name for name in self.PLACES if name not in given])

    def check_unchanged(self, recorded: Self) -> None:
        """Raise an error for options that differ from those of the resumed run.

        Raises:
            RunError: Naming all differences.
        """
        ours, theirs = _flat(self.to_dict()), _flat(recorded.to_dict())
        changes = [
            f"`{name}` is {ours[name]!r}, the run has {theirs[name]!r}"
            for name in ours
            if ours[name] != theirs[name] and not (name in self.PATHS and same_place(ours[name], theirs[name]))
        ]
        if changes:
            raise RunError(
                f"the run cannot be resumed with other settings: {'; '.join(changes)}. Leave them out, or start a new "
                "run"
            )


def renamed(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with their current names; see :attr:`RecordedOptions.RENAMED`."""
    names = getattr(kind, "RENAMED", {})
    return {names.get(name, name): value for name, value in data.items()}


def _required_places(kind: Any) -> dict[str, str]:
    """Return empty values for required ``PLACES``, which the resuming command sets."""
    required = (field.name for field in fields(kind) if field.default is field.default_factory is MISSING)
    return {name: "" for name in required if name in kind.PLACES}


def _places(kind: Any, data: Mapping[str, Any]) -> list[str]:
    """Return the names in recorded data that should not be recorded, including nested ones."""
    unrecorded = (*getattr(kind, "PLACES", ()), *getattr(kind, "SET_BY_RUN", ()))
    names = [name for name in data if name in unrecorded]
    for name, inner in _within(kind).items():
        if isinstance(data.get(name), Mapping):
            names += [f"{name}.{place}" for place in _places(inner, data[name])]
    return names


def _completed(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return data of an earlier version, with the values of options that it did not record, including nested ones."""
    whole = {**getattr(kind, "UNRECORDED", {}), **data}
    nested = {name: inner for name, inner in _within(kind).items() if isinstance(whole.get(name), Mapping)}
    return whole | {name: _completed(inner, whole[name]) for name, inner in nested.items()}


@cache
def _within(kind: Any) -> dict[str, Any]:
    """Return the nested dataclasses of options, by name."""
    return {name: hint for name, hint in get_type_hints(kind).items() if is_dataclass(hint)}


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def flag(name: str) -> str:
    """Return the flag of an option: ``--corpus.max-length`` of ``corpus.max_length``, ``--keep`` of ``limits.keep``."""
    if name in SHORT_FLAGS:
        return SHORT_FLAGS[name]
    parts = [part for part in name.split(".") if part not in UNNAMED_GROUPS]
    return "--" + ".".join(parts).replace("_", "-")


def flag_words(name: str, value: Any) -> list[str]:
    """Return the command-line words of an option and its value; options in a mapping have its name as prefix."""
    if isinstance(value, Mapping):
        return [word for part, of_part in value.items() for word in flag_words(f"{name}.{part}", of_part)]
    if isinstance(value, bool):
        group, dot, last = name.rpartition(".")
        return [flag(name if value else f"{group}{dot}no-{last}")]
    return [flag(name), *map(str, value if isinstance(value, list | tuple) else [value])]
