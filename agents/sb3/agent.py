"""Stable-Baselines3 as agents: ask-tell agents that wrap its algorithms, and their hyper-parameters.

Importing this module does not import Stable-Baselines3. Hyper-parameters have the names of Stable-Baselines3, but the
defaults are chosen for searches of 50 to 2,000 evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import Capabilities
from kdnas_env.agents.ranking import Ranking, RoundRecord
from kdnas_env.core.grid import Grid
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.support.checks import Bounds
from kdnas_env.support.settings import Settings

if TYPE_CHECKING:
    from kdnas_env.agents.sb3.learners import Learner

_SET_BY_THE_AGENT = {
    *("env", "policy", "policy_kwargs", "gamma", "seed", "verbose", "device", "tensorboard_log"),
    *("n_steps", "batch_size", "buffer_size"),
}
"""Arguments of the algorithms that the agent sets, because they follow from how it proposes candidates."""

_OWNERS = {
    **dict.fromkeys(("update_every", "tries", "gradient_steps", "replay_size"), "learner"),
    **dict.fromkeys(("net_arch", "lstm_hidden_size", "n_quantiles"), "policy"),
    **dict.fromkeys(("policy_kwargs", "algorithm_kwargs", "device", "tensorboard_log"), "agent"),
}
"""Owner of each hyper-parameter; all others are arguments of the algorithm."""

_COUNTS = ("update_every", "tries", "n_epochs", "batch_size", "gradient_steps", "replay_size")
_BOUNDS: dict[tuple[str, ...], Bounds] = {
    (*_COUNTS, "lstm_hidden_size", "n_quantiles"): {"at_least": 1},
    ("learning_rate", "clip_range", "target_kl"): {"above": 0},
    ("ent_coef",): {"at_least": 0},
    ("exploration_initial_eps", "exploration_final_eps"): {"at_least": 0, "at_most": 1},
    ("exploration_fraction",): {"above": 0, "at_most": 1},
}
"""Bounds of the hyper-parameters of all algorithms."""


@dataclass(frozen=True)
class SB3Config(Settings):
    """Hyper-parameters of all Stable-Baselines3 agents.

    Attributes:
        update_every: Minimum number of evaluations between updates, which take place at the end of a round.
        learning_rate: Learning rate of the optimizer.
        net_arch: Widths of the hidden layers.
        policy_kwargs: Further keyword arguments of the policy, plain data. The activation function is given by its name
            in ``torch.nn``, as in ``{"activation_fn": "ReLU"}``.
        algorithm_kwargs: Further keyword arguments of the algorithm, plain data, such as ``{"max_grad_norm": 1.0}``.
        device: Torch device of the networks, such as ``cpu`` or ``cuda``.
        tensorboard_log: Folder for TensorBoard, with one run per search; None to log nothing. Needs the package
            ``tensorboard``.
    """

    update_every: int = 8
    learning_rate: float = 0.003
    net_arch: Sequence[int] = (64,)
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    algorithm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    tensorboard_log: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {field.name for field in fields(self)}
        for names, bounds in _BOUNDS.items():
            self.check_numbers(*(name for name in names if name in own), **bounds)
        if any(width < 1 for width in self.net_arch):
            raise KDNASError(f"net_arch is {self.net_arch!r}; expected the widths of the hidden layers, as in [64, 64]")
        self.make_plain("policy_kwargs", "algorithm_kwargs")
        for name, set_here in (
            ("policy_kwargs", {*self.arguments_of("policy")}),
            ("algorithm_kwargs", {*self.arguments_of("algorithm")} | _SET_BY_THE_AGENT),
        ):
            if clash := sorted(getattr(self, name).keys() & set_here):
                raise KDNASError(
                    f"{name} has {clash}, which the agent sets itself; remove them, and use the agent's settings of "
                    "the same name, if there are any"
                )

    def arguments_of(self, owner: Literal["learner", "policy", "algorithm"]) -> dict[str, Any]:
        """Return the hyper-parameters that are arguments of the learner, of the policy, or of the algorithm."""
        names = [field.name for field in fields(self) if _OWNERS.get(field.name, "algorithm") == owner]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class A2CConfig(SB3Config):
    """Hyper-parameters of A2C.

    Attributes:
        ent_coef: Weight of the entropy bonus per nat of the policy's entropy; training rewards are in [-1, 1].
        tries: Number of samples per requested candidate, because evaluated candidates are rejected; random candidates
            replace missing ones.
    """

    net_arch: Sequence[int] = (32,)
    ent_coef: float = 0.01
    tries: int = 20


@dataclass(frozen=True)
class PPOConfig(A2CConfig):
    """Hyper-parameters of PPO.

    Attributes:
        n_epochs: Training steps per update.
        clip_range: Clipping range of the ratio between a candidate's new and old probability, around 1.
    """

    n_epochs: int = 10
    clip_range: float = 0.2


@dataclass(frozen=True)
class TRPOConfig(SB3Config):
    """Hyper-parameters of TRPO; the learning rate is used for the critic.

    Attributes:
        target_kl: Maximum Kullback-Leibler divergence between the policies before and after an update, in nats.
        tries: Number of samples per requested candidate, because evaluated candidates are rejected; random candidates
            replace missing ones.
    """

    learning_rate: float = 0.01
    net_arch: Sequence[int] = (32,)
    target_kl: float = 0.1
    tries: int = 20


@dataclass(frozen=True)
class MaskablePPOConfig(SB3Config):
    """Hyper-parameters of PPO with masks.

    Attributes:
        ent_coef: Weight of the entropy bonus per nat of the policy's entropy; training rewards are in [-1, 1].
        n_epochs: Training steps per update.
        clip_range: Clipping range of the ratio between a choice's new and old probability, around 1.
    """

    learning_rate: float = 0.001
    ent_coef: float = 0.01
    n_epochs: int = 20
    clip_range: float = 0.2


@dataclass(frozen=True)
class RecurrentPPOConfig(MaskablePPOConfig):
    """Hyper-parameters of recurrent PPO.

    Attributes:
        lstm_hidden_size: Width of the LSTM; the hidden layers of ``net_arch`` follow it.
    """

    learning_rate: float = 0.005
    net_arch: Sequence[int] = ()
    n_epochs: int = 10
    lstm_hidden_size: int = 32


@dataclass(frozen=True)
class DQNConfig(SB3Config):
    """Hyper-parameters of DQN.

    Attributes:
        batch_size: Transitions per training step.
        gradient_steps: Training steps per ``update_every`` evaluations.
        replay_size: Number of newest evaluations to learn from; limits the time of an update.
        exploration_initial_eps: Probability of a random choice at the start of the search.
        exploration_final_eps: Probability of a random choice at the end of the decay.
        exploration_fraction: Fraction of the budget over which the probability decays.
    """

    net_arch: Sequence[int] = (64, 64)
    batch_size: int = 64
    gradient_steps: int = 20
    replay_size: int = 2_000
    exploration_initial_eps: float = 0.5
    exploration_final_eps: float = 0.05
    exploration_fraction: float = 0.5


@dataclass(frozen=True)
class QRDQNConfig(DQNConfig):
    """Hyper-parameters of QR-DQN.

    Attributes:
        n_quantiles: Number of quantiles of the return to estimate.
    """

    n_quantiles: int = 20


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

    learner: ClassVar[str] = "kdnas_env.agents.sb3.algorithms:OnPolicyLearner"
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
    algorithm, learner = "sb3_contrib:MaskablePPO", "kdnas_env.agents.sb3.algorithms:MaskableLearner"


class RecurrentPPOAgent(SB3Agent[RecurrentPPOConfig]):
    """PPO with an LSTM policy (Hochreiter and Schmidhuber 1997), which remembers the earlier choices of a candidate."""

    Config = RecurrentPPOConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "sb3_contrib:RecurrentPPO", "kdnas_env.agents.sb3.algorithms:RecurrentLearner"


class DQNAgent(SB3Agent[DQNConfig]):
    """Deep Q-network (Mnih et al. 2015, doi:10.1038/nature14236)."""

    Config = DQNConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "stable_baselines3:DQN", "kdnas_env.agents.sb3.algorithms:QLearner"


class QRDQNAgent(SB3Agent[QRDQNConfig]):
    """Deep Q-network with quantile regression (Dabney et al. 2018, arXiv:1710.10044)."""

    Config = QRDQNConfig
    capabilities = _ONE_BY_ONE
    algorithm, learner = "sb3_contrib:QRDQN", "kdnas_env.agents.sb3.algorithms:QLearner"
