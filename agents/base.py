"""The interface of all agents: search an environment and return the result.

An agent sees a ``MultiDiscrete`` action space, rewards and infos, but not their meaning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kdnas_env.agents.ranking import Best, Floats, Ints, Ranking, RoundRecord
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_whole
from kdnas_env.support.settings import Settings
from kdnas_env.support.untrusted import is_integer, shown

ConfigT = TypeVar("ConfigT")
Info = Mapping[str, Any]
Environment = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]
RoundCallback = Callable[[Ranking], object]
"""Called after each round with the ranking so far."""

DEFAULT_ROUND_SIZE = 8
"""Default number of candidates per round."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The result of a search.

    Attributes:
        actions: Every candidate in the order of evaluation, int64 of shape ``(n, dims)``.
        rewards: Rewards of the candidates, float64 of shape ``(n,)``.
        infos: The environment's info for each candidate.
        best: The best candidate, never a failed one; None if all failed.
        rounds: The rounds: exploration ratio, random and chosen candidates, predictions, bests.
    """

    actions: Ints
    rewards: Floats
    infos: tuple[Info, ...]
    best: Best | None
    rounds: Sequence[RoundRecord]

    @property
    def best_index(self) -> int | None:
        """Index of the best candidate, or None if all failed."""
        return self.best.index if self.best else None

    @property
    def best_action(self) -> Ints | None:
        """Action of the best candidate, int64 of shape ``(dims,)``, or None if all failed."""
        return np.array(self.best.action, dtype=np.int64) if self.best else None

    @property
    def best_reward(self) -> float | None:
        """Reward of the best candidate, or None if all failed."""
        return self.best.reward if self.best else None


@dataclass(frozen=True)
class NoSettings(Settings):
    """Settings of an agent without hyper-parameters."""


@dataclass(frozen=True)
class Capabilities:
    """Capabilities of an agent, shown in the table of agents.

    Attributes:
        action_space: Space in which the agent acts internally. Every agent searches a ``MultiDiscrete`` environment; an
            agent that acts in another space wraps it.
        masks: Whether it proposes only valid candidates, as far as the environment reveals them.
        vector: Whether it searches a vector environment, one round per step.
        multi_objective: Whether it can optimise several objectives.
        fidelity: Whether it can stop evaluations early.
        resume: Whether a saved agent resumes with the same next proposal.
    """

    action_space: str = "MultiDiscrete"
    masks: bool = True
    vector: bool = True
    multi_objective: bool = False
    fidelity: bool = False
    resume: bool = True


class Agent(ABC, Generic[ConfigT]):
    """A search strategy with its hyper-parameters.

    Learners with their own training loop implement :meth:`search`. Strategies that propose candidates and learn from
    their rewards derive from :class:`kdnas_env.agents.ask_tell.AskTellAgent`, which implements it.

    Attributes:
        Config: Frozen dataclass of the hyper-parameters, all with defaults; an agent without hyper-parameters omits it.
        capabilities: Capabilities of the agent.
        config: The hyper-parameters of this agent.
    """

    Config: ClassVar[type[Any]] = NoSettings
    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self, config: ConfigT | None = None) -> None:
        if config is not None and not isinstance(config, self.Config):
            raise KDNASError(f"{type(self).__name__} takes a {self.Config.__name__}, not {config!r}")
        self.config: ConfigT = cast(ConfigT, self.Config()) if config is None else config

    @abstractmethod
    def search(
        self,
        env: Environment,
        *,
        budget: int | None = None,
        round_size: int | None = None,
        seed: int = 0,
        on_round: RoundCallback | None = None,
    ) -> SearchResult:
        """Search an environment for the action with the highest reward.

        Args:
            env: An environment with a one-dimensional ``MultiDiscrete`` action space in which a step evaluates the
                action, or a vector environment of such environments, which evaluates one round per step. These
                attributes are used if they exist, through all wrappers: ``max_evaluations`` (else ``budget``) and
                ``round_size`` (int); ``valid_action_indices`` (flat indices of the valid actions, last dimension
                fastest, or None); and, for agents that join searches of other processes, ``identity`` (plain data that
                determine the rewards, by part). A candidate whose info has a ``status`` other than ``ok`` failed, and
                is never best.
            budget: Evaluations to spend; by default the environment's budget, which is never exceeded. In a vector
                environment, only whole rounds are spent.
            round_size: Candidates per round; by default the environment's, else 8. A vector environment sets it.
            seed: Seeds the agent and the environment's ``reset``.
            on_round: Called after each round with the ranking.

        Raises:
            KDNASError: If the action space has another type, or no budget is given.
        """


def action_counts(env: Environment) -> Ints:
    """Return the choices per dimension of an environment's actions, int64 of shape ``(dims,)``.

    Raises:
        KDNASError: If the actions are not a one-dimensional ``MultiDiscrete`` that starts at 0.
    """
    space = env.single_action_space if isinstance(env, gym.vector.VectorEnv) else getattr(env, "action_space", None)
    if not isinstance(space, spaces.MultiDiscrete) or space.nvec.ndim != 1 or np.any(space.start):
        raise KDNASError(
            f"the action space is {space}; expected a one-dimensional MultiDiscrete that starts at 0. Wrap the "
            "environment with an action wrapper that offers one"
        )
    return space.nvec.astype(np.int64)


def env_attribute(env: Environment, name: str) -> Any:
    """Return an attribute of an environment through all wrappers, or None if it has no such attribute."""
    if isinstance(env, gym.vector.VectorEnv):
        return getattr(env.unwrapped, name, None)
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def check_scalar(reward: Any) -> None:
    """Check that a reward is a scalar.

    Raises:
        KDNASError: If it is a vector.
    """
    if getattr(reward, "ndim", 0) or isinstance(reward, Sequence):
        raise KDNASError(
            f"the reward is {shown(reward)}; expected a number. Wrap the environment with LinearReward, which weights "
            "the parts of a vector"
        )


def split_infos(infos: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Split the infos of a vector environment into one info per environment.

    Args:
        infos: Arrays with one entry per environment, or mappings of such arrays; the key with a leading ``_`` holds the
            mask of environments that have the entry.
        count: Number of environments.

    Returns:
        One info per environment, with Python numbers.
    """
    own: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue
        entries = split_infos(values, count) if isinstance(values, Mapping) else values
        present = infos.get(f"_{name}", np.ones(count, dtype=np.bool_))
        for seat in np.flatnonzero(present):
            entry = entries[seat]
            own[seat][name] = entry.item() if isinstance(entry, np.generic) else deepcopy(entry)
    return own


