"""The search space of students under a teacher, and how actions name them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import CORPUS_TOKENS, IDLE, EncoderArchitecture, StudentConfig, count_parameters
from kdnas_env.core.choices import (
    DIMENSIONS,
    RECIPE,
    checked_choices,
    choices_from_dict,
    is_ordered,
    is_positive,
    read_space_file,
)
from kdnas_env.core.grid_space import Action, GridSpace
from kdnas_env.errors import SpaceError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.untrusted import shown

ACTIVATIONS = ("gelu", "relu", "silu")
"""Activations of derived spaces."""
LAYER_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 5 / 6, 1)
HEAD_FRACTIONS = (1 / 6, 1 / 4, 1 / 3, 1 / 2, 1)
WIDTH_FRACTIONS = (1 / 2, 1)
FFN_FRACTIONS = (1 / 8, 1 / 6, 3 / 16, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)
"""Sizes of derived spaces, as fractions of the teacher's."""

LARGEST_ENUMERATION = 100_000
"""Maximum number of points of a space whose points are listed."""


@dataclass(frozen=True)
class SearchSpace(GridSpace[StudentConfig]):
    """A finite grid of student configurations under a teacher.

    A dimension that is not searched keeps the teacher's value. In a joint space, some dimensions change the recipe of
    the distillation (``recipe.learning_rate``); these changes are part of the configuration. A grid may have points
    that cannot be built or exceed ``max_parameters``; :meth:`violation` returns the reason, and the environment answers
    such an action with a penalty.

    Attributes:
        choices: Dimension name to its choices, in action order.
        teacher: The teacher; students have its vocabulary and positions, and are not larger.
        max_parameters: Maximum number of parameters of a student, embeddings included; None: no maximum.

    Raises:
        SpaceError: If a choice is malformed, there is nothing to search, or no point of a listable space is valid.
    """

    choices: Mapping[str, tuple[Any, ...]]
    teacher: EncoderArchitecture
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", checked_choices(self.choices))
        if self.max_parameters is not None and not is_positive(self.max_parameters):
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

        The choices are fractions of the teacher's sizes (:func:`derived_choices`), such that every point is valid
        without ``max_parameters``.

        Args:
            teacher: The teacher's architecture.
            families: Student families; None: the teacher's own. More than one adds a dimension.
            max_parameters: Maximum number of parameters of a student; None: no maximum.

        Raises:
            SpaceError: If a family is unknown.
        """
        return cls(derived_choices(teacher, families), teacher, max_parameters)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], teacher: EncoderArchitecture) -> SearchSpace:
        """Build a space from plain data: dimension names to a list of choices or one value.

        The key ``max_parameters`` sets the maximum number of parameters. A single value fixes its dimension.

        Raises:
            SpaceError: If a name is unknown or a choice is malformed.
        """
        return cls(choices_from_dict(data), teacher, data.get("max_parameters"))

    @classmethod
    def from_file(cls, path: str | Path, teacher: EncoderArchitecture) -> SearchSpace:
        """Read a space from a YAML or JSON file, or one of ``SHIPPED_SPACES`` by its name.

        Raises:
            SpaceError: If the file cannot be read or parsed, or a choice is malformed.
        """
        return cls.from_dict(read_space_file(path), teacher)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain data; :meth:`from_dict` restores it."""
        data: dict[str, Any] = {name: list(values) for name, values in self.choices.items()}
        if self.max_parameters is not None:
            data["max_parameters"] = self.max_parameters
        return data

    @cached_property
    def valid_indices(self) -> Action:
        """Flat indices of the valid points, one per configuration, sorted int64 ``(n,)``.

        Raises:
            SpaceError: If the grid is too large to list.
        """
        self._check_listable()
        return np.flatnonzero(self._first & self._valid)

    def students(self) -> Iterator[tuple[int, StudentConfig]]:
        """Yield flat index and configuration of the valid points, one per configuration, in spaces of any size."""
        first = self._first
        for index, config in enumerate(self):
            if first[index] and self.is_valid(config):
                yield index, config

    @property
    def _first(self) -> npt.NDArray[np.bool_]:
        """For each flat index, whether no smaller one names the same configuration, bool ``(size,)``."""
        first, idle_first, static = (np.ones(1, dtype=np.bool_) for _ in range(3))
        for name, places in zip(self.choices, self._first_choices, strict=True):
            own, layers = places == np.arange(len(places)), name == "num_hidden_layers"
            first = np.logical_and.outer(first, own).ravel()
            if self._has_static:
                idle_first = np.logical_and.outer(idle_first, (places == 0) | (name not in IDLE)).ravel()
                without = [not layers or value == 0 for value in self.choices[name]]
                static = np.logical_and.outer(static, without).ravel()
        if self._has_static:
            first &= idle_first | ~static
        return first

    @property
    def _valid(self) -> npt.NDArray[np.bool_]:
        """For each flat index, whether its configuration is valid, bool ``(size,)``.

        The recipe, the activation and often the feed-forward size do not matter for validity. One choice
        of each is checked, and the result is repeated for the others.
        """
        without = {"hidden_act"} if self.max_parameters is not None else {"hidden_act", "intermediate_size"}
        tried = [
            values[:1] if name in without or name.startswith(RECIPE) else values
            for name, values in self.choices.items()
        ]
        valid = np.array([self.is_valid(self._picked(values)) for values in itertools.product(*tried)])
        shape = [len(values) for values in self.choices.values()]
        return np.broadcast_to(valid.reshape([len(values) for values in tried]), shape).ravel()

    @property
    def recipe_choices(self) -> dict[str, tuple[Any, ...]]:
        """Choices of the dimensions that change the recipe, by field; empty except in joint spaces."""
        return {name.removeprefix(RECIPE): self.choices[name] for name in self.choices if name.startswith(RECIPE)}

    @cached_property
    def ordered(self) -> tuple[bool, ...]:
        """For each dimension, whether its choices are numbers, so that neighbouring choices are similar."""
        return tuple(is_ordered(name, values) for name, values in self.choices.items())

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

    def config_at(self, places: Sequence[int]) -> StudentConfig:
        """Return the configuration of one valid index per dimension; :meth:`decode` checks them first."""
        return self._picked([values[place] for values, place in zip(self.choices.values(), places, strict=True)])

    def encode(self, config: StudentConfig) -> Action:
        """Return the first action that names a configuration, int64 ``(dims,)``.

        Raises:
            SpaceError: If the configuration is not a point of the grid.
        """
        base, changes = self._base, dict(config.recipe)
        if changes.keys() != self._recipe_fields:
            raise SpaceError(
                f"{config} is not in the space: it changes {sorted(changes)} of the recipe, but the space searches "
                f"{sorted(self._recipe_fields)}"
            )
        idle = IDLE if config.num_hidden_layers == 0 else {}
        for name in DIMENSIONS:
            if name not in self.choices and name not in idle and getattr(config, name) != getattr(base, name):
                raise SpaceError(f"{config} is not in the space: {name} is fixed to {getattr(base, name)!r}")
        indices = []
        for name in self.choices:
            of_recipe = name.startswith(RECIPE)
            value = changes[name.removeprefix(RECIPE)] if of_recipe else getattr(config, name)
            place = 0 if name in idle else self._places[name].get(value)
            if place is None:
                raise SpaceError(
                    f"{config} is not in the space: {name} is {value!r}; expected one of {list(self.choices[name])}"
                )
            indices.append(place)
        return np.array(indices, dtype=np.int64)

    @cached_property
    def _base(self) -> StudentConfig:
        """The teacher's own shape: the values of dimensions that are not searched."""
        return self.teacher.as_student()

    @cached_property
    def _places(self) -> dict[str, dict[Any, int]]:
        """For each dimension, the index of the first choice of each canonical value."""
        places = dict[str, dict[Any, int]]()
        for name in self.choices:
            places[name] = {}
            for place, value in enumerate(self._canonical(name)):
                places[name].setdefault(value, place)
        return places

    @property
    def _first_choices(self) -> Iterator[Action]:
        """For each dimension, the index of the first choice with the same canonical value, int64 ``(choices,)``."""
        for name in self.choices:
            yield np.array([self._places[name][value] for value in self._canonical(name)], dtype=np.int64)

    @property
    def _has_static(self) -> bool:
        """Whether there are students of 0 layers, on which the dimensions in ``IDLE`` have no effect."""
        return 0 in self.choices.get("num_hidden_layers", ())

    def _canonical(self, name: str) -> list[Any]:
        """Return the choices of a dimension in canonical form, as configurations store them."""
        values = self.choices[name]
        if name.startswith(RECIPE):
            return [*values]
        return [getattr(replace(self._base, **{name: value}), name) for value in values]

    @cached_property
    def _recipe_fields(self) -> frozenset[str]:
        return frozenset(self.recipe_choices)

    def _picked(self, values: Sequence[Any]) -> StudentConfig:
        """Return the configuration of one value per dimension."""
        named = {**self._fixed, **dict(zip(self.choices, values, strict=True))}
        changes = tuple((name, named.pop(RECIPE + name)) for name in self._recipe_fields)
        return StudentConfig(**named, recipe=changes)

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """The values of dimensions of a student that are not searched."""
        return {name: getattr(self._base, name) for name in DIMENSIONS if name not in self.choices}

    @cached_property
    def first_indices(self) -> Action:
        """For each flat index, the first one that names the same configuration, int64 ``(size,)``.

        Raises:
            SpaceError: If the grid is too large to list.
        """
        self._check_listable()
        return self.canonical(np.arange(self.size))

    def canonical(self, indices: Ints) -> Ints:
        """Return for each flat index the first one that names the same configuration, int64 ``(n,)``.

        Args:
            indices: int64 of shape ``(n,)``; for spaces of at most 2 ** 63 points.
        """
        columns = dict(zip(self.choices, self.grid.actions(indices).T, strict=True))
        for name, places in zip(self.choices, self._first_choices, strict=True):
            columns[name] = places[columns[name]]
        if self._has_static:
            layers = np.array(self.choices["num_hidden_layers"])[columns["num_hidden_layers"]]
            columns |= {name: np.where(layers == 0, 0, columns[name]) for name in IDLE if name in columns}
        return self.grid.flat(np.stack([*columns.values()], axis=1))

    @property
    def listable(self) -> bool:
        """Whether the space is small enough to list its points."""
        return self.size <= LARGEST_ENUMERATION

    def violation(self, config: StudentConfig) -> str | None:
        """Return why a configuration cannot be built or is not allowed; None if it is valid."""
        if config.hidden_size % config.num_attention_heads:
            return f"{config.num_attention_heads} heads do not divide hidden_size {config.hidden_size}"
        if config.num_hidden_layers > self.teacher.num_hidden_layers:
            return (
                f"the student has {config.num_hidden_layers} layers, more than the teacher's "
                f"{self.teacher.num_hidden_layers}"
            )
        if config.hidden_size > self.teacher.hidden_size:
            return f"hidden_size {config.hidden_size} is wider than the teacher's {self.teacher.hidden_size}"
        if config.num_hidden_layers == 0 and config.family == "albert":
            return "an albert has at least one layer; a static student is of another family"
        if config.embedding_size and config.family == "roberta":
            return "a roberta has no factorised embeddings; bert and albert students can have them"
        if config.embedding_size >= config.hidden_size:
            return f"embedding_size {config.embedding_size} is not below hidden_size {config.hidden_size}"
        if self.teacher.vocab_size <= config.vocabulary < CORPUS_TOKENS:
            return f"the teacher has {self.teacher.vocab_size} tokens, no more than the vocabulary {config.vocabulary}"
        if self.max_parameters is not None:
            parameters = count_parameters(config, self.teacher)
            if parameters > self.max_parameters:
                return f"{parameters} parameters are more than max_parameters {self.max_parameters}"
        return None

    def _check_listable(self) -> None:
        if not self.listable:
            raise SpaceError(
                f"the space has {self.size} points; expected at most {LARGEST_ENUMERATION} to list them; give its "
                "dimensions fewer choices"
            )


