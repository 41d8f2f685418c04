"""Tables of the planted landscape, built in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator, random_failures
from kdnas_env.tables.table import LatencyDevice, Table, TableMetadata
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies, assemble_table

SPACE: dict[str, Any] = {
    "num_hidden_layers": [3, 6, 12],
    "num_attention_heads": [4, 12],
    "hidden_size": [384, 768],
    "hidden_act": ["gelu", "relu"],
}
"""24 students."""

DEVICE = LatencyDevice("analytic", "a formula", "analytic")


def planted_evaluations(
    space: SearchSpace, *, seeds: Sequence[int] = (0, 1, 2), epochs: int = 3, noise: float = 0.01, failures: float = 0.0
) -> list[Evaluation]:
    """Evaluate every valid student of a space with every seed."""
    failing = random_failures(space, failures, np.random.default_rng(0)) if failures else {}
    evaluator = PlantedEvaluator(space, noise=noise, failures=failing)
    configs = [space.decode(space.from_index(int(index))) for index in space.valid_indices]
    return [one for seed in seeds for one in evaluator.evaluate(configs, Fidelity(epochs=epochs, seed=seed))]


def planted_metadata(space: SearchSpace, *, seeds: Sequence[int] = (0, 1, 2), epochs: int = 3) -> TableMetadata:
    """Describe a table of the planted landscape."""
    return TableMetadata(
        name="planted",
        title="Planted landscape",
        workload="0" * 64,
        teacher="planted",
        architecture=asdict(space.teacher),
        space=space.to_dict(),
        seeds=tuple(seeds),
        epochs=epochs,
        devices=(DEVICE,),
    )


def planted_table(
    space: dict[str, Any] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 3,
    noise: float = 0.01,
    failures: float = 0.0,
    max_parameters: int | None = None,
) -> Table:
    """Tabulate the planted landscape over a space, by default one of 24 students."""
    chosen = SearchSpace.from_dict({**(space or SPACE), "max_parameters": max_parameters}, PLANTED_TEACHER)
    evaluations = planted_evaluations(chosen, seeds=seeds, epochs=epochs, noise=noise, failures=failures)
    latencies = {
        one.config.network: one.latency
        for one in PlantedEvaluator(chosen).evaluate(
            [chosen.decode(chosen.from_index(int(index))) for index in chosen.valid_indices], Fidelity(epochs=0)
        )
        if one.latency
    }
    return assemble_table(
        planted_metadata(chosen, seeds=seeds, epochs=epochs), evaluations, [MeasuredLatencies(DEVICE, latencies)]
    )
