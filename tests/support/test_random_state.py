from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from kdnas_env.support.random_state import preserved_rng


def test_global_random_states_are_put_back_whatever_happens() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])

    def disturb() -> None:
        with preserved_rng():
            draw()
            torch.manual_seed(7)
            raise KeyError

    with pytest.raises(KeyError):
        disturb()
    assert draw() == expected
