"""Several evaluations at a time on a simulated clock: results are withheld until their second has come.

The seconds are those of the table, in which every distillation has what it took.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdnas_env.bench.recorded_search import Recorder
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.execution.simulated import Clock
from kdnas_env.searching.registry import make_agent
from kdnas_env.support.checks import check_whole
from kdnas_env.support.untrusted import is_number

DecisionTime = float | str
"""Simulated seconds of a decision: a number, ``zero``, or ``measured``: the processor time that the agent took."""

_METHODS = ("start", "ask", "tell")


def simulate(
    agent: AgentSpec,
    task: Task,
    seed: int,
    budget: Budget,
    workers: int = 1,
    *,
    decision_time: DecisionTime = "zero",
    truth: Truth | None = None,
) -> Trajectory:
    """Let an agent search a task with several workers, each of which gets its next student when it is done.

    The agent proposes one student at a time, knows which others are pending, and learns each result when it is
    finished. A budget of seconds is of the clock, not of the workers' work: no evaluation begins after its end. With
    one worker that decides in no time, it is a search with rounds of one.

    Args:
        agent: An agent with ask and tell.
        task: The task.
        seed: Seed of the run.
        budget: What may be spent.
        workers: Evaluations at a time.
        decision_time: What a decision costs the worker; results are the same on every machine unless it is
            ``measured``.
        truth: The truth of the task, if it is known.

    Returns:
        What was done, in the order in which it was finished. If the agent raised, until then, and with what.

    Raises:
        KDNASError: If there is no such agent or table, the agent has no ask and tell, or a number is malformed.
    """
    check_whole("workers", workers, at_least=1)
    seconds = checked_decision_time(decision_time)
    truth = truth or Truth.of(task)
    made = askable(agent)
    # The clock ends a search that is counted in seconds, not the sum of the work of all workers.
    timed = budget.unit == "seconds"
    env = task.make_env(replace(budget, amount=sys.float_info.max) if timed else budget)
    recorder = Recorder(env, truth, seed, budget)
    pool = _Pool(recorder, made, workers, seconds, budget.amount if timed else math.inf)
    with recorder.catching():
        evaluations = truth.evaluation_limit(budget) * (workers if timed else 1)
        made.start(recorder, budget=evaluations, round_size=1, seed=seed)
        recorder.reset()
        pool.work()
    recorder.close()
    recorder.rows = _in_order(pool.finished, recorder.rows, budget)
    return recorder.trajectory(agent, workers)


def askable(agent: AgentSpec) -> Any:
    """Make an agent that has ask and tell.

    Raises:
        KDNASError: If it cannot, there is no such agent, or a setting is wrong.
    """
    made = make_agent(agent.name, **agent.settings)
    missing = [name for name in _METHODS if not callable(getattr(made, name, None))]
    if missing:
        raise KDNASError(
            f"agent {agent.name!r} has no {' and no '.join(missing)}; only agents with ask and tell can wait for "
            "several evaluations. Race it with one worker"
        )
    return made


def checked_decision_time(value: DecisionTime) -> float | None:
    """Return seconds of a decision; None: as measured.

    Raises:
        KDNASError: If it is neither ``zero``, ``measured`` nor a number of seconds.
    """
    if value in ("zero", "measured"):
        return 0.0 if value == "zero" else None
    if not is_number(value) or not value >= 0:
        raise KDNASError(f"decision_time is {value!r}; expected 'zero', 'measured' or seconds, 0 or more")
    return float(value)


@dataclass(frozen=True)
class _Event:
    row: int
    action: Any
    reward: float
    info: dict[str, Any]


class _Pool:
    """Workers on one clock."""

    def __init__(self, recorder: Recorder, agent: Any, workers: int, decision: float | None, end: float) -> None:
        self.finished: list[int] = []
        self._recorder = recorder
        self._agent = agent
        self._idle = workers
        self._decision = decision
        self._end = end
        self._over = False
        self._clock = Clock[_Event]()

    def work(self) -> None:
        """Work until nothing is left to do."""
        while (event := self._next()) is not None:
            self._idle += 1
            self.finished.append(event.row)
            self._agent.tell(event.action[None], [event.reward], [event.info])

    def _next(self) -> _Event | None:
        """Give all who are idle something to do, as far as there is; return what is finished next, if any works."""
        while self._idle and not self._over and self._clock.now < self._end:
            before = time.process_time()
            proposal = self._agent.ask(1)
            taken = time.process_time() - before
            if not len(proposal):
                break  # until something more is known
            self._begin(proposal[0], taken if self._decision is None else self._decision)
        return self._clock.advance()

    def _begin(self, action: Any, decided: float) -> None:
        _, reward, terminated, truncated, info = self._recorder.step(action.copy())
        self._over = terminated or truncated
        self._idle -= 1
        row = len(self._recorder.rows) - 1
        start = self._clock.now + decided
        finish = start + self._recorder.seconds
        self._recorder.rows[row] |= {"start": start, "finish": finish}
        self._clock.plan(finish, _Event(row, action, float(reward), dict(info)))


def _in_order(finished: list[int], rows: list[dict[str, Any]], budget: Budget) -> list[dict[str, Any]]:
    """Return rows as they were finished, with what was spent until then."""
    ordered = [rows[row] for row in finished]
    if budget.unit == "seconds":
        return [{**row, "cost": row["finish"]} for row in ordered]
    spent = np.diff([0.0, *(row["cost"] for row in rows)])[finished]
    return [{**row, "cost": cost} for row, cost in zip(ordered, np.cumsum(spent).tolist(), strict=True)]
