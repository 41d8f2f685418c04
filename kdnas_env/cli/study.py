"""``kdnas study``: how well the proxies that a search optimises predict final quality."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.pipeline.study import PICTURE, StudyOptions, study
from kdnas_env.studies.findings import CHOSEN, Findings, interval
from kdnas_env.support.progress import ConsoleProgress


def run_study(options: StudyOptions) -> int:
    """Run a study, and print the findings; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        run = study(options, progress=progress)
    if run.findings.students:
        print_findings(console, run.findings)
        console.say(f"picture: {run.path / PICTURE}")
    return 0


def print_findings(console: SafeConsole, findings: Findings) -> None:
    """Print how well the proxies rank students."""
    numbers = ("tau", "at equal latency", "at equal size", *(f"regret, best of {k}" for k in CHOSEN))
    table = grid(
        "proxy and target",
        *numbers,
        title=f"Agreement of proxies and targets, {len(findings.students)} students",
    )
    titles = {quantity.name: quantity.title for quantity in (*findings.proxies, *findings.targets)}
    for agreement in findings.agreements:
        table.add_row(
            f"{titles[agreement.proxy]} -> {titles[agreement.target]}",
            interval(agreement.tau),
            interval(agreement.at_equal_latency),
            interval(agreement.at_equal_size),
            *(f"{agreement.regrets[k]:.4f}" for k in CHOSEN),
            end_section=agreement.target == findings.targets[-1].name,
        )
    console.print(table)
    for name, ceiling in findings.ceilings.items():
        deviation = findings.noise.get(name)
        spread = "" if deviation is None else f", standard deviation {deviation:.4f}"
        console.say(f"between seeds, {titles[name]}: tau {interval(ceiling)}{spread}")
    for name, seconds in findings.seconds.items():
        console.say(f"seconds, {titles[name]}: {seconds:.2f}")
    if findings.failed:
        console.say(f"{findings.failed} judgements failed; the files in judgements say why", "bad")
