from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.envs.making import resolve_space
from kdnas_env.errors import SpaceError
from kdnas_env.evaluators.planted import PLANTED_TEACHER

IDS = sorted(spec.id for spec in gym.registry.values() if spec.namespace == "kdnas")
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "onnxruntime", "pandas", "scipy", "rich", "tyro")


def test_the_registered_ids() -> None:
    assert IDS == [
        "kdnas/External-v0",
        "kdnas/MiniKD-v0",
        "kdnas/MiniKDAnalytic-v0",
        "kdnas/Planted-v0",
        "kdnas/Surrogate-v0",
        "kdnas/Tabular-v0",
        "kdnas/Tasks-v0",
    ]
    nondeterministic = [name for name in IDS if gym.spec(name).nondeterministic]
    assert nondeterministic == ["kdnas/MiniKD-v0"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, kdnas_env; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_planted_search_loads_nothing_heavy() -> None:
    code = (
        "import sys, gymnasium, kdnas_env\n"
        "env = gymnasium.make('kdnas/Planted-v0', render_mode='ansi'); env.reset(seed=0)\n"
        "env.step(env.action_space.sample()); env.render()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", IDS)
def test_specs_survive_json(name: str) -> None:
    spec = EnvSpec.from_json(gym.spec(name).to_json())
    assert spec == gym.spec(name)


def test_an_environment_is_made_again_from_its_spec() -> None:
    options: dict[str, Any] = {
        "space": {"num_hidden_layers": [3, 6], "hidden_act": ["gelu", "relu"], "max_parameters": 90_000_000},
        "budget": 3,
        "noise": 0.2,
        "seed": 4,
    }
    env = gym.make("kdnas/Planted-v0", **options)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for one in (env, again):
        one.reset(seed=0)
    assert data_equivalence(env.step(np.array([1, 0])), again.step(np.array([1, 0])), exact=True)


def test_resolve_space(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("hidden_size: [96, 192]\nmax_parameters: 11000000\n")
    assert resolve_space(None, PLANTED_TEACHER).size == 1200
    assert resolve_space(None, PLANTED_TEACHER, families="albert").choices["family"] == ("albert",)
    assert resolve_space(None, PLANTED_TEACHER, ["bert", "albert"], 60_000_000).max_parameters == 60_000_000
    assert resolve_space(path, PLANTED_TEACHER).max_parameters == 11_000_000
    assert resolve_space(str(path), PLANTED_TEACHER, max_parameters=50_000_000).max_parameters == 50_000_000
    assert resolve_space({"hidden_size": [96, 192]}, PLANTED_TEACHER).size == 2
    with pytest.raises(
        SpaceError, match=r"families is \['bert'\], but a space is given too; list families in the space"
    ):
        resolve_space(path, PLANTED_TEACHER, ["bert"])
