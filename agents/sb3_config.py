"""The hyper-parameters of the agents of Stable-Baselines3; light to import.

Names are those of Stable-Baselines3. The defaults are for searches of 50 to 2,000 evaluations, unlike its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agents.base import whole_number
from kdnas_env.errors import KDNASError

_SET_BY_THE_AGENT = {
    *("env", "policy", "policy_kwargs", "gamma", "seed", "verbose", "device", "tensorboard_log"),
    *("n_steps", "batch_size", "buffer_size"),
}
"""Arguments of the algorithms that follow from how candidates are proposed."""


@dataclass(frozen=True)
class SB3Config:
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
        whole_number("update_every", self.update_every, 1)
        check_number("learning_rate", self.learning_rate, above=0)
        if isinstance(self.net_arch, str) or not isinstance(self.net_arch, Sequence):
            raise KDNASError(f"net_arch is {self.net_arch!r}; expected the widths of the hidden layers, as in [64, 64]")
        # A list, since that is what a saved state gives back.
        object.__setattr__(self, "net_arch", [whole_number("a width of net_arch", width, 1) for width in self.net_arch])
        for name, own in (
            ("policy_kwargs", {*self.POLICY_FIELDS}),
            ("algorithm_kwargs", {*self.ALGORITHM_FIELDS} | _SET_BY_THE_AGENT),
        ):
            plain = plain_data(name, getattr(self, name))
            if clash := sorted(plain.keys() & own):
                raise KDNASError(f"{name} has {clash}, which the agent sets; use its hyper-parameters, if it has them")
            object.__setattr__(self, name, plain)


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
        check_number("ent_coef", self.ent_coef, least=0)
        whole_number("tries", self.tries, 1)


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
        whole_number("n_epochs", self.n_epochs, 1)
        check_number("clip_range", self.clip_range, above=0)


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
        check_number("target_kl", self.target_kl, above=0)
        whole_number("tries", self.tries, 1)


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
        check_number("ent_coef", self.ent_coef, least=0)
        whole_number("n_epochs", self.n_epochs, 1)
        check_number("clip_range", self.clip_range, above=0)


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
        whole_number("lstm_hidden_size", self.lstm_hidden_size, 1)


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
        whole_number("batch_size", self.batch_size, 1)
        whole_number("gradient_steps", self.gradient_steps, 1)
        whole_number("replay_size", self.replay_size, 1)
        check_number("exploration_initial_eps", self.exploration_initial_eps, least=0, most=1)
        check_number("exploration_final_eps", self.exploration_final_eps, least=0, most=1)
        check_number("exploration_fraction", self.exploration_fraction, above=0, most=1)


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
        whole_number("n_quantiles", self.n_quantiles, 1)


def check_number(
    name: str, value: object, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    """Raise a ``KDNASError`` that names the value, unless it is a finite number within the bounds."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number <= above or number < least or number > most:
        bounds = {f"above {above:g}": above, f"at least {least:g}": least, f"at most {most:g}": most}
        wanted = " and ".join(words for words, bound in bounds.items() if math.isfinite(bound))
        raise KDNASError(f"{name} is {value!r}; expected a number {wanted}")


def plain_data(name: str, value: object) -> dict[str, Any]:
    """Return a mapping as JSON gives it back, or raise a ``KDNASError`` that names it."""
    try:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            plain: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
            return plain
    except (TypeError, ValueError) as error:
        raise KDNASError(f"{name} is {value!r}; expected plain data: {error}") from error
    raise KDNASError(f"{name} is {value!r}; expected a mapping of names to plain data")
