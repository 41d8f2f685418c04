"""Parsing labels: names, numbers, booleans, lists, or several columns of 0 and 1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.errors import CorpusError
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.specs import CLASSIFICATION, MULTI_LABEL, REGRESSION

LABEL_NAMES = ("label", "labels", "class", "category", "target", "score", "similarity")
"""Names of label columns, in order of preference."""

_TRUTH = {"false": 0, "true": 1}
_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, **_TRUTH}


@dataclass(frozen=True)
class Labels:
    """Meaning of a task's labels.

    Attributes:
        kind: Kind of the task.
        names: Names of the classes in the order of their numbers; empty for regression.
        columns: Label columns.
        numbered: Class names that numbers refer to, if the source defines them.
        lone: Classes with a single training sample, which cannot be learned.
    """

    kind: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    numbered: tuple[str, ...] = ()
    lone: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        task: str,
        rows: Sequence[tuple[Any, ...]],
        columns: Sequence[str],
        names: Sequence[str] = (),
        kind: str | None = None,
    ) -> Labels:
        """Infer the meaning of labels.

        Args:
            task: Name of the task, for messages.
            rows: Labels of the training split, one or several per row, none missing.
            columns: The label columns.
            names: Class names that numbers refer to, if known.
            kind: Kind of the task; None to infer it.

        Raises:
            CorpusError: If the labels do not fit a kind, or there is only one class.
        """
        first = [row[0] for row in rows]
        several = len(columns) > 1
        kind = kind or (MULTI_LABEL if several or _is_list(first[0]) else _kind_of(first, names))
        if several and kind != MULTI_LABEL:
            raise CorpusError(
                f"task {task!r}: {len(columns)} label columns do not fit {kind!r}; name one, or another kind"
            )
        if kind == REGRESSION:
            return cls(kind, (), tuple(columns))
        if several:
            return cls(kind, tuple(columns), tuple(columns))
        if kind == MULTI_LABEL and not all(_is_list(value) for value in first):
            raise CorpusError(f"task {task!r}: label {columns[0]!r} is not a list; give lists, or columns of 0 and 1")
        if kind == CLASSIFICATION and any(_is_list(value) for value in first):
            raise CorpusError(
                f"task {task!r}: label {columns[0]!r} is a list, which does not fit {kind!r}; leave kind out"
            )
        counts = Counter(_name(value, names) for row in first for value in (row if kind == MULTI_LABEL else [row]))
        lone = {name for name, count in counts.items() if count == 1} if kind == CLASSIFICATION else set()
        classes = [name for name in (names or _in_order(counts)) if name in counts and name not in lone]
        if len(classes) < 2:
            beside = f", beside {len(lone)} with one sample" if lone else ""
            raise CorpusError(
                f"task {task!r} has one class in column {columns[0]!r}: {shown(classes)}{beside}; two are needed. "
                "If the labels are numbers, not classes, set kind='regression'"
                if classes
                else f"task {task!r}: no class in column {columns[0]!r} has two samples; "
                "if these are numbers, set kind='regression'"
            )
        return cls(kind, tuple(classes), tuple(columns), tuple(names), frozenset(lone))

    def is_lone(self, label: tuple[Any, ...]) -> bool:
        """Return whether a row belongs to a class with a single training sample."""
        return bool(self.lone) and _name(label[0], self.numbered) in self.lone

    def encode(self, rows: Sequence[tuple[str, tuple[Any, ...]]]) -> NDArray[Any]:
        """Return labels as an array; see :class:`kdnas_env.tasks.specs.Split`.

        Args:
            rows: Location of each row (for messages), and its label.

        Raises:
            CorpusError: If a label is unknown or does not fit the task's kind.
        """
        if self.kind == REGRESSION:
            return np.array([_number_at(place, label[0]) for place, label in rows], dtype=np.float64)
        if len(self.columns) > 1:
            return np.array([[_bit(place, value) for value in label] for place, label in rows], dtype=np.int64)
        numbers = {name: number for number, name in enumerate(self.names)}
        if self.kind == CLASSIFICATION:
            return np.array([self._number(numbers, place, label[0]) for place, label in rows], dtype=np.int64)
        marks = np.zeros((len(rows), len(self.names)), dtype=np.int64)
        for row, (place, label) in zip(marks, rows, strict=True):
            if not _is_list(label[0]):
                raise CorpusError(f"{place}: the label is {shown(label[0])}; expected a list of classes")
            row[[self._number(numbers, place, value) for value in label[0]]] = 1
        return marks

    def _number(self, numbers: dict[str, int], place: str, value: Any) -> int:
        name = _name(value, self.numbered)
        if name not in numbers:
            raise CorpusError(
                f"{place}: label {shown(value)} is not a label of the training split, {shown(list(self.names))}"
            )
        return numbers[name]


def is_missing(value: Any) -> bool:
    """Return whether a label is missing: None, an empty text, or NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _kind_of(values: Sequence[Any], names: Sequence[str]) -> str:
    numbers = [as_number(value) for value in values]
    if names or any(math.isnan(number) for number in numbers) or all(number.is_integer() for number in numbers):
        return CLASSIFICATION
    return REGRESSION


def as_number(value: Any) -> float:
    """Return a label as a number; NaN if it is not a number, also for booleans."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _number_at(place: str, value: Any) -> float:
    number = as_number(value)
    if not math.isfinite(number):
        raise CorpusError(f"{place}: the label is {shown(value)}; expected a number")
    return number


def _bit(place: str, value: Any) -> int:
    bit = _BITS.get(str(value).strip().lower())
    if bit is None:
        raise CorpusError(f"{place}: a label is {shown(value)}; expected 0 or 1 in each label column")
    return bit


def _name(value: Any, names: Sequence[str]) -> str:
    """Return the name of a class. Equal whole numbers get the same name (1, 1.0, "1"); booleans are in lower case."""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    text = str(value).strip()
    if text.lower() in _TRUTH:
        return text.lower()
    number = as_number(text)
    return str(int(number)) if math.isfinite(number) and number.is_integer() else text


def _in_order(classes: Iterable[str]) -> list[str]:
    """Sort class names: numbers by value first, then texts alphabetically."""

    def place(name: str) -> tuple[int, float, str]:
        number = as_number(name)
        return (1, 0, name) if math.isnan(number) else (0, number, name)

    return sorted(classes, key=place)
