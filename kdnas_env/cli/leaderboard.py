"""``kdnas bench submit`` and ``kdnas bench verify``: agents whose searches others need not run again."""

from __future__ import annotations

from rich.markup import escape

from kdnas_env.bench.leaderboard import submit, verify
from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.leaderboard_options import SubmitOptions, VerifyOptions

_MOST_FAULTS = 10


def run_submit(options: SubmitOptions) -> int:
    """Write a submission; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    trajectories = submit(options.race, options.agent, options.to, description=options.description)
    console = SafeConsole()
    evaluations = sum(len(one) for one in trajectories)
    console.print(f"{len(trajectories)} searches, {evaluations} evaluations: {escape(options.to)}", soft_wrap=True)
    return 0


def run_verify(options: VerifyOptions) -> int:
    """Check a submission; the exit status of the command: 1 if something in it does not replay.

    Raises:
        KDNASError: For bad input.
    """
    verdict = verify(options.submission)
    console = SafeConsole()
    for fault in verdict.faults[:_MOST_FAULTS]:
        console.print(escape(fault), style="red", highlight=False, soft_wrap=True)
    if len(verdict.faults) > _MOST_FAULTS:
        console.print(f"and {len(verdict.faults) - _MOST_FAULTS} more", style="red", highlight=False)
    told = f"{verdict.evaluations} evaluations of {verdict.agent}, {verdict.seeds} seeds of {', '.join(verdict.tasks)}"
    if verdict.holds:
        console.print(f"all of it replays: {escape(told)}", highlight=False, soft_wrap=True)
    else:
        console.print(f"it does not hold: {escape(told)}", style="bold red", highlight=False, soft_wrap=True)
    return 0 if verdict.holds else 1
