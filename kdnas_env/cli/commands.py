"""The commands and their flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import tyro

from kdnas_env.cli.agents import AgentsOptions, run_agents
from kdnas_env.cli.doctor import DoctorOptions, run_doctor
from kdnas_env.cli.options import SearchOptions
from kdnas_env.cli.run_folder import recorded_options


def parse(arguments: Sequence[str]) -> Callable[[], int]:
    """Return the command that the arguments ask for, ready to run.

    With ``--resume`` the defaults of all flags are what the run was started with, so that a flag which differs must
    have been given.

    Raises:
        RunError: If the run that is to be resumed cannot be read, or was made with other settings.
        SystemExit: If the arguments are malformed, or ask for help.
    """
    options = _parse(arguments, SearchOptions())
    if isinstance(options, DoctorOptions):
        return partial(run_doctor, options)
    if isinstance(options, AgentsOptions):
        return partial(run_agents, options)
    if options.resume is not None:
        recorded = recorded_options(options.resume, SearchOptions)
        options = _parse(arguments, recorded)
        options.check_unchanged(recorded)

    def search() -> int:
        # Heavy imports, which asking for help need not wait for.
        from kdnas_env.cli.search import run_search

        return run_search(options)

    return search


def _parse(arguments: Sequence[str], defaults: SearchOptions) -> Any:
    commands = (
        Annotated[SearchOptions, tyro.conf.subcommand("search", default=defaults, prefix_name=False)]
        | Annotated[AgentsOptions, tyro.conf.subcommand("agents", prefix_name=False)]
        | Annotated[DoctorOptions, tyro.conf.subcommand("doctor", prefix_name=False)]
    )
    return tyro.cli(
        commands,
        prog="kdnas",
        description="Knowledge-distillation neural-architecture search for language models.",
        args=list(arguments),
    )
