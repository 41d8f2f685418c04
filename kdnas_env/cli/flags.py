"""Flags as they are typed: messages name them, and a flag that has no effect is refused."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, get_args, get_origin, get_type_hints

import tyro
from rich.console import Console

from kdnas_env.errors import CorpusError, KDNASError, LatencyError, SpaceError, TaskDataError
from kdnas_env.pipeline.options import task_field
from kdnas_env.pipeline.work import Interrupted
from kdnas_env.searching.recorded import flag, flag_words
from kdnas_env.support.progress import TaskProgress, Tone
from kdnas_env.support.shell import command

_GROUPS: dict[type[KDNASError], tuple[str, ...]] = {
    CorpusError: ("corpus", "text"),
    TaskDataError: ("task",),
    SpaceError: ("space",),
    LatencyError: ("latency",),
}
"""Groups of flags that the errors of a kind are about, where a name stands in several groups."""

_COMMANDS = {
    "race": ("bench",),
    "study": ("study", "proxy"),
    "build_table": ("table", "build"),
    "table_agreement": ("table", "agreement"),
}
"""Words of a command by the function that does the same, where they differ."""

_QUOTED = r"(?<!\w)'[^']*'|\"[^\"]*\""


@contextmanager
def naming_flags(kind: type[Any], given: Sequence[str] = ()) -> Iterator[None]:
    """Have errors of the library, which name its arguments and calls, name flags and command lines in the block.

    Args:
        kind: Options of the command.
        given: What was typed: of several flags that may be meant, it is one of those.

    Raises:
        KDNASError: What is raised in the block, with flags in the place of names.
        Interrupted: Likewise, with the command that goes on.
    """
    try:
        yield
    except KDNASError as error:
        _name_in_notes(error, kind)
        stage, whole = (kind, None) if error.stage is None else (get_type_hints(kind)[error.stage], kind)
        error.args = (typed(str(error), stage, _GROUPS.get(type(error), ()), given, whole=whole),)
        raise
    except Interrupted as error:
        _name_in_notes(error, kind)
        error.go_on = typed(f"`{error.go_on}`", kind)
        raise


def _name_in_notes(error: BaseException, kind: type[Any]) -> None:
    error.__notes__ = [typed(note, kind) for note in getattr(error, "__notes__", ())]


class FlagProgress(TaskProgress):
    """Shows what is done; where the library says arguments, it says flags.

    Args:
        console: Where it is shown.
        options: Options of the command.
    """

    def __init__(self, console: Console, options: Any) -> None:
        super().__init__(console)
        self._kind = type(options)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Print a line above the bar."""
        super().say(typed(text, self._kind, _GROUPS[CorpusError]) if "`" in text else text, tone)


def typed(
    message: str,
    kind: type[Any],
    groups: Sequence[str] = (),
    given: Sequence[str] = (),
    *,
    whole: type[Any] | None = None,
) -> str:
    """Return a message with flags in the place of the names of arguments; what it quotes stays.

    A name between backquotes is known as such, with a value after an equals sign or without. Elsewhere, a name of
    several words is known by its underscores, and one of a single word where the message begins with it or an equals
    sign follows. A call of the package between backquotes becomes a command line.

    Args:
        message: The message.
        kind: Options of the command.
        groups: Groups of flags that it is about.
        given: What was typed.
        whole: Options of the whole command, where the others are those of a stage: a name that was typed as one of
            them, or that the stage does not have, is one of them.
    """
    flags = _flags(kind)
    for name, others in ({} if whole is None else _flags(whole)).items():
        flags[name] = tuple(other for other in others if other in given) or flags.get(name) or others

    def replaced(match: re.Match[str]) -> str:
        if match["call"]:
            return _command_line(match["call"])
        if match["marked"]:
            return _with_value(_flag_of(match["marked"], kind, flags, groups, given), match["value"]) or match[0]
        name = match["name"] or match["first"] or match["equal"]
        return " or ".join(_meant(flags[name], groups, given)) if name in flags else match[0]

    call = r"`kdnas_env\.(?:\w+\.)*(?P<call>\w+\([^`]*\))`"
    marked = r"`(?P<marked>[a-z][\w.]*)(?:=(?P<value>[^`]+))?`"
    several = r"(?<![\w./-])(?P<name>[a-z]+(?:_[a-z]+)+)(?![\w(./])"
    single = r"(?<![\w./-])(?P<equal>[a-z]+)(?==)|^(?P<first>[a-z]+)(?= is | are )"
    return re.sub(f"{call}|{marked}|{_QUOTED}|{several}|{single}", replaced, message)


