"""A search of a task, with a record of each evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.core.evaluation import Status
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, one_line
from kdnas_env.searching.registry import make_agent
from kdnas_env.tables.table import STATUSES


def run_search(agent: AgentSpec, task: Task, seed: int, budget: Budget, *, truth: Truth | None = None) -> Trajectory:
    """Run an agent's search of a task, one evaluation at a time.

    The environment is always reset with the seed of the run, whatever seed the agent passes, so that all agents see the
    same noise. A budget of seconds counts simulated seconds; the agent is told the maximum number of evaluations that
    it allows.

    Args:
        agent: The agent.
        task: The task.
        seed: Seed of the run.
        budget: Budget of the search.
        truth: The truth of the task; None to compute it.

    Returns:
        The trajectory. If the agent raised, it ends there and holds the error.

    Raises:
        KDNASError: If the agent or table is unknown, or a setting is wrong.
    """
    truth = truth or Truth.of(task)
    made = make_agent(agent.name, **agent.settings)
    recorder = Recorder(task.make_env(budget), truth, seed, budget)
    with recorder.catching():
        made.search(recorder, budget=truth.evaluation_limit(budget), seed=seed)
    recorder.close()
    return recorder.trajectory(agent)


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Records each step of one search, and the processor time between the steps.

    Args:
        env: The environment of the task.
        truth: The truth of the task.
        seed: Seed to reset the environment with.
        budget: Budget of the search.

    Attributes:
        rows: Recorded rows; see :data:`~kdnas_env.bench.trajectory.COLUMNS`.
    """

    def __init__(self, env: gym.Env[Any, Any], truth: Truth, seed: int, budget: Budget) -> None:
        super().__init__(env)
        self.rows: list[dict[str, Any]] = []
        self._truth = truth
        self._seed = seed
        self._budget = budget
        self._error = ""
        self._resets = 0
        self._clock = 0.0
        self._wall = self._last = 0.0
        self._since = time.process_time()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the search. Seed and options are ignored; the seed of the race is used."""
        self._resets += not self._resets or bool(self.rows)
        before = time.process_time()
        answer = self.env.reset(seed=self._seed)
        self._since += time.process_time() - before
        return answer

    def step(self, action: Any) -> Any:
        """Take a step, and record it.

        Raises:
            KDNASError: If a reset has ended the search, whose budget is for one episode.
        """
        if self._resets > 1:
            raise KDNASError("the agent steps after it has reset the environment; a search is a single episode")
        decided = time.process_time() - self._since
        answer = self.env.step(action)
        start = self._clock
        record = self.get_wrapper_attr("history").last
        self._clock += record.evaluation.wall_seconds if record.counted else 0.0
        self.note(decided, start, self._clock)
        self._since = time.process_time()
        return answer

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Record an exception of the agent in the block as the end of its search, and the duration of the block."""
        began = time.perf_counter()
        self._since = time.process_time()
        try:
            yield
        except Exception as error:  # an agent may fail in any way
            self._error = one_line(error)
        self._last = time.process_time() - self._since
        self._wall = time.perf_counter() - began

    def trajectory(self, agent: AgentSpec, workers: int = 1, agent_total: float | None = None) -> Trajectory:
        """Return the recorded trajectory.

        Args:
            agent: The agent.
            workers: Number of parallel evaluations.
            agent_total: Processor time of the agent in seconds; None for all time between the steps.
        """
        spent = sum(row["agent_seconds"] for row in self.rows) + self._last
        return Trajectory.of_rows(
            self.rows,
            agent=str(agent),
            task=str(self._truth.task),
            seed=self._seed,
            budget=self._budget.amount,
            unit=self._budget.unit,
            workers=workers,
            error=self._error,
            agent_total=spent if agent_total is None else agent_total,
            wall_seconds=self._wall,
        )

    def note(self, agent_seconds: float, start: float, finish: float) -> None:
        """Record the last answer of the environment.

        Args:
            agent_seconds: Processor time of the agent's decision, in seconds.
            start: Simulated second at which the evaluation began.
            finish: Simulated second at which it ended.
        """
        book = self.get_wrapper_attr("history")
        record = book.last
        evaluation = record.evaluation
        index = self._truth.index_of(evaluation.config)
        status = evaluation.status
        if status is Status.OK and not record.usable:
            # A student without a latency has failed, even if its losses are valid.
            status = Status.FAILED if evaluation.latency is None else Status.INFEASIBLE
        self.rows.append(
            {
                "index": index,
                "observed": record.reward.reward,
                "true": float(self._truth.rewards_of(index)),
                "status": STATUSES.index(str(status)),
                "duplicate": record.duplicate,
                "counted": record.counted,
                "epochs": evaluation.fidelity.epochs,
                "cost": book.spent,
                "start": start,
                "finish": finish,
                "agent_seconds": agent_seconds,
            }
        )
