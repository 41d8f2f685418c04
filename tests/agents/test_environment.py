from __future__ import annotations

import numpy as np

from kdnas_env.agents.environment import split_infos


def test_infos_are_split() -> None:
    infos = {
        "loss": np.array([0.5, 0.0]),
        "_loss": np.array([True, False]),
        "curve": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "late": {"round": np.array([3, 4]), "_round": np.array([True, True])},
        "_late": np.array([False, True]),
        "_private": np.array(["x", "y"], dtype=object),
    }
    one, other = split_infos(infos, 2)
    assert one.pop("curve").tolist() == [1.0, 2.0]
    assert one == {"loss": 0.5, "_private": "x"}
    assert other["late"] == {"round": 4}
    assert "loss" not in other