def _flag_of(
    name: str, kind: type[Any], flags: Mapping[str, Sequence[str]], groups: Sequence[str], given: Sequence[str]
) -> str | None:
    """Return the flag of an option that a message names, with dots where it is of a group; None if it has none."""
    stage = getattr(kind, "STAGE", None)
    if name == "task" and task_field(kind) is not None:
        return "--task"
    if name in _settable(kind):
        return flag(f"{stage}.{name}" if stage else name)
    last = name.rpartition(".")[2]
    return " or ".join(_meant(flags[last], groups, given)) if last in flags else None


def _with_value(name: str | None, value: str | None) -> str | None:
    """Return a flag with its value, if it has one, as a shell takes it."""
    if name is None or value is None:
        return name
    try:
        parsed = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return f"{name} {value}"
    if isinstance(parsed, bool):
        group, dot, last = name.removeprefix("--").rpartition(".")
        return name if parsed else f"--{group}{dot}no-{last}"
    values = parsed if isinstance(parsed, list | tuple) else [parsed]
    return shlex.join([name, *map(str, values)])


def _command_line(call: str) -> str:
    """Return the command line that does the same as a call of a function of the package."""
    parsed: Any = ast.parse(call, mode="eval").body
    words = [ast.literal_eval(argument) for argument in parsed.args]
    for keyword in parsed.keywords:
        words += flag_words(keyword.arg, ast.literal_eval(keyword.value))
    return command(*_COMMANDS.get(parsed.func.id, (parsed.func.id,)), *words)


def _meant(flags: Sequence[str], groups: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    """Return the flags that a name stands for: those of the group, those typed, else the least nested."""
    for likely in (
        [name for name in flags if name.startswith(tuple(f"--{group}." for group in groups))],
        [name for name in flags if any(f"{group}." in name for group in groups)],
        [name for name in flags if name in given],
    ):
        if likely:
            return likely
    least = min(name.count(".") for name in flags)
    return [name for name in flags if name.count(".") == least]


def _flags(kind: type[Any]) -> dict[str, tuple[str, ...]]:
    """Return the flags of options by the last part of their names; those of a stage of a run have its name before."""
    flags: dict[str, tuple[str, ...]] = {}
    stage = getattr(kind, "STAGE", None)
    for name in _settable(kind):
        last = name.rpartition(".")[2]
        flags[last] = (*flags.get(last, ()), flag(f"{stage}.{name}" if stage else name))
    return flags


def _settable(kind: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the types of the options that have a flag, by name, those of groups included."""
    hints = get_type_hints(kind, include_extras=True)
    types: dict[str, Any] = {}
    for field in fields(kind):
        hint = hints[field.name]
        marks = getattr(hint, "__metadata__", ())
        hint = get_args(hint)[0] if marks else hint
        if tyro.conf.Suppress in marks or tyro.conf.Positional in marks:
            continue
        if is_dataclass(hint):
            types |= _settable(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            types[prefix + field.name] = hint
    return types


def check_given_once(kind: type[Any], words: Sequence[str]) -> None:
    """Refuse a list that is given twice, of which only the last values would count.

    Args:
        kind: Options of the command.
        words: What follows the command.

    Raises:
        KDNASError: Naming the flag.
    """
    lists = {flag(name) for name, hint in _settable(kind).items() if get_origin(hint) is tuple}
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for place, name in enumerate(given):
        if name in lists and name in given[:place]:
            raise KDNASError(f"{name} is given twice; give it once, with its values one after the other")


def swallowed(kind: type[Any], words: Sequence[str]) -> str | None:
    """Return what to say where a flag that takes a list took what should stand on its own; None where that is not so.

    What stands at the end is told from a list before it, so that only a list before another flag can take it.

    Args:
        kind: Options of the command.
        words: What follows the command.
    """
    hints = get_type_hints(kind, include_extras=True)
    alone = [name.upper() for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())]
    settable = {flag(name): hint for name, hint in _settable(kind).items()}
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    if not alone or not starts or starts[0]:
        return None
    taken = None
    for start, end in pairwise([*starts, len(words)]):
        given, values = words[start], words[start + 1 : end]
        if get_origin(settable.get(given)) is tuple:
            taken = taken or (values and (given, values))
        elif len(values) > (settable.get(given, bool) is not bool):
            return None
    if not taken or words[starts[-1]] == taken[0]:
        return None
    return f"no {alone[0]} is named: {taken[0]} takes all of {' '.join(taken[1])!r}; put {alone[0]} before the flags"
