"""The report of an export: plain data, saved in its folder and shown in its model card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kdnas_env.exporting.check import Check
from kdnas_env.exporting.decisions import Decisions
from kdnas_env.exporting.quantisation_cost import QuantisationCost, VectorCost
from kdnas_env.exporting.timing import Timing


@dataclass(frozen=True)
class Attempt:
    """A tried int8 graph.

    Attributes:
        scheme: Quantisation scheme, one of :data:`kdnas_env.latency.quantise.SCHEMES`.
        bytes: Size in bytes.
        accepted: Whether it was exported.
        cost: Loss of accuracy; for a classifier on the split for selecting settings, while ``decisions`` of the report
            are on the scored splits.
    """

    scheme: str
    bytes: int
    accepted: bool
    cost: QuantisationCost | VectorCost | Decisions


@dataclass(frozen=True)
class ExportReport:
    """Report of an export.

    Attributes:
        folder: Folder of the export.
        format: ``onnx`` or ``safetensors``.
        model: Name of the exported model, as given.
        parameters: Number of parameters, including embeddings and an exported head.
        files: Size in bytes of each weights file, by its relative path.
        checks: Comparison of each file with the exported model, by its relative path.
        int8: Loss of accuracy of an int8 encoder; None otherwise.
        timings: Latencies, the reference first; empty if none were measured.
        probe: Batch size, sequence length and threads of the latencies.
        notes: What could not be done, and why.
        versions: Versions of kdnas and its libraries.
        decisions: Comparison of the decisions of each graph of a classifier with the model's, by its relative path.
        scheme: Quantisation scheme of the int8 graph; None without one.
        vectors: Loss of accuracy of an int8 embedding student; None otherwise.
        tried: All tried int8 graphs, in order.
        url: Address on the hub; None if it was not uploaded.
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
        """Return the fields as plain data, except its location, because the folder may be moved."""
        return {name: value for name, value in asdict(self).items() if name not in ("folder", "url")}

    def table(self) -> list[dict[str, Any]]:
        """Return a row per file: its bytes, its deviation from the model, and the maximum deviation."""
        return [
            {
                "file": name,
                "bytes": size,
                "max_abs_error": self.checks[name].max_abs_error if name in self.checks else None,
                "tolerance": self.checks[name].tolerance if name in self.checks else None,
            }
            for name, size in self.files.items()
        ]
