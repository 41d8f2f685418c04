"""The interface of all agents: search an environment and return the result.

An agent sees a ``MultiDiscrete`` action space, rewards and infos, but not their meaning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from kdnas_env.agents.environment import Environment, Info
from kdnas_env.agents.ranking import Best, Ranking, RoundRecord
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.settings import Settings

ConfigT = TypeVar("ConfigT")
RoundCallback = Callable[[Ranking], object]
"""Called after each round with the ranking so far."""


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

    Raises:
        KDNASError: If the configuration is not an instance of ``Config``.
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

        Returns:
            Every candidate with its reward and info, the best one, and the rounds.

        Raises:
            KDNASError: If the action space has another type, or no budget is given.
        """
