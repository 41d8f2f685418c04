"""Asynchronous search: each free worker immediately gets the agent's next proposal."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Fidelity, Status
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.journal import ASKED, TOLD, Entry, Journal

Action = tuple[int, ...]
Student = tuple[Action, Fidelity]

OnAnswer = Callable[[KDNASEnv], object]
"""Called each time after the agent was told a result."""


class AskableAgent(Protocol):
    """An agent that can propose a candidate while others are pending (``agents/ask_tell.py``)."""

    def start(self, env: Any, *, budget: int | None = None, round_size: int | None = None, seed: int = 0) -> None:
        """Start a new search of an environment, without taking a step."""
        ...

    def ask(self, n: int) -> npt.NDArray[np.int64]:
        """Propose up to ``n`` candidates, int64 ``(m, dims)``."""
        ...

    def tell(self, actions: npt.ArrayLike, rewards: npt.ArrayLike, infos: Any = None) -> None:
        """Learn the rewards of candidates."""
        ...


def search_asynchronously(
    agent: AskableAgent,
    env: KDNASEnv,
    store: StoredEvaluator | None,
    pool: WorkerPool,
    *,
    seed: int = 0,
    budget: int | None = None,
    end: float = math.inf,
    journal: Journal | None = None,
    on_epoch: EpochCallback | None = None,
    on_answer: OnAnswer | None = None,
) -> None:
    """Run a search in which as many students are evaluated in parallel as there are workers.

    The agent proposes one student at a time, knows the pending ones, and is told each result immediately. The
    environment records the results as in any search; they are in its history. Each evaluation is stored before the
    agent is told.

    With a journal, a killed search can be resumed. The journal and the store are replayed with the same proposals;
    unfinished evaluations start again. If agent and evaluations are deterministic, the rest of the search depends only
    on the order in which students finish.

    Args:
        agent: An agent with ``start``, ``ask`` and ``tell``.
        env: The environment; its evaluator is not used.
        store: Store of the evaluations, with the workload of the pool. None for no store; workers then evaluate every
            proposal, including repeated students and those that cannot be built.
        pool: The workers.
        seed: Seed of the agent and of the environment's reset.
        budget: Number of evaluations that the agent plans for; None for the budget of the environment.
        end: Time on the clock of the pool's workers, in seconds, after which no evaluation starts.
        journal: Journal of the proposals and results, in order.
        on_epoch: Called after each epoch of each student; its return value is ignored. Only the early stopping of the
            environment and the agent's method ``on_epoch(action, report)``, if it has one, can stop students.
        on_answer: Called each time after the agent was told a result.

    Raises:
        KDNASError: If the agent has no ask and tell, or the budget is in seconds without an ``end``.
        RunError: If the journal belongs to another search, the store or the journal cannot be written, or the pool
            fails.
    """
    check_askable(agent, type(agent).__name__, "Search without `asynchronous`")
    if env.budget_unit == "seconds" and end == math.inf:
        raise KDNASError(
            "the budget is in seconds; an asynchronous search needs a budget of evaluations or epochs, or an `end`"
        )
    env.reset(seed=seed)
    agent.start(env, budget=budget, round_size=1, seed=seed)
    search = _Search(agent, env, store, pool, end, journal, on_epoch, on_answer)
    if journal is not None:
        search.replay(journal)
    search.run()


def check_askable(agent: Any, name: str, advice: str) -> None:
    """Check that an agent can propose students one at a time.

    Args:
        agent: The agent.
        name: For the message: name of the agent.
        advice: For the message: what to do instead, without a full stop.

    Raises:
        KDNASError: If the agent lacks a method of :class:`AskableAgent`.
    """
    missing = [method for method in ("start", "ask", "tell") if not callable(getattr(agent, method, None))]
    if missing:
        raise KDNASError(
            f"agent {name} has no {' and no '.join(missing)}; only agents with ask and tell support parallel "
            f"evaluations. {advice}"
        )


@dataclass(eq=False)
class _Search:
    agent: AskableAgent
    env: KDNASEnv
    store: StoredEvaluator | None
    pool: WorkerPool
    end: float
    journal: Journal | None
    on_epoch: EpochCallback | None
    on_answer: OnAnswer | None

    def __post_init__(self) -> None:
        self._on_epoch = getattr(self.agent, "on_epoch", None)
        # In the order of the proposals: a resumed search restarts them in this order.
        self._pending: Counter[Student] = Counter()
        self._reserved = 0  # budget reserved for the pending students
        self._running: dict[int, list[Action]] = {}
        self._tickets: dict[tuple[StudentConfig, Fidelity], int] = {}
        self._answered: deque[tuple[Action, Evaluation]] = deque()

    def replay(self, journal: Journal) -> None:
        """Replay the journal with the agent."""
        for number, entry in enumerate(journal.entries, start=1):
            if entry.kind == ASKED:
                student = self._propose()
                proposed = student and student[0]
                if proposed != entry.action:
                    raise RunError(
                        f"the search of journal {str(journal.path)!r} cannot be resumed: entry {number} asked for "
                        f"{entry.action}, now the agent proposes {proposed}; it is another agent, seed, space or "
                        "version of kdnas. Start a new run"
                    )
                continue
            fidelity = next((fidelity for action, fidelity in self._pending if action == entry.action), None)
            if fidelity is None:
                raise RunError(
                    f"entry {number} of journal {str(journal.path)!r} has a result of {entry.action}, which was not "
                    "proposed; restore the file from a copy, or start a new run"
                )
            self._tell(entry.action, entry.evaluation or self._known_or_evaluated(entry.action, fidelity))
        for action, fidelity in self._pending.elements():
            self._submit(action, fidelity)

    def run(self) -> None:
        """Search until the budget is spent or the agent has no more to propose."""
        while self._assign_proposals():
            if not self._answered:
                self._collect()
            action, evaluation = self._answered.popleft()
            stopped = evaluation if evaluation.status is Status.STOPPED else None
            self._write_entry(Entry(TOLD, action, stopped))
            self._tell(action, evaluation)

    def _assign_proposals(self) -> bool:
        """Give proposals to all free workers; return whether a student is pending."""
        # A student with a known result occupies a worker until the agent has received the result. The agent then
        # decides with all known results.
        while self.pool.free > len(self._answered) and not self.env.history.over and self.pool.now() < self.end:
            student = self._propose()
            if student is None:
                break  # until another result is known
            self._write_entry(Entry(ASKED, student[0]))
            self._submit(*student)
        return bool(self._pending) and not self.env.history.over

    def _propose(self) -> Student | None:
        """Return a proposal, which becomes pending; None if the budget is spent or the agent proposes nothing."""
        fidelity = self.env.affordable(self._reserved)
        if fidelity is None or not len(proposal := self.agent.ask(1)):
            return None
        student = tuple(proposal[0].tolist()), fidelity
        self._pending[student] += 1
        self._reserved += self.env.history.budget.reserved(fidelity)
        return student

    def _submit(self, action: Action, fidelity: Fidelity) -> None:
        """Submit a student for evaluation, unless its evaluation is known or already running."""
        config = self.env.search_space.decode(action)
        known = None if self.store is None else self.env.refused(config, fidelity) or self.store.find(config, fidelity)
        if known is not None:
            self._answered.append((action, known))
        elif self.store is not None and (config, fidelity) in self._tickets:
            self._running[self._tickets[config, fidelity]].append(action)
        else:
            listener = self.env.history.listener(self._listening_agent(action))
            ticket = self.pool.submit(
                config,
                fidelity,
                on_epoch=lambda report: self._after_epoch(report, listener),
                stoppable=listener is not None,
            )
            self._tickets[config, fidelity] = ticket
            self._running[ticket] = [action]

    def _listening_agent(self, action: Action) -> EpochCallback | None:
        """Return the epoch callback of the agent for a student; None if it has none."""
        on_epoch = self._on_epoch
        return None if on_epoch is None else lambda report: on_epoch(np.array(action, dtype=np.int64), report)

    def _after_epoch(self, report: EpochReport, listener: EpochCallback | None) -> bool:
        if self.on_epoch is not None:
            self.on_epoch(report)
        return listener is not None and bool(listener(report))

    def _collect(self) -> None:
        """Wait for finished students, and store their evaluations before anything else."""
        for finished in self.pool.wait():
            evaluation = finished.evaluation
            self._tickets.pop((evaluation.config, evaluation.fidelity), None)
            if self.store is not None:
                evaluation = self.store.add(evaluation)
            self._answered += [(action, evaluation) for action in self._running.pop(finished.ticket)]

    def _tell(self, action: Action, evaluation: Evaluation) -> None:
        student = action, evaluation.fidelity
        self._pending[student] -= 1
        if not self._pending[student]:
            del self._pending[student]
        self._reserved -= self.env.history.budget.reserved(evaluation.fidelity)
        array = np.array(action, dtype=np.int64)
        _, reward, _, _, info = self.env.record(array, evaluation)
        self.agent.tell(array[None], [reward], [info])
        if self.on_answer is not None:
            self.on_answer(self.env)

    def _known_or_evaluated(self, action: Action, fidelity: Fidelity) -> Evaluation:
        """Return the evaluation of an action in the journal; repeat the evaluation if the store lacks it."""
        self._submit(action, fidelity)
        while not self._answered:
            self._collect()
        return self._answered.popleft()[1]

    def _write_entry(self, entry: Entry) -> None:
        if self.journal is not None:
            self.journal.write(entry)
