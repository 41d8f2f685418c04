"""What is raced on, and what is true of it: a table holds the answer to every question of a search."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.architecture import StudentConfig
from kdnas_env.bench.specs import format_spec, number, parse_spec
from kdnas_env.bench.statistics import hypervolume, random_search_quantile
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.evaluation import Fidelity
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.pareto import pareto_front
from kdnas_env.plain import shown
from kdnas_env.reward import KDReward
from kdnas_env.tables.storage import load_table
from kdnas_env.tables.table import MISSING, Table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TARGETS = {"top_1_percent": 0.01, "top_0.1_percent": 0.001, "optimum": 0.0}
"""Shares of the students that a search aims at; 0: the optimum, or what the seeds cannot tell from it."""

ENVIRONMENT = "kdnas/Tabular-v0"


@dataclass(frozen=True)
class Task:
    """What agents are raced on: a table and how its students are rewarded.

    Attributes:
        table: Name of a table of the package, or path of an npz file (without a colon).
        alpha: Exponent of the latency factor.
        beta: Target latency as a share of the teacher's.
        loss: Loss of the reward.
        device: Device whose latencies count; None: the table's first.
        epochs: Epochs of every evaluation; None: all of the table. The truth is always of all epochs.
        seed: What evaluations are answered from: ``sample`` (one of the table's seeds for each student, drawn by the
            seed of the run: noisy as real evaluations are), ``mean``, or a seed of the table.
        duplicates: What a repeated student costs: ``charge``, ``free`` or ``reject``.

    Raises:
        KDNASError: If a setting is malformed. Whether the table has such a device, seed or epoch is checked when it is
            loaded.
    """

    table: str
    alpha: float = -0.06
    beta: float = 0.6**6
    loss: str = "heldout"
    device: str | None = None
    epochs: int | None = None
    seed: int | str = "sample"
    duplicates: str = "charge"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        self.reward  # noqa: B018  (checks alpha, beta and loss)
        format_spec(self.table, {})

    @classmethod
    def parse(cls, text: str) -> Task:
        """Read a task such as ``rotten-tomatoes`` or ``rotten-tomatoes:alpha=-0.2,device=torch``.

        Raises:
            KDNASError: If it is malformed, or a setting is unknown.
        """
        table, settings = parse_spec(text)
        known = [one.name for one in fields(cls)][1:]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise KDNASError(f"task {shown(text)} has unknown setting(s) {shown(unknown)}; expected some of {known}")
        return cls(table, **settings)

    def __str__(self) -> str:
        return format_spec(self.table, self._settings)

    @property
    def title(self) -> str:
        """The same without the folder of the table."""
        table = Path(self.table)
        return format_spec(table.stem if table.suffix == ".npz" else self.table, self._settings)

    @property
    def reward(self) -> KDReward:
        """The reward."""
        return KDReward(self.alpha, self.beta, loss=self.loss)

    def make_env(self, budget: Budget) -> gym.Env[Any, Any]:
        """Make the environment of one search.

        Raises:
            KDNASError: If there is no such table, or it has not what the task asks for.
        """
        # What fails in the table fails for the agent; it is no error of the race.
        settings = {**asdict(self), "missing": "failed", "budget": budget.amount, "budget_unit": budget.unit}
        return gym.make(ENVIRONMENT, disable_env_checker=True, **settings)

    @property
    def _settings(self) -> dict[str, Any]:
        changed = [one.name for one in fields(self)[1:] if getattr(self, one.name) != one.default]
        return {name: getattr(self, name) for name in changed}


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of a task: the means over the table's seeds after its last epoch.

    Students that were never evaluated are left out.

    Attributes:
        task: The task.
        table: Its table.
        index: Flat index of each student in the space, rising, int64 ``(n,)``.
        reward: Its reward, float64 ``(n,)``.
        costs: Its loss and its latency over the teacher's, float64 ``(n, 2)``; NaN for a student that failed.
        seconds: Simulated seconds of its evaluation at the epochs of the task, float64 ``(n,)``.
        tolerance: Standard deviation of one student's reward between seeds (root mean square); rewards closer than
            that to the optimum tie with it.
    """

    task: Task
    table: Table
    index: Ints
    reward: Floats
    costs: Floats
    seconds: Floats
    tolerance: float

    @classmethod
    def of(cls, task: Task) -> Truth:
        """Compute the truth of a task, in some hundredths of a second.

        Raises:
            KDNASError: If there is no such table, it has not what the task asks for, or nothing in it was evaluated.
        """
        table = load_table(task.table)
        evaluated = (table.status != MISSING).any(axis=1)
        configs = [config for config, there in zip(table.configs(), evaluated, strict=True) if there]
        TabularEvaluator(table, task.seed, task.device)  # checks them
        reward = task.reward
        mean = TabularEvaluator(table, "mean", task.device, missing="failed")
        found = mean.evaluate(configs, Fidelity(epochs=table.metadata.epochs))
        short = mean.evaluate(configs, Fidelity(epochs=table.metadata.epochs if task.epochs is None else task.epochs))
        parts = [reward(one) for one in found]
        if not any(one.ok for one in found):
            raise KDNASError(f"table {task.table!r} has no student that ended well; there is nothing to search")
        return cls(
            task,
            table,
            table.index[evaluated],
            np.array([part.reward for part in parts]),
            np.array(
                [
                    (part.loss, part.latency_ratio) if one.ok else (math.nan, math.nan)
                    for part, one in zip(parts, found, strict=True)
                ]
            ),
            np.array([one.wall_seconds for one in short]),
            _deviation(table, configs, task),
        )

    @property
    def best(self) -> float:
        """The highest reward."""
        return float(self.reward.max())

    @property
    def optima(self) -> Ints:
        """Flat indices of the students that tie with the best, int64."""
        return self.index[self.reward >= self.threshold(0.0)]

    @property
    def floor(self) -> float:
        """Reward of a failure."""
        return self.task.reward.floor

    def threshold(self, share: float) -> float:
        """Return the least reward of the best share of the students; of the share 0, that ties with the optimum."""
        if not share:
            return self.best - self.tolerance
        count = max(1, math.ceil(share * len(self.reward) - 1e-9))
        return float(np.sort(self.reward)[-count])

    def random_median(self, evaluations: int) -> float:
        """Return the median of what random search finds if nothing is noisy, exactly."""
        return random_search_quantile(self.reward, min(max(1, evaluations), len(self.reward)))

    def affordable(self, budget: Budget) -> int:
        """Return how many students of mean cost a budget is enough for, at least 1."""
        if budget.unit == "evaluations":
            return int(budget.amount)
        each = float(self.seconds.mean()) if budget.unit == "seconds" else float(max(1, self._epochs))
        return max(1, int(budget.amount / each)) if each > 0 else len(self.reward)

    def evaluation_limit(self, budget: Budget) -> int:
        """Return the most evaluations that a budget can be spent on."""
        if budget.unit == "seconds":
            taking = self.seconds[self.seconds > 0]  # failures may take no time
            if not len(taking):
                return len(self.reward)
            most = math.ceil(budget.amount / float(taking.min())) + len(self.seconds) - len(taking)
            return min(self.table.space.size, most)
        found = budget.evaluations(Fidelity(epochs=self._epochs))
        assert found is not None
        return found

    def index_of(self, config: StudentConfig) -> int:
        """Return the flat index of a point of the space: of several that name one student, always the same."""
        row = self._rows.get(config.canonical())
        space = self.table.space
        return int(self.index[row]) if row is not None else space.index(space.encode(config))

    def rewards_of(self, index: npt.ArrayLike) -> Floats:
        """Return the true reward of flat indices, float64; that of a failure where there is no such student."""
        return np.where(self._found(index), self.reward[self._place(index)], self.floor)

    def costs_of(self, index: npt.ArrayLike) -> Floats:
        """Return true loss and latency ratio of flat indices, float64 ``(n, 2)``; NaN where there is no student."""
        found: Floats = np.where(self._found(index)[..., None], self.costs[self._place(index)], np.nan)
        return found

    @cached_property
    def front(self) -> Ints:
        """Flat indices of the students that no other beats in both loss and latency, fastest last, int64."""
        ended = np.flatnonzero(np.isfinite(self.costs).all(axis=1))
        return self.index[ended[pareto_front(*self.costs[ended].T)]]

    @property
    def reference(self) -> tuple[float, float]:
        """Reference point of the hypervolume: the largest loss and latency ratio of the table."""
        worst = np.nanmax(self.costs, axis=0)
        return float(worst[0]), float(worst[1])

    @cached_property
    def volume(self) -> float:
        """Hypervolume of the front."""
        return hypervolume(self.costs_of(self.front), self.reference)

    @property
    def _epochs(self) -> int:
        return self.table.metadata.epochs if self.task.epochs is None else self.task.epochs

    @cached_property
    def _rows(self) -> dict[StudentConfig, int]:
        space = self.table.space
        return {space.decode(space.from_index(index)): row for row, index in enumerate(self.index.tolist())}

    def _place(self, index: npt.ArrayLike) -> Ints:
        return np.minimum(np.searchsorted(self.index, np.asarray(index, dtype=np.int64)), len(self.index) - 1)

    def _found(self, index: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        return np.asarray(self.index[self._place(index)] == np.asarray(index, dtype=np.int64))


def _deviation(table: Table, configs: list[StudentConfig], task: Task) -> float:
    fidelity = Fidelity(epochs=table.metadata.epochs)
    columns = [
        TabularEvaluator(table, seed, task.device, missing="failed").evaluate(configs, fidelity)
        for seed in table.metadata.seeds
    ]
    ended = np.array([[one.ok for one in column] for column in columns]).all(axis=0)
    rewards = np.array([[task.reward(one).reward for one in column] for column in columns])[:, ended]
    return float(np.sqrt(rewards.var(axis=0, ddof=1).mean())) if len(rewards) > 1 and ended.any() else 0.0
