"""Whether students gain from layers of different feed-forward sizes, at equal latency.

    python benchmarks/layer_sizes.py --json layer_sizes.json

Distils students of the demo teacher as a search does. The layers of each have the same total feed-forward size, so
parameters and operations are equal, but share it differently. The first seed chooses the best distribution of each
base; the other seeds, which had no part in the choice, compare it with equal layers. Beside it stand other choices at
the same modelled latency: more or fewer layers, and other heads. Their times beside that of equal layers are measured
at the end. Scores that the file has are not made again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from command import run_command
from kept_scores import keep_scores, kept_scores
from rich.console import Console
from rich.table import Table
from torch import nn

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig, student_position_offset
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.building import build_student, special_tokens
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.training.embeddings import EmbeddingBasis, copy_embeddings, embedding_basis
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.packed import PackedEncoder
from kdnas_env.distillation.training.recipe import Recipe
from kdnas_env.distillation.training.slicing import slice_layers
from kdnas_env.distillation.training.workload import Workload, open_workload
from kdnas_env.latency import LatencyProbe, LatencySettings

BASES = (
    StudentConfig(3, 6, 192, 768),
    StudentConfig(4, 6, 192, 384),
    StudentConfig(6, 6, 192, 256),
    StudentConfig(3, 6, 384, 384),
)
EQUAL = "equal"
STEP = 16
"""Sizes are multiples of this, as those of matrices that processors multiply well."""
HEADS = (3, 12)
SLICING_SAMPLES = 300


@dataclass(frozen=True)
class Arguments:
    """Compare distributions of the feed-forward size over the layers.

    Attributes:
        json: File of the scores; those that it holds are kept.
        bases: Students of equal layers, as they are printed.
        distributions: Distributions beside that of equal layers; all if none is named.
        others: Whether to compare with other choices at equal latency.
        seeds: Seeds; the first chooses, the others compare.
        epochs: Epochs of each distillation.
        data_fraction: Share of the training samples.
        rounds: Measurements of the time of each shape; their median counts.
    """

    json: Path
    bases: tuple[str, ...] = tuple(map(str, BASES))
    distributions: tuple[str, ...] = ()
    others: bool = True
    seeds: int = 3
    epochs: int = 1
    data_fraction: float = 0.2
    rounds: int = 3


@dataclass(frozen=True)
class Shape:
    """A student whose layers may have different feed-forward sizes.

    Attributes:
        name: How it differs from its base.
        student: The student, with the mean feed-forward size.
        sizes: Feed-forward size of each layer.
    """

    name: str
    student: StudentConfig
    sizes: tuple[int, ...]

    @property
    def built_as(self) -> StudentConfig:
        """The student of equal layers that it is cut from."""
        return replace(self.student, intermediate_size=max(self.sizes))


@dataclass(frozen=True)
class Group:
    """The shapes that are compared with each other.

    Attributes:
        base: Their base.
        equal: The base itself.
        distributions: Students of its sizes, but for the distribution of the feed-forward size.
        others: Other students of equal layers and nearly the same modelled latency.
    """

    base: str
    equal: Shape
    distributions: tuple[Shape, ...]
    others: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Work:
    """What all distillations share."""

    workload: Workload
    basis: EmbeddingBasis
    recipe: Recipe
    arguments: Arguments


def weights(layers: int) -> dict[str, list[float]]:
    """Return the distributions by name: one positive weight a layer."""
    depth = np.linspace(0, 1, layers)
    middle = 1 - abs(2 * depth - 1)
    rng = np.random.default_rng(0)
    named = {
        EQUAL: np.ones(layers),
        "rising 1:2": 2**depth,
        "rising 1:5": 5**depth,
        "falling 2:1": 2 ** (1 - depth),
        "falling 5:1": 5 ** (1 - depth),
        "middle large": 3**middle,
        "ends large": 3 ** (1 - middle),
        "first large": np.where(depth == 0, 3, 1),
        "last large": np.where(depth == 1, 3, 1),
        "random 1": 5 ** rng.random(layers),
        "random 2": 5 ** rng.random(layers),
    }
    return {name: list(map(float, values)) for name, values in named.items()}


def divide(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Divide a multiple of STEP into multiples of STEP, in proportion to shares (method of largest remainders)."""
    ideal = np.array(shares) * total / STEP / sum(shares)
    steps = np.floor(ideal).astype(int)
    rest = total // STEP - int(steps.sum())
    steps[np.argsort(steps - ideal, kind="stable")[:rest]] += 1
    return tuple(int(size) * STEP for size in steps)


