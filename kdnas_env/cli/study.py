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
    """Print how well the proxies rank students, one table per proxy."""
    titles = {quantity.name: quantity.title for quantity in (*findings.proxies, *findings.targets)}
    console.say(f"Kendall's tau over {len(findings.students)} students")
    for proxy in findings.proxies:
        table = grid("target", "tau", "equal latency", "equal size", "regret", title=f"by {titles[proxy.name]}")
        for agreement in findings.agreements:
            if agreement.proxy == proxy.name:
                table.add_row(
                    titles[agreement.target],
                    interval(agreement.tau),
                    interval(agreement.at_equal_latency),
                    interval(agreement.at_equal_size),
                    f"{agreement.regrets[CHOSEN[0]]:.4f}",
                )
        console.print(table)
    console.say("regret: the best student's target less that of the student that is ranked first; more in results.json")
    for name, ceiling in findings.ceilings.items():
        deviation = findings.noise.get(name)
        spread = "" if deviation is None else f", standard deviation {deviation:.4f}"
        console.say(f"between seeds, {titles[name]}: tau {interval(ceiling)}{spread}")
    for name, seconds in findings.seconds.items():
        console.say(f"seconds, {titles[name]}: {seconds:.2f}")
    if findings.failed:
        console.say(f"{findings.failed} judgements failed; the files in judgements say why", "bad")
