"""The report of an export: plain data, written beside it and shown in its model card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kdnas_env.exporting.check import Check
from kdnas_env.exporting.decisions import Decisions
from kdnas_env.exporting.quantisation_cost import QuantisationCost, VectorCost
from kdnas_env.exporting.timing import Timing


@dataclass(frozen=True)
class Attempt:
    """An int8 graph that was tried.

    Attributes:
        scheme: What was quantised, one of :data:`kdnas_env.latency.quantise.SCHEMES`.
        bytes: Its size.
        accepted: Whether it is what was exported.
        cost: What it loses; of a classifier, on what settings are chosen on, while ``decisions`` of the report are
            those on what is scored.
    """

    scheme: str
    bytes: int
    accepted: bool
    cost: QuantisationCost | VectorCost | Decisions


@dataclass(frozen=True)
class ExportReport:
    """An export.

    Attributes:
        folder: Where it lies.
        format: ``onnx`` or ``safetensors``.
        model: What was exported, as it was named.
        parameters: Its parameters, embeddings included, and those of its head where it is exported with one.
        files: Bytes of each weights file, by its path in the folder.
        checks: What was compared with the model that was exported, by the path of the file.
        int8: What quantisation costs an encoder; None without it, and of other models.
        timings: Latencies, the reference first; empty if none were measured.
        probe: Batch size, sequence length and threads of the latencies.
        notes: What could not be done, and why.
        versions: Versions of kdnas and its libraries.
        decisions: How each graph of a classifier decides compared with the model, by the path of the file.
        scheme: What is quantised in the int8 graph; None without one.
        vectors: What quantisation costs an embedding student; None without it, and of other models.
        tried: Every int8 graph that was tried, in this order.
        url: Where it lies on the hub; None if it was not pushed.
    """

    folder: str
    format: str
    model: str
    parameters: int
    files: dict[str, int]
    checks: dict[str, Check]
    int8: QuantisationCost | None
    timings: tuple[Timing, ...]
    probe: dict[str, int]
    notes: tuple[str, ...]
    versions: dict[str, str]
    decisions: dict[str, Decisions] = field(default_factory=dict)
    scheme: str | None = None
    vectors: VectorCost | None = None
    tried: tuple[Attempt, ...] = ()
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, but for where it lies: it may be moved."""
        return {name: value for name, value in asdict(self).items() if name not in ("folder", "url")}

    def table(self) -> list[dict[str, Any]]:
        """Return a row a file: its bytes, how far it deviates from the model, and how far it may."""
        return [
            {
                "file": name,
                "bytes": size,
                "max_abs_error": self.checks[name].max_abs_error if name in self.checks else None,
                "tolerance": self.checks[name].tolerance if name in self.checks else None,
            }
            for name, size in self.files.items()
        ]
