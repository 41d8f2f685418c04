from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kdnas_env.errors import KDNASError, TableError
from kdnas_env.support.checks import check_choice, check_number, check_whole


@pytest.mark.parametrize("value", [2, np.int64(2)])
def test_whole_numbers_become_python_s(value: Any) -> None:
    assert type(check_whole("n", value, at_least=2)) is int


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2.0)])
def test_numbers_become_floats(value: Any) -> None:
    assert type(check_number("x", value, above=1, below=3)) is float


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.bool_(True), [1]])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(KDNASError, match=r"n is .*; expected a whole number$"):
        check_whole("n", value)


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, 10**400, 1j])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(KDNASError, match=r"x is .*; expected a finite number$"):
        check_number("x", value)


def test_bounds_are_named() -> None:
    with pytest.raises(
        TableError, match=r"n is 0; expected a whole number of cells, at least 1 and at most 1,000,000$"
    ):
        check_whole("n", 0, of="cells", at_least=1, at_most=1_000_000, error=TableError)
    with pytest.raises(KDNASError, match=r"x is 1; expected a number above 0 and below 1$"):
        check_number("x", 1, above=0, below=1)
    with pytest.raises(KDNASError, match=r"x is nan; expected a number at most 0.5$"):
        check_number("x", math.nan, at_most=0.5)


def test_messages_name_units_and_end_with_advice() -> None:
    with pytest.raises(KDNASError, match=r"x is 0; expected a number of seconds above 0; leave it out$"):
        check_number("x", 0, of="seconds", above=0, advice="leave it out")
    with pytest.raises(KDNASError, match=r"n is 0; expected a whole number, at least 1; None takes all$"):
        check_whole("n", 0, at_least=1, advice="None takes all")


@pytest.mark.parametrize("value", ["c", ["a"], None])
def test_choices_are_listed(value: Any) -> None:
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(KDNASError, match=r"kind is .*; expected one of \['a', 'b'\]"):
        check_choice("kind", value, ("a", "b"))
