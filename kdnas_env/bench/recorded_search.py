"""One search of a task, recorded evaluation by evaluation."""

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
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task import Task
from kdnas_env.errors import KDNASError, one_line
from kdnas_env.searching.registry import make_agent
from kdnas_env.tables.table import STATUSES


def run_search(agent: AgentSpec, task: Task, seed: int, budget: Budget, *, truth: Truth | None = None) -> Trajectory:
    """Let an agent search a task, one evaluation at a time.

    The environment is reset with the seed of the run, whatever the agent resets it with: all agents see the same noise.
    A budget of seconds counts simulated seconds; the agent is given the most evaluations that it can pay for.

    Args:
        agent: The agent.
        task: The task.
        seed: Seed of the run.
        budget: What may be spent.
        truth: The truth of the task, if it is known.

    Returns:
        What was done. If the agent raised, until then, and with what.

    Raises:
        KDNASError: If there is no such agent or table, or a setting is wrong.
    """
    truth = truth or Truth.of(task)
    made = make_agent(agent.name, **agent.settings)
    recorder = Recorder(task.make_env(budget), truth, seed, budget)
    with recorder.catching():
        made.search(recorder, budget=truth.evaluation_limit(budget), seed=seed)
    recorder.close()
    return recorder.trajectory(agent)


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Notes every step of one search, and the processor time that is spent between the steps.

    Args:
        env: The environment of the task.
        truth: The truth of the task.
        seed: Seed that the environment is reset with.
        budget: What may be spent.

    Attributes:
        rows: What was noted; see :data:`~kdnas_env.bench.trajectory.COLUMNS`.
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
        """Begin the search. Seed and options are those of the race."""
        self._resets += not self._resets or bool(self.rows)
        before = time.process_time()
        answer = self.env.reset(seed=self._seed)
        self._since += time.process_time() - before
        return answer

    def step(self, action: Any) -> Any:
        """Step, and note it.

        Raises:
            KDNASError: If the search was ended by a reset: its budget is that of one episode.
        """
        if self._resets > 1:
            raise KDNASError("the agent steps on after it has reset the environment; a search is one episode")
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
        """Take what an agent raises in the block as the end of its search, and note how long the block takes."""
        began = time.perf_counter()
        self._since = time.process_time()
        try:
            yield
        except Exception as error:  # an agent may fail in any way
            self._error = one_line(error)
        self._last = time.process_time() - self._since
        self._wall = time.perf_counter() - began

    def trajectory(self, agent: AgentSpec, workers: int = 1, agent_total: float | None = None) -> Trajectory:
        """Return what was noted.

        Args:
            agent: The agent.
            workers: Evaluations at a time.
            agent_total: Processor time of the agent; None: all that was spent between the steps.
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
        """Note the last answer of the environment.

        Args:
            agent_seconds: Processor time that the agent took to decide on it.
            start: Simulated second at which the evaluation began.
            finish: At which it ended.
        """
        book = self.get_wrapper_attr("history")
        record = book.last
        evaluation = record.evaluation
        index = self._truth.index_of(evaluation.config)
        status = evaluation.status
        if status is Status.OK and not record.usable:
            # Without a latency a student failed, whatever its losses.
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