def shapes_of(base: StudentConfig, teacher: EncoderArchitecture, arguments: Arguments) -> Group:
    """Return the shapes of a base."""
    total = base.num_hidden_layers * base.intermediate_size
    shapes = [Shape(name, base, divide(total, shares)) for name, shares in weights(base.num_hidden_layers).items()]
    return Group(
        str(base),
        shapes[0],
        tuple(shape for shape in shapes[1:] if shape.name in arguments.distributions or not arguments.distributions),
        tuple(alternatives(base, teacher)) if arguments.others else (),
    )


def alternatives(base: StudentConfig, teacher: EncoderArchitecture) -> Iterator[Shape]:
    """Yield other students of equal layers whose modelled latency is that of a base, as nearly as sizes allow."""
    probe = LatencyProbe(None, teacher, LatencySettings(runtime="analytic"))
    aim = probe.measure(None, base).ratio
    for layers in (base.num_hidden_layers - 1, base.num_hidden_layers + 1):
        candidates = [
            replace(base, num_hidden_layers=layers, intermediate_size=size)
            for size in range(STEP, teacher.intermediate_size + STEP, STEP)
        ]
        nearest = min(candidates, key=lambda candidate: abs(probe.measure(None, candidate).ratio - aim))
        if layers <= teacher.num_hidden_layers and abs(probe.measure(None, nearest).ratio / aim - 1) < 0.03:
            yield Shape(f"{layers} layers", nearest, (nearest.intermediate_size,) * layers)
    for heads in HEADS:
        other = replace(base, num_attention_heads=heads)
        yield Shape(f"{heads} heads", other, (other.intermediate_size,) * other.num_hidden_layers)


def cut_layers(model: Any, sizes: Sequence[int]) -> None:
    """Keep the first feed-forward neurons of each layer of a BERT encoder."""
    for layer, size in zip(model.encoder.layer, sizes, strict=True):
        inner, outer = layer.intermediate.dense, layer.output.dense
        inner.weight = nn.Parameter(inner.weight.detach()[:size].clone())
        inner.bias = nn.Parameter(inner.bias.detach()[:size].clone())
        outer.weight = nn.Parameter(outer.weight.detach()[:, :size].clone())
        inner.out_features = outer.in_features = size


def untrained(shape: Shape, teacher: EncoderArchitecture) -> Any:
    """Return a student of random weights."""
    model = build_student(shape.built_as, teacher, seed=0)
    cut_layers(model, shape.sizes)
    return model


def started(work: Work, shape: Shape, fidelity: Fidelity) -> Any:
    """Return a student as mini-KD starts it: reduced embeddings, layers sliced from the teacher's."""
    workload, student = work.workload, shape.built_as
    teacher = workload.teacher
    model = build_student(student, teacher.architecture, seed=fidelity.seed, special=special_tokens(teacher))
    cut_layers(model, shape.sizes)
    copy_embeddings(model, student, workload, work.basis)
    offset = student_position_offset(student, teacher.architecture)
    encoder = PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)
    slice_layers(encoder, workload, workload.subset(fidelity.data_fraction, fidelity.seed)[:SLICING_SAMPLES])
    return model


def distil(work: Work, shape: Shape, seed: int) -> dict[str, Any]:
    """Return the held-out unexplained variance before training and after each epoch, and the CPU seconds."""
    fidelity = Fidelity(work.arguments.epochs, work.arguments.data_fraction, seed)
    began = time.process_time()
    kd = MiniKD(work.workload, shape.built_as, work.recipe, fidelity, start=started(work, shape, fidelity))
    curve = [result.heldout.unexplained for result in kd.epochs()]
    return {"unexplained": curve, "cpu_seconds": time.process_time() - began}


