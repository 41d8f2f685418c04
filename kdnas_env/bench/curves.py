"""The trajectories of a race as arrays: results as a function of the spent budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.scores import hitting_times, incumbents, normalised_regret
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.core.pareto import hypervolume_curve
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Bools, Floats

MOST_POINTS = 100
"""Maximum number of points of a curve; with a smaller budget, one point per evaluation."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Searches with the same seeds for all agents and tasks.

    Attributes:
        agents: Agents, in the order of the race.
        truths: Truths of the tasks, by their names, in the order of the race.
        seeds: Seeds that all agents have on all tasks.
        trajectories: By agent, task and seed.
    """

    agents: tuple[str, ...]
    truths: Mapping[str, Truth]
    seeds: tuple[int, ...]
    trajectories: Mapping[tuple[str, str, int], Trajectory]

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], truths: Sequence[Truth]) -> Runs:
        """Sort trajectories, and keep the seeds that all agents have on all tasks.

        Raises:
            KDNASError: If there is no such seed, or budgets or workers differ.
        """
        if len(kinds := {(search.budget, search.unit, search.workers) for search in trajectories}) != 1:
            raise KDNASError(f"the searches have budgets, units and workers {sorted(kinds)}; compare equal ones")
        by_name = {str(truth.task): truth for truth in truths}
        by_key = {search.key: search for search in trajectories if search.task in by_name}
        agents = tuple(dict.fromkeys(agent for agent, _, _ in by_key))
        have: dict[tuple[str, str], set[int]] = {(agent, task): set() for agent in agents for task in by_name}
        for agent, task, seed in by_key:
            have[agent, task].add(seed)
        common = tuple(sorted(set.intersection(*have.values()))) if have else ()
        if not common:
            raise KDNASError("no seed was run by every agent on every task; let the race end")
        return cls(agents, by_name, common, by_key)

    @property
    def budget(self) -> Budget:
        """Budget of each search."""
        return Budget(self._first.budget, self._first.unit)

    @property
    def workers(self) -> int:
        """Number of parallel evaluations."""
        return self._first.workers

    def only(self, task: str) -> Runs:
        """Return the runs of one task."""
        return replace(self, truths={task: self.truths[task]})

    def of_agent(self, agent: str) -> list[list[Trajectory]]:
        """Return the trajectories of an agent by task and seed."""
        return [[self.trajectories[agent, task, seed] for seed in self.seeds] for task in self.truths]

    @cached_property
    def spent(self) -> Floats:
        """Points of a curve: spent budget in its unit, in ascending order up to the whole budget."""
        amount = float(self.budget.amount)
        if self.budget.unit == "seconds":
            return np.linspace(amount / MOST_POINTS, amount, MOST_POINTS)
        points = np.linspace(1, amount, int(min(MOST_POINTS, amount)))
        return np.unique(np.round(points))

    @cached_property
    def seconds(self) -> Floats:
        """Points of a curve: simulated seconds, in ascending order up to the median duration of the searches."""
        last = [search.finish.max(initial=0.0) for search in self._all]
        return np.linspace(0, float(np.median(last)), MOST_POINTS + 1)[1:]

    @cached_property
    def regrets(self) -> dict[str, Floats]:
        """Normalised regret of the incumbent at :attr:`spent`, by agent, float64 ``(tasks, seeds, points)``.

        The incumbent is the feasible student with the highest observed reward; its regret is computed from its true
        reward. Regret 0 is the optimum. Regret 1 is the exact median of noise-free random search among feasible
        students with the whole budget. Before the first success, it is the regret of the worst feasible student.
        """
        return {agent: self._by_run(agent, self._regret_by_cost) for agent in self.agents}

    @cached_property
    def final(self) -> dict[str, Floats]:
        """Normalised regret at the end, by agent, float64 ``(tasks, seeds)``."""
        return {agent: regrets[..., -1] for agent, regrets in self.regrets.items()}

    def regrets_by_second(self, agent: str) -> Floats:
        """Return the normalised regret at :attr:`seconds`, float64 ``(tasks, seeds, points)``."""
        return self._by_run(
            agent, lambda truth, search: self._normalised(truth, _at(self.seconds, search.finish, _incumbents(search)))
        )

    @cached_property
    def random(self) -> Floats:
        """Normalised regret of random search's exact median at :attr:`spent`, mean over tasks, ``(points,)``."""
        curves = [
            self._normalised(truth, np.array([self._random_median(truth, spent) for spent in self.spent.tolist()]))
            for truth in self.truths.values()
        ]
        mean: Floats = np.mean(curves, axis=0)
        return mean

    def volumes(self, agent: str) -> Floats:
        """Return the share of the exact front's hypervolume at :attr:`spent`, float64 ``(tasks, seeds, points)``."""

        def shares(truth: Truth, search: Trajectory) -> Floats:
            curve = hypervolume_curve(truth.costs_of(search.index), truth.reference) / truth.volume
            return np.nan_to_num(_at(self.spent, search.cost, curve))

        return self._by_run(agent, shares)

    def hits(self, agent: str, share: float) -> tuple[Floats, Bools]:
        """Return the budget spent until the incumbent was among the best share of students (0: tied with the optimum).

        Returns:
            Spent budget, float64 ``(tasks, seeds)``, and whether the target was never reached, bool.
        """

        def hit(truth: Truth, search: Trajectory) -> Floats:
            if not len(search):
                return np.array([float(self.budget.amount), 1.0])
            time, censored = hitting_times(_incumbents(search), truth.threshold(share))
            return np.array([search.cost[int(time) - 1], float(censored)])

        hits = self._by_run(agent, hit)
        return hits[..., 0], hits[..., 1] > 0

    @property
    def _first(self) -> Trajectory:
        return next(iter(self.trajectories.values()))

    @property
    def _all(self) -> list[Trajectory]:
        return [search for agent in self.agents for runs in self.of_agent(agent) for search in runs]

    def _regret_by_cost(self, truth: Truth, search: Trajectory) -> Floats:
        return self._normalised(truth, _at(self.spent, search.cost, _incumbents(search)))

    def _normalised(self, truth: Truth, values: Floats) -> Floats:
        # Without a success, NaN; noise may also make an infeasible student the incumbent, worse than all feasible ones.
        known = np.fmax(values, truth.reward.min())
        return regrets_of(known, truth, self.budget, self.workers)

    def _random_median(self, truth: Truth, spent: float) -> float:
        amount = spent if self.budget.unit == "seconds" else int(spent)
        return truth.random_median(_affordable(truth, replace(self.budget, amount=amount), self.workers))

    def _by_run(self, agent: str, function: Callable[[Truth, Trajectory], Floats]) -> Floats:
        runs = self.of_agent(agent)
        return np.array(
            [[function(truth, search) for search in row] for truth, row in zip(self.truths.values(), runs, strict=True)]
        )


def regrets_of(values: npt.ArrayLike, truth: Truth, budget: Budget, workers: int = 1) -> Floats:
    """Return the normalised regret of true rewards: 0 is the optimum, 1 the median of random search with the budget.

    Raises:
        KDNASError: If that median is the optimum.
    """
    return normalised_regret(values, truth.best, truth.random_median(_affordable(truth, budget, workers)))


def _affordable(truth: Truth, budget: Budget, workers: int) -> int:
    # All workers share the clock.
    return truth.affordable(budget) * (workers if budget.unit == "seconds" else 1)


def _incumbents(search: Trajectory) -> Floats:
    return incumbents(np.where(search.ok, search.observed, np.nan), search.true) if len(search) else np.empty(0)


def _at(points: Floats, reached: Floats, curve: Floats) -> Floats:
    """Return the values of a step curve at points; NaN before its first step."""
    place = np.searchsorted(reached, points, side="right") - 1
    return np.where(place >= 0, curve[np.maximum(place, 0)], np.nan) if len(curve) else np.full(len(points), np.nan)
