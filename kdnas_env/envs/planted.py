"""Environment with a synthetic landscape, for the development of agents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import numpy as np

from kdnas_env.core.evaluation import Evaluator, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.making import Episode, SpaceSource, episode_arguments, resolve_space, vector_maker


class PlantedEnv(KDNASEnv):
    """Search a synthetic landscape with a known optimum, in microseconds per step.

    For tests and for the development of agents: `PlantedEvaluator` replaces mini-KD, on the space derived from
    BERT-base or any other space. `env.unwrapped.evaluator` computes the optimum and the Pareto front. Everything else
    is as in `KDNASEnv`.

    ## Arguments

    | Name             | Default    | Meaning                                                                    |
    |------------------|------------|----------------------------------------------------------------------------|
    | `space`          | `None`     | choices by dimension, a YAML or JSON file, or None: derived from BERT-base |
    | `families`       | `None`     | student families to search, with a derived space; None: `bert`             |
    | `max_parameters` | `None`     | largest student allowed, in parameters                                     |
    | `epochs`         | `2`        | epochs per evaluation                                                      |
    | `seed`           | `0`        | seed of noise and failures                                                 |
    | `noise`          | `0.0`      | standard deviation of the logarithm of the loss                            |
    | `failures`       | `0.0`      | share of the architectures that diverge or run out of memory               |

    All other arguments are those of `kdnas_env.envs.making.Episode`; seconds of a budget are simulated.

    ## Version History

    * v0: Initial version
    """

    def __init__(
        self,
        *,
        space: SpaceSource = None,
        families: Sequence[str] | str | None = None,
        max_parameters: int | None = None,
        epochs: int = 2,
        seed: int = 0,
        noise: float = 0.0,
        failures: float = 0.0,
        **episode: Unpack[Episode],
    ) -> None:
        from kdnas_env.evaluators.planted import PLANTED_TEACHER

        search_space = resolve_space(space, PLANTED_TEACHER, families, max_parameters)
        super().__init__(
            search_space,
            partial(_make_planted, search_space, noise, failures, seed),
            fidelity=Fidelity(epochs=epochs, seed=seed),
            **episode_arguments(episode),
        )


make_vector = vector_maker(PlantedEnv)


def _make_planted(space: SearchSpace, noise: float, failures: float, seed: int) -> Evaluator:
    from kdnas_env.evaluators.planted import PlantedEvaluator, random_failures

    planted = random_failures(space, failures, np.random.default_rng(seed)) if failures else {}
    return PlantedEvaluator(space, noise, planted)