class Scores:
    """The scores of a file, which grows with each.

    Args:
        file: The file.
        settings: What decides the scores.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings = file, settings
        self.rows: list[dict[str, Any]] = kept_scores(file, settings, [])

    def of(self, **key: Any) -> dict[str, Any] | None:
        """Return the score with these values, if there is one."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        """Append a score and write the file."""
        self.rows.append(row)
        keep_scores(self._file, self._settings, self.rows)
        print(row, flush=True)

    def loss(self, group: Group, shape: Shape, seed: int) -> float | None:
        """Return the last loss of a shape; None if it was not distilled."""
        row = self.of(base=group.base, shape=shape.name, seed=seed)
        return None if row is None else float(row["unexplained"][-1])

    def gain(self, group: Group, shape: Shape, seed: int) -> float | None:
        """Return how much more of the variance a shape explains than equal layers; None if it was not distilled."""
        before, after = self.loss(group, group.equal, seed), self.loss(group, shape, seed)
        return None if before is None or after is None else before - after

    def best(self, group: Group, shapes: Sequence[Shape]) -> list[Shape]:
        """Return the shape that is best with the first seed; none if there are no shapes."""
        return sorted(shapes, key=lambda shape: self.loss(group, shape, 0) or 0.0)[:1]

    def time(self, group: Group, shape: Shape) -> float | None:
        """Return the time of a shape beside that of equal layers, median of the rounds; None if it was not timed."""
        of_shape = (row for row in self.rows if row["base"] == group.base and row["shape"] == shape.name)
        times = [row["beside_equal"] for row in of_shape if "beside_equal" in row]
        return statistics.median(times) if times else None


def run(work: Work, scores: Scores, group: Group) -> None:
    """Distil the shapes of a base with the first seed; equal layers and the best shapes also with the others."""

    def score(shape: Shape, seed: int) -> None:
        key = {"base": group.base, "shape": shape.name, "seed": seed}
        if scores.of(**key) is None:
            scores.add({**key, "student": str(shape.student), "sizes": shape.sizes, **distil(work, shape, seed)})

    for shape in (group.equal, *group.distributions, *group.others):
        score(shape, 0)
    for seed in range(1, work.arguments.seeds):
        for shape in (group.equal, *scores.best(group, group.distributions), *scores.best(group, group.others)):
            score(shape, seed)


def time_shapes(scores: Scores, groups: Sequence[Group], teacher: EncoderArchitecture, rounds: int) -> None:
    """Time the best distribution and the other choices in turn, each interleaved with equal layers."""
    for group, round_ in ((group, round_) for round_ in range(rounds) for group in groups):
        probe = LatencyProbe(untrained(group.equal, teacher), teacher)
        for shape in (*scores.best(group, group.distributions), *group.others):
            key = {"base": group.base, "shape": shape.name, "round": round_}
            if scores.of(**key) is None:
                latency = probe.measure(untrained(shape, teacher), shape.student)
                scores.add({**key, "beside_equal": latency.ratio})


def table_of_bases(scores: Scores, groups: Sequence[Group], unseen: Sequence[int]) -> Table:
    """Return what the best distribution and the other choices gain in each base."""
    heads = ("base", "choice", "time", "gain, first seed", "gain, other seeds")
    result = Table(*heads, title="Held-out variance explained beyond that of equal layers")
    for group in groups:
        losses = [scores.loss(group, group.equal, seed) for seed in (0, *unseen)]
        result.add_row(group.base, f"equal layers: {shown(losses, '.4f')} unexplained", "1")
        for shape in (*scores.best(group, group.distributions), *group.others):
            sizes = sorted(set(shape.sizes))
            result.add_row(
                "",
                f"{shape.name}: {sizes[0] if len(sizes) == 1 else shape.sizes}",
                shown([scores.time(group, shape)], ".3f"),
                shown([scores.gain(group, shape, 0)], "+.4f"),
                shown([scores.gain(group, shape, seed) for seed in unseen], "+.4f"),
            )
    return result


def table_of_distributions(scores: Scores, groups: Sequence[Group]) -> Table:
    """Return what each distribution gains with the first seed, in each base."""
    result = Table("distribution", *(group.base for group in groups), title="Gain over equal layers, first seed")
    for shapes in zip(*(group.distributions for group in groups), strict=True):
        gains = [scores.gain(group, shape, 0) for group, shape in zip(groups, shapes, strict=True)]
        result.add_row(shapes[0].name, *(shown([gain], "+.4f") for gain in gains))
    return result


def shown(values: Sequence[float | None], style: str) -> str:
    """Return the values that there are as text."""
    return ", ".join(format(value, style) for value in values if value is not None)


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If FILE cannot be written, or holds scores of other settings.
        KDNASError: If a base is malformed, or teacher or text are missing.
    """
    bases = [StudentConfig.parse(base) for base in arguments.bases]
    scores = Scores(arguments.json, {"epochs": arguments.epochs, "data_fraction": arguments.data_fraction})
    recipe = Recipe()
    teacher = load_teacher("demo", device="cpu")
    workload, _ = open_workload(teacher, "demo", recipe)
    work = Work(workload, embedding_basis(workload, recipe.embeddings), recipe, arguments)
    groups = [shapes_of(base, teacher.architecture, arguments) for base in bases]
    for group in groups:
        run(work, scores, group)
    time_shapes(scores, groups, teacher.architecture, arguments.rounds)
    console = Console()
    console.print(table_of_bases(scores, groups, range(1, arguments.seeds)))
    console.print(table_of_distributions(scores, groups))


if __name__ == "__main__":
    run_command(main, Arguments, threads=1)