def derived_choices(teacher: EncoderArchitecture, families: Sequence[str] | None = None) -> dict[str, tuple[Any, ...]]:
    """Return choices that are fractions of a teacher's sizes.

    Numbers of heads are divisors of the teacher's. Widths are multiples of 8 and of the teacher's number of heads,
    feed-forward sizes multiples of 8. Therefore every point can be built. For BERT-base these are the 1,200
    architectures of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639).

    Args:
        teacher: The teacher's architecture.
        families: Student families; None: the teacher's own. A single family that is the teacher's own is no dimension.
    """
    base = teacher.as_student()
    heads = teacher.num_attention_heads
    widths = [_near_multiple(teacher.hidden_size * f, math.lcm(8, heads)) for f in WIDTH_FRACTIONS[:-1]]
    inner = [_near_multiple(teacher.intermediate_size * f, 8) for f in FFN_FRACTIONS[:-1]]
    chosen = tuple(dict.fromkeys(families)) if families else (base.family,)
    choices: dict[str, tuple[Any, ...]] = {
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
        "hidden_act": ACTIVATIONS if base.hidden_act in ACTIVATIONS else (base.hidden_act, *ACTIVATIONS),
    }
    return choices if chosen == (base.family,) else {**choices, "family": chosen}


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _near_multiple(value: float, base: int) -> int:
    return max(base, base * _round_half_up(value / base))


def _nearest_divisor(value: float, number: int) -> int:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - value), d))


def _sorted_unique(values: Any) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
