"""Flags of the command line: messages of the library are rewritten to name them, and repeated flags are refused."""

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
from kdnas_env.support.progress import ConsoleProgress, Tone
from kdnas_env.support.shell import command

_GROUPS: dict[type[KDNASError], tuple[str, ...]] = {
    CorpusError: ("corpus", "text"),
    TaskDataError: ("task",),
    SpaceError: ("space",),
    LatencyError: ("latency",),
}
"""Groups of flags that an error refers to, by its class, where several groups have the same name."""

_COMMANDS = {
    "race": ("bench",),
    "study": ("study", "proxy"),
    "build_table": ("table", "build"),
    "table_agreement": ("table", "agreement"),
}
"""Words of the command of a function, where they differ from its name."""

_QUOTED = r"(?<!\w)'[^']*'|\"[^\"]*\""


@contextmanager
def naming_flags(kind: type[Any], given: Sequence[str] = ()) -> Iterator[None]:
    """Rewrite errors raised in the block: names of arguments become flags, calls become command lines.

    Args:
        kind: Options of the command.
        given: The words that were typed; of several matching flags, one of these is chosen.

    Raises:
        KDNASError: The error of the block, with flags in place of names.
        Interrupted: Likewise, with the command that resumes the work.
    """
    try:
        yield
    except KDNASError as error:
        _name_in_notes(error, kind)
        stage, whole = (kind, None) if error.stage is None else (get_type_hints(kind)[error.stage], kind)
        error.args = (with_flags(str(error), stage, _GROUPS.get(type(error), ()), given, whole=whole),)
        raise
    except Interrupted as error:
        _name_in_notes(error, kind)
        error.go_on = with_flags(f"`{error.go_on}`", kind)
        raise


def _name_in_notes(error: BaseException, kind: type[Any]) -> None:
    error.__notes__ = [with_flags(note, kind) for note in getattr(error, "__notes__", ())]


class FlagProgress(ConsoleProgress):
    """Shows progress, with flags in place of the names of arguments.

    Args:
        console: Console to print on.
        options: Options of the command.
    """

    def __init__(self, console: Console, options: Any) -> None:
        super().__init__(console)
        self._kind = type(options)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Print a line above the progress bar."""
        super().say(with_flags(text, self._kind, _GROUPS[CorpusError]) if "`" in text else text, tone)


def with_flags(
    message: str,
    kind: type[Any],
    groups: Sequence[str] = (),
    given: Sequence[str] = (),
    *,
    whole: type[Any] | None = None,
) -> str:
    """Return a message with flags in place of the names of arguments; quoted text is unchanged.

    A word between backquotes counts as a name, with or without a value after an equals sign. Elsewhere, a word with
    underscores counts as a name, and a single word does at the start of the message or before an equals sign. A call of
    the package between backquotes becomes a command line.

    Args:
        message: The message.
        kind: Options of the command.
        groups: Groups of flags that it refers to.
        given: The words that were typed.
        whole: Options of the whole command if ``kind`` is a stage of it. A name counts as one of these if it was typed
            as such, or if the stage does not have it.
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
        return " or ".join(_likely_flags(flags[name], groups, given)) if name in flags else match[0]

    call = r"`kdnas_env\.(?:\w+\.)*(?P<call>\w+\([^`]*\))`"
    marked = r"`(?P<marked>[a-z][\w.]*)(?:=(?P<value>[^`]+))?`"
    several = r"(?<![\w./-])(?P<name>[a-z]+(?:_[a-z]+)+)(?![\w(./])"
    single = r"(?<![\w./-])(?P<equal>[a-z]+)(?==)|^(?P<first>[a-z]+)(?= is | are )"
    return re.sub(f"{call}|{marked}|{_QUOTED}|{several}|{single}", replaced, message)


def _flag_of(
    name: str, kind: type[Any], flags: Mapping[str, Sequence[str]], groups: Sequence[str], given: Sequence[str]
) -> str | None:
    """Return the flag of an option that a message names, with dots if it is in a group; None without a flag."""
    stage = getattr(kind, "STAGE", None)
    if name == "task" and task_field(kind) is not None:
        return "--task"
    if name in _settable(kind):
        return flag(f"{stage}.{name}" if stage else name)
    last = name.rpartition(".")[2]
    return " or ".join(_likely_flags(flags[last], groups, given)) if last in flags else None


def _with_value(name: str | None, value: str | None) -> str | None:
    """Return a flag, with its value if there is one, quoted for a shell."""
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
    """Return the command line of a call of a function of the package."""
    parsed: Any = ast.parse(call, mode="eval").body
    words = [ast.literal_eval(argument) for argument in parsed.args]
    for keyword in parsed.keywords:
        words += flag_words(keyword.arg, ast.literal_eval(keyword.value))
    return command(*_COMMANDS.get(parsed.func.id, (parsed.func.id,)), *words)


def _likely_flags(flags: Sequence[str], groups: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    """Return the flags that a name refers to: those of the group, those typed, else the least nested."""
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
    """Return the flags of options by the last part of their names; flags of a stage begin with its name."""
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
    """Refuse a list that is given twice, because only the last values would count.

    Args:
        kind: Options of the command.
        words: The words after the command.

    Raises:
        KDNASError: Naming the flag.
    """
    lists = {flag(name) for name, hint in _settable(kind).items() if get_origin(hint) is tuple}
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for place, name in enumerate(given):
        if name in lists and name in given[:place]:
            raise KDNASError(f"{name} is given twice; give it once, with its values one after the other")


def swallowed(kind: type[Any], words: Sequence[str]) -> str | None:
    """Return a message if a flag that takes a list has also taken the positional argument; None otherwise.

    A positional argument at the end is recognised after a list, so that only a list before another flag can take it.

    Args:
        kind: Options of the command.
        words: The words after the command.
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
