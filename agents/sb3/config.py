"""The hyper-parameters of the Stable-Baselines3 agents; fast to import.

Names are those of Stable-Baselines3, but the defaults are chosen for searches of 50 to 2,000 evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import Bounds
from kdnas_env.support.settings import Settings

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
