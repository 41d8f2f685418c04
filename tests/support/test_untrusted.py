"""Untrusted plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import pytest

from kdnas_env.support.untrusted import as_array, is_number, is_whole, parse_json, parse_yaml, restore, shown


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    name: str
    share: float = 0.5
    flag: bool = False
    sizes: tuple[int, ...] = ()
    maybe: int | None = None
    colour: Colour = Colour.RED
    choice: Literal["a", "b"] = "a"
    inner: Inner | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None


def test_a_dataclass_is_restored_with_its_types() -> None:
    told = {
        "name": "x",
        "share": 1,
        "sizes": [1, 2],
        "colour": "red",
        "choice": "b",
        "inner": {"size": 3},
        "more": {"a": 2},
        "anything": [{}],
    }
    made = restore(Outer, told)
    assert made == Outer(
        "x", 1.0, sizes=(1, 2), colour=Colour.RED, choice="b", inner=Inner(3), more={"a": 2.0}, anything=[{}]
    )
    assert isinstance(made.share, float)
    assert isinstance(made.colour, Colour)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name is 3; expected a text"),
        ({"name": "\ud800"}, "expected a text that UTF-8 can hold"),
        ({"share": "0.5"}, "share is '0.5'; expected a finite number"),
        ({"share": float("nan")}, "share is nan"),
        ({"share": 10**400}, r"share is a value of type int that cannot be printed|share is 1000"),
        ({"share": True}, "share is True"),
        ({"flag": 1}, "flag is 1; expected true or false"),
        ({"sizes": "12"}, "sizes is '12'; expected a list"),
        ({"sizes": [1, 2.5]}, r"sizes is \[1, 2.5\]; expected a whole number"),
        ({"sizes": [True]}, "expected a whole number"),
        ({"maybe": "x"}, "maybe is 'x'; expected a whole number or nothing"),
        ({"colour": "blue"}, r"colour is 'blue'; expected one of \['red'\]"),
        ({"colour": []}, "expected one of"),
        ({"choice": []}, r"choice is \[\]; expected one of \['a', 'b'\]"),
        ({"inner": 3}, "inner is 3; expected a mapping of the fields of a Inner or nothing"),
        ({"inner": {}}, "size"),
        ({"inner": {"size": "x"}}, "size is 'x'"),
        ({"more": [1]}, "more is .*; expected a mapping of names"),
        ({"more": {1: 1.0}}, "expected a mapping of names"),
        ({"more": {"a": "x"}}, "expected a finite number"),
        ({"nonsense": 1}, r"unknown field\(s\) \['nonsense'\]; known fields are \['name'"),
        ({3: 1}, r"unknown field\(s\) \[3\]"),
    ],
)
def test_what_is_of_another_type_is_refused(change: dict[Any, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        restore(Outer, {"name": "x", **change})


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("1e3", 1e3), (".5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("1_000", 1000)],
)
def test_numbers_are_read_as_people_write_them(text: str, number: float) -> None:
    assert parse_yaml(f"[{text}]") == [number]
    assert type(parse_yaml(text)) is type(number)


@pytest.mark.parametrize("text", ["nan", "1e", "e5", "1e5x", "_1e5", "one"])
def test_what_only_looks_like_a_number_stays_a_text(text: str) -> None:
    assert parse_yaml(text) == text


@pytest.mark.parametrize("text", ["9" * 40_000 + "x", "9" * 20_000 + "." + "9" * 20_000 + "x"])
def test_a_long_number_is_read_in_time_that_grows_with_its_length(text: str) -> None:
    started = time.process_time()
    assert parse_yaml(text) == text
    assert time.process_time() - started < 5  # quadratic time would be half a minute


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '[{"x": {"a": 1, "a": 1}}]'])
def test_a_key_that_stands_there_twice_is_named(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match="the key 'a' occurs twice; keep one of them"):
        read(text)


@pytest.mark.parametrize("data", [None, [], "name", 3])
def test_what_is_no_mapping_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="is not a mapping of the fields of a Outer"):
        restore(Outer, data)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="name"):
        restore(Outer, {})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "[1e999]", "-Infinity", "{", "9" * 5000, ""])
def test_json_that_cannot_be_written_again_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|not finite|Expecting|digits"):
        parse_json(text)


def test_numbers_that_are_not_finite_can_be_wanted() -> None:
    assert np.isnan(parse_json(b'{"a": NaN}', finite=False)["a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:os.getpid []", "could not determine a constructor"),
        ("a: &x [1]\nb: *x", "aliases are not read"),
        ("&a [*a]", "aliases are not read"),
        ("day: 2001-99-99", "month must be"),
        ("day: 2001-01-01", "a date; put a text into quotes"),
        ("!!bool x", "x"),
        ("!!timestamp x", "groupdict"),
        ("1: 2", "key 1 is not a text"),
        ("!!set {a}", "a set"),
        ("0x" + "f" * 5000, "very many digits"),
        ("[" * 2000, "nested too deeply"),
        ("\x00", "special characters are not allowed"),
    ],
)
def test_yaml_holds_plain_data_only(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)


def test_yaml_is_read() -> None:
    assert parse_yaml("{a: [1, 2.5, x, null, true], 'b': {c: .inf}}") == {
        "a": [1, 2.5, "x", None, True],
        "b": {"c": float("inf")},
    }


def test_values_are_shown_short() -> None:
    assert shown("x") == "'x'"
    assert len(shown("x" * 10**6)) < 100
    assert len(shown([["y" * 1000] * 1000] * 1000)) < 1000
    assert "cannot be printed" in shown(10**5000)


def test_arrays_of_anything() -> None:
    assert is_whole(as_array([1, 2]))
    assert not is_whole(as_array([[1], [1, 2]]))
    assert not is_whole(as_array(np.array([1], dtype="m8[s]")))
    assert not is_whole(as_array([True]))
    assert [is_number(value) for value in (1, 2.5, np.float32(1), True, "1", 10**400, float("inf"), None)] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]
