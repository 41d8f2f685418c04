"""Inputs of a surrogate: the range of students that it predicts, and their description in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import FULL, SCALES, StudentConfig, count_parameters, forward_flops
from kdnas_env.core.choices import DIMENSIONS, ORDERED, RECIPE
from kdnas_env.errors import TableError
from kdnas_env.support.arrays import Floats
from kdnas_env.tables.surrogates.students import ended_well
from kdnas_env.tables.table import Table, TableMetadata

NAMED = ("hidden_act", "family")
"""Categorical dimensions of a student: their choices are names. Of a space that has them, those of the embeddings are
too (:data:`kdnas_env.core.architecture.SCALES`)."""

LEAST_STUDENTS = 12
"""Minimum number of students for a fit."""


@dataclass(frozen=True)
class Range:
    """The range of a table's students, within which a surrogate is reliable.

    Attributes:
        numbers: Smallest and largest value of each dimension in ``ORDERED``, and of numeric recipe dimensions.
        names: Values of the other dimensions.
        max_parameters: Largest allowed student in parameters, or None.
    """

    numbers: Mapping[str, tuple[int | float, int | float]]
    names: Mapping[str, tuple[Any, ...]]
    max_parameters: int | None

    @classmethod
    def of(cls, *tables: Table) -> Range:
        """Return the range of all successful students of some tables.

        Raises:
            TableError: If they are fewer than ``LEAST_STUDENTS``.
        """
        configs = [
            config
            for table in tables
            for config, cells in zip(table.configs(), ended_well(table), strict=True)
            if cells.any()
        ]
        if len(set(configs)) < LEAST_STUDENTS:
            raise TableError(
                f"table {tables[0].metadata.name!r} has {len(set(configs))} successful students; a surrogate "
                f"needs at least {LEAST_STUDENTS}"
            )
        space, caps = tables[0].space, [table.space.max_parameters for table in tables]
        of_recipe = {
            name: ordered
            for name, ordered in zip(space.dimensions, space.ordered, strict=True)
            if name.startswith(RECIPE)
        }
        numbers = (*ORDERED, *(name for name, ordered in of_recipe.items() if ordered))
        scales = (name for name in SCALES if name in space.dimensions)
        names = (*NAMED, *scales, *(name for name, ordered in of_recipe.items() if not ordered))
        given = [values_of(config) for config in configs]
        values: dict[str, list[Any]] = {
            name: [of_student.get(name) for of_student in given] for name in (*numbers, *names)
        }
        return cls(
            {name: (min(values[name]), max(values[name])) for name in numbers},
            {name: tuple(sorted(set(values[name]), key=str)) for name in names},
            None if None in caps else max(cap for cap in caps if cap is not None),
        )

    def outside(self, config: StudentConfig) -> str | None:
        """Return why a student is outside the range; None if it is inside."""
        searched = {name.removeprefix(RECIPE) for name in self.of_recipe}
        if searched != {name for name, _ in config.recipe}:
            return f"it changes other fields of the recipe than the table's {sorted(searched)}"
        values = values_of(config)
        for name, (low, high) in self.numbers.items():
            if not low <= values[name] <= high:
                return f"{name} {values[name]} is beyond the table's {low} to {high}"
        return self.unknown_name(config)

    @property
    def of_recipe(self) -> list[str]:
        """The dimensions that belong to the recipe; none outside joint spaces."""
        return [name for name in (*self.numbers, *self.names) if name.startswith(RECIPE)]

    @property
    def columns(self) -> int:
        """Number of columns of :func:`features`."""
        return len(self.numbers) + sum(len(values) for values in self.names.values() if len(values) > 1) + 2

    @property
    def recipe_columns(self) -> npt.NDArray[np.bool_]:
        """Which columns of :func:`features` depend on the recipe alone, bool ``(columns,)``; no other column does."""
        named = [name for name, values in self.names.items() for _ in values if len(values) > 1]
        return np.array([name.startswith(RECIPE) for name in (*self.numbers, *named, "parameters", "flops")])

    def unknown_name(self, config: StudentConfig) -> str | None:
        """Return a message if a student has a name that is not in the table, which a surrogate cannot predict."""
        given = values_of(config)
        for name, values in {**dict.fromkeys(SCALES, (FULL,)), **self.names}.items():
            if given.get(name) not in values:
                return f"{name} {given.get(name)!r} is none of the table's {list(values)}"
        return None


def features(configs: Sequence[StudentConfig], metadata: TableMetadata, trusted: Range) -> tuple[Floats, list[int]]:
    """Describe students: logarithms of their numbers as fractions of the teacher's, and their names one-hot.

    Args:
        configs: ``m`` students.
        metadata: Metadata of their table: the teacher, and the batch and length that operations are counted for.
        trusted: Range of the students.

    Returns:
        float64 ``(m, d)``: layers, heads, width and feed-forward size; numbers of the recipe; one column per name;
        parameters and operations. And the index of each column's length scale, -1 if only the trend uses it.
    """
    teacher, device = metadata.encoder, metadata.devices[0]
    batch, length = device.batch_size, device.sequence_length
    base = teacher.as_student()
    of_recipe = [name for name in trusted.numbers if name not in ORDERED]
    given = [values_of(config) for config in configs]
    numbers = [
        [*(values[name] / getattr(base, name) for name in ORDERED), *(values.get(name) for name in of_recipe)]
        for values in given
    ]
    costs = [
        (count_parameters(config, teacher), forward_flops(config, teacher, batch=batch, length=length))
        for config in configs
    ]
    described = np.array(numbers, dtype=np.float64).reshape(-1, len(trusted.numbers))
    # Values that may be 0, such as the warmup fraction, have no logarithm.
    scaled = [place for place, (low, _) in enumerate(trusted.numbers.values()) if low > 0]
    described[:, scaled] = np.log(described[:, scaled])
    columns, groups = [described], [*range(len(trusted.numbers))]
    for name, values in trusted.names.items():
        if len(values) > 1:
            named = np.array([[of_student.get(name) == value for value in values] for of_student in given])
            columns.append(named.reshape(-1, len(values)))
            groups += [max(groups) + 1] * len(values)
    # A static student has no matrix product.
    columns.append(np.log(np.maximum(np.array(costs, dtype=np.float64).reshape(-1, 2), 1.0)))
    return np.hstack([np.asarray(part, dtype=np.float64) for part in columns]), [*groups, -1, -1]


def values_of(config: StudentConfig) -> dict[str, Any]:
    """Return a configuration's values by student or recipe dimension."""
    values = {name: getattr(config, name) for name in DIMENSIONS}
    return values | {f"{RECIPE}{name}": value for name, value in config.recipe}
