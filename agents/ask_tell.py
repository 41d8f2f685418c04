"""Base of agents that propose candidates and learn from their rewards; searching and saving are implemented here."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.agents.base import (
    DEFAULT_ROUND_SIZE,
    Agent,
    ConfigT,
    Environment,
    Info,
    RoundCallback,
    SearchResult,
    action_counts,
    check_scalar,
    env_attribute,
    env_number,
    evaluation_limit,
    prefetch,
    split_infos,
)
from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking, RoundRecord
from kdnas_env.agents.state import read_state, write_state
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.checks import check_whole
from kdnas_env.support.untrusted import plain_copy

_STATE_VERSION = 1


@dataclass(frozen=True, eq=False)
class Proposal:
    """Candidates of one round, and how they were found.

    Attributes:
        actions: int64 of shape ``(n, dims)``.
        random: Which were drawn at random, bool ``(n,)``; None: none.
        predicted: Predicted rewards, float64 ``(n,)``; None: none.
        exploration: Share of the round that was meant to be random.
    """

    actions: Ints
    random: Bools | None = None
    predicted: Floats | None = None
    exploration: float = 0.0


class AskTellAgent(Agent[ConfigT]):
    """An agent that proposes candidates and learns from their rewards.

    Subclasses implement :meth:`_propose`, and :meth:`_learn` if they learn after each round; they inherit
    :meth:`search`, the ranking, and saving. They may use ``grid``, ``ranking``, ``seen`` and ``rng``, all of which are
    saved and restored; a subclass with further state extends :meth:`state_dict` and :meth:`load_state_dict`.

    Between :meth:`ask` and :meth:`tell` a candidate is pending. One call of :meth:`tell` is one round. :meth:`ask` may
    be called while candidates are pending.

    Attributes:
        grid: The points of the action space.
        budget: Evaluations of the whole search.
        round_size: Candidates per round.
        seed: Seed of the search.
        rng: The agent's random numbers.
        ranking: Every candidate so far, and the bests.
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
            seed: Seeds everything random in the agent.
            candidates: Numbers of the points that may be proposed (mixed radix, last dimension fastest); None: all.

        Raises:
            KDNASError: If an argument is malformed.
        """
        self.grid = Grid.of(nvec, candidates)
        self.budget = check_whole("budget", budget, at_least=1)
        self.round_size = check_whole("round_size", round_size, at_least=1)
        self.seed = check_whole("seed", seed, at_least=0)
        self.rng = self._stream(0)
        self.ranking = Ranking()
        self._pending: dict[int, _Pending] = {}
        self._seen = Seen()
        self._infos: list[Info] = []
        self._free = 0  # candidates that the environment did not charge to the budget, since they break a limit
        self._start()

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment, of which no step is made yet; the arguments are those of a search.

        Raises:
            KDNASError: If the action space is of another kind, or there is no budget.
        """
        self.reset(
            action_counts(env),
            budget=evaluation_limit(env, budget),
            round_size=_round_size(env, round_size),
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
        """Evaluations that count: all, but for candidates that break a limit and were not charged to the budget."""
        return self.ranking.evaluations - self._free

    @property
    def pending(self) -> Ints:
        """Candidates that were proposed and whose rewards are not known yet, oldest first, int64 ``(n, dims)``."""
        actions = [entry.action for entry in self._pending.values()]
        return np.array(actions, dtype=np.int64).reshape(-1, len(self.grid.nvec))

    @property
    def seen(self) -> Seen:
        """Numbers of the grid points that were evaluated or are pending, as of now and until the next change.

        What is added to it does not change the agent.
        """
        return self._seen.union(())

    def ask(self, n: int) -> Ints:
        """Propose candidates.

        Args:
            n: How many.

        Returns:
            int64 of shape ``(m, dims)``. m is less than n only if the agent has no more to propose, for example
            because the space is exhausted.
        """
        self._check_started()
        # There are no more, and agents count up to what they are asked for.
        proposal = self._propose(min(check_whole("n", n, at_least=1), self.grid.size))
        actions = self.grid.check(proposal.actions)
        m = len(actions)
        random = np.zeros(m, dtype=np.bool_) if proposal.random is None else proposal.random
        predicted = np.full(m, np.nan) if proposal.predicted is None else proposal.predicted
        known = len(self.ranking.rounds)
        for number, action, is_random, prediction in zip(
            self.grid.numbers(actions), actions, random, predicted, strict=True
        ):
            self._pending[number] = _Pending(action, bool(is_random), float(prediction), known, proposal.exploration)
            self._seen.add(number)
        return actions.copy()

    def tell(self, actions: npt.ArrayLike, rewards: npt.ArrayLike, infos: Sequence[Info] | None = None) -> None:
        """Learn the rewards of candidates; this ends a round.

        Candidates that were not proposed are accepted too. Proposed ones that are left out stay pending.

        Args:
            actions: The candidates, integers of shape ``(n, dims)``.
            rewards: Their rewards, shape ``(n,)``.
            infos: The info of the environment for each. A candidate whose info has a ``status`` other than ``ok``
                failed, as did one whose reward is not finite: it cannot be best. Neither can one whose info has a
                ``cost`` above 0, which breaks a limit.

        Raises:
            KDNASError: If shapes disagree or an action is out of range.
        """
        self._check_started()
        candidates = self.grid.check(actions)
        try:
            earned = np.asarray(rewards, dtype=np.float64)
            infos = [{} for _ in candidates] if infos is None else list(infos)
        except (TypeError, ValueError, OverflowError) as error:
            raise KDNASError(
                f"rewards or infos are malformed: {error}; expected a number and a mapping each"
            ) from error
        if earned.ndim == 2 and len(earned) and earned.shape[1] > 1:
            check_scalar(earned[0])
        if not all(isinstance(info, Mapping) for info in infos):
            raise KDNASError("an info is no mapping; expected what the environment said about each candidate")
        if not len(candidates) or earned.shape != (len(candidates),) or len(infos) != len(candidates):
            raise KDNASError(
                f"told {len(candidates)} action(s), rewards of shape {earned.shape} and {len(infos)} info(s); expected "
                "as many of each, at least one"
            )
        numbers = self.grid.numbers(candidates)
        known = len(self.ranking.rounds)
        origins = [
            self._pending.pop(number, _Pending(action, False, math.nan, known, 0.0))
            for number, action in zip(numbers, candidates, strict=True)
        ]
        self.ranking = self.ranking.update(
            candidates,
            earned,
            usable=[info.get("status", "ok") == "ok" and not info.get("cost", 0) > 0 for info in infos],
            exploration=origins[0].exploration,
            random=[origin.random for origin in origins],
            predicted=[origin.predicted for origin in origins],
            known_rounds=[origin.known_rounds for origin in origins],
        )
        self._seen.update(numbers)
        self._infos.extend(infos)
        self._free += sum(info.get("status") == "infeasible" and not info.get("counted", True) for info in infos)
        self._learn(self.ranking.rounds[-1])

    def result(self) -> SearchResult:
        """Return what was found so far; after an interrupted search, what was found until then.

        Infos are not part of the saved state: those from before a :meth:`load` are empty.
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

        The search ends when the budget is spent, the environment ends the episode, or the agent has no more to
        propose. If it is interrupted in the middle of a round, the agent learns what was evaluated before the
        exception is raised again, and :meth:`result` returns it.

        Raises:
            KDNASError: Also if a reward is no number, as that of ``MultiObjectiveReward``.
        """
        self.start(env, budget=budget, round_size=round_size, seed=seed)
        return self.resume(env, on_round=on_round)

    def resume(self, env: Environment, *, on_round: RoundCallback | None = None) -> SearchResult:
        """Go on with a search that was loaded or interrupted, until its budget is spent.

        The environment is reset and sees only what is left to evaluate; candidates that were pending come first.

        Args:
            env: An environment with the actions of the one that was searched.
            on_round: Called after each round with the ranking.

        Raises:
            KDNASError: If there is no search to go on with, or the environment has other actions or, a vector
                environment, another number of seats than a round has candidates.
        """
        self._check_started()
        if not np.array_equal(nvec := action_counts(env), self.grid.nvec):
            raise KDNASError(f"the environment's actions are {nvec}, but the search is over {self.grid.nvec}")
        vector = isinstance(env, gym.vector.VectorEnv)
        _round_size(env, self.round_size)
        env.reset(seed=self.seed)
        ended = False
        while not ended and (left := self.budget - self.spent) > 0:
            wanted = min(self.round_size, left)
            if len(self._pending) < (wanted if vector else 1):
                self.ask(wanted - len(self._pending))
            actions = self.pending[:wanted]
            # The seats of a vector environment are filled all or not at all.
            if not len(actions) or (vector and len(actions) < self.round_size):
                break
            ended = (
                self._play_together(env, actions) if isinstance(env, gym.vector.VectorEnv) else self._play(env, actions)
            )
            if on_round is not None:
                on_round(self.ranking)
        return self.result()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to an npz file, whole or not at all; :meth:`load` goes on from it.

        Raises:
            RunError: If the file cannot be written.
        """
        write_state(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Restore a state written by :meth:`save`: the next proposals are those of the agent that was saved.

        Raises:
            RunError: If the file cannot be read, or is of another agent or of other hyper-parameters.
        """
        state = read_state(path)
        try:
            self.load_state_dict(state)
        except RunError:
            raise
        except Exception as error:  # whatever a damaged state does to what is made of it
            raise RunError(f"{os.fspath(path)!r} is not a whole state of a {type(self).__name__}: {error!r}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numpy arrays and values that JSON can hold. Infos are left out."""
        self._check_started()
        return {
            "version": _STATE_VERSION,
            "agent": type(self).__name__,
            "config": asdict(cast(Any, self.config)),
            "nvec": self.grid.nvec,
            "allowed": self.grid.allowed,
            "budget": self.budget,
            "round_size": self.round_size,
            "seed": self.seed,
            "free": self._free,
            "rng": self.rng.bit_generator.state,
            "pending": self.pending,
            "pending_details": [
                [entry.random, entry.predicted, entry.known_rounds, entry.exploration]
                for entry in self._pending.values()
            ],
            **self.ranking.to_arrays(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`.

        Raises:
            RunError: If it is of another agent, version or hyper-parameters.
        """
        own = plain_copy(asdict(cast(Any, self.config)))
        wanted = {"version": _STATE_VERSION, "agent": type(self).__name__, **own}
        # A hyper-parameter that the state knows nothing of is younger than it, and changes nothing by default.
        config = {**plain_copy(asdict(self.Config())), **plain_copy(state["config"])}
        saved = {"version": state["version"], "agent": state["agent"], **config}
        for name in [*wanted, *(name for name in saved if name not in wanted)]:
            if saved.get(name) != wanted.get(name):
                raise RunError(
                    f"the saved state has {name} {saved.get(name)!r}, but this agent has {wanted.get(name)!r}; load it "
                    "into an agent made with the same settings"
                )
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
        pending = self.grid.check(state["pending"])
        self._pending = {
            number: _Pending(action, *details)
            for number, action, details in zip(
                self.grid.numbers(pending), pending, state["pending_details"], strict=True
            )
        }
        self._seen.update(self._pending)

    @property
    def _evaluated(self) -> Ints:
        """:attr:`evaluated`, without copying it; it cannot be written to."""
        evaluated: Ints = self.ranking.column("actions").reshape(-1, len(self.grid.nvec))
        return evaluated

    def _start(self) -> None:
        """Set up what the agent keeps beside the ranking, at the start of a search."""

    @abstractmethod
    def _propose(self, n: int) -> Proposal:
        """Return up to ``n`` candidates, less only if there are no more."""

    def _learn(self, record: RoundRecord) -> None:
        """Take in a finished round, which is already part of ``ranking``."""

    def _stream(self, *key: int) -> np.random.Generator:
        """Return a stream of random numbers of its own for every key, the same for every agent of the same seed."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _play(self, env: gym.Env[Any, Any], actions: Ints) -> bool:
        """Evaluate a round step by step and learn from it, even if a step raises; return whether the episode ended."""
        rewards: list[float] = []
        infos: list[Info] = []
        prefetch(env, actions)
        try:
            for action in actions:
                _, reward, terminated, truncated, info = env.step(action.copy())
                check_scalar(reward)
                rewards.append(float(reward))
                infos.append(dict(info))
                if terminated or truncated:
                    return True
            return False
        finally:
            if rewards:
                self.tell(actions[: len(infos)], rewards[: len(infos)], infos)

    def _play_together(self, env: gym.vector.VectorEnv[Any, Any, Any], actions: Ints) -> bool:
        """Evaluate a round in one step of all seats and learn from it; return whether the episode ended."""
        _, rewards, terminations, truncations, infos = env.step(actions.copy())
        ended = bool(np.any(terminations) or np.any(truncations))
        final = infos.get("final_info", infos) if ended else infos
        self.tell(actions, rewards, split_infos(final, len(actions)))
        return ended

    def _check_started(self) -> None:
        if not hasattr(self, "ranking"):
            raise KDNASError(f"this {type(self).__name__} has no search; call reset(), load() or search() first")


def _round_size(env: Environment, wanted: int | None) -> int:
    """Return the candidates per round: what is wanted, else what the environment says, else the default.

    Raises:
        KDNASError: If a vector environment has another number of seats than what is wanted.
    """
    if isinstance(env, gym.vector.VectorEnv):
        if wanted not in (None, env.num_envs):
            raise KDNASError(
                f"round_size is {wanted!r}, but a round of a vector environment is one step of its {env.num_envs} seats"
            )
        return env.num_envs
    size = env_number(env, "round_size") if wanted is None else wanted
    return DEFAULT_ROUND_SIZE if size is None else size


@dataclass(frozen=True, eq=False)
class _Pending:
    action: Ints
    random: bool
    predicted: float
    known_rounds: int
    exploration: float
