"""A fast synthetic evaluator with a known optimum, for tests and the development of agents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig, count_parameters, forward_flops
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Latency, Status, report_epochs
from kdnas_env.core.pareto import pareto_front
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.support.arrays import Floats
from kdnas_env.support.checks import check_choice, check_number
from kdnas_env.support.identity import fingerprint_of

PLANTED_TEACHER = EncoderArchitecture(
    family="bert",
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_size=768,
    intermediate_size=3072,
    hidden_act="gelu",
    vocab_size=30522,
    max_length=512,
    type_vocab_size=2,
    embedding_size=768,
    pad_token_id=0,
    layer_norm_eps=1e-12,
)
"""The shape of BERT-base, whose derived space is the 1,200 architectures of KD-NAS."""

_FORMULA = 1
"""Version of the formulas below; part of the fingerprint."""

_ACTIVATION_PENALTY = {"gelu": 0.0, "silu": 0.004, "relu": 0.012}
_UNKNOWN_ACTIVATION_PENALTY = 0.02
_FAMILY_PENALTY = {"bert": 0.0, "roberta": 0.003, "albert": 0.05}
_BEST_HEAD_WIDTH = 64
_LARGEST_NOISE = 100
_SEQUENCE_LENGTH = 50
_FLOPS_PER_MS = 5e7
_LAYER_OVERHEAD_MS = 0.12
_HEAD_OVERHEAD_MS = 0.01
_PROXY_FLOPS_PER_INFERENCE_FLOP = 3 * 2000
_PLANTED_FAILURES = (Status.DIVERGED, Status.OUT_OF_MEMORY)


@dataclass(frozen=True)
class PlantedEvaluator:
    """A closed-form landscape over any search space, evaluated in microseconds.

    The landscape imitates mini-KD: the loss falls with depth, width and feed-forward size with diminishing returns,
    and is lowest for heads of width 64. It falls with epochs towards its limit, more slowly for deep students. Before
    the first step (epoch 0) it ranks widths but not depths. Latency is an affine function of the operations, layers and
    heads. Optimum and Pareto front are exact, because the whole grid is evaluated.

    The same configuration, fidelity and evaluator give the same evaluation in every process.

    Attributes:
        space: The space; its teacher sets the scale.
        noise: Standard deviation of the logarithm of the loss. The noise depends only on the configuration and on
            ``fidelity.seed``.
        failures: Maps failing configurations to their status: ``diverged`` or ``out_of_memory``.
    """

    space: SearchSpace
    noise: float = 0.0
    failures: Mapping[StudentConfig, Status] = field(default_factory=dict)

    deterministic = True
    tabular = True

    def __post_init__(self) -> None:
        advice = "it is the deviation of the loss's logarithm"
        check_number("noise", self.noise, at_least=0, at_most=_LARGEST_NOISE, advice=advice)
        for config, status in self.failures.items():
            check_choice(f"the failure of {config}", status, [*map(str, _PLANTED_FAILURES)])
        failures = {config: Status(status) for config, status in self.failures.items()}
        object.__setattr__(self, "failures", failures)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of formula, space, noise and failures."""
        identity = {
            "formula": _FORMULA,
            "teacher": asdict(self.space.teacher),
            "space": self.space.to_dict(),
            "noise": self.noise,
            "failures": sorted((str(config), str(status)) for config, status in self.failures.items()),
        }
        return fingerprint_of(identity)

    def evaluate(
        self,
        configs: Sequence[StudentConfig],
        fidelity: Fidelity,
        *,
        on_epoch: EpochCallback | None = None,
    ) -> list[Evaluation]:
        """Evaluate a batch; one record per config, in order."""
        if not configs:
            return []
        shapes = _Shapes.of(configs)
        curves = shapes.curves(self.space.teacher, fidelity)
        if self.noise:
            draws = np.array([_standard_normal(config, fidelity.seed) for config in configs])
            curves = curves * np.exp(self.noise * draws)[:, None]
        latencies = shapes.latency_ms()
        return [
            self._record(config, fidelity, curve, latency, (position, len(configs)), on_epoch)
            for position, (config, curve, latency) in enumerate(
                zip(configs, curves.tolist(), latencies.tolist(), strict=True)
            )
        ]

    def landscape(self, fidelity: Fidelity | None = None) -> tuple[Floats, Floats]:
        """Return the noise-free loss and latency ratio of every point of the grid, invalid ones included.

        Returns:
            Held-out unexplained variance and student/teacher latency, each float64 ``(space.size,)`` by flat index.
        """
        curves = self._grid.curves(self.space.teacher, fidelity or Fidelity())
        return curves[:, -1], self._grid.latency_ms() / self._teacher_ms

    def optimum(self, reward: KDReward | None = None, fidelity: Fidelity | None = None) -> Evaluation:
        """Return the noise-free evaluation of the point with the highest reward (the first in case of ties)."""
        score = (reward or KDReward()).score
        losses, ratios = self.landscape(fidelity)
        rewards = [score(loss, ratio) for loss, ratio in zip(losses.tolist(), ratios.tolist(), strict=True)]
        return self._noise_free(int(np.argmax(np.where(self._usable, rewards, -np.inf))), fidelity)

    def pareto_front(self, fidelity: Fidelity | None = None) -> list[Evaluation]:
        """Return the noise-free Pareto front of loss and latency, fastest first."""
        losses, ratios = self.landscape(fidelity)
        usable = np.flatnonzero(self._usable)
        front = usable[pareto_front(ratios[usable], losses[usable])]
        return [self._noise_free(int(index), fidelity) for index in front]

    @cached_property
    def _grid(self) -> _Shapes:
        return _Shapes.of(list(self.space))

    @cached_property
    def _usable(self) -> npt.NDArray[np.bool_]:
        usable = (self.space.is_valid(config) and config not in self.failures for config in self.space)
        return np.fromiter(usable, dtype=np.bool_, count=self.space.size)

    @cached_property
    def _teacher_ms(self) -> float:
        return float(_Shapes.of([self.space.teacher.as_student()]).latency_ms()[0])

    def _noise_free(self, index: int, fidelity: Fidelity | None) -> Evaluation:
        config = self.space.decode(self.space.from_index(index))
        return replace(self, noise=0.0).evaluate([config], fidelity or Fidelity())[0]

    def _record(
        self,
        config: StudentConfig,
        fidelity: Fidelity,
        curve: list[float],
        latency_ms: float,
        place: tuple[int, int],
        on_epoch: EpochCallback | None,
    ) -> Evaluation:
        violation = self.space.violation(config)
        if violation:
            return Evaluation(config, fidelity, Status.INVALID, error=violation)
        teacher = self.space.teacher
        flops = forward_flops(config, teacher, batch=1, length=_SEQUENCE_LENGTH)
        parameters = count_parameters(config, teacher)
        status = self.failures.get(config, Status.OK)
        if status is Status.OUT_OF_MEMORY:
            error = "planted: out of memory"
            return Evaluation(config, fidelity, status, parameters=parameters, flops=flops, error=error)
        epoch_seconds = flops * _PROXY_FLOPS_PER_INFERENCE_FLOP * fidelity.data_fraction / (_FLOPS_PER_MS * 1e3)
        reached = 1 if status is Status.DIVERGED else len(curve)
        elapsed = [epoch * epoch_seconds for epoch in range(reached)]
        stopped = report_epochs(config, *place, fidelity.epochs, curve[:reached], elapsed, on_epoch)
        if stopped is not None:
            status, reached = Status.STOPPED, stopped
        seconds = (0.0, *(epoch_seconds,) * (reached - 1))
        probe = Latency(
            median_ms=latency_ms,
            iqr_ms=0.0,
            count=1,
            teacher_median_ms=self._teacher_ms,
            teacher_iqr_ms=0.0,
            ratio=latency_ms / self._teacher_ms,
            ratio_iqr=0.0,
            runtime="analytic",
            sequence_length=_SEQUENCE_LENGTH,
        )
        return Evaluation(
            config,
            fidelity,
            status,
            train_loss=tuple(0.3 * value for value in curve[:reached]),
            heldout_loss=tuple(0.3 * value for value in curve[:reached]),
            train_unexplained=tuple(curve[:reached]),
            heldout_unexplained=tuple(curve[:reached]),
            epoch_seconds=seconds,
            wall_seconds=sum(seconds),
            latency=probe if status is Status.OK else None,
            parameters=parameters,
            flops=flops,
            error="planted: diverged" if status is Status.DIVERGED else "",
        )


