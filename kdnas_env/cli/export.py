"""``kdnas export``: from a student's folder to one that others can use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.exporting import ExportReport, export_onnx, export_safetensors
from kdnas_env.exporting.hub import check_repo_id, push_folder
from kdnas_env.exporting.pipeline import LATENCY
from kdnas_env.pipeline.export import ExportOptions
from kdnas_env.support.atomic import expanded
from kdnas_env.support.progress import TaskProgress


def run_export(options: ExportOptions) -> int:
    """Export, say how good and how fast it is and where it lies; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    if options.push is not None:
        check_repo_id(options.push)
    out = _default_out(options) if options.out is None else Path(options.out)
    latency = replace(LATENCY, sequence_length=options.sequence_length) if options.latency else None
    with TaskProgress(console) as progress:
        progress.begin("exporting")
        if options.to == "onnx":
            report = export_onnx(
                options.model, out, int8=options.int8, latency=latency, repo_id=options.push, on_stage=progress.begin
            )
        else:
            report = export_safetensors(
                options.model, out, latency=latency, repo_id=options.push, on_stage=progress.begin
            )
    print_report(console, report)
    if options.push is not None:
        with TaskProgress(console) as progress:
            progress.begin(f"pushing to {options.push}")
            url = push_folder(report.folder, options.push, private=not options.public)
        console.print(f"on the hub: {escape(url)}", highlight=False, soft_wrap=True)
    return 0


def print_report(console: Console, report: ExportReport) -> None:
    """Print files and checks, what int8 costs, and the latencies."""
    console.print(_files(report))
    if report.int8 is not None:
        cost = report.int8
        console.print(
            f"int8 on {cost.sentences} sentences ({escape(cost.text)}): unexplained variance of the hidden states "
            f"{cost.unexplained:.4f}, mean cosine of sentence vectors {cost.cosine:.4f}, "
            f"{cost.float_bytes / cost.int8_bytes:.1f} times smaller\n",
            highlight=False,
            soft_wrap=True,
        )
    if report.timings:
        console.print(_latencies(report))
    for note in report.notes:
        console.print(f"note: {escape(note)}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"export: {escape(report.folder)} (README.md says how to use it)", highlight=False, soft_wrap=True)


def _files(report: ExportReport) -> Table:
    table = _table("Files", "file", ("MB", "largest error", "allowed"))
    for name, size in report.files.items():
        check = report.checks.get(name)
        errors = ("", "") if check is None else (f"{check.max_abs_error:.2g}", f"{check.tolerance:g}")
        table.add_row(name, f"{size / 1e6:.2f}", *errors)
    return table


def _latencies(report: ExportReport) -> Table:
    table = _table("Latency", "model", ("ms", "IQR", "speed"))
    for timing in report.timings:
        name = f"{timing.model}, {timing.runtime}"
        table.add_row(name, f"{timing.median_ms:.2f}", f"{timing.iqr_ms:.2f}", f"{timing.speedup:.2f}x")
    probe = report.probe
    table.caption = f"batch {probe['batch_size']}, {probe['sequence_length']} tokens, {probe['threads']} CPU thread(s)"
    table.caption_justify = "left"
    return table


def _table(title: str, first: str, others: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _default_out(options: ExportOptions) -> Path:
    """Return a folder beside the model's; in the working folder for a name."""
    model = expanded(options.model)
    name = f"{model.resolve().name if model.is_dir() else model.name}-{options.to}"
    return model.resolve().parent / name if model.is_dir() else Path(name)
