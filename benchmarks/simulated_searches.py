"""Searches without rounds on simulated workers, and what counts the seconds of their agents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from landscapes import SPACE

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.execution.backend import Job, Message, Ready
from kdnas_env.execution.simulated import SimulatedBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.searching.journal import Journal
from kdnas_env.searching.registry import agent_class, agent_names, make_agent

LARGE_SPACE = {**SPACE, "intermediate_size": list(range(100, 2100))}
"""Four million students: a million random ones are still less than half of them."""

SAMPLERS = ("tpe", "random")
"""Samplers of the Optuna agent that are measured, each as an agent of its own."""


class Enough(Exception):
    """The time for a search is over."""


class NoStore:
    """Keeps nothing."""

    def find(self, config: StudentConfig, fidelity: Fidelity) -> None:
        """Know nothing."""

    def add(self, evaluation: Evaluation) -> Evaluation:
        """Return what there is to keep."""
        return evaluation


class ThinkingBackend:
    """Simulated workers whose clock runs on with another one while the driver works, evaluations taken off.

    Args:
        inner: The workers.
        clock: Seconds of the driver; one that stands still makes decisions cost nothing.

    Attributes:
        ready: When the last worker so far was first given work, in simulated seconds.
        assigned: When work was given last.
    """

    def __init__(self, inner: SimulatedBackend, clock: Callable[[], float]) -> None:
        self.ready = self.assigned = 0.0
        self._inner = inner
        self._clock = clock
        self._left = clock()
        self._known: set[int] = set()
        self._began: dict[int, float] = {}
        self._spans: list[tuple[float, float]] = []
        self._heard: list[tuple[int, Message]] = []

    def start(self, worker: int) -> None:
        """Begin to start a worker."""
        self._inner.start(worker)

    def assign(self, worker: int, job: Job) -> None:
        """Hand a job to a worker, as late as the driver thought of it."""
        self._catch_up()
        self._began[worker] = self.assigned = self.now()
        if worker not in self._known:
            self._known.add(worker)
            self.ready = self.now()
        self._inner.assign(worker, job)
        self._left = self._clock()

    def answer(self, worker: int, stop: bool) -> None:
        """Say whether a worker stops."""
        self._inner.answer(worker, stop)

    def kill(self, worker: int) -> None:
        """End a worker."""
        self._inner.kill(worker)

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return what was said while the driver worked; if that is nothing, what is said next."""
        self._catch_up()
        if not self._heard:
            self._hear(seconds)
        heard, self._heard = self._heard, []
        self._left = self._clock()
        return heard

    def now(self) -> float:
        """Return seconds of the simulated clock."""
        return self._inner.now()

    def close(self) -> None:
        """End all workers."""
        self._inner.close()

    def idle_share(self, begin: float = 0.0, end: float | None = None) -> float | None:
        """Return the share of the workers' time between two moments (by default all) that none of them worked in."""
        end = self.now() if end is None else end
        if end <= begin:
            return None
        spans = np.array([*self._spans, *((began, self.now()) for began in self._began.values())])
        busy = np.clip(spans, begin, end) @ (-1.0, 1.0)
        return max(0.0, 1.0 - float(busy.sum()) / (len(self._known) * (end - begin)))

    @property
    def steady_idle_share(self) -> float | None:
        """The idle share from when all had work for the first time until the last was given some; None: never."""
        return self.idle_share(self.ready, self.assigned)

    def _catch_up(self) -> None:
        end = self.now() + self._clock() - self._left
        while end - self.now() > 1e-9:
            self._hear(end - self.now())

    def _hear(self, seconds: float | None) -> None:
        for worker, message in self._inner.wait(seconds):
            self._heard.append((worker, message))
            if not isinstance(message, Ready):
                self._spans.append((self._began.pop(worker), self.now()))


class TimedAgent:
    """An agent whose seconds in ``ask`` and ``tell`` are counted.

    Args:
        agent: The agent.

    Attributes:
        ask_seconds: Seconds of ``ask`` so far.
        tell_seconds: Seconds of ``tell`` so far.
        seconds: Both, before each ``ask`` and after the last call.
    """

    def __init__(self, agent: Any) -> None:
        self.ask_seconds = self.tell_seconds = 0.0
        self.seconds = [0.0]
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def ask(self, n: int) -> Any:
        """Propose."""
        began = time.thread_time()
        proposal = self._agent.ask(n)
        self.ask_seconds += time.thread_time() - began
        self.seconds.append(self.ask_seconds + self.tell_seconds)
        return proposal

    def tell(self, *arguments: Any) -> None:
        """Learn."""
        began = time.thread_time()
        self._agent.tell(*arguments)
        self.tell_seconds += time.thread_time() - began
        self.seconds[-1] = self.ask_seconds + self.tell_seconds


@cache
def landscape(large: bool = False) -> PlantedEvaluator:
    """Return the planted landscape, whose points take some tenths of a second to list, so that it is made once."""
    return PlantedEvaluator(SearchSpace.from_dict(LARGE_SPACE if large else SPACE, PLANTED_TEACHER))


def named(label: str) -> Any:
    """Make an agent, or the Optuna agent of a sampler."""
    name, _, sampler = label.partition(":")
    return make_agent(name, **({"sampler": sampler} if sampler else {}))


def askable() -> list[str]:
    """Return the names of all agents with ask and tell."""
    names = [name for name in agent_names() if callable(getattr(agent_class(name), "ask", None))]
    return [label for name in names for label in ([f"optuna:{s}" for s in SAMPLERS] if name == "optuna" else [name])]


def simulated(planted: PlantedEvaluator, duration: float) -> SimulatedBackend:
    """Return workers that take so long on average."""
    rng = np.random.default_rng(0)
    return SimulatedBackend(planted, lambda evaluation, worker: duration * (0.5 + rng.random()))


@dataclass(eq=False)
class Search:
    """A search on simulated workers.

    Attributes:
        agent: The agent.
        workers: How many.
        budget: Evaluations.
        seconds: Seconds of the processor after which it is cut short.
        store: The store.
        journal: The journal.
        duration: Seconds of an evaluation.
        clock: What the simulated clock runs on with.
        on_answer: Called with the number of evaluations after each.
        large: Whether the space is the large one.
    """

    agent: Any
    workers: int
    budget: int
    seconds: float = math.inf
    store: Any = field(default_factory=NoStore)
    journal: Journal | None = None
    duration: float = 30.0
    clock: Callable[[], float] = lambda: 0.0
    on_answer: Callable[[int], object] = lambda evaluations: None
    large: bool = False

    def run(self) -> None:
        """Search."""
        planted = landscape(self.large)
        self.backend = ThinkingBackend(simulated(planted, self.duration), self.clock)
        self.env = KDNASEnv(planted.space, planted, budget=self.budget)
        self._end = time.thread_time() + self.seconds
        with WorkerPool(self.backend, self.workers) as pool, suppress(Enough):
            search_asynchronously(
                self.agent, self.env, self.store, pool, journal=self.journal, on_answer=self._answered
            )

    @property
    def evaluations(self) -> int:
        """Evaluations that the agent was told of."""
        return len(self.env.history)

    def _answered(self, env: KDNASEnv) -> None:
        self.on_answer(len(env.history))
        if time.thread_time() > self._end:
            raise Enough


def stop_at(evaluations: float = math.inf, seconds: float = math.inf) -> Callable[[int], None]:
    """Return what ends a search after so many evaluations, or at a time of the performance counter."""

    def check(made: int) -> None:
        if made >= evaluations or time.perf_counter() > seconds:
            raise Enough

    return check
