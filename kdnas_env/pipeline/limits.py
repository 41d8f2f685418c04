"""Limits and the measured values, as numbers and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kdnas_env.core.constraints import AT_LEAST, LEAST_QUALITY, Constraints, excess

if TYPE_CHECKING:
    from kdnas_env.exporting.measuring import Measured

HEADINGS = ("asked for", "measured", "95 % interval", "kept")
"""Headings of the columns of :attr:`Line.cells` after the first."""

_WORDS = {
    "speedup": ("speed-up", "{:.2f}x", "{:g}x"),
    "latency_ms": ("latency", "{:.2f} ms", "{:g} ms"),
    "size_mb": ("size of the file", "{:.2f} MB", "{:g} MB"),
    "parameters": ("parameters of the encoder", "{:,.0f}", "{:,.0f}"),
    "keep": ("teacher's score kept", "{:.1%}", "{:.1%}"),
}
"""For each limit: its title, the format of a measured value, and the format of the limit."""

_OF_VECTORS = {
    "overlap": "same 10 nearest texts",
    "overlap_in_teachers": "same, in teacher's index",
    "recall_in_teachers": "nearest, in teacher's index",
}
"""Titles of the scores of vectors other than the correlation, by field of
:class:`kdnas_env.tasks.vector_scores.EmbeddingScore`."""


@dataclass(frozen=True)
class Line:
    """A limit and the measured value; plain data.

    Attributes:
        limit: One of the limits of :class:`kdnas_env.core.constraints.Constraints`.
        asked: The limit; None where none was set.
        measured: The measured value, in the unit of the limit.
        low: Lower bound of its 95 % interval; None if it has no interval.
        high: The upper bound.
        split: Split on which it was measured; None for values that do not depend on text.
        chooses: Whether the limit is used to choose between candidates. Limits on scored splits are not.
        called: Title of the measured value; None: the title of the limit.
    """

    limit: str
    asked: float | None
    measured: float
    low: float | None = None
    high: float | None = None
    split: str | None = None
    chooses: bool = True
    called: str | None = None

    @property
    def excess(self) -> float:
        """Relative excess over the limit; 0 if it is kept or not set."""
        if self.asked is None:
            return 0.0
        return max(0.0, float(excess(self.limit, self.asked, max(self.measured, LEAST_QUALITY))))

    @property
    def kept(self) -> bool | None:
        """Whether the limit is kept; None where none was set."""
        return None if self.asked is None else self.excess == 0

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Title, limit, measured value, its interval, and whether the limit is kept, as text."""
        name, value, _ = _WORDS[self.limit]
        name = self.called or name
        return (
            name if self.split is None else f"{name}, {self.split}",
            "" if self.asked is None else _asked(self.limit, self.asked),
            value.format(self.measured),
            "" if self.low is None or self.high is None else f"{self.low:.1%} - {self.high:.1%}",
            {None: "", True: "yes", False: "no"}[self.kept],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, and whether the limit is kept."""
        return {**asdict(self), "kept": self.kept}


def asked_in_words(limits: Constraints) -> tuple[str, ...]:
    """Return a description of each limit that is set."""
    words = {name: f"{_WORDS[name][0]} {_asked(name, getattr(limits, name))}" for name in limits.names}
    return tuple(f"{line} ({limits.format})" if name == "size_mb" else line for name, line in words.items())


def _asked(limit: str, value: float) -> str:
    return f"{'at least' if limit in AT_LEAST else 'at most'} {_WORDS[limit][2].format(value)}"


def score_rows(measured: Measured) -> list[tuple[str, ...]]:
    """Return further scores as rows like :attr:`Line.cells`.

    For a classifier: the scores of student, teacher and a constant answer. For an embedding model: the scores of
    its vectors.
    """
    rows: list[tuple[str, ...]] = []
    for name, words in _OF_VECTORS.items() if measured.vectors is not None else ():
        value, low, high = getattr(measured.vectors, name)
        rows.append((words, "", f"{value:.1%}", f"{low:.1%} - {high:.1%}", ""))
    for standing in measured.standings:
        split = standing.split
        for whose, (score, low, high) in (("student", standing.model), ("teacher", standing.teacher)):
            rows.append((f"score of the {whose}, {split}", "", f"{score:.1%}", f"{low:.1%} - {high:.1%}", ""))
        rows.append((f"{standing.answer}, {split}", "", f"{standing.constant:.1%}", "", ""))
    return rows


def plain_lines(
    limits: Constraints, speedup: float, latency_ms: float, size_mb: float, parameters: int
) -> tuple[Line, ...]:
    """Return the lines of all limits except that of the quality.

    Args:
        limits: The limits.
        speedup: Speed of the student, as a multiple of the teacher's.
        latency_ms: Latency of a pass, in milliseconds.
        size_mb: Size of its file, in megabytes (1e6 bytes).
        parameters: Number of its parameters.
    """
    asked = {name: getattr(limits, name) for name in limits.names}
    measured = {
        "speedup": speedup,
        "latency_ms": latency_ms,
        "size_mb": size_mb,
        "parameters": float(parameters),
    }
    return tuple(Line(name, asked.get(name), value) for name, value in measured.items())
