"""The KD-NAS reward: how well a student imitates its teacher, traded against how fast it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

from kdnas_env.core.evaluation import Evaluation
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_choice, check_number
from kdnas_env.support.untrusted import is_number, shown

IMITATION, TASK = "imitation", "task"
QUALITIES = (IMITATION, TASK)
"""What a student is rewarded for: how well it imitates the teacher's states, or how well it does its task."""

_LARGEST_POWER = 30


@dataclass(frozen=True, slots=True)
class RewardComponents:
    """A reward and what it is made of; plain Python floats throughout.

    Attributes:
        reward: The scalar.
        quality: ``1 - loss``; 1 is a perfect imitation, 0 predicts the teacher's mean.
        loss: Held-out unexplained variance (or the loss that the reward goes by).
        latency_ratio: Student over teacher latency, clipped.
        latency_factor: ``(latency_ratio / beta) ** alpha``.
        speedup: Teacher over student latency, unclipped.
        cost: By how much the student breaks limits (:class:`kdnas_env.core.constraints.Constraints`); 0 if by none.
    """

    reward: float
    quality: float
    loss: float
    latency_ratio: float
    latency_factor: float
    speedup: float
    cost: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the components as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class KDReward:
    """``(1 - loss) * (latency / (beta * teacher_latency)) ** alpha``, bounded.

    The formula is the one of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639). Taken literally it has two
    faults, which are mended here. Where ``1 - loss <= 0`` a faster student would score worse, so the
    latency factor is left out there: the reward is ``max(1 - loss, floor)``, which meets the formula at 0
    without a jump. And as latency goes to 0 the factor is unbounded, so the latency ratio is clipped to
    ``[1e-3, 1e3]``. Every reward thus lies in ``[floor, upper_bound]``.

    Attributes:
        alpha: Exponent of the latency factor; negative, 0 ignores latency.
        beta: Target latency as a share of the teacher's. As in the source's formula, it multiplies all positive rewards
            by one constant, ``beta ** -alpha``, and so changes no choice; ``alpha`` says how much latency counts.
        floor: Least reward.
        penalty: Reward of a failed or invalid evaluation, in [floor, upper_bound]; None: the floor. Far below all other
            rewards, as the floor is, it mostly teaches a learner without masks which students there are.
        loss: Which loss of the imitation counts: ``heldout`` (unexplained variance, the default), ``heldout_raw`` or
            ``train_raw`` (last-epoch training loss, as the original text has it).
        quality: ``imitation`` of the teacher's hidden states, or ``task``: the loss is the share of the soft labels of
            the task's teacher that a short task stage leaves unexplained, and only students whose evaluation had a
            task can be rewarded.
    """

    alpha: float = -0.06
    beta: float = 0.6**6
    floor: float = -1.0
    loss: str = "heldout"
    penalty: float | None = None
    quality: str = IMITATION

    MIN_RATIO = 1e-3
    MAX_RATIO = 1e3
    _CURVES: ClassVar[dict[str, str]] = {
        "heldout": "heldout_unexplained",
        "heldout_raw": "heldout_loss",
        "train_raw": "train_loss",
    }

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "floor"):
            check_number(name, getattr(self, name))
        if self.alpha > 0:
            raise KDNASError(f"alpha is {self.alpha}; expected 0 or less, since a positive alpha rewards slow students")
        if self.beta <= 0:
            raise KDNASError(f"beta is {self.beta}; expected a positive share of the teacher's latency")
        if self.floor >= 0:
            raise KDNASError(f"floor is {self.floor}; expected a negative number, the reward of a failure")
        check_choice("loss", self.loss, sorted(self._CURVES))
        check_choice("quality", self.quality, QUALITIES)
        if self.quality == TASK and self.loss != "heldout":
            raise KDNASError(f"loss is {self.loss}, which has no effect with quality {TASK}; leave it out")
        if -self.alpha * math.log10(self.beta / self.MIN_RATIO) > _LARGEST_POWER:
            raise KDNASError(
                f"alpha is {self.alpha} and beta {self.beta}, with which rewards go beyond 1e{_LARGEST_POWER}; bring "
                "alpha closer to 0"
            )
        if self.penalty is not None and not (
            is_number(self.penalty) and self.floor <= self.penalty <= self.upper_bound
        ):
            raise KDNASError(
                f"penalty is {shown(self.penalty)}; expected None, or a number from the floor, {self.floor:g}, to the "
                f"upper bound, {self.upper_bound:g}"
            )

    @property
    def curve(self) -> str:
        """Attribute of an evaluation whose last value is the loss.

        Raises:
            KDNASError: If the reward goes by the task, which tables do not hold.
        """
        if self.quality == TASK:
            raise KDNASError(f"quality is {TASK}, which no table holds; take {IMITATION}, or evaluate live with a task")
        return self._CURVES[self.loss]

    @property
    def goes_by(self) -> str:
        """The loss that counts: ``task``, or that of the imitation."""
        return TASK if self.quality == TASK else self.loss

    @property
    def lowest(self) -> float:
        """Smallest possible reward."""
        return self.floor

    @property
    def upper_bound(self) -> float:
        """Largest possible reward: a perfect student at the smallest latency ratio."""
        return float((self.MIN_RATIO / self.beta) ** self.alpha)

    @property
    def failure(self) -> float:
        """Reward of a failed or invalid evaluation."""
        return self.floor if self.penalty is None else self.penalty

    def score(self, loss: float, latency_ratio: float) -> float:
        """Return the reward of a loss and a student/teacher latency ratio."""
        quality = 1.0 - loss
        if quality <= 0.0:
            return max(quality, self.floor)
        return quality * self._latency_factor(latency_ratio)

    def __call__(self, evaluation: Evaluation) -> RewardComponents:
        """Return the reward of an evaluation with its components.

        Failures, and evaluations without a loss or a latency, get the penalty.

        Raises:
            KDNASError: If the reward goes by the task, and the evaluation had none.
        """
        loss = self._loss(evaluation)
        if loss is None or evaluation.latency is None:
            return RewardComponents(self.failure, 0.0, 1.0, 1.0, 1.0, 1.0)
        return self.components(loss, evaluation.latency.ratio)

    def components(self, loss: float, ratio: float) -> RewardComponents:
        """Return the reward of a loss and a student/teacher latency ratio with its components."""
        return RewardComponents(
            reward=self.score(loss, ratio),
            quality=1.0 - loss,
            loss=loss,
            latency_ratio=min(max(ratio, self.MIN_RATIO), self.MAX_RATIO),
            latency_factor=self._latency_factor(ratio),
            speedup=1.0 / ratio,
        )

    def with_costs(self, evaluation: Evaluation) -> tuple[RewardComponents, dict[str, float]]:
        """Return the reward of an evaluation, and by how much each limit is broken, by name; here there are none."""
        return self(evaluation), {}

    def _loss(self, evaluation: Evaluation) -> float | None:
        if not evaluation.ok:
            return None
        if self.quality == IMITATION:
            curve: tuple[float, ...] = getattr(evaluation, self.curve)
            return curve[-1] if curve else None
        if evaluation.task_unexplained is None:
            raise KDNASError(
                f"the reward goes by quality {TASK!r}, which was not measured of {evaluation.config}; evaluate with a "
                f"task, named with `task`, or take quality {IMITATION!r}"
            )
        return evaluation.task_unexplained

    def _latency_factor(self, ratio: float) -> float:
        clipped = min(max(ratio, self.MIN_RATIO), self.MAX_RATIO)
        return float((clipped / self.beta) ** self.alpha)
