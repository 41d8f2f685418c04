"""A student in the form that others deploy."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from kdnas_env.errors import KDNASError

FORMATS = ("onnx", "safetensors")


@dataclass(frozen=True)
class ExportOptions:
    """Export a student for use elsewhere: checked, measured, with a model card, ready for the hub."""

    model: tyro.conf.Positional[str]
    """Folder of a student (such as runs/.../student), or folder or hub name of another supported encoder."""
    to: str = "onnx"
    """onnx (weights and a graph for ONNX Runtime) or safetensors (weights alone)."""
    int8: bool = False
    """Also quantise the graph to int8, and say what it costs."""
    out: str | None = None
    """Folder of the export; by default beside the model's folder, named MODEL-onnx or MODEL-safetensors."""
    latency: bool = True
    """Measure latencies, beside the teacher where the student names it."""
    sequence_length: int = 50
    """Tokens of the sentence that is timed, on one thread."""
    push: str | None = None
    """OWNER/NAME: then upload the export to the hub, with your login there."""
    public: bool = False
    """Let everyone see what is pushed; by default a new repository is private."""

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise KDNASError(f"cannot export to {self.to!r}; choose --to {' or --to '.join(FORMATS)}")
        if self.int8 and self.to != "onnx":
            raise KDNASError(f"--int8 quantises the graph, which an export to {self.to} has not; add --to onnx")
        if not self.model:
            raise KDNASError("MODEL is empty; give the folder of a student, such as runs/.../student")

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {}
        if not self.latency:
            why["sequence_length"] = "with --no-latency: nothing is timed"
        if self.push is None:
            why["public"] = "without --push: nothing is uploaded"
        return why
