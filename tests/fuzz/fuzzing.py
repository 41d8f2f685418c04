"""Shared parts of the fuzz tests: the number of inputs of each target, ways to corrupt inputs, and what readers may do.

A reader of corrupt input must return or raise a ``KDNASError``, nothing else. A target fails if one of its readers
accepts or refuses nearly all inputs, because it then tests only one of the two outcomes.

By default, every run tries the same ``sum(INPUTS.values())`` inputs. To try more and other inputs::

    KDNAS_FUZZ=10 KDNAS_FUZZ_SEED=7 pytest tests/fuzz

tries ten times as many, drawn with seed 7. A failure reports the input, and the seed that hypothesis has shrunk to.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from kdnas_env.errors import KDNASError

INPUTS = {
    "evaluation text": 8_000,
    "evaluation tree": 6_000,
    "student": 8_000,
    "space tree": 6_000,
    "space file": 300,
    "specification": 2_000,
    "table": 900,
    "surrogate": 200,
    "latencies": 2_000,
    "state file": 500,
    "state": 300,
    "trajectories": 200,
    "store file": 150,
    "store rows": 200,
    "run folder": 3_000,
    "journal": 1_500,
    "results": 1_000,
    "lineage": 2_500,
    "weights": 40,
    "teacher config": 150,
    "teacher files": 40,
    "corpus": 40,
    "glue": 500,
    "scores": 2_000,
    "cache": 40,
    "page": 500,
    "actions": 2_000,
    "vector actions": 750,
    "wrapped actions": 1_000,
    "options": 1_500,
    "arguments of environments": 500,
    "ask and tell": 1_500,
    "command line": 40,
}
"""Number of inputs of each target: many if a reader takes microseconds, few if it loads a model."""

LEAST = 50_000
"""Minimum number of inputs of the whole suite."""

BATCH = 20
"""Number of inputs made from one seed, so that drawing the seed takes less time than the tests."""

LONGEST_COMPLAINT = 10_000
"""Maximum number of characters of an error message, however long the input is."""

_FACTOR = float(os.environ.get("KDNAS_FUZZ", "1"))
_SEED = os.environ.get("KDNAS_FUZZ_SEED")

Test = Callable[..., None]


@dataclass
class Answers:
    """How often a reader returned, and how often it refused."""

    accepted: int = 0
    refused: int = 0


_ANSWERS: ContextVar[dict[str, Answers]] = ContextVar("answers")  # by reader, of the running target

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**64),
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "x",
    "nan",
    "a\nb",
    "\x00",
    "\ud800",
    "\u202e",
    "[/bold]",
    "</script>",
    "{0.__class__}",
    "../../evil",
    "/dev/null",
    "x" * 3000,
    [],
    [[]],
    [None],
    [0] * 50,
    {},
    {"": None},
    {"__class__": "x", "../evil": 1},
)
"""Unexpected values, to put in place of any other value."""

_TOKENS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b'"',
    b"{",
    b"]",
    b",",
    b": ",
    b"\\ud800",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"&a [*a]",
    b"!!python/object/apply:os.getpid []",
    b"../../evil",
    b"\x80\x04\x95cos\nsystem\n.",
)


_LONG = (b"9" * 5000, b"[" * 2000, b'{"a":' * 2000)


def fuzz(name: str, batch: int = BATCH, *, refuses: bool = True) -> Callable[[Test], Test]:
    """Call a test with many generators ``rng``. The test tries ``batch`` inputs of each, ``INPUTS[name]`` in total.

    The test fails if one of its readers accepts or refuses fewer than one in a hundred of its inputs.

    Args:
        name: The target.
        batch: Number of inputs made from one generator.
        refuses: Whether the target has readers that must refuse some inputs; answers are counted only then.
    """

    def decorate(test: Test) -> Test:
        made = settings(
            max_examples=max(1, round(INPUTS[name] * _FACTOR / batch)),
            derandomize=_SEED is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(rng=st.integers(0, 2**64 - 1).map(Random))(test))
        seeded = made if _SEED is None else seed(int(_SEED))(made)
        return both_ways(seeded) if refuses else seeded

    return decorate


def both_ways(test: Test) -> Test:
    """Make a test fail if a reader nearly always gives the same answer, or if no answer is counted."""

    @wraps(test)
    def judged(*arguments: Any, **options: Any) -> None:
        answers: dict[str, Answers] = {}
        token = _ANSWERS.set(answers)
        try:
            test(*arguments, **options)
        finally:
            _ANSWERS.reset(token)
        if not answers:
            pytest.fail("no answer was counted")
        for reader, of_reader in answers.items():
            if min(of_reader.accepted, of_reader.refused) < 0.01 * (of_reader.accepted + of_reader.refused):
                pytest.fail(f"the inputs test one answer of the reader {reader!r} only: {of_reader}")

    return judged


def survive(read: Callable[..., object], *given: Any, told: Any = None, reader: str = "") -> None:
    """Call a reader. It may return or raise a ``KDNASError``; other errors fail the test.

    Args:
        read: The reader.
        given: Its arguments.
        told: What a failure reports about the input; by default the arguments.
        reader: Name of the reader, if the target has several; answers are counted by name.
    """
    complaint = ""
    try:
        read(*given)
    except KDNASError as error:
        complaint = str(error)
    except BaseException as error:
        error.add_note(f"input: {ascii(given if told is None else told)[:2000]}")
        raise
    answered(accepted=not complaint, reader=reader)
    if len(complaint) > LONGEST_COMPLAINT:
        pytest.fail(f"the message has {len(complaint)} characters: {complaint[:200]}")


def answered(*, accepted: bool, reader: str = "") -> None:
    """Count an answer of a reader of the running target."""
    answers = _ANSWERS.get().setdefault(reader, Answers())
    answers.accepted += accepted
    answers.refused += not accepted


def spoilt_bytes(rng: Random, data: bytes) -> bytes:
    """Corrupt bytes one to three times: flip a bit, overwrite, insert, delete, repeat, truncate or splice."""
    for _ in range(rng.randint(1, 3)):
        place, length = rng.randint(0, len(data)), rng.choice((1, 1, 2, 4, 16, 64))
        before, after = data[:place], data[place:]
        kind = rng.randrange(7)
        if kind == 0 and after:
            data = before + bytes([after[0] ^ (1 << rng.randrange(8))]) + after[1:]
        elif kind == 1:
            data = before + rng.randbytes(length) + after[length:]
        elif kind == 2:
            data = before + rng.choice(_TOKENS if rng.random() < 0.9 else _LONG) + after
        elif kind == 3:
            data = before + after[length:]
        elif kind == 4:
            data = before + after[:length] * rng.choice((2, 3, 50)) + after[length:]
        elif kind == 5:
            data = before
        else:
            other = rng.randint(0, len(data))
            data = before + data[other : other + 4 * length] + after
    return data


def spoilt_tree(rng: Random, tree: Any, odd: Sequence[Any] = ODD) -> Any:
    """Corrupt plain data one to three times: change a value, key or length, delete an item, or replace everything."""
    tree = _copied(tree)
    for _ in range(rng.randint(1, 3)):
        holder, key = _place(rng, tree)
        if holder is None:
            return _copied(rng.choice(odd))
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "version", "../evil", key + " "))] = holder.pop(key)
        elif kind == 2 and isinstance(holder[key], list | dict) and holder[key]:
            holder[key] = _stretched(rng, holder[key])
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice((-1, 0, 10, 1 << 20))
        else:
            holder[key] = _copied(rng.choice(odd))
    return tree


def spoilt_json(rng: Random, tree: Any) -> bytes:
    """Return plain data as JSON, with corrupt data, corrupt text or both."""
    kind = rng.randrange(4)
    text = json.dumps(tree if kind == 0 else spoilt_tree(rng, tree), ensure_ascii=rng.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    if kind == 1 and data.startswith(b"{"):
        data = data[:-1] + b', "' + rng.choice((b"x", b"config", b"kind")) + b'": 1' * rng.randint(0, 1) + data[-1:]
    return spoilt_bytes(rng, data) if kind in (0, 2) else data


def _copied(tree: Any) -> Any:
    """Copy plain data, in a tenth of the time of ``deepcopy``."""
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _place(rng: Random, tree: Any) -> tuple[Any, Any]:
    """Return a random list or mapping in plain data and a key or index in it; sometimes, or if there is none, None."""
    holder, key = None, None
    while isinstance(tree, dict | list) and tree and (holder is None or rng.random() < 0.7):
        holder = tree
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        tree = holder[key]
    return (None, None) if rng.random() < 0.03 else (holder, key)


def _stretched(rng: Random, value: Any) -> Any:
    if isinstance(value, dict):
        return list(value) if rng.random() < 0.5 else {**value, "more": 1}
    return value[: rng.randrange(len(value))] if rng.random() < 0.5 else value * rng.choice((2, 3))
