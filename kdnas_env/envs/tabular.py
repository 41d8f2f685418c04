"""Environment over a table of real distillations."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import Any, Unpack

import numpy as np

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.making import Episode, episode_arguments, vector_maker
from kdnas_env.envs.task_features import Features, task_features


class TableEnv(KDNASEnv):
    """An environment over a table; where seeds are sampled, each episode draws a seed."""

    _drawn: bool

    @cached_property
    def task_features(self) -> Features:
        """Numeric description of the task, float32 by :data:`kdnas_env.envs.task_features.FEATURES`."""
        evaluator: Any = self.evaluator
        source = evaluator.table if hasattr(evaluator, "table") else evaluator.surrogate
        return task_features(
            self.reward_function,
            self.limits,
            source.metadata,
            epochs=self.fidelity.epochs,
            teacher_ms=evaluator.teacher_milliseconds,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """As in ``KDNASEnv``, without a seed that each episode draws."""
        identity = super().identity
        return {**identity, "fidelity": {**identity["fidelity"], "seed": "drawn"}} if self._drawn else identity

    def draw_fidelity(self, rng: np.random.Generator) -> None:
        """Draw the seed of a new episode, if seeds are sampled."""
        if self._drawn:
            self.fidelity = replace(self.fidelity, seed=int(rng.integers(2**31)))


class TabularEnv(TableEnv):
    """Search a table of real distillations, in microseconds per step.

    The tables of the package (`kdnas table inspect` lists them) contain real distillations: every architecture of a
    space was distilled from a real teacher on real text with several seeds, and its latency was measured. 31 % of the
    points of the space are invalid, because they have more than 15 million parameters; they get the penalty.
    Description, spaces, rewards, episode end and information are those of `KDNASEnv`; `env.unwrapped.evaluator.table`
    is the table.

    With `seed="sample"`, evaluations are noisy, as real ones are: the seed of `reset` draws one of the table's seeds
    for each architecture. Compare the results of such searches by the mean over the seeds.

    ## Arguments

    | Name          | Default             | Meaning                                                                   |
    |---------------|---------------------|---------------------------------------------------------------------------|
    | `table`       | `"rotten-tomatoes"` | name of a table of the package, or an npz file                            |
    | `seed`        | `"mean"`            | a seed of the table, `mean`, or `sample`                                  |
    | `epochs`      | `None`              | epochs per evaluation; None: all of the table                             |
    | `device`      | `None`              | name of the device whose latencies count; None: the table's first         |
    | `missing`     | `"error"`           | masked cells: `error` raises an error, `failed` is a failed evaluation    |

    All other arguments are those of `kdnas_env.envs.making.Episode`;
    a budget in seconds uses the seconds that were measured when the table was built.

    ## Version History

    * v0: Initial version

    Raises:
        TableError: If the table cannot be read, or lacks the seed, the device or the epochs.
    """

    def __init__(
        self,
        table: str | os.PathLike[str] = "rotten-tomatoes",
        *,
        seed: int | str = "mean",
        epochs: int | None = None,
        device: str | None = None,
        missing: str = "error",
        **episode: Unpack[Episode],
    ) -> None:
        from kdnas_env.evaluators.tabular import TabularEvaluator

        evaluator = TabularEvaluator.of(table, seed=seed, device=device, missing=missing)
        evaluator.table.check_whole()
        fidelity = Fidelity(epochs=evaluator.table.metadata.epochs if epochs is None else epochs)
        evaluator.table.metadata.check_fidelity(fidelity)
        self._drawn = seed == "sample"
        super().__init__(
            evaluator.space,
            evaluator,
            fidelity=fidelity,
            **episode_arguments(episode),
        )


make_vector = vector_maker(TabularEnv)
