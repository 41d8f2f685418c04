"""What is known of actions, in columns, so that the answers to a whole round are gathered at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback
from kdnas_env.envs.answers import evaluation_info, loss_curve
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.history import Record
from kdnas_env.envs.kdnas import KDNASEnv

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FLOATS = ("quality", "loss", "latency_ratio", "latency_factor", "speedup", "latency_ms", "teacher_latency_ms")
INTS = ("index", "parameters", "flops", "epochs")

_LARGEST_ARRAY = 10_000_000
"""Grids up to this many points are looked up in an array, larger ones in a dict."""


class Ledger:
    """One row per action that was answered.

    Args:
        env: Whose actions; its evaluator is asked.

    Attributes:
        records: The answers, by row. The arrays below may have more rows than there are answers.
        rewards: Their rewards, float64.
        costs: What they cost, in the unit of the budget, float64.
        usable: Whether there is a student, bool.
        floats: ``FLOATS``, then the held-out loss by epoch, float64 ``(rows, len(FLOATS) + epochs + 1)``.
        ints: ``INTS``, int64 ``(rows, len(INTS))``.
        configs: Architectures in words.
    """

    def __init__(self, env: KDNASEnv) -> None:
        self._env = env
        self._epochs = env.fidelity.epochs
        self._budget = Budget(env.budget, env.budget_unit)
        self._episode = 0
        self._forget()

    def open(self) -> None:
        """Begin an episode. Answers of an evaluator whose answers may change or cost something are forgotten."""
        changed = self._fidelity != self._env.fidelity
        if changed or self._heard or not getattr(self._env.evaluator, "tabular", False):
            self._forget()
        self._episode += 1

    def rows(self, indices: Ints, on_epoch: EpochCallback | None) -> Ints:
        """Return the rows of actions, int64 ``(n,)``; what is not known yet is evaluated, as one batch.

        Args:
            indices: Flat indices of the actions, int64 ``(n,)``.
            on_epoch: Passed to the evaluator.
        """
        if self._row_of is not None:
            rows = self._row_of.take(indices)
            if rows.min() >= 0:
                return rows
        missing = [index for index in dict.fromkeys(indices.tolist()) if index not in self._known]
        if missing:
            self._evaluate(missing, on_epoch)
        return np.array([self._known[index] for index in indices.tolist()], dtype=np.int64)

    def mark(self, rows: Ints) -> Bools:
        """Note architectures as answered; return which were before, in this episode or in ``rows``, bool ``(n,)``."""
        same = self._same.take(rows)
        # Of an index that is assigned to several times the last value stays: written backwards, the first.
        places = np.arange(len(rows))
        self._places[same[::-1]] = places[::-1]
        repeated: Bools = self._places.take(same) != places
        repeated |= self._answered.take(same) == self._episode
        self._answered[same] = self._episode
        return repeated

    def status(self, rows: Ints) -> npt.NDArray[Any]:
        """Return how evaluations ended, objects ``(n,)``."""
        return np.array([str(self.records[row].evaluation.status) for row in rows.tolist()], dtype=object)

    def errors(self, rows: Ints) -> npt.NDArray[Any]:
        """Return why evaluations failed, objects ``(n,)``."""
        return np.array([self.records[row].evaluation.error for row in rows.tolist()], dtype=object)

    def _forget(self) -> None:
        size = self._env.search_space.size
        self._fidelity = self._env.fidelity
        self._known: dict[int, int] = {}
        self._row_of = np.full(size, -1, dtype=np.int64) if size <= _LARGEST_ARRAY else None
        self._first: dict[StudentConfig, int] = {}
        self._heard = False  # whether somebody listened to epochs, who may have stopped a student
        self.records: list[Record] = []
        self.rewards = np.empty(0)
        self.costs = np.empty(0)
        self.usable = np.empty(0, dtype=np.bool_)
        self.floats = np.empty((0, len(FLOATS) + self._epochs + 1))
        self.ints = np.empty((0, len(INTS)), dtype=np.int64)
        self.configs = np.empty(0, dtype=object)
        self._same = np.empty(0, dtype=np.int64)
        self._answered = np.empty(0, dtype=np.int64)
        self._places = np.empty(0, dtype=np.int64)

    def _evaluate(self, indices: list[int], on_epoch: EpochCallback | None) -> None:
        self._heard |= on_epoch is not None
        env, space = self._env, self._env.search_space
        actions = [tuple(space.from_index(index).tolist()) for index in indices]
        configs = [space.decode(action) for action in actions]
        fresh = [config for config in dict.fromkeys(configs) if config not in self._first]
        evaluations = env.evaluate(fresh, env.fidelity, on_epoch) if fresh else []
        evaluated = dict(zip(fresh, evaluations, strict=True))
        first_row = len(self.records)
        for row, (index, action, config) in enumerate(zip(indices, actions, configs, strict=True), start=first_row):
            evaluation = evaluated[config] if config in evaluated else self.records[self._first[config]].evaluation
            reward = env.reward_function(evaluation)
            self.records.append(Record(action, evaluation, reward, round=0, counted=True, duplicate=False))
            self._first.setdefault(config, row)
            self._known[index] = row
        if self._row_of is not None:
            self._row_of[indices] = np.arange(first_row, len(self.records))
        self._extend(first_row)

    def _extend(self, first_row: int) -> None:
        new, end = self.records[first_row:], len(self.records)
        infos = [
            evaluation_info(record.evaluation, record.reward, self._env.search_space.index(np.array(record.action)))
            for record in new
        ]
        curves = [loss_curve(record.evaluation, self._epochs) for record in new]
        columns: dict[str, list[Any]] = {
            "rewards": [record.reward.reward for record in new],
            "costs": [self._budget.cost(record.evaluation) for record in new],
            "usable": [record.usable for record in new],
            "floats": [[*(info[name] for name in FLOATS), *curve] for info, curve in zip(infos, curves, strict=True)],
            "ints": [[info[name] for name in INTS] for info in infos],
            "configs": [info["config"] for info in infos],
            "_same": [self._first[record.evaluation.config] for record in new],
            "_answered": [0] * len(new),
            "_places": [0] * len(new),
        }
        for name, values in columns.items():
            array = _with_room(getattr(self, name), end)
            array[first_row:end] = values
            setattr(self, name, array)


def _with_room(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return an array with so many rows at least; it grows by doubling, so that a row costs the same however many."""
    if len(array) >= rows:
        return array
    larger = np.empty((max(rows, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