def random_failures(space: SearchSpace, share: float, rng: np.random.Generator) -> dict[StudentConfig, Status]:
    """Draw failing configurations of a space: half diverge, half run out of memory.

    Args:
        space: The space to draw from.
        share: Failure probability of each configuration, in [0, 1).
        rng: Source of randomness.
    """
    check_number("share of failures", share, at_least=0, below=1)
    draws = rng.random(space.size)
    return {
        config: _PLANTED_FAILURES[int(draw < share / 2)]
        for config, draw in zip(space, draws, strict=True)
        if draw < share
    }


@dataclass(frozen=True)
class _Shapes:
    """Columns of a batch of configurations, float64 ``(n,)`` each."""

    layers: Floats
    heads: Floats
    width: Floats
    inner: Floats
    penalty: Floats

    @classmethod
    def of(cls, configs: Sequence[StudentConfig]) -> _Shapes:
        rows = [
            (
                config.num_hidden_layers,
                config.num_attention_heads,
                config.hidden_size,
                config.intermediate_size,
                _ACTIVATION_PENALTY.get(config.hidden_act, _UNKNOWN_ACTIVATION_PENALTY)
                + _FAMILY_PENALTY[config.family],
            )
            for config in configs
        ]
        return cls(*np.array(rows, dtype=np.float64).T)

    def curves(self, teacher: EncoderArchitecture, fidelity: Fidelity) -> Floats:
        """Held-out unexplained variance per epoch, float64 ``(n, epochs + 1)``, in (0, 1)."""
        depth = np.minimum(self.layers / teacher.num_hidden_layers, 1)
        width = np.minimum(self.width / teacher.hidden_size, 1)
        inner = np.minimum(self.inner / teacher.intermediate_size, 1)
        head = np.abs(np.log2(self.width / self.heads / _BEST_HEAD_WIDTH))
        lack = width**-0.6 * depth**-0.4 * inner**-0.12
        limit = np.minimum(0.25 + 0.12 * lack + 0.01 * head + self.penalty, 0.95)
        untrained = np.maximum(0.85 - 0.3 * width**0.5 + 0.08 * depth + self.penalty, limit + 0.01)
        halvings = np.arange(fidelity.epochs + 1) * fidelity.data_fraction / (0.5 + 0.5 * depth)[:, None]
        curves: Floats = limit[:, None] + (untrained - limit)[:, None] * 2.0**-halvings
        return curves

    def latency_ms(self) -> Floats:
        """Milliseconds of one forward pass, float64 ``(n,)``."""
        dense = 2 * _SEQUENCE_LENGTH * (4 * self.width**2 + 2 * self.width * self.inner)
        attention = 4 * _SEQUENCE_LENGTH**2 * self.width
        layer = (dense + attention) / _FLOPS_PER_MS + _LAYER_OVERHEAD_MS + _HEAD_OVERHEAD_MS * self.heads
        latency: Floats = self.layers * layer
        return latency


def _standard_normal(config: StudentConfig, seed: int) -> float:
    key = hashlib.blake2b(f"{config}|{seed}".encode(), digest_size=16).digest()
    return float(np.random.default_rng(int.from_bytes(key)).standard_normal())
