"""``kdnas export``: export a student to a folder for use elsewhere."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.exporting.report import ExportReport
from kdnas_env.pipeline.export import ExportOptions, export
from kdnas_env.support.progress import ConsoleProgress


def run_export(options: ExportOptions) -> int:
    """Export, and print checks, latencies and the folder; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        report = export(options, progress=progress)
    print_report(console, report)
    return 0


def print_report(console: SafeConsole, report: ExportReport) -> None:
    """Print files and checks, the loss of accuracy by int8, the agreement of decisions, and the latencies."""
    files = grid("file", "MB", "largest error", "allowed", title="Files")
    for row in report.table():
        errors = ("", "") if row["tolerance"] is None else (f"{row['max_abs_error']:.2g}", f"{row['tolerance']:g}")
        files.add_row(row["file"], f"{row['bytes'] / 1e6:.2f}", *errors)
    console.print(files)
    cost = report.int8 or report.vectors
    if cost is not None:
        console.say(f"int8 of {report.scheme}: {cost.in_words()}\n")
    for name, decisions in report.decisions.items():
        console.say(f"{name}: {decisions.in_words()}")
    if report.decisions:
        console.say("")
    if report.timings:
        probe = report.probe
        shape = f"batch {probe['batch_size']}, {probe['sequence_length']} tokens, {probe['threads']} CPU thread(s)"
        latencies = grid("model", "ms", "IQR", "speed", title="Latency", caption=shape)
        for timing in report.timings:
            name = f"{timing.model}, {timing.runtime}"
            latencies.add_row(name, f"{timing.median_ms:.2f}", f"{timing.iqr_ms:.2f}", f"{timing.speedup:.2f}x")
        console.print(latencies)
    for note in report.notes:
        console.say(f"note: {note}", "warning")
    console.say(f"export: {report.folder} (README.md says how to use it)")
    if report.url is not None:
        console.say(f"on the hub: {report.url}")
