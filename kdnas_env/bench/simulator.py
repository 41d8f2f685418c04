"""Parallel evaluations on a simulated clock: a result is available when its simulated time has passed.

The seconds of a distillation are those in the table. Driver and workers are those of a search without rounds
(:mod:`kdnas_env.searching.asynchronous`, :mod:`kdnas_env.execution.simulated`).
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.recorded_search import Recorder
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError
from kdnas_env.execution.simulated import SimulatedBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import check_askable, search_asynchronously
from kdnas_env.searching.registry import make_agent
from kdnas_env.support.checks import check_whole
from kdnas_env.support.untrusted import is_number

DecisionTime = float | str
"""Simulated seconds of a decision: a number, ``zero``, or ``measured``: the CPU time of the agent."""


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
    """Run a search of a task with several workers; each worker gets its next student when it is idle.

    The agent proposes one student at a time, knows which students are pending, and learns each result when it is
    finished. A budget in seconds limits the simulated clock, not the total work of the workers: no evaluation begins
    after its end. With one worker and a decision time of 0, the search has rounds of one evaluation.

    Args:
        agent: An agent with ask and tell.
        task: The task.
        seed: Seed of the run.
        budget: Budget of the search.
        workers: Number of parallel evaluations.
        decision_time: Time of a decision on the clock of a worker; results are the same on every machine unless it is
            ``measured``.
        truth: The true values of the task; None: computed here.

    Returns:
        All evaluations, in the order in which they finished. If the agent raised an error: until then, with the error.

    Raises:
        KDNASError: If the agent or the table does not exist, the agent has no ask and tell, or a number is malformed.
    """
    check_whole("workers", workers, at_least=1)
    seconds = checked_decision_time(decision_time)
    truth = truth or Truth.of(task)
    made = askable(agent)
    # The clock ends a search that is counted in seconds, not the sum of the work of all workers.
    timed = budget.unit == "seconds"
    env = task.make_env(replace(budget, amount=sys.float_info.max) if timed else budget)
    recorder = Recorder(env, truth, seed, budget)
    simulated = _Simulated(made, cast(KDNASEnv, env.unwrapped), recorder, seconds)
    with recorder.catching(), WorkerPool(simulated.backend, workers) as pool:
        search_asynchronously(
            simulated,
            simulated.env,
            None,
            pool,
            seed=seed,
            budget=truth.evaluation_limit(budget) * (workers if timed else 1),
            end=budget.amount if timed else math.inf,
        )
    recorder.close()
    if timed:
        recorder.rows = [{**row, "cost": row["finish"]} for row in recorder.rows]
    return recorder.trajectory(agent, workers, simulated.processor_seconds)


def askable(agent: AgentSpec) -> Any:
    """Make an agent that has ask and tell.

    Raises:
        KDNASError: If the agent does not exist or has no ask and tell, or a setting is wrong.
    """
    made = make_agent(agent.name, **agent.settings)
    check_askable(made, repr(agent.name), "Race it with one worker")
    return made


def checked_decision_time(value: DecisionTime) -> float | None:
    """Return the seconds of a decision; None: measured.

    Raises:
        KDNASError: If the value is neither ``zero``, ``measured`` nor a number of seconds.
    """
    if value in ("zero", "measured"):
        return 0.0 if value == "zero" else None
    if not is_number(value) or not value >= 0:
        raise KDNASError(f"decision_time is {value!r}; expected 'zero', 'measured' or seconds, 0 or more")
    return float(value)


@dataclass(frozen=True)
class _Decision:
    """Times of one proposal: simulated seconds, and the CPU time of the agent for learning and proposing."""

    seconds: float
    processor_seconds: float


class _Simulated:
    """Measures the CPU time of an agent, and evaluates its students on simulated workers.

    Attributes:
        backend: The workers.
        processor_seconds: CPU time of the agent so far.
        on_epoch: Method of the agent that stops students, or None.
    """

    def __init__(self, agent: Any, env: KDNASEnv, recorder: Recorder, decision: float | None) -> None:
        self.processor_seconds = self._decided = 0.0
        self.on_epoch = getattr(agent, "on_epoch", None)
        self.env = env
        self.backend = SimulatedBackend(self, self._seconds)
        self._agent = agent
        self._recorder = recorder
        self._decision = decision
        # Students are handed to workers in the order of proposals, and equal ones are finished in that order.
        self._decisions: deque[_Decision] = deque()
        self._begun: dict[tuple[StudentConfig, Fidelity], deque[tuple[float, _Decision]]] = defaultdict(deque)
        self._finish: dict[tuple[StudentConfig, Fidelity], float] = {}

    def start(self, env: Any, **search: Any) -> None:
        """Start a new search."""
        with self._measured():
            self._agent.start(env, **search)

    def ask(self, n: int) -> npt.NDArray[np.int64]:
        """Propose one student."""
        before = self.processor_seconds
        with self._measured():
            proposal: npt.NDArray[np.int64] = self._agent.ask(n)
        if len(proposal):
            seconds = self.processor_seconds - before if self._decision is None else self._decision
            self._decisions.append(_Decision(seconds, self.processor_seconds - self._decided))
            self._decided = self.processor_seconds
        return proposal

    def tell(self, actions: npt.ArrayLike, rewards: npt.ArrayLike, infos: Any = None) -> None:
        """Record the finished student, and pass its result to the agent."""
        evaluation = self._recorder.get_wrapper_attr("history").last.evaluation
        start, decision = self._begun[evaluation.config, evaluation.fidelity].popleft()
        self._recorder.note(decision.processor_seconds, start, self.backend.now())
        with self._measured():
            self._agent.tell(actions, rewards, infos)

    @property
    def deterministic(self) -> bool:
        """Whether equal calls return equal results."""
        return True

    @property
    def fingerprint(self) -> str:
        """Identity of the workload, which is the same for all workers of the process."""
        return "simulated"

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Evaluate as the environment does."""
        return self.env.evaluate(configs, fidelity, on_epoch)

    def _seconds(self, evaluation: Evaluation, worker: int) -> float:
        """Return the simulated seconds of a student on a worker: of its decision and its evaluation."""
        decision = self._decisions.popleft()
        start = self.backend.now() + decision.seconds
        seconds = evaluation.wall_seconds
        student = evaluation.config, evaluation.fidelity
        if self.env.duplicates != "charge" and student in self._finish:
            # A repetition that costs nothing is answered with the first, at once or when that is finished.
            seconds = max(0.0, self._finish[student] - start)
        else:
            self._finish[student] = start + seconds
        self._begun[student].append((start, decision))
        return decision.seconds + seconds

    @contextmanager
    def _measured(self) -> Iterator[None]:
        before = time.process_time()
        try:
            yield
        finally:
            self.processor_seconds += time.process_time() - before
