"""The commands and their flags."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from functools import partial
from typing import Annotated, Any, Union

import tyro

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.flags import check_given_once, naming_flags, swallowed
from kdnas_env.cli.short_help import HELP, HELP_ALL, asks_for_help, print_help
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.agents import AgentsOptions
from kdnas_env.pipeline.bench.export import BenchExportOptions
from kdnas_env.pipeline.bench.race import BenchOptions
from kdnas_env.pipeline.bench.submit import SubmitOptions
from kdnas_env.pipeline.bench.train import TrainOptions
from kdnas_env.pipeline.bench.verify import VerifyOptions
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.doctor import DoctorOptions
from kdnas_env.pipeline.export import ExportOptions
from kdnas_env.pipeline.options import completed, task_field
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.study import StudyOptions
from kdnas_env.pipeline.table.agreement import TableAgreementOptions
from kdnas_env.pipeline.table.build import TableBuildOptions
from kdnas_env.pipeline.table.export import TableExportOptions
from kdnas_env.pipeline.table.fit import TableFitOptions
from kdnas_env.pipeline.table.import_nas_bench_bert import ImportNasBenchBertOptions
from kdnas_env.pipeline.table.inspect import TableInspectOptions
from kdnas_env.pipeline.table.verify import TableVerifyOptions
from kdnas_env.pipeline.vocabulary import VocabularyOptions

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "run": (PipelineOptions, "kdnas_env.cli.run:run_all"),
    "search": (SearchOptions, "kdnas_env.cli.search:run_search"),
    "distill": (DistillOptions, "kdnas_env.cli.distill:run_distill"),
    "score": (ScoreOptions, "kdnas_env.cli.score:run_score"),
    "export": (ExportOptions, "kdnas_env.cli.export:run_export"),
    "study": (StudyOptions, "kdnas_env.cli.study:run_study"),
    "vocabulary": (VocabularyOptions, "kdnas_env.cli.vocabulary:run_vocabulary"),
    "table build": (TableBuildOptions, "kdnas_env.cli.table:run_build"),
    "table export": (TableExportOptions, "kdnas_env.cli.table:run_export"),
    "table inspect": (TableInspectOptions, "kdnas_env.cli.table:run_inspect"),
    "table fit": (TableFitOptions, "kdnas_env.cli.table:run_fit"),
    "table import-nas-bench-bert": (ImportNasBenchBertOptions, "kdnas_env.cli.table:run_import_nas_bench_bert"),
    "table agreement": (TableAgreementOptions, "kdnas_env.cli.table:run_agreement"),
    "table verify": (TableVerifyOptions, "kdnas_env.cli.table:run_verify"),
    "bench race": (BenchOptions, "kdnas_env.cli.bench:run_bench"),
    "bench submit": (SubmitOptions, "kdnas_env.cli.bench:run_submit"),
    "bench train": (TrainOptions, "kdnas_env.cli.bench:run_train"),
    "bench export": (BenchExportOptions, "kdnas_env.cli.bench:run_export"),
    "bench verify": (VerifyOptions, "kdnas_env.cli.bench:run_verify"),
    "agents": (AgentsOptions, "kdnas_env.cli.installed:run_agents"),
    "doctor": (DoctorOptions, "kdnas_env.cli.installed:run_doctor"),
}
"""Options of each command, and the function that runs it, imported only then, because most imports are slow.