def prefetch(env: gym.Env[Any, Any], actions: Ints) -> None:
    """Announce the next actions to an environment, if it supports that and no wrapper changes actions.

    Args:
        env: The environment; if it evaluates several actions at once, it has a method ``prefetch(actions)``.
        actions: The actions, int64 of shape ``(n, dims)``.
    """
    inner: gym.Env[Any, Any] = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.ActionWrapper):
            return
        inner = inner.env
    method = getattr(inner, "prefetch", None)
    if callable(method) and inner.action_space == env.action_space:
        method(actions.copy())


def evaluation_limit(env: Environment, budget: int | None) -> int:
    """Return the number of evaluations of a search: the environment's limit, but at most ``budget``.

    Raises:
        KDNASError: If neither is given.
    """
    allowed = env_number(env, "max_evaluations") or env_number(env, "budget")
    limits = [check_whole("budget", limit, at_least=1) for limit in (budget, allowed) if limit is not None]
    if not limits:
        raise KDNASError("the environment has no attribute 'budget'; pass budget=, the evaluations to spend")
    return min(limits)


def env_number(env: Environment, name: str) -> int | None:
    """Return an attribute like :func:`env_attribute` if it is an integer, else None."""
    value = env_attribute(env, name)
    return int(value) if is_integer(value) else None
