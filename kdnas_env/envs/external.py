"""Environment over an external table of scores."""

from __future__ import annotations

import os

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.reward import TASK, KDReward
from kdnas_env.envs.making import vector_maker
from kdnas_env.envs.tabular import TableEnv


class ExternalEnv(TableEnv):
    """Search an external table: candidates with features and scores from other projects, such as NAS-Bench-BERT.

    Only few points of its grid exist; `valid_action_indices` lists them, and all other points get the penalty. The
    reward is the score in the table, from -1 to 1. Nothing is distilled: a budget in seconds counts the seconds of the
    trainings, `latency_ratio` is the training time divided by the longest training time, and there is no loss curve.
    Everything else is as in `KDNASEnv`.

    With `seed="sample"`, the seed of `reset` draws one training of each candidate that was trained several times.

    ## Arguments

    | Name          | Default | Meaning                                                    |
    |---------------|---------|------------------------------------------------------------|
    | `table`       |         | npz file of an external table                              |
    | `seed`        | "mean"  | `mean` or `sample`                                         |
    | `penalty`     | `None`  | reward of a point that does not exist; None: -1            |

    `budget`, `budget_unit`, `round_size`, `duplicates` and `render_mode` are those of `KDNASEnv`.

    ## Version History

    * v0: Initial version
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        *,
        seed: str = "mean",
        penalty: float | None = None,
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        duplicates: str = "charge",
        render_mode: str | None = None,
    ) -> None:
        from kdnas_env.evaluators.external import ExternalEvaluator
        from kdnas_env.tables.external import read_external

        evaluator = ExternalEvaluator(read_external(table), seed)
        self._drawn = seed == "sample"
        super().__init__(
            evaluator.table.space,
            evaluator,
            reward=KDReward(alpha=0.0, quality=TASK, penalty=penalty),
            fidelity=Fidelity(epochs=0),
            budget=budget,
            budget_unit=budget_unit,
            round_size=round_size,
            duplicates=duplicates,
            render_mode=render_mode,
        )


make_vector = vector_maker(ExternalEnv)
