"""The hyper-parameters of the agents of Stable-Baselines3; light to import.

Names are those of Stable-Baselines3. The defaults are for searches of 50 to 2,000 evaluations, unlike its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kdnas_env.errors import KDNASError
from kdnas_env.support.settings import Settings

_SET_BY_THE_AGENT = {
    *("env", "policy", "policy_kwargs", "gamma", "seed", "verbose", "device", "tensorboard_log"),
    *("n_steps", "batch_size", "buffer_size"),
}
"""Arguments of the algorithms that follow from how candidates are proposed."""


@dataclass(frozen=True)
class SB3Config(Settings):
    """Hyper-parameters of all agents of Stable-Baselines3.

    Attributes:
        update_every: Evaluations between updates; updates are made at the end of a round.
        learning_rate: Learning rate of the optimizer.
        net_arch: Widths of the hidden layers.
        policy_kwargs: Further arguments of the policy, plain data; the activation function by its name in
            ``torch.nn``, such as ``{"activation_fn": "ReLU"}``.
        algorithm_kwargs: Further arguments of the algorithm, plain data, such as ``{"max_grad_norm": 1.0}``.
        device: Device of the networks.
        tensorboard_log: Folder of TensorBoard, in which every search begins a run; None: nothing is logged. Needs the
            package tensorboard.
    """

    update_every: int = 8
    learning_rate: float = 0.003
    net_arch: Sequence[int] = (64,)
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    algorithm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    tensorboard_log: str | None = None

    LEARNER_FIELDS: ClassVar[tuple[str, ...]] = ("update_every",)
    """Fields that say how the algorithm is used."""

    ALGORITHM_FIELDS: ClassVar[tuple[str, ...]] = ("learning_rate",)
    """Fields that are arguments of the algorithm."""

    POLICY_FIELDS: ClassVar[tuple[str, ...]] = ("net_arch",)
    """Fields that are arguments of the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("update_every", at_least=1)
        self.check_numbers("learning_rate", above=0)
        if any(width < 1 for width in self.net_arch):
            raise KDNASError(f"net_arch is {self.net_arch!r}; expected the widths of the hidden layers, as in [64, 64]")
        self.make_plain("policy_kwargs", "algorithm_kwargs")
        for name, own in (
            ("policy_kwargs", {*self.POLICY_FIELDS}),
            ("algorithm_kwargs", {*self.ALGORITHM_FIELDS} | _SET_BY_THE_AGENT),
        ):
            if clash := sorted(getattr(self, name).keys() & own):
                raise KDNASError(f"{name} has {clash}, which the agent sets; use its hyper-parameters, if it has them")


@dataclass(frozen=True)
class A2CConfig(SB3Config):
    """Hyper-parameters of A2C.

    Attributes:
        ent_coef: What a nat of the policy's entropy is worth, where rewards are between -1 and 1.
        tries: Candidates that are sampled for each that is wanted, since what was evaluated is left out; if they are
            too few, random ones take the places.
    """

    net_arch: Sequence[int] = (32,)
    ent_coef: float = 0.01
    tries: int = 20

    LEARNER_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.LEARNER_FIELDS, "tries")
    ALGORITHM_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.ALGORITHM_FIELDS, "ent_coef")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("ent_coef", at_least=0)
        self.check_numbers("tries", at_least=1)


@dataclass(frozen=True)
class PPOConfig(A2CConfig):
    """Hyper-parameters of PPO.

    Attributes:
        n_epochs: Training steps per update.
        clip_range: Share by which an update may change how likely a candidate is.
    """

    n_epochs: int = 10
    clip_range: float = 0.2

    ALGORITHM_FIELDS: ClassVar[tuple[str, ...]] = (*A2CConfig.ALGORITHM_FIELDS, "n_epochs", "clip_range")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("n_epochs", at_least=1)
        self.check_numbers("clip_range", above=0)


@dataclass(frozen=True)
class TRPOConfig(SB3Config):
    """Hyper-parameters of TRPO; the learning rate is that of the critic.

    Attributes:
        target_kl: How far an update may move the policy, in nats.
        tries: As of A2C.
    """

    learning_rate: float = 0.01
    net_arch: Sequence[int] = (32,)
    target_kl: float = 0.1
    tries: int = 20

    LEARNER_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.LEARNER_FIELDS, "tries")
    ALGORITHM_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.ALGORITHM_FIELDS, "target_kl")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("target_kl", above=0)
        self.check_numbers("tries", at_least=1)


@dataclass(frozen=True)
class MaskablePPOConfig(SB3Config):
    """Hyper-parameters of PPO with masks.

    Attributes:
        ent_coef: As of A2C.
        n_epochs: As of PPO.
        clip_range: As of PPO.
    """

    learning_rate: float = 0.001
    ent_coef: float = 0.01
    n_epochs: int = 20
    clip_range: float = 0.2

    ALGORITHM_FIELDS: ClassVar[tuple[str, ...]] = PPOConfig.ALGORITHM_FIELDS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("ent_coef", at_least=0)
        self.check_numbers("n_epochs", at_least=1)
        self.check_numbers("clip_range", above=0)


@dataclass(frozen=True)
class RecurrentPPOConfig(MaskablePPOConfig):
    """Hyper-parameters of recurrent PPO.

    Attributes:
        lstm_hidden_size: Width of the LSTM, behind which the hidden layers come.
    """

    learning_rate: float = 0.005
    net_arch: Sequence[int] = ()
    n_epochs: int = 10
    lstm_hidden_size: int = 32

    POLICY_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.POLICY_FIELDS, "lstm_hidden_size")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("lstm_hidden_size", at_least=1)


@dataclass(frozen=True)
class DQNConfig(SB3Config):
    """Hyper-parameters of DQN.

    Attributes:
        batch_size: Transitions per training step.
        gradient_steps: Training steps per ``update_every`` evaluations.
        replay_size: Youngest evaluations that are learnt from, so that an update takes no longer the more there were.
        exploration_initial_eps: Chance that a choice is random, at the start of the search.
        exploration_final_eps: The same at the end.
        exploration_fraction: Share of the budget over which it falls from one to the other.
    """

    net_arch: Sequence[int] = (64, 64)
    batch_size: int = 64
    gradient_steps: int = 20
    replay_size: int = 2_000
    exploration_initial_eps: float = 0.5
    exploration_final_eps: float = 0.05
    exploration_fraction: float = 0.5

    LEARNER_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.LEARNER_FIELDS, "gradient_steps", "replay_size")
    ALGORITHM_FIELDS: ClassVar[tuple[str, ...]] = (
        *SB3Config.ALGORITHM_FIELDS,
        "batch_size",
        "exploration_initial_eps",
        "exploration_final_eps",
        "exploration_fraction",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("batch_size", "gradient_steps", "replay_size", at_least=1)
        self.check_numbers("exploration_initial_eps", "exploration_final_eps", at_least=0, at_most=1)
        self.check_numbers("exploration_fraction", above=0, at_most=1)


@dataclass(frozen=True)
class QRDQNConfig(DQNConfig):
    """Hyper-parameters of QR-DQN.

    Attributes:
        n_quantiles: Quantiles of the return that are learnt.
    """

    n_quantiles: int = 20

    POLICY_FIELDS: ClassVar[tuple[str, ...]] = (*SB3Config.POLICY_FIELDS, "n_quantiles")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("n_quantiles", at_least=1)
