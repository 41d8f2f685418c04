"""What a study of the proxy found: agreements, noise ceilings, regrets, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.reward import KDReward
from kdnas_env.studies.proxy import Judgement, Kind
from kdnas_env.support.statistics import Correlation, Floats, correlate, correlation_within, kendall_tau, spearman_rho

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOSEN = (1, 3, 5)
"""How many students are chosen by a proxy where its regret is told."""

PROXIES = {
    "reward": "mini-KD reward",
    "loss": "mini-KD loss",
    "loss_at_0": "loss before any step",
    "parameters": "parameter count",
}
TARGETS = {"full_loss": "full-KD loss", "score": "task score", "full_reward": "full-KD reward"}

_REPEATED: dict[str, Kind] = {"loss": "mini-kd", "reward": "mini-kd", "full_loss": "full-kd", "score": "full-kd"}
"""Quantities that are measured with two seeds, and by which kind of judgement."""


@dataclass(frozen=True)
class Agreement:
    """How well a proxy ranks students as a target does.

    Attributes:
        proxy: Name of the proxy.
        target: Name of the target.
        tau: Kendall's tau-b.
        rho: Spearman's rho.
        tau_at_equal_latency: Mean tau among students of similar latency; None where there are too few.
        regrets: For each number of students chosen by the proxy, what the best of them lacks of the best of all, in
            units of the target.
    """

    proxy: str
    target: str
    tau: Correlation | None
    rho: Correlation | None
    tau_at_equal_latency: float | None
    regrets: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class Findings:
    """What a study found.

    Attributes:
        students: Students that were judged in every way.
        columns: Every quantity of every student, by name; more is better, float64 ``(students,)``.
        ratios: Latency of each, as a share of the teacher's.
        agreements: Proxies against targets.
        ceilings: Kendall's tau between two seeds of the same quantity, by name.
        noise: Standard deviation of a quantity between seeds of a student, by name.
        failed: Judgements that failed.
    """

    students: tuple[StudentConfig, ...]
    columns: Mapping[str, Floats]
    ratios: Floats
    agreements: tuple[Agreement, ...]
    ceilings: Mapping[str, Correlation | None]
    noise: Mapping[str, float]
    failed: int

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row a student: its choices, its latency as a share of the teacher's, and every quantity."""
        return [
            {
                **student.to_dict(),
                "latency_ratio": float(self.ratios[index]),
                **{name: float(column[index]) for name, column in self.columns.items()},
            }
            for index, student in enumerate(self.students)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return {
            "students": self.rows(),
            "agreements": [asdict(agreement) for agreement in self.agreements],
            "ceilings": {name: None if found is None else asdict(found) for name, found in self.ceilings.items()},
            "noise": dict(self.noise),
            "failed": self.failed,
        }


def find(judged: Mapping[Judgement, Mapping[str, Any]], reward: KDReward, seed: int) -> Findings:
    """Compare what was judged.

    Args:
        judged: The judgements.
        reward: Reward of the search.
        seed: The first seed, whose judgements are compared; others tell of noise.
    """
    good = {judgement: result for judgement, result in judged.items() if result["status"] == "ok"}
    ratios = {
        judgement.student: result["latency_ratio"]
        for judgement, result in good.items()
        if judgement.kind == "mini-kd" and judgement.seed == seed
    }
    students = tuple(student for student in ratios if Judgement("full-kd", student, seed) in good)
    columns = _columns(good, students, ratios, reward, seed)
    at = np.array([ratios[student] for student in students])
    rng = np.random.default_rng(seed)
    agreements = tuple(
        Agreement(
            proxy,
            target,
            correlate(kendall_tau, columns[proxy], columns[target], rng),
            correlate(spearman_rho, columns[proxy], columns[target], rng),
            correlation_within(kendall_tau, columns[proxy], columns[target], latency_groups(at)) if students else None,
            {k: regret(columns[proxy], columns[target], k) for k in CHOSEN if students},
        )
        for proxy in PROXIES
        for target in TARGETS
    )
    ceilings: dict[str, Correlation | None] = {}
    noise: dict[str, float] = {}
    for name, kind in _REPEATED.items():
        both = [s for s in ratios if all(Judgement(kind, s, number) in good for number in (seed, seed + 1))]
        first, second = (_quantity(good, both, ratios, reward, number, name) for number in (seed, seed + 1))
        ceilings[name] = correlate(kendall_tau, first, second, rng)
        if both:
            noise[name] = float(np.sqrt(np.mean((first - second) ** 2) / 2))
    return Findings(students, columns, at, agreements, ceilings, noise, len(judged) - len(good))


def latency_groups(ratios: Floats, students_per_group: int = 8) -> npt.NDArray[np.int64]:
    """Return the group of each student among those of similar latency, int64: equally large, fastest first."""
    order = np.argsort(np.argsort(ratios, kind="stable"), kind="stable")
    groups = max(1, len(ratios) // students_per_group)
    labels: npt.NDArray[np.int64] = (order * groups // len(ratios)).astype(np.int64)
    return labels


def regret(proxy: Floats, truth: Floats, k: int) -> float:
    """Return how far the best of the ``k`` students that a proxy likes most falls short of the best of all.

    Args:
        proxy: What students are chosen by, more is better.
        truth: What counts, more is better.
        k: Students chosen.
    """
    chosen = np.argsort(-proxy, kind="stable")[:k]
    return float(truth.max() - truth[chosen].max())


def _columns(
    good: Mapping[Judgement, Mapping[str, Any]],
    students: Sequence[StudentConfig],
    ratios: Mapping[StudentConfig, float],
    reward: KDReward,
    seed: int,
) -> dict[str, Floats]:
    return {name: _quantity(good, students, ratios, reward, seed, name) for name in (*PROXIES, *TARGETS)}


def _quantity(
    good: Mapping[Judgement, Mapping[str, Any]],
    students: Sequence[StudentConfig],
    ratios: Mapping[StudentConfig, float],
    reward: KDReward,
    seed: int,
    name: str,
) -> Floats:
    """Return a quantity of students, float64 ``(students,)``: more is better."""

    def value(student: StudentConfig) -> float:
        if name in TARGETS:
            full = good[Judgement("full-kd", student, seed)]
            if name == "score":
                return float(full["score"])
            loss = min(full["unexplained"])
            return -loss if name == "full_loss" else reward.score(loss, ratios[student])
        mini = good[Judgement("mini-kd", student, seed)]
        losses = mini["unexplained"]
        if name == "reward":
            # The latency of one probe, so that seeds differ in the loss alone.
            return reward.score(losses[-1], ratios[student])
        return float({"loss": -losses[-1], "loss_at_0": -losses[0], "parameters": mini["parameters"]}[name])

    return np.array([value(student) for student in students], dtype=np.float64)


def draw_findings(findings: Findings, *, task: str) -> Figure:
    """Draw the loss of the short distillation against that of the long one and the task score, a dot a student."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    speed = 1 / findings.ratios
    for axes, target, label, sign in zip(
        panels, ("full_loss", "score"), ("full-KD loss", f"{task} score"), (-1, 1), strict=True
    ):
        dots = axes.scatter(
            -findings.columns["loss"], sign * findings.columns[target], c=np.log2(speed), cmap="viridis", s=28
        )
        agreement = next(other for other in findings.agreements if other.proxy == "loss" and other.target == target)
        tau = (
            ""
            if agreement.tau is None
            else f"Kendall's tau {agreement.tau.value:.2f} [{agreement.tau.low:.2f}, {agreement.tau.high:.2f}]"
        )
        axes.set(xlabel="mini-KD loss (unexplained variance)", ylabel=label, title=tau)
        axes.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(dots, ax=panels, label="speed-up")
    # Powers of two within the bar: a tick outside would stretch it beyond its colours.
    ticks = np.arange(np.ceil(np.log2(speed.min())), np.floor(np.log2(speed.max())) + 1)
    if len(ticks) < 2:
        ticks = np.log2([speed.min(), speed.max()])
    bar.set_ticks(ticks.tolist(), labels=[f"{2**tick:.3g}x" for tick in ticks])
    return figure
