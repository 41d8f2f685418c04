"""Results of a proxy study: rank agreement, noise ceilings, regrets, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.reward import TASK, KDReward
from kdnas_env.studies.proxy import Judgement, Kind
from kdnas_env.support.arrays import Floats
from kdnas_env.support.statistics import Correlation, correlate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOSEN = (1, 3, 5)
"""Numbers of students selected by a proxy for which the regret is computed."""

_PER_GROUP = 6


@dataclass(frozen=True)
class Quantity:
    """A quantity to rank students by; higher is better.

    Attributes:
        name: Name in files.
        title: Display name.
        kind: Kind of the judgement that contains it.
    """

    name: str
    title: str
    kind: Kind


@dataclass(frozen=True)
class Agreement:
    """Agreement of the rankings by a proxy and by a target (Kendall's tau-b).

    Attributes:
        proxy: Name of the proxy.
        target: Name of the target.
        tau: Among all students; None for too few students.
        at_equal_latency: Among students of similar latency.
        at_equal_size: Among students of a similar number of parameters.
        regrets: By number of students selected by the proxy: target value of the best student minus that of the best
            selected student.
    """

    proxy: str
    target: str
    tau: Correlation | None
    at_equal_latency: Correlation | None
    at_equal_size: Correlation | None
    regrets: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of a study.

    Attributes:
        students: Students with complete judgements.
        proxies: Quantities known after a short evaluation, which a search could optimise.
        targets: Quantities after the long distillation, which a search should optimise.
        columns: All quantities of all students, by name; higher is better, float64 ``(students,)``.
        ratios: Latency of each student divided by the teacher's.
        agreements: Agreement of each proxy with each target.
        ceilings: Kendall's tau between two seeds of the same quantity, by name, which limits the agreement with a
            proxy.
        noise: Standard deviation of a quantity between seeds of a student, by name.
        seconds: Mean seconds of a short distillation, and of each task stage after it, by name.
        failed: Number of failed judgements.
    """

    students: tuple[StudentConfig, ...]
    proxies: tuple[Quantity, ...]
    targets: tuple[Quantity, ...]
    columns: Mapping[str, Floats]
    ratios: Floats
    agreements: tuple[Agreement, ...]
    ceilings: Mapping[str, Correlation | None]
    noise: Mapping[str, float]
    seconds: Mapping[str, float]
    failed: int

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row per student: its choices, its latency ratio to the teacher, and all quantities."""
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
            "ceilings": {name: None if tau is None else asdict(tau) for name, tau in self.ceilings.items()},
            "noise": dict(self.noise),
            "seconds": dict(self.seconds),
            "failed": self.failed,
        }


def proxies_of(tasks: Sequence[str]) -> tuple[Quantity, ...]:
    """Return the proxies: reward, the two qualities, imitation before training, and number of parameters."""
    return (
        Quantity("reward", "reward of the search", "short"),
        Quantity("imitation", "quality imitation", "short"),
        *(Quantity(f"task:{task}", f"quality task, {task}", "short") for task in tasks),
        Quantity("start", "imitation before any step", "short"),
        Quantity("parameters", "parameter count", "short"),
    )


def targets_of(tasks: Sequence[str]) -> tuple[Quantity, ...]:
    """Return the targets: imitation after the long distillation, and quality on each task."""
    by_task = (
        (
            Quantity(f"divergence:{task}", f"divergence, {task}", "long"),
            Quantity(f"agreement:{task}", f"agreement, {task}", "long"),
            Quantity(f"score:{task}", f"test score, {task}", "long"),
        )
        for task in tasks
    )
    return (Quantity("long", "imitation, long", "long"), *(quantity for group in by_task for quantity in group))


def find(judged: Mapping[Judgement, Mapping[str, Any]], tasks: Sequence[str], reward: KDReward, seed: int) -> Findings:
    """Compare judgements.

    Args:
        judged: The judgements.
        tasks: Names of the tasks.
        reward: Reward of the search.
        seed: The first seed, whose judgements are compared; the second one is used to estimate noise.
    """
    good = {judgement: result for judgement, result in judged.items() if result["status"] == "ok"}
    short = {
        judgement.student: result
        for judgement, result in good.items()
        if judgement.kind == "short" and judgement.seed == seed
    }
    ratios = {student: float(result["latency_ratio"]) for student, result in short.items()}
    proxies, targets = proxies_of(tasks), targets_of(tasks)

    def values(quantity: Quantity, students: Sequence[StudentConfig], number: int) -> Floats:
        results = [good[Judgement(quantity.kind, student, number)] for student in students]
        # All seeds use the latency of one probe, so that they differ only in quality.
        pairs = zip(results, students, strict=True)
        return np.array([_value(quantity, result, ratios[student], tasks, reward) for result, student in pairs])

    students = tuple(student for student in ratios if Judgement("long", student, seed) in good)
    columns = {quantity.name: values(quantity, students, seed) for quantity in (*proxies, *targets)}
    at = np.array([ratios[student] for student in students])
    rng = np.random.default_rng(seed)
    similar = groups_of_similar(at), groups_of_similar(columns["parameters"])
    agreements = tuple(
        Agreement(
            proxy.name,
            target.name,
            tau=correlate(columns[proxy.name], columns[target.name], rng),
            at_equal_latency=correlate(columns[proxy.name], columns[target.name], rng, similar[0]),
            at_equal_size=correlate(columns[proxy.name], columns[target.name], rng, similar[1]),
            regrets={k: regret(columns[proxy.name], columns[target.name], k) for k in CHOSEN if students},
        )
        for proxy in proxies
        for target in targets
    )
    ceilings: dict[str, Correlation | None] = {}
    noise: dict[str, float] = {}
    for quantity in (*proxies, *targets):
        if quantity.name == "parameters":
            continue
        numbers = (seed, seed + 1)
        both = [s for s in ratios if all(Judgement(quantity.kind, s, n) in good for n in numbers)]
        first, second = (values(quantity, both, number) for number in numbers)
        ceilings[quantity.name] = correlate(first, second, rng)
        if both:
            noise[quantity.name] = float(np.sqrt(np.mean((first - second) ** 2) / 2))
    return Findings(
        students,
        proxies,
        targets,
        columns,
        at,
        agreements,
        ceilings,
        noise,
        _seconds(list(short.values()), tasks),
        len(judged) - len(good),
    )


def _value(
    quantity: Quantity, result: Mapping[str, Any], ratio: float, tasks: Sequence[str], reward: KDReward
) -> float:
    """Return a quantity of a student; higher is better."""
    name, _, task = quantity.name.partition(":")
    losses = result["unexplained"]
    if name == "reward":
        by_task = reward.quality == TASK
        return reward.score(result["tasks"][tasks[0]]["unexplained"] if by_task else losses[-1], ratio)
    if name == "parameters":
        return float(result["parameters"])
    if name in ("agreement", "score"):
        return float(result["tasks"][task][name])
    if name in ("task", "divergence"):
        return -float(result["tasks"][task]["unexplained"])
    return -float({"imitation": losses[-1], "start": losses[0], "long": min(losses)}[name])


def _seconds(short: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[str, float]:
    if not short:
        return {}
    stages = {f"task:{task}": float(np.mean([result["tasks"][task]["seconds"] for result in short])) for task in tasks}
    return {"imitation": float(np.mean([result["seconds"] for result in short])), **stages}


def groups_of_similar(values: Floats, students_per_group: int = _PER_GROUP) -> npt.NDArray[np.int64]:
    """Return the group of each student, int64: groups have equal size and similar values, smallest values first."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    groups = max(1, len(values) // students_per_group)
    labels: npt.NDArray[np.int64] = (order * groups // max(1, len(values))).astype(np.int64)
    return labels


def regret(proxy: Floats, truth: Floats, k: int) -> float:
    """Return the regret of a proxy: the best true value minus the best among the ``k`` students with the highest proxy.

    Args:
        proxy: Proxy values of the students, higher is better.
        truth: True values of the students, higher is better.
        k: Number of selected students.
    """
    chosen = np.argsort(-proxy, kind="stable")[:k]
    return float(truth.max() - truth[chosen].max())


def draw_findings(findings: Findings) -> Figure:
    """Plot both qualities against the divergence from the teacher of the first task, one dot per student."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    speed = 1 / findings.ratios
    target = findings.targets[1]
    for axes, proxy in zip(panels, findings.proxies[1:3], strict=True):
        dots = axes.scatter(
            -findings.columns[proxy.name], -findings.columns[target.name], c=np.log2(speed), cmap="viridis", s=28
        )
        agreement = next(
            other for other in findings.agreements if (other.proxy, other.target) == (proxy.name, target.name)
        )
        tau = "" if agreement.tau is None else f"Kendall's tau {interval(agreement.tau)}"
        axes.set(xlabel=f"1 - {proxy.title}", ylabel=f"{target.title} (unexplained)", title=tau)
        axes.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(dots, ax=panels, label="speed-up")
    # Ticks at powers of two within the bar; a tick outside would extend it beyond its colours.
    ticks = np.arange(np.ceil(np.log2(speed.min())), np.floor(np.log2(speed.max())) + 1)
    if len(ticks) < 2:
        ticks = np.log2([speed.min(), speed.max()])
    bar.set_ticks(ticks.tolist(), labels=[f"{2**tick:.3g}x" for tick in ticks])
    return figure


def interval(tau: Correlation | None) -> str:
    """Return a correlation with its interval as text."""
    return "unknown" if tau is None else f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]"
