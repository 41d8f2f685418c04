"""The search space: which students there are, and how actions name them."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import FAMILIES, LARGEST_SIZE, EncoderArchitecture, StudentConfig, count_parameters
from kdnas_env.core.grid import Grid
from kdnas_env.errors import SpaceError
from kdnas_env.support.untrusted import as_array, is_integer, is_number, is_whole, parse_yaml, shown

RECIPE = "recipe."
"""What the name of a dimension begins with that changes a field of the recipe, such as ``recipe.learning_rate``."""

DIMENSIONS = tuple(field.name for field in fields(StudentConfig) if field.name != "recipe")
"""Dimensions of a student that a space may search, in action order; those of the recipe follow, as they are given."""

ORDERED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
"""Dimensions of a student whose choices are numbers, so that neighbouring choices are similar students."""

ACTIVATIONS = ("gelu", "relu", "silu")
LAYER_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 5 / 6, 1)
HEAD_FRACTIONS = (1 / 6, 1 / 4, 1 / 3, 1 / 2, 1)
WIDTH_FRACTIONS = (1 / 2, 1)
FFN_FRACTIONS = (1 / 8, 1 / 6, 3 / 16, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)
LARGEST_ENUMERATION = 100_000
"""Spaces up to this many points may be listed whole."""

SHIPPED_SPACES = ("joint",)
"""Spaces that come with the package, by name: ``joint`` searches architecture and recipe together."""

LARGEST_FILE = 200_000
"""Bytes of a file that describes a space."""

Action = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SearchSpace:
    """A finite grid of student configurations under a teacher.

    An action is an int64 array of shape ``(dims,)``: one index into each dimension's choices. A dimension that is not
    searched keeps the teacher's value. In a joint space some dimensions change the recipe that students are distilled
    with (``recipe.learning_rate``); what they change is part of the configuration. A grid may hold points that cannot
    be built or break a cap; :meth:`violation` names the reason, and the environment answers such an action with a
    penalty.

    Attributes:
        choices: Dimension name to its choices, in action order.
        teacher: The teacher whose vocabulary, positions and limits hold.
        max_parameters: Largest student allowed, in parameters (embeddings included), or None.
    """

    choices: Mapping[str, tuple[Any, ...]]
    teacher: EncoderArchitecture
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        of_recipe = [name for name in self.choices if name.startswith(RECIPE)]
        unknown = sorted(set(self.choices) - set(DIMENSIONS) - set(of_recipe))
        if unknown:
            raise SpaceError(
                f"unknown dimension(s) {shown(unknown)}; a space may search {list(DIMENSIONS)}, and fields of the "
                f"recipe, such as {RECIPE}learning_rate"
            )
        names = [*(name for name in DIMENSIONS if name in self.choices), *of_recipe]
        ordered = {name: _checked_choices(name, self.choices[name]) for name in names}
        object.__setattr__(self, "choices", ordered)
        if self.max_parameters is not None and not _is_positive(self.max_parameters):
            raise SpaceError(
                f"max_parameters is {shown(self.max_parameters)}; expected a positive number of parameters"
            )
        if self.size < 2:
            raise SpaceError(
                f"the space has {self.size} point(s), so there is nothing to search; give at least one of "
                f"{list(DIMENSIONS)} two or more choices"
            )
        if self.listable and not any(self.is_valid(config) for config in self):
            raise SpaceError(
                f"no point of the space is valid; the first fails because {self.violation(next(iter(self)))}. "
                "Widen the choices or raise max_parameters"
            )

    @classmethod
    def from_teacher(
        cls,
        teacher: EncoderArchitecture,
        *,
        families: Sequence[str] | None = None,
        max_parameters: int | None = None,
    ) -> SearchSpace:
        """Derive a space from the teacher's own architecture.

        Choices are fractions of the teacher's numbers: head counts are divisors of the teacher's, widths
        multiples of both 8 and the teacher's heads, feed-forward sizes multiples of 8. Every point is
        therefore valid (but for ``max_parameters``). For BERT-base this gives the 1,200 architectures of
        KD-NAS (arXiv:2303.09639).

        Args:
            teacher: The teacher's architecture.
            families: Student families; the teacher's own where None. More than one adds a dimension.
            max_parameters: Largest student allowed, or None.

        Raises:
            SpaceError: If a family is unknown.
        """
        base = teacher.as_student()
        heads = teacher.num_attention_heads
        chosen = tuple(dict.fromkeys(families)) if families else (base.family,)
        widths = [_near_multiple(teacher.hidden_size * f, math.lcm(8, heads)) for f in WIDTH_FRACTIONS[:-1]]
        inner = [_near_multiple(teacher.intermediate_size * f, 8) for f in FFN_FRACTIONS[:-1]]
        activations = ACTIVATIONS if base.hidden_act in ACTIVATIONS else (base.hidden_act, *ACTIVATIONS)
        return cls(
            choices={
                "num_hidden_layers": _sorted_unique(
                    max(1, _round_half_up(teacher.num_hidden_layers * f)) for f in LAYER_FRACTIONS
                ),
                "num_attention_heads": _sorted_unique(_nearest_divisor(heads * f, heads) for f in HEAD_FRACTIONS),
                "hidden_size": _sorted_unique(
                    [*(width for width in widths if width <= teacher.hidden_size), teacher.hidden_size]
                ),
                "intermediate_size": _sorted_unique(
                    [*(size for size in inner if size <= teacher.intermediate_size), teacher.intermediate_size]
                ),
                "hidden_act": activations,
                "family": chosen,
            },
            teacher=teacher,
            max_parameters=max_parameters,
        )._without_single_choice("family")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], teacher: EncoderArchitecture) -> SearchSpace:
        """Build a space from plain data: dimension names to a list of choices or one value.

        The key ``max_parameters`` sets the cap. A single value fixes its dimension.

        Raises:
            SpaceError: If a name is unknown or a choice malformed.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(f"a space is a mapping of dimension to choices, not {type(data).__name__}")
        choices = {
            name if isinstance(name, str) else shown(name): tuple(values)
            if isinstance(values, list | tuple)
            else (values,)
            for name, values in data.items()
            if name != "max_parameters"
        }
        return cls(choices=choices, teacher=teacher, max_parameters=data.get("max_parameters"))

    @classmethod
    def from_file(cls, path: str | Path, teacher: EncoderArchitecture) -> SearchSpace:
        """Read a space from a YAML or JSON file, or one of ``SHIPPED_SPACES`` by its name.

        Raises:
            SpaceError: If the file cannot be read or parsed, or is larger than any space.
        """
        try:
            with open(_shipped(path), "rb") as file:
                content = file.read(LARGEST_FILE + 1)
            if len(content) > LARGEST_FILE:
                raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes; give each dimension fewer choices")
            data = parse_yaml(content.decode("utf-8"))
        except (OSError, ValueError) as error:
            raise SpaceError(f"search space file {str(path)!r} cannot be read as YAML or JSON: {error}") from error
        return cls.from_dict(data, teacher)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain data; :meth:`from_dict` restores it."""
        data: dict[str, Any] = {name: list(values) for name, values in self.choices.items()}
        if self.max_parameters is not None:
            data["max_parameters"] = self.max_parameters
        return data

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the searched dimensions, in action order."""
        return tuple(self.choices)

    @property
    def nvec(self) -> Action:
        """Number of choices per dimension, int64 of shape ``(dims,)``."""
        return np.array([len(values) for values in self.choices.values()], dtype=np.int64)

    @cached_property
    def grid(self) -> Grid:
        """The points, invalid ones included."""
        return Grid(self.nvec)

    @property
    def size(self) -> int:
        """Points of the grid, invalid ones included."""
        return math.prod(len(values) for values in self.choices.values())

    @cached_property
    def valid_indices(self) -> Action:
        """Flat indices of the valid points, one per configuration.

        Raises:
            SpaceError: If the grid is too large to list.
        """
        self._check_listable()
        return np.fromiter((index for index, _ in self.students()), dtype=np.int64)

    def students(self) -> Iterator[tuple[int, StudentConfig]]:
        """Yield flat index and configuration of the valid points, one per configuration, however many."""
        first = np.ones(1, dtype=np.bool_)
        for places in self._first_choices:
            first = np.logical_and.outer(first, places == np.arange(len(places))).ravel()
        for index, config in enumerate(self):
            if first[index] and self.is_valid(config):
                yield index, config

    @property
    def recipe_choices(self) -> dict[str, tuple[Any, ...]]:
        """Choices of the dimensions that change the recipe, by field; empty but in joint spaces."""
        return {name.removeprefix(RECIPE): self.choices[name] for name in self.choices if name.startswith(RECIPE)}

    @cached_property
    def ordered(self) -> tuple[bool, ...]:
        """By dimension, whether its choices are numbers, so that neighbouring choices are similar."""
        return tuple(_is_ordered(name, values) for name, values in self.choices.items())

    def __iter__(self) -> Iterator[StudentConfig]:
        for values in itertools.product(*self.choices.values()):
            yield self._picked(values)

    def __contains__(self, config: object) -> bool:
        if not isinstance(config, StudentConfig):
            return False
        try:
            self.encode(config)
        except SpaceError:
            return False
        return True

    def decode(self, action: npt.ArrayLike) -> StudentConfig:
        """Return the configuration that an action names.

        Raises:
            SpaceError: If the action has the wrong shape, is not integral, or is out of range.
        """
        indices = self._checked_action(action).tolist()
        return self._picked([values[index] for values, index in zip(self.choices.values(), indices, strict=True)])

    def encode(self, config: StudentConfig) -> Action:
        """Return the first action that names a configuration.

        Raises:
            SpaceError: If the configuration is not a point of the grid.
        """
        base, changes = self._base, dict(config.recipe)
        if changes.keys() != self._recipe_fields:
            raise SpaceError(
                f"{config} is not in the space: it changes {sorted(changes)} of the recipe, where the space has "
                f"{sorted(self._recipe_fields)}"
            )
        for name in DIMENSIONS:
            if name not in self.choices and getattr(config, name) != getattr(base, name):
                raise SpaceError(f"{config} is not in the space: {name} is fixed to {getattr(base, name)!r}")
        indices = []
        for name in self.choices:
            of_recipe = name.startswith(RECIPE)
            value = changes[name.removeprefix(RECIPE)] if of_recipe else getattr(config, name)
            place = self._places[name].get(value)
            if place is None:
                raise SpaceError(
                    f"{config} is not in the space: {name} {value!r} is none of {list(self.choices[name])}"
                )
            indices.append(place)
        return np.array(indices, dtype=np.int64)

    @cached_property
    def _base(self) -> StudentConfig:
        """The teacher's own shape, which dimensions that are not searched keep."""
        return self.teacher.as_student()

    @cached_property
    def _places(self) -> dict[str, dict[Any, int]]:
        """The first choice of each dimension that names a value, by the value that a configuration has."""
        places = dict[str, dict[Any, int]]()
        for name in self.choices:
            places[name] = {}
            for place, value in enumerate(self._canonical(name)):
                places[name].setdefault(value, place)
        return places

    @property
    def _first_choices(self) -> Iterator[Action]:
        """By dimension, for each choice the first that names the same value, int64."""
        for name in self.choices:
            yield np.array([self._places[name][value] for value in self._canonical(name)], dtype=np.int64)

    def _canonical(self, name: str) -> list[Any]:
        """Return the choices of a dimension as configurations have them."""
        values = self.choices[name]
        if name.startswith(RECIPE):
            return [*values]
        return [getattr(replace(self._base, **{name: value}), name) for value in values]

    @cached_property
    def _recipe_fields(self) -> frozenset[str]:
        return frozenset(self.recipe_choices)

    def _picked(self, values: Sequence[Any]) -> StudentConfig:
        """Return the configuration of a value a dimension."""
        named = dict(zip(self.choices, values, strict=True))
        changes = tuple(
            (name.removeprefix(RECIPE), named.pop(name)) for name in self.choices if name.startswith(RECIPE)
        )
        return replace(self._base, **named, recipe=changes)

    @cached_property
    def first_indices(self) -> Action:
        """By flat index, the first flat index that names the same configuration, int64 ``(size,)``.

        Raises:
            SpaceError: If the grid is too large to list.
        """
        self._check_listable()
        first = np.zeros(1, dtype=np.int64)
        for places in self._first_choices:
            first = (first[:, None] * len(places) + places).ravel()
        return first

    def canonical(self, indices: Ints) -> Ints:
        """Return, of flat indices, the first that name the same configurations, int64 ``(n,)``.

        Args:
            indices: int64 of shape ``(n,)``; for spaces of 64 bits.
        """
        columns = self.grid.actions(indices).T
        firsts = [places[column] for places, column in zip(self._first_choices, columns, strict=True)]
        return self.grid.flat(np.stack(firsts, axis=1))

    @property
    def listable(self) -> bool:
        """Whether the space is small enough to list its points."""
        return self.size <= LARGEST_ENUMERATION

    def index(self, action: npt.ArrayLike) -> int:
        """Return the flat index of an action (mixed radix, last dimension fastest)."""
        return self.grid.number(self._checked_action(action).tolist())

    def indices(self, actions: Action) -> Action:
        """Return the flat indices of actions, int64 ``(n,)``; for spaces of 64 bits.

        Args:
            actions: int64 of shape ``(n, dims)``.

        Raises:
            SpaceError: If an action is out of range.
        """
        try:
            return self.grid.flat(actions)
        except ValueError:
            for action in actions:
                self._checked_action(action)
            raise

    def from_index(self, index: int) -> Action:
        """Return the action of a flat index.

        Raises:
            SpaceError: If the index is out of range.
        """
        if not 0 <= index < self.size:
            raise SpaceError(f"flat index {index} is out of range; the space has {self.size} points")
        return self.grid.action(index)

    def violation(self, config: StudentConfig) -> str | None:
        """Say why a configuration cannot be built or is not allowed; None if it is valid."""
        if config.hidden_size % config.num_attention_heads:
            return f"{config.num_attention_heads} heads do not divide hidden_size {config.hidden_size}"
        if config.num_hidden_layers > self.teacher.num_hidden_layers:
            return (
                f"the student has {config.num_hidden_layers} layers, more than the teacher's "
                f"{self.teacher.num_hidden_layers}"
            )
        if config.hidden_size > self.teacher.hidden_size:
            return f"hidden_size {config.hidden_size} is wider than the teacher's {self.teacher.hidden_size}"
        if self.max_parameters is not None:
            parameters = count_parameters(config, self.teacher)
            if parameters > self.max_parameters:
                return f"{parameters} parameters are more than max_parameters {self.max_parameters}"
        return None

    def is_valid(self, config: StudentConfig) -> bool:
        """Whether a configuration can be built and is allowed."""
        return self.violation(config) is None

    def _check_listable(self) -> None:
        if not self.listable:
            raise SpaceError(f"the space has {self.size} points; only up to {LARGEST_ENUMERATION} are listed")

    def sample(self, rng: np.random.Generator) -> Action:
        """Draw an action uniformly over the valid points (rejection from the grid)."""
        for _ in range(10_000):
            action = rng.integers(self.nvec)
            if self.is_valid(self.decode(action)):
                return action
        raise SpaceError("10,000 random points of the space were all invalid; widen the choices or the cap")

    def _checked_action(self, action: npt.ArrayLike) -> Action:
        array = as_array(action)
        if array.shape != (len(self.choices),):
            raise SpaceError(f"action has shape {array.shape}; expected ({len(self.choices)},) for {self.dimensions}")
        if not is_whole(array):
            raise SpaceError(f"action has dtype {array.dtype}; expected integers")
        outside = (array < 0) | (array >= self.nvec)
        if outside.any():
            axis = int(np.argmax(outside))
            raise SpaceError(
                f"action {array.tolist()} is out of range: {self.dimensions[axis]} is {array[axis]}, expected 0 to "
                f"{self.nvec[axis] - 1}"
            )
        return array.astype(np.int64)

    def _without_single_choice(self, name: str) -> SearchSpace:
        if len(self.choices[name]) > 1 or self.choices[name][0] != getattr(self._base, name):
            return self
        return replace(self, choices={key: values for key, values in self.choices.items() if key != name})


