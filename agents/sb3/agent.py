"""Stable-Baselines3 as agents: ask-tell agents that wrap its algorithms."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import Capabilities
from kdnas_env.agents.ranking import Ranking, RoundRecord
from kdnas_env.agents.sb3.config import (
    A2CConfig,
    DQNConfig,
    MaskablePPOConfig,
    PPOConfig,
    QRDQNConfig,
    RecurrentPPOConfig,
    SB3Config,
    TRPOConfig,
)
from kdnas_env.core.grid import Grid
from kdnas_env.errors import DependencyError, KDNASError

if TYPE_CHECKING:
    from kdnas_env.agents.sb3.learners import Learner

SB3ConfigT = TypeVar("SB3ConfigT", bound=SB3Config)

_WEIGHTS, _TRAINING = 1, 2
"""Keys of the random streams: for the initial weights, and for training after each round."""

_ONE_SHOT = Capabilities(action_space="MultiDiscrete")
_ONE_BY_ONE = Capabilities(action_space="Discrete, one dimension per step")


def check_importable(*names: str) -> None:
    """Check that what an agent needs of Stable-Baselines3 is installed.

    Args:
        names: Objects, as ``module:name``.

    Raises:
        DependencyError: If one cannot be imported.
    """
    try:
        for name in names:
            resolve_name(name)
    except ImportError as error:
        raise DependencyError(
            f"the agent needs Stable-Baselines3 and sb3-contrib, which cannot be imported: {error}; "
            "pip install 'kdnas[sb3]'"
        ) from error


class SB3Agent(AskTellAgent[SB3ConfigT]):
    """Proposes candidates from a Stable-Baselines3 policy (Raffin et al. 2021), each point at most once.

    For the algorithm, a candidate is an episode whose last step has the reward. Algorithms differ in the steps of an
    episode and in how they avoid evaluated and forbidden points:

    | Steps of an episode              | Algorithms               | Evaluated and forbidden points                   |
    |----------------------------------|--------------------------|--------------------------------------------------|
    | one, ``MultiDiscrete``           | PPO, A2C, TRPO           | sampled again; after ``tries``, drawn at random  |
    | one per dimension, ``Discrete``  | MaskablePPO              | masked in the policy                             |
    | one per dimension, ``Discrete``  | RecurrentPPO, DQN, QRDQN | excluded when choosing; the policy has no masks  |

    The training reward is the rank of a reward among all earlier rewards (in a long search, the newest), scaled to
    [-1, 1]. On-policy algorithms do not learn from candidates that were drawn at random instead of from the policy.

    The algorithm (:attr:`model`) is derived from the ranking and the seed, and not saved. After loading it is trained
    again, round by round, which takes as long as training took in the search, but no evaluations.

    Raises:
        DependencyError: If Stable-Baselines3, or TensorBoard for a log, is not installed.
        KDNASError: If the algorithm does not accept the configuration, or the device is not available.
    """

    algorithm: ClassVar[str]
    """Import path of the algorithm, as ``module:class``."""

    learner: ClassVar[str] = "kdnas_env.agents.sb3.on_policy:OnPolicyLearner"
    """Import path of the learner, which samples from the algorithm and trains it, as ``module:class``."""

    def __init__(self, config: SB3ConfigT | None = None) -> None:
        super().__init__(config)
        self._learner: Learner | None = None
        self._trained_rounds = 0
        check_importable(self.learner, self.algorithm)
        folder, writer = self.config.tensorboard_log, resolve_name("stable_baselines3.common.logger:SummaryWriter")
        if folder is not None and writer is None:
            raise DependencyError(
                f"tensorboard_log is {folder!r}, but TensorBoard cannot be imported; pip install tensorboard, or leave "
                "out tensorboard_log"
            )
        # Check the options now, before anything is loaded or evaluated.
        self._make_learner(Grid.of([2, 2]), None, np.random.default_rng(0))

    @property
    def model(self) -> Any:
        """The trained algorithm of the search, a ``stable_baselines3.common.base_class.BaseAlgorithm``."""
        self._check_started()
        return self._trained_learner().model

    def __getstate__(self) -> dict[str, Any]:
        # The learner is omitted: it can be trained again, and its TensorBoard log cannot be pickled.
        return {**self.__dict__, "_learner": None, "_trained_rounds": 0}

    def _start(self) -> None:
        self._learner, self._trained_rounds = None, 0

    def _propose(self, n: int) -> Proposal:
        progress = min(1.0, self.ranking.evaluations / self.budget)
        chosen = self._trained_learner().sample(n, self.seen, progress, self.rng)
        return self._fill(chosen, n)

    def _learn(self, record: RoundRecord) -> None:
        # Usually training waits until the next proposals, but then the log would lack the last round.
        if self.config.tensorboard_log is not None:
            self._trained_learner()

    def _trained_learner(self) -> Learner:
        """Return the learner, trained on all rounds."""
        learner, trained_rounds = self._learner, self._trained_rounds
        # Unset until training ends, because an interrupted training leaves an unusable learner.
        self._learner, self._trained_rounds = None, 0
        if learner is None:
            learner = self._make_learner(self.grid, self.config.tensorboard_log, self._stream(_WEIGHTS))
        for end in range(trained_rounds + 1, len(self.ranking.rounds) + 1):
            learner.learn(Ranking(self.ranking.rounds.until(end)), self._stream(_TRAINING, end))
        self._learner, self._trained_rounds = learner, len(self.ranking.rounds)
        return learner

    def _make_learner(self, grid: Grid, tensorboard_log: str | None, rng: np.random.Generator) -> Learner:
        """Return an untrained learner.

        Raises:
            KDNASError: If the algorithm does not accept the configuration, or the device is not available.
        """
        from kdnas_env.agents.sb3.learners import with_activation

        config, algorithm = self.config, resolve_name(self.algorithm)
        try:
            learner: Learner = resolve_name(self.learner)(
                algorithm,
                grid,
                arguments={
                    **config.arguments_of("algorithm"),
                    **config.algorithm_kwargs,
                    "policy_kwargs": {**config.arguments_of("policy"), **with_activation(config.policy_kwargs)},
                },
                device=config.device,
                tensorboard_log=tensorboard_log,
                rng=rng,
                **config.arguments_of("learner"),
            )
        except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
            raise KDNASError(f"{algorithm.__name__} cannot be created with {config}: {error}") from error
        return learner


class PPOAgent(SB3Agent[PPOConfig]):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347)."""

    Config = PPOConfig
    capabilities = _ONE_SHOT
    algorithm = "stable_baselines3:PPO"


