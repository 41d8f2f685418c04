"""The KD-NAS reward: a trade-off between imitation of the teacher and latency."""

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
"""Quality in the reward: imitation of the teacher's hidden states, or performance on a task."""

_LARGEST_POWER = 30


@dataclass(frozen=True, slots=True)
class RewardComponents:
    """A reward and its components, as plain Python floats.

    Attributes:
        reward: The scalar.
        quality: ``1 - loss``; 1 is a perfect imitation, 0 predicts the teacher's mean.
        loss: Held-out unexplained variance (or the loss that the reward goes by).
        latency_ratio: Student over teacher latency, clipped.
        latency_factor: ``(latency_ratio / beta) ** alpha``.
        speedup: Teacher over student latency, unclipped.
        cost: Violation of limits (:class:`kdnas_env.core.constraints.Constraints`); 0 if all are kept.
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

    The formula is that of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639), with two corrections. If ``1 - loss <= 0``,
    a faster student would get a lower reward; the reward is then ``max(1 - loss, floor)``, without the latency factor,
    which is continuous at 0. The factor is unbounded as latency approaches 0, so the latency ratio is clipped to
    ``[1e-3, 1e3]``. Therefore every reward is in ``[floor, upper_bound]``.

    Attributes:
        alpha: Exponent of the latency factor; negative, 0 ignores latency.
        beta: Target latency relative to the teacher's. As in the original formula, it multiplies all positive rewards
            by a constant, ``beta ** -alpha``, and does not change their ranking; ``alpha`` weights the latency.
        floor: Lowest reward.
        penalty: Reward of a failed or invalid evaluation, in [floor, upper_bound]; None: the floor. The floor is
            far below all other rewards, so that a learner without masks mainly learns which students are valid.
        loss: Loss of the imitation: ``heldout`` (unexplained variance, the default), ``heldout_raw`` or
            ``train_raw`` (training loss of the last epoch, as in the original paper).
        quality: ``imitation`` of the teacher's hidden states, or ``task``: the loss is the unexplained share of the
            task teacher's soft labels after a short task stage; evaluations without a task raise an error.

    Raises:
        KDNASError: If a number is out of range, a name is unknown, or the loss has no effect on the quality.
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
            KDNASError: If the quality is ``task``, which tables do not contain.
        """
        if self.quality == TASK:
            raise KDNASError(
                f"quality is {TASK}, which tables do not contain; use {IMITATION}, or evaluate live with a task"
            )
        return self._CURVES[self.loss]

    @property
    def goes_by(self) -> str:
        """Name of the loss in the reward: ``task``, or that of the imitation."""
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
            KDNASError: If the quality is ``task``, and the evaluation had no task.
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
        """Return the reward of an evaluation, and the violation of each limit by name; there are no limits here."""
        return self(evaluation), {}

    def _loss(self, evaluation: Evaluation) -> float | None:
        if not evaluation.ok:
            return None
        if self.quality == IMITATION:
            curve: tuple[float, ...] = getattr(evaluation, self.curve)
            return curve[-1] if curve else None
        if evaluation.task_unexplained is None:
            raise KDNASError(
                f"quality is {TASK!r}, but it was not measured for {evaluation.config}; evaluate with a task (`task`), "
                f"or use quality {IMITATION!r}"
            )
        return evaluation.task_unexplained

    def _latency_factor(self, ratio: float) -> float:
        clipped = min(max(ratio, self.MIN_RATIO), self.MAX_RATIO)
        return float((clipped / self.beta) ** self.alpha)
