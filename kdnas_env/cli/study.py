"""``kdnas study``: whether what a search goes by means anything."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.pipeline.study import PICTURE, StudyOptions, study
from kdnas_env.studies.findings import CHOSEN, PROXIES, TARGETS, Findings
from kdnas_env.support.progress import TaskProgress
from kdnas_env.support.statistics import Correlation


def run_study(options: StudyOptions) -> int:
    """Study, and say what was found; the exit status of the command."""
    console = SafeConsole()
    with TaskProgress(console) as progress:
        run = study(options, progress=progress)
    if run.findings.students:
        print_findings(console, run.findings, run.options.task)
        console.say(f"picture: {run.path / PICTURE}")
    return 0


def print_findings(console: SafeConsole, findings: Findings, task: str) -> None:
    """Print how well the proxies rank the students."""
    numbers = ("tau", "rho", "tau at equal latency", *(f"regret, best of {k}" for k in CHOSEN))
    table = grid(
        "proxy and target",
        *numbers,
        title=f"What ranks {len(findings.students)} students as a long distillation and {task} do",
    )
    for agreement in findings.agreements:
        equal = agreement.tau_at_equal_latency
        table.add_row(
            f"{PROXIES[agreement.proxy]}, {TARGETS[agreement.target]}",
            _interval(agreement.tau),
            _interval(agreement.rho),
            "" if equal is None else f"{equal:.2f}",
            *(f"{agreement.regrets[k]:.4f}" for k in CHOSEN),
            end_section=agreement.target == list(TARGETS)[-1],
        )
    console.print(table)
    names = {**PROXIES, **TARGETS}
    for name, ceiling in findings.ceilings.items():
        deviation = findings.noise.get(name)
        spread = "" if deviation is None else f", standard deviation {deviation:.4f}"
        console.say(f"between seeds, {names[name]}: tau {_interval(ceiling)}{spread}")
    if findings.failed:
        console.say(f"{findings.failed} judgements failed; the files in judgements say why", "bad")


def _interval(tau: Correlation | None) -> str:
    return "unknown" if tau is None else f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]"