Commands of two words are grouped by the first word."""

_GROUPS = {
    "table": "Build, inspect and verify tables of evaluations.",
    "bench": "Race agents on tables (kdnas bench --agents ...); submit searches of an agent, and verify submissions.",
}

_DEFAULT_COMMANDS = {"bench": "race"}
"""The second word of a group that may be omitted."""

_RENAMED = {"glue": "score"}
"""Current names of commands by their earlier names."""

_RAY = ("--ray", "--search.ray")


def parse(arguments: Sequence[str]) -> Callable[[], int]:
    """Parse the arguments, and return a function that runs the command.

    Raises:
        RunError: If the run to resume cannot be read, or was made with other settings.
        KDNASError: If an option is out of range, or has no effect.
        SystemExit: If the arguments are malformed, or ask for help.
    """
    arguments = _normalised(arguments)
    kind, words = _command_options(arguments)
    check_given_once(kind, words)
    with naming_flags(kind, given=arguments):
        # With this default, a model is recognised after the values of a list.
        missing = None if "--resume" in arguments else ScoreOptions(model=tyro.MISSING)
        options = completed(lambda defaults: _parse(arguments, defaults or missing))
    place = next(place for kind, place in COMMANDS.values() if type(options) is kind)
    return partial(_run, place, options, arguments)


def parse_words(arguments: Sequence[str]) -> Any:
    """Parse the arguments without reading the runs and files that they name.

    Raises:
        KDNASError: If an option is out of range.
        SystemExit: If the arguments are malformed, or ask for help.
    """
    return _parse(_normalised(arguments))


def _command_options(arguments: Sequence[str]) -> tuple[type[Any], Sequence[str]]:
    """Return the options of the command, and the words after it; without a command, the options of a run."""
    name = _named(arguments)
    return (PipelineOptions, arguments) if name is None else (COMMANDS[name][0], arguments[len(name.split()) :])


def _named(arguments: Sequence[str]) -> str | None:
    """Return the name of the command, of one word or two; None without a command."""
    return next((name for count in (2, 1) if (name := " ".join(arguments[:count])) in COMMANDS), None)


def _normalised(arguments: Sequence[str]) -> list[str]:
    """Complete the arguments: the second word of the command, the address of Ray, the full name of ``--task``."""
    arguments = [_RENAMED.get(word, word) for word in arguments[:1]] + [*arguments[1:]]
    word = _DEFAULT_COMMANDS.get(arguments[0]) if arguments else None
    given = len(arguments) > 1 and (not arguments[1].startswith("-") or arguments[1] in (*HELP, HELP_ALL))
    whole = [*arguments] if word is None or given else [arguments[0], word, *arguments[1:]]
    for place in reversed(range(len(whole))):
        if whole[place] in _RAY and (place + 1 == len(whole) or whole[place + 1].startswith("--")):
            whole.insert(place + 1, "auto")
    kind, words = _command_options(whole)
    return [*whole[: len(whole) - len(words)], *(_full_flag(kind, word) for word in words)]


def _full_flag(kind: type[Any], word: str) -> str:
    """Return the full flag of ``--task NAME``, or the new name of a renamed flag; other words are unchanged."""
    flag, equals, value = word.partition("=")
    if flag == "--task" and (name := task_field(kind)) is not None:
        return f"--{name}{equals}{value}"
    for earlier, new in getattr(kind, "RENAMED", {}).items():
        if flag.startswith(f"--{earlier}."):
            return f"--{new}{word.removeprefix(f'--{earlier}')}"
    return word


def _run(place: str, options: Any, arguments: Sequence[str]) -> int:
    module, _, function = place.partition(":")
    with naming_flags(type(options), given=arguments):
        status: int = getattr(importlib.import_module(module), function)(options)
    return status


def _parse(arguments: Sequence[str], defaults: Any = None) -> Any:
    name = _named(arguments)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            if name is None:
                return tyro.cli(
                    _all_commands(),
                    prog="kdnas",
                    description="Knowledge-distillation neural-architecture search for language models.",
                    args=["--help" if word == HELP_ALL else word for word in arguments],
                )
            # Only this command, so that no message names flags of other commands.
            kind, words = _command_options(arguments)
            if asks_for_help(words):
                print_help(name, kind, words)
            default = {"default": defaults} if type(defaults) is kind else {}
            return tyro.cli(kind, prog=f"kdnas {name}", args=list(words), **default)
    except BrokenPipeError:  # the reader of a help text has closed the pipe
        SafeConsole().on_broken_pipe()
        raise SystemExit from None
    except SystemExit as ended:
        refused = _refused(ended)
        if refused is not None:
            raise refused from None
        lost = swallowed(*_command_options(arguments)) if ended.code and "--resume" not in arguments else None
        if lost is not None:
            raise KDNASError(lost) from None
        sys.stderr.write(complaint.getvalue())
        raise


def _all_commands() -> Any:
    """Return the union of the options of all commands, for help and for arguments without a command."""
    commands: dict[str, Any] = {}
    groups: dict[str, list[Any]] = {}
    for name, (kind, _) in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        command: Any = Annotated[kind, tyro.conf.subcommand(word, prefix_name=False)]
        if not group:
            commands[name] = command
            continue
        groups.setdefault(group, []).append(command)
        commands[group] = Annotated[
            _union(groups[group]), tyro.conf.subcommand(group, description=_GROUPS[group], prefix_name=False)
        ]
    return _union(commands.values())


def _refused(ended: BaseException | None) -> KDNASError | None:
    """Return the error that options raised, which tyro would reword; None if the arguments are malformed."""
    while ended is not None and not isinstance(ended, KDNASError):
        ended = ended.__context__
    return ended


def _union(kinds: Iterable[Any]) -> Any:
    return Union[tuple(kinds)]  # noqa: UP007  (made of a table)
