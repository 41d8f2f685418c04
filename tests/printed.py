"""Captured output, for fixtures that several tests read; pytest's own capture lasts for one test."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def with_output(call: Callable[[], T]) -> tuple[T, str]:
    """Return what a function returns, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        returned = call()
    return returned, printed.getvalue()
