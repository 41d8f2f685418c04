"""Export of a student or classifier for deployment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.distill.result import Students, student_folders
from kdnas_env.pipeline.options import options_of
from kdnas_env.support.atomic import expanded
from kdnas_env.support.progress import SILENT, Progress, checked

if TYPE_CHECKING:
    from kdnas_env.exporting.report import ExportReport

FORMATS = ("onnx", "safetensors")


@dataclass(frozen=True)
class ExportOptions:
    """Export a student or classifier for deployment: checked, measured, with a model card, ready for the hub."""

    model: tyro.conf.Positional[str]
    """Folder of a student (such as runs/.../student), classifier or embedding student, or folder or hub name of another
    supported encoder, with or without a classification head."""
    to: str = "onnx"
    """onnx (weights and a graph for ONNX Runtime) or safetensors (weights alone)."""
    int8: bool = False
    """Also quantise the graph to int8, and report the loss of accuracy."""
    probabilities: bool = False
    """Add the probabilities to the outputs of a classifier's graph."""
    out: str | None = None
    """Folder of the export; by default beside the model's folder, named MODEL-onnx or MODEL-safetensors."""
    latency: bool = True
    """Measure the latency of the export, and of the teacher if it is known."""
    sequence_length: int = 50
    """Length of the timed sentence, in tokens. It is timed on one thread."""
    push: str | None = None
    """Upload the export to this repository of the hub, OWNER/NAME, with your login."""
    public: bool = False
    """Make a new repository public; by default it is private."""

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise KDNASError(f"to is {self.to!r}; choose one of {list(FORMATS)}")
        if self.int8 and self.to != "onnx":
            raise KDNASError(f"`int8` quantises the graph, but an export to {self.to} has none; add `to='onnx'`")
        if self.probabilities and self.to != "onnx":
            raise KDNASError(f"`probabilities` changes the graph, but an export to {self.to} has none; add `to='onnx'`")
        if not self.model:
            raise KDNASError("model is empty; give the folder of a student, such as runs/.../student")

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {}
        if not self.latency:
            why["sequence_length"] = "with `latency=False`: nothing is timed"
        if self.push is None:
            why["public"] = "without `push`: nothing is uploaded"
        return why


def export(model: Students | ExportOptions, *, progress: Progress = SILENT, **settings: Any) -> ExportReport:
    """Export a student, a classifier, or another supported encoder for deployment: checked, measured, with a card.

    Args:
        model: Folder of a student or classifier, folder of another encoder in hub layout, or a name on the hub; or the
            result of a search, or of a distillation of one student; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`ExportOptions` by name, such as ``to="safetensors"``, ``int8=True`` or ``out``.

    Raises:
        KDNASError: For bad input, or if the outputs of export and model differ. Then no file is left behind.
    """
    from kdnas_env.exporting.hub import check_repo_id, push_folder
    from kdnas_env.exporting.writing import LATENCY, write_export

    if not isinstance(model, ExportOptions):
        model, *others = student_folders(model)
        if others:
            raise KDNASError(f"{[model, *others]} are several students; export one after the other")
    progress = checked(progress)
    options = options_of(ExportOptions, settings, model=model)
    if options.push is not None:
        check_repo_id(options.push)
    out = _default_out(options) if options.out is None else Path(options.out)
    latency = replace(LATENCY, sequence_length=options.sequence_length) if options.latency else None
    report = write_export(
        options.model,
        out,
        format=options.to,
        int8=options.int8,
        probabilities=options.probabilities,
        latency=latency,
        repo_id=options.push,
        progress=progress,
    )
    if options.push is not None:
        progress.begin(f"pushing to {options.push}")
        report = replace(report, url=push_folder(report.folder, options.push, private=not options.public))
    return report


def _default_out(options: ExportOptions) -> Path:
    """Return a folder beside that of the model, or in the working folder for a name on the hub."""
    model = expanded(options.model)
    name = f"{model.resolve().name if model.is_dir() else model.name}-{options.to}"
    return model.resolve().parent / name if model.is_dir() else Path(name)
