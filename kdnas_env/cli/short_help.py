"""The output of ``kdnas COMMAND --help``: the common flags. ``--help-all`` shows all flags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import tyro

from kdnas_env.cli.console import SafeConsole

HELP_ALL = "--help-all"
HELP = ("-h", "--help")

COMMON: Mapping[str, Sequence[str]] = {
    "run": (
        *("task.name", "task.unlabelled", "teacher"),
        *("limits.speedup", "limits.latency_ms", "limits.size_mb", "limits.format", "limits.keep"),
        *("search.budget", "distill.epochs", "out", "resume"),
    ),
    "search": (
        *("teacher", "corpus.source", "limits.speedup", "limits.size_mb"),
        *("task.name", "reward.quality", "agent", "budget", "epochs", "workers", "out", "resume"),
    ),
    "distill": (
        *("run", "task.name", "task.unlabelled", "task.unlabelled_samples", "task.epochs", "family", "students"),
        *("corpus.source", "corpus.max_length", "corpus.max_samples", "epochs", "batch_size", "learning_rate", "out"),
    ),
    "score": (
        *("model", "tasks", "data", "models", "teacher", "rows", "finetune", "seeds", "epochs", "max_length"),
        *("out", "resume"),
    ),
    "study": ("what", "run", "students", "tasks", "data", "text.source", "epochs", "seed", "workers", "out"),
    "vocabulary": ("teacher", "size", "corpus.source", "corpus.text_columns", "corpus.max_samples", "out"),
    "table build": (
        *("name", "out", "teacher", "corpus.source", "space.file", "space.families", "seeds", "epochs", "runtimes"),
        *("shard", "workers"),
    ),
}
"""Options that a command's help shows, with dots for nested ones; commands that are not listed show all."""


def asks_for_help(words: Collection[str]) -> bool:
    """Return whether the words of a command line ask for help, short or long."""
    return any(word in words for word in (*HELP, HELP_ALL))


def print_help(name: str, kind: type[Any], words: Collection[str]) -> NoReturn:
    """Print the help of a command: the common flags, or all.

    Args:
        name: Name of the command.
        kind: Its options.
        words: The words after the command.

    Raises:
        SystemExit: Always, after printing.
    """
    shown = () if HELP_ALL in words else COMMON.get(name, ())
    with suppress(SystemExit):
        tyro.cli(_part(kind, shown) if shown else kind, prog=f"kdnas {name}", args=["--help"])
    if shown:
        SafeConsole().say(f"{len(shown)} of {_count(kind)} options are shown; all: kdnas {name} {HELP_ALL}")
    raise SystemExit(0)


def _part(kind: type[Any], wanted: Sequence[str]) -> type[Any]:
    """Return a dataclass like another one, in which only some options have a flag."""
    hints = get_type_hints(kind, include_extras=True)
    annotations: dict[str, Any] = {}
    namespace: dict[str, Any] = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__annotations__": annotations}
    for option in fields(kind):
        name = option.name
        hint: Any = hints[name]
        below = [other.removeprefix(f"{name}.") for other in wanted if other.startswith(f"{name}.")]
        if name in wanted:
            continue
        default: Any = option.default if option.default_factory is MISSING else option.default_factory
        if below:
            marks = getattr(hint, "__metadata__", ())
            group = _part(get_args(hint)[0] if marks else hint, below)
            hint = Annotated[group, *marks] if marks else group
            default = _default_factory(group, default)
        else:
            hint = Annotated[hint, tyro.conf.Suppress]
        annotations[name] = hint
        given = {"default_factory": default} if callable(default) else {"default": default}
        namespace[name] = field(**given, kw_only=option.kw_only)
    return dataclass(frozen=True)(type(kind.__name__, (kind,), namespace))


def _default_factory(group: type[Any], make: Callable[[], Any]) -> Callable[[], Any]:
    """Return a factory of a part of a group of options, with the group's defaults."""
    return lambda: _converted(group, make())


def _converted(kind: type[Any], options: Any) -> Any:
    values = {option.name: getattr(options, option.name) for option in fields(kind)}
    for option in fields(kind):
        part = None if option.default_factory is MISSING else type(option.default_factory())
        if is_dataclass(part) and part is not type(values[option.name]):
            values[option.name] = _converted(part, values[option.name])
    return kind(**values)


def _count(kind: type[Any]) -> int:
    """Return the number of options with a flag, including nested ones."""
    hints, count = get_type_hints(kind, include_extras=True), 0
    for option in fields(kind):
        hint = hints[option.name]
        if tyro.conf.Suppress in getattr(hint, "__metadata__", ()):
            continue
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        count += _count(inner) if is_dataclass(inner) and isinstance(inner, type) else 1
    return count
