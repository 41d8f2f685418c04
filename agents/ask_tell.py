"""Base class of ask-tell agents: implements search, saving and loading."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.agents.base import Agent, ConfigT, RoundCallback, SearchResult
from kdnas_env.agents.environment import (
    Environment,
    Info,
    action_counts,
    checked_answers,
    evaluate_round,
    evaluation_limit,
    is_free,
    is_usable,
    round_size_of,
)
from kdnas_env.agents.proposal import PendingCandidates, Proposal
from kdnas_env.agents.ranking import Ranking, RoundRecord
from kdnas_env.agents.state import STATE_VERSION, check_saved_by, read_state, write_state
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.checks import check_whole
from kdnas_env.support.env_attributes import env_attribute

__all__ = ["AskTellAgent", "Proposal"]


class AskTellAgent(Agent[ConfigT]):
    """An agent that proposes candidates and learns from their rewards.

    Subclasses implement :meth:`_propose`, mostly with :meth:`_fill`, and :meth:`_learn` if they learn after each round;
    they inherit :meth:`search`, the ranking, and saving. They may use ``grid``, ``ranking``, ``seen`` and ``rng``,
    which are saved and restored; a subclass with further state extends :meth:`state_dict` and :meth:`load_state_dict`.

    Between :meth:`ask` and :meth:`tell` a candidate is pending. One call of :meth:`tell` is one round. :meth:`ask` may
    be called while candidates are pending.

    Attributes:
        grid: The points of the action space.
        budget: Evaluations of the whole search.
        round_size: Candidates per round.
        seed: Seed of the search.
        rng: The agent's random generator.
        ranking: All candidates so far, and the best ones.
    """

    grid: Grid
    budget: int
    round_size: int
    seed: int
    rng: np.random.Generator
    ranking: Ranking

    def reset(
        self,
        nvec: npt.ArrayLike,
        *,
        budget: int,
        round_size: int,
        seed: int = 0,
        candidates: npt.ArrayLike | None = None,
    ) -> None:
        """Start a new search.

        Args:
            nvec: Choices per dimension, integers of shape ``(dims,)``.
            budget: Evaluations of the whole search.
            round_size: Candidates per round.
            seed: Seed of all randomness in the agent.
            candidates: Flat indices of the allowed points (last dimension fastest); None for all.

        Raises:
            KDNASError: If an argument is malformed.
        """
        self.grid = Grid.of(nvec, candidates)
        self.budget = check_whole("budget", budget, at_least=1)
        self.round_size = check_whole("round_size", round_size, at_least=1)
        self.seed = check_whole("seed", seed, at_least=0)
        self.rng = self._stream(0)
        self.ranking = Ranking()
        self._pending = PendingCandidates(self.grid)
        self._seen = Seen()
        self._infos: list[Info] = []
        self._free = 0  # number of candidates that break a limit and were not charged to the budget
        self._start()

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment, without taking a step; the arguments are those of :meth:`search`.

        Raises:
            KDNASError: If the action space has another type, or no budget is given.
        """
        self.reset(
            action_counts(env),
            budget=evaluation_limit(env, budget),
            round_size=round_size_of(env, round_size),
            seed=seed,
            candidates=env_attribute(env, "valid_action_indices"),
        )

    @property
    def rounds(self) -> int:
        """Rounds of the whole search."""
        return math.ceil(self.budget / self.round_size)

    @property
    def evaluated(self) -> Ints:
        """Every candidate in the order of evaluation, a copy, int64 of shape ``(evaluations, dims)``."""
        return self._evaluated.copy()

    @property
    def spent(self) -> int:
        """Number of counted evaluations: all except candidates that break a limit and were not charged."""
        return self.ranking.evaluations - self._free

    @property
    def pending(self) -> Ints:
        """Proposed candidates whose rewards are not yet known, oldest first, int64 ``(n, dims)``."""
        return self._pending.actions

    @property
    def seen(self) -> Seen:
        """Flat indices of the points that are evaluated or pending; valid until the next change.

        Adding to the result does not change the agent.
        """
        return self._seen.union(())

    def ask(self, n: int) -> Ints:
        """Propose candidates.

        Args:
            n: Number of candidates.

        Returns:
            int64 of shape ``(m, dims)``. m is less than n only if the agent has no more proposals, for example
            because the space is exhausted.
        """
        self._check_started()
        # Limit n to the size of the grid, because some agents loop n times.
        proposal = self._propose(min(check_whole("n", n, at_least=1), self.grid.size))
        actions = self.grid.check(proposal.actions)
        self._pending.add(replace(proposal, actions=actions), len(self.ranking.rounds))
        self._seen.update(self.grid.numbers(actions))
        return actions

    def tell(self, actions: npt.ArrayLike, rewards: npt.ArrayLike, infos: Sequence[Info] | None = None) -> None:
        """Learn the rewards of candidates; this ends a round.

        Candidates that were not proposed are accepted too. Omitted proposals stay pending.

        Args:
            actions: The candidates, integers of shape ``(n, dims)``.
            rewards: Their rewards, shape ``(n,)``.
            infos: The environment's info for each. A candidate failed if its info has a ``status`` other than ``ok``,
                or its reward is not finite. It breaks a limit if its info has a ``cost`` above 0. In both cases it
                cannot be best.

        Raises:
            KDNASError: If shapes disagree or an action is out of range.
        """
        self._check_started()
        candidates = self.grid.check(actions)
        earned, infos = checked_answers(len(candidates), rewards, infos)
        numbers = self.grid.numbers(candidates)
        origins = self._pending.take(numbers, len(self.ranking.rounds))
        self.ranking = self.ranking.update(
            candidates,
            earned,
            usable=[is_usable(info) for info in infos],
            exploration=origins[0].exploration,
            random=[origin.random for origin in origins],
            predicted=[origin.predicted for origin in origins],
            known_rounds=[origin.known_rounds for origin in origins],
        )
        self._seen.update(numbers)
        self._infos.extend(infos)
        self._free += sum(is_free(info) for info in infos)
        self._learn(self.ranking.rounds[-1])

    def result(self) -> SearchResult:
        """Return the result so far, also after an interrupted search.

        Infos are not part of the saved state: after :meth:`load`, earlier infos are empty.
        """
        self._check_started()
        return SearchResult(
            actions=self.evaluated,
            rewards=self.ranking.rewards.copy(),
            infos=tuple(self._infos),
            best=self.ranking.global_best,
            rounds=self.ranking.rounds,
        )

    def search(
        self,
        env: Environment,
        *,
        budget: int | None = None,
        round_size: int | None = None,
        seed: int = 0,
        on_round: RoundCallback | None = None,
    ) -> SearchResult:
        """Search an environment, round by round; see :meth:`Agent.search`.

        The search ends when the budget is spent, the environment ends the episode, or the agent has no more proposals.
        If it is interrupted within a round, the agent first learns the finished evaluations, so that :meth:`result`
        includes them; then the exception is raised again.

        Raises:
            KDNASError: Also if a reward is not a number, such as that of ``MultiObjectiveReward``.
        """
        self.start(env, budget=budget, round_size=round_size, seed=seed)
        return self.resume(env, on_round=on_round)

    def resume(self, env: Environment, *, on_round: RoundCallback | None = None) -> SearchResult:
        """Resume a loaded or interrupted search, until its budget is spent.

        The environment is reset and receives only the remaining evaluations; pending candidates come first.

        Args:
            env: An environment with the same action space.
            on_round: Called after each round with the ranking.

        Raises:
            KDNASError: If there is no search to resume, the action space differs, or ``num_envs`` of a vector
                environment differs from the round size.
        """
        self._check_started()
        if not np.array_equal(nvec := action_counts(env), self.grid.nvec):
            raise KDNASError(f"the environment's actions are {nvec}, but the search is over {self.grid.nvec}")
        vector = isinstance(env, gym.vector.VectorEnv)
        round_size_of(env, self.round_size)
        env.reset(seed=self.seed)
        ended = False
        while not ended and (left := self.budget - self.spent) > 0:
            wanted = min(self.round_size, left)
            if len(self._pending) < (wanted if vector else 1):
                self.ask(wanted - len(self._pending))
            actions = self.pending[:wanted]
            # A vector environment needs candidates for all sub-environments.
            if not len(actions) or (vector and len(actions) < self.round_size):
                break
            ended = self._evaluate_round(env, actions)
            if on_round is not None:
                on_round(self.ranking)
        return self.result()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state atomically to an npz file for :meth:`load`.

        Raises:
            RunError: If the file cannot be written.
        """
        write_state(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Restore a state written by :meth:`save`; the next proposals equal those of the saved agent.

        Raises:
            RunError: If the file cannot be read, or belongs to another agent or other hyper-parameters.
        """
        state = read_state(path)
        try:
            self.load_state_dict(state)
        except RunError:
            raise
        except Exception as error:  # a damaged state may raise any error
            raise RunError(
                f"{os.fspath(path)!r} is not a complete state of a {type(self).__name__}: {error!r}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Return the state as NumPy arrays and JSON values, without infos."""
        self._check_started()
        return {
            "version": STATE_VERSION,
            "agent": type(self).__name__,
            "config": asdict(cast(Any, self.config)),
            "nvec": self.grid.nvec,
            "allowed": self.grid.allowed,
            "budget": self.budget,
            "round_size": self.round_size,
            "seed": self.seed,
            "free": self._free,
            "rng": self.rng.bit_generator.state,
            **self._pending.to_state(),
            **self.ranking.to_arrays(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`.

        Raises:
            RunError: If the agent, version or hyper-parameters differ.
        """
        check_saved_by(state, agent=type(self).__name__, config=self.config)
        self.reset(
            state["nvec"],
            budget=state["budget"],
            round_size=state["round_size"],
            seed=state["seed"],
            candidates=state["allowed"],
        )
        self.rng.bit_generator.state = state["rng"]
        self.ranking = Ranking.from_arrays(state)
        self._seen.update(self.grid.numbers(self.grid.check(self._evaluated)))
        self._infos = [{} for _ in range(self.ranking.evaluations)]
        self._free = state.get("free", 0)
        self._pending = PendingCandidates.from_state(self.grid, state)
        self._seen.update(self._pending)

    @property
    def _evaluated(self) -> Ints:
        """:attr:`evaluated` as a read-only view."""
        evaluated: Ints = self.ranking.column("actions").reshape(-1, len(self.grid.nvec))
        return evaluated

    def _start(self) -> None:
        """Set up state other than the ranking, at the start of a search."""

    @abstractmethod
    def _propose(self, n: int) -> Proposal:
        """Return ``n`` candidates, or fewer only if there are no more."""

    def _fill(self, preferred: npt.ArrayLike, n: int, *, exploration: float = 0.0) -> Proposal:
        """Return a proposal of preferred points, filled up to ``n`` with random points.

        Args:
            preferred: Points in order of preference, integers of shape ``(m, dims)``. Duplicates, and points that are
                evaluated, pending or not allowed, are left out.
            n: Number of candidates.
            exploration: Intended fraction of random candidates.
        """
        seen = self.seen
        points = self.grid.check(np.asarray(preferred, dtype=np.int64).reshape(-1, len(self.grid.nvec)))
        chosen = self.grid.fresh(points, seen)[:n]
        drawn = self.grid.draw(self.rng, n - len(chosen), seen.union(self.grid.numbers(chosen)))
        return Proposal(
            actions=np.concatenate([chosen, drawn]),
            random=np.arange(len(chosen) + len(drawn)) >= len(chosen),
            exploration=exploration,
        )

    def _learn(self, record: RoundRecord) -> None:
        """Learn from a finished round, which is already part of ``ranking``."""

    def _stream(self, *key: int) -> np.random.Generator:
        """Return an independent random stream per key; agents with equal seeds get equal streams."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _evaluate_round(self, env: Environment, actions: Ints) -> bool:
        """Evaluate a round and learn from it, even if a step raises; return whether the episode ended."""
        return evaluate_round(env, actions, self.tell)

    def _check_started(self) -> None:
        if not hasattr(self, "ranking"):
            raise KDNASError(f"this {type(self).__name__} has no search; call reset(), load() or search() first")
