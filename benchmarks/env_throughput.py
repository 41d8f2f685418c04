"""Steps per second of the environments over the planted landscape, and whose time it is.

    python benchmarks/env_throughput.py --json FILE

Scalar steps go through ``gymnasium.make`` with all wrappers that it adds, in episodes of ``budget`` evaluations. Vector
steps evaluate ``seats`` candidates each. A bare environment with the same spaces, which answers with copies of fixed
arrays, shows what Gymnasium itself costs. All are timed in turns in one process. A turn is timed in short bursts, and
the fastest 5 % of them count, so that other processes of the machine do not change the figures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from machine import machine_facts
from rich.console import Console
from rich.table import Table

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.support.atomic import write_json

SCALAR_BURST, VECTOR_BURST = 40, 3
"""Steps of a burst."""


@dataclass(frozen=True)
class Options:
    """Measure the throughput of the environments."""

    json: str | None = None
    """File for the figures."""
    budget: int = 1000
    """Evaluations of a scalar episode."""
    seats: int = 1024
    """Seats of the vector environment."""
    vector_steps: int = 500
    """Steps of a vector turn."""
    turns: int = 9
    """Turns; the median counts."""


class BareEnv(gym.Env[Any, Any]):
    """Answers every step with copies of fixed arrays."""

    def __init__(self, like: gym.Env[Any, Any]) -> None:
        self.action_space, self.observation_space = like.action_space, like.observation_space
        self.observation, self.info = like.reset(seed=0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return self._answer()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer."""
        observation, info = self._answer()
        return observation, 0.5, False, False, info

    def _answer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        observation = {name: array.copy() for name, array in self.observation.items()}
        return observation, {**self.info, "heldout_curve": self.info["heldout_curve"].copy()}


def scalar_turn(env: gym.Env[Any, Any], actions: list[Any]) -> Callable[[], float]:
    """Return a turn: one episode; it answers with steps per second."""

    def turn() -> float:
        env.reset(seed=0)
        return calls_per_second(env.step, actions, burst=SCALAR_BURST)

    return turn


def vector_turn(env: gym.vector.VectorEnv[Any, Any, Any], actions: list[Any], steps: int) -> Callable[[], float]:
    """Return a turn of some steps; it answers with evaluations per second."""

    def turn() -> float:
        env.reset(seed=0)
        return env.num_envs * calls_per_second(
            env.step, [actions[step % len(actions)] for step in range(steps)], burst=VECTOR_BURST
        )

    return turn


def calls_per_second(call: Callable[[Any], Any], arguments: Sequence[Any], *, burst: int) -> float:
    """Return calls per second.

    Args:
        call: The function.
        arguments: Its argument in each call.
        burst: Calls that are timed together; the 5th percentile of the bursts' seconds counts.
    """
    seconds = []
    for start in range(0, len(arguments) - burst + 1, burst):
        part = arguments[start : start + burst]
        began = time.perf_counter()
        for argument in part:
            call(argument)
        seconds.append(time.perf_counter() - began)
    return burst / float(np.quantile(seconds, 0.05))


def main(options: Options) -> None:
    """Measure, print and write the figures."""
    wrapped = gym.make("kdnas/Planted-v0", budget=options.budget)
    unwrapped = gym.make("kdnas/Planted-v0", budget=options.budget).unwrapped
    gym.register(id="Bare-v0", entry_point=lambda **_: BareEnv(unwrapped))
    bare = gym.make("Bare-v0")
    space = wrapped.get_wrapper_attr("search_space")
    rng = np.random.default_rng(0)
    actions = [space.from_index(int(index)) for index in rng.permutation(space.size)[: options.budget]]
    vector = gym.make_vec("kdnas/Planted-v0", num_envs=options.seats, budget=options.seats * (options.vector_steps + 1))
    rounds = [rng.integers(space.nvec, size=(options.seats, len(space.nvec))) for _ in range(50)]
    turns = {
        "scalar, through gym.make": scalar_turn(wrapped, actions),
        "scalar, unwrapped": scalar_turn(unwrapped, actions),
        "bare environment, through gym.make": scalar_turn(bare, actions),
        f"vector of {options.seats}": vector_turn(vector, rounds, options.vector_steps),
    }
    for turn in turns.values():
        turn(), turn()  # the first answers are evaluated, the later ones remembered
    measured = [{name: turn() for name, turn in turns.items()} for _ in range(options.turns)]
    rates = {name: statistics.median(row[name] for row in measured) for name in turns}
    wrapped_rate, own_rate, bare_rate, _ = rates.values()
    share = statistics.median(row["scalar, through gym.make"] / row["scalar, unwrapped"] for row in measured)
    table = Table(title="Throughput over the planted landscape")
    table.add_column("environment")
    table.add_column("evaluations per second", justify="right")
    table.add_column("microseconds each", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{1e6 / rate:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"of a scalar step, {share:.0%} is our code and {1 - share:.0%} the wrappers of Gymnasium; a bare environment "
        f"of the same spaces makes {bare_rate / wrapped_rate:.1f} times as many steps"
    )
    if options.json:
        write_json(
            options.json,
            {
                "machine": machine_facts(),
                "options": asdict(options),
                "evaluations_per_second": rates,
                "share_of_own_code": share,
                "own_microseconds": 1e6 / own_rate,
                "turns": measured,
            },
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