class A2CAgent(SB3Agent[A2CConfig]):
    """Advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783)."""

    Config = A2CConfig
    capabilities = _ONE_SHOT
    algorithm = "stable_baselines3:A2C"


class TRPOAgent(SB3Agent[TRPOConfig]):
    """Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477)."""

    Config = TRPOConfig
    capabilities = _ONE_SHOT
    algorithm = "sb3_contrib:TRPO"


class MaskablePPOAgent(SB3Agent[MaskablePPOConfig]):
    """PPO with masked invalid actions (Huang and Ontanon 2020, arXiv:2006.14171)."""

    Config = MaskablePPOConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "sb3_contrib:MaskablePPO", "kdnas_env.agents.sb3.on_policy:MaskableLearner"


class RecurrentPPOAgent(SB3Agent[RecurrentPPOConfig]):
    """PPO with an LSTM policy (Hochreiter and Schmidhuber 1997), which remembers the earlier choices of a candidate."""

    Config = RecurrentPPOConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "sb3_contrib:RecurrentPPO", "kdnas_env.agents.sb3.on_policy:RecurrentLearner"


class DQNAgent(SB3Agent[DQNConfig]):
    """Deep Q-network (Mnih et al. 2015, doi:10.1038/nature14236)."""

    Config = DQNConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "stable_baselines3:DQN", "kdnas_env.agents.sb3.q_learning:QLearner"


class QRDQNAgent(SB3Agent[QRDQNConfig]):
    """Deep Q-network with quantile regression (Dabney et al. 2018, arXiv:1710.10044)."""

    Config = QRDQNConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "sb3_contrib:QRDQN", "kdnas_env.agents.sb3.q_learning:QLearner"
