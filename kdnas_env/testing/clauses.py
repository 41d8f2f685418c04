"""Functions that the conformance suites share."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def clause(name: str, holds: object, complaint: str) -> None:
    """Fail the test if a clause of the contract does not hold.

    Args:
        name: Name of the clause.
        holds: Whether it holds, as a truth value.
        complaint: What is wrong, for the message.

    Raises:
        AssertionError: If the clause does not hold.
    """
    if not holds:
        raise AssertionError(f"clause '{name}' does not hold: {complaint}")


def global_states() -> tuple[object, ...]:
    """Return the states of the global random generators of Python, numpy and, if it was imported, torch."""
    torch = sys.modules.get("torch")
    return (
        random.getstate(),
        pickle.dumps(np.random.get_state()),  # noqa: NPY002
        torch.get_rng_state().tolist() if torch else None,
    )


@contextmanager
def shaken_generators() -> Iterator[None]:
    """Set the global random generators to unusual states in the block, and restore them after it.

    A test can then detect that the code under test seeds a generator, because the seed is hardly ever the same.
    """
    torch = sys.modules.get("torch")
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    try:
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002
        if torch:
            torch.manual_seed(99)
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        if torch:
            torch.set_rng_state(saved[2])