def _checked_choices(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise SpaceError(f"dimension {name!r} has no choices; give at least one")
    for value in values:
        if name.startswith(RECIPE):
            if value is not None and not isinstance(value, str | int | float | bool):
                raise SpaceError(f"{name} choice {shown(value)} is no number, name, true or false")
        elif name in ORDERED:
            if not _is_positive(value):
                raise SpaceError(f"{name} choice {shown(value)} is not a positive whole number")
            if value > LARGEST_SIZE:
                raise SpaceError(f"{name} choice {shown(value)} is beyond {LARGEST_SIZE}, the largest that is searched")
        elif not isinstance(value, str):
            raise SpaceError(f"{name} choice {shown(value)} is not a name")
        if name == "family" and value not in FAMILIES:
            raise SpaceError(f"unknown student family {shown(value)}; choose from {list(FAMILIES)}")
    duplicates = sorted(json.dumps(value) for value, count in Counter(values).items() if count > 1)
    if duplicates:
        raise SpaceError(f"{name} lists {', '.join(duplicates[:5])} more than once")
    return tuple(sorted(values)) if _is_ordered(name, values) else tuple(values)


def _is_ordered(name: str, values: Sequence[Any]) -> bool:
    """Whether the choices of a dimension are numbers."""
    return name in ORDERED or (name.startswith(RECIPE) and all(is_number(value) for value in values))


def _shipped(path: str | Path) -> Path:
    """Return the path of a space; of the name of a shipped one, that of its file, unless there is such a file here."""
    given = Path(path)
    return (
        Path(__file__).parent / "spaces" / f"{path}.yaml" if path in SHIPPED_SPACES and not given.is_file() else given
    )


def _is_positive(value: object) -> bool:
    return is_integer(value) and value > 0


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _near_multiple(value: float, base: int) -> int:
    return max(base, base * _round_half_up(value / base))


def _nearest_divisor(value: float, number: int) -> int:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - value), d))


def _sorted_unique(values: Any) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
