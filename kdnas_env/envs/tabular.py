"""A table of real distillations, looked up."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.making import Episode, episode_arguments, vector_maker


class TableEnv(KDNASEnv):
    """What is answered from a table: where seeds are sampled, each episode draws one of its own."""

    _drawn: bool

    @property
    def identity(self) -> dict[str, Any]:
        """As in ``KDNASEnv``; a seed that each episode draws is not told."""
        told = super().identity
        return {**told, "fidelity": {**told["fidelity"], "seed": "drawn"}} if self._drawn else told

    def draw_fidelity(self, rng: np.random.Generator) -> None:
        """Draw the seed of a new episode, if seeds are sampled."""
        if self._drawn:
            self.fidelity = replace(self.fidelity, seed=int(rng.integers(2**31)))


class TabularEnv(TableEnv):
    """Search a table of real distillations, in microseconds per step.

    Every architecture of a space was distilled from a real teacher on real text, with several seeds, and timed; the
    table of it comes with the package (`kdnas table inspect` lists them). 31 % of the points of its space are students
    beyond 15 million parameters, which are answered with the penalty. Description, spaces, rewards, episode end
    and information are those of `KDNASEnv`; `env.unwrapped.evaluator.table` is the table.

    With `seed="sample"` an evaluation is noisy as a real one is: each episode draws, by the seed of `reset`, one of
    the table's seeds for every architecture. What is found should then be judged by the mean over the seeds.

    ## Arguments

    | Name          | Default             | Meaning                                                                   |
    |---------------|---------------------|---------------------------------------------------------------------------|
    | `table`       | `"rotten-tomatoes"` | name of a table of the package, or an npz file                            |
    | `seed`        | `"mean"`            | a seed of the table, `mean`, or `sample`                                  |
    | `epochs`      | `None`              | epochs per evaluation; None: all of the table                             |
    | `device`      | `None`              | name of the device whose latencies count; None: the table's first         |
    | `missing`     | `"error"`           | what a masked cell is: `error` raises, `failed` is a failed evaluation    |
    | `budget`      | `120`               | what an episode may spend                                                 |
    | `budget_unit` | evaluations         | `evaluations`, `epochs`, or `seconds` as they were when it was tabulated  |
    | `round_size`  | `8`                 | evaluations per round                                                     |
    | `alpha`       | `-0.06`             | exponent of the latency factor                                            |
    | `beta`        | `0.6**6`            | target latency; scales all positive rewards alike, changes no choice      |
    | `penalty`     | `None`              | reward of what fails or cannot be built; None: -1                         |
    | `loss`        | `"heldout"`         | loss of the reward                                                        |
    | `duplicates`  | `"charge"`          | what a repeated architecture costs: `charge`, `free` or `reject`          |
    | `limits`      | `None`              | what a student has to keep, such as `{"speedup": 5}`                      |
    | `constraints` | `"reward"`          | what a broken limit does: lower the `reward`, or be told as `cost`        |
    | `infeasible`  | `"free"`            | whether who breaks a limit costs an evaluation: `free` or `charge`        |
    | `render_mode` | `None`              | `ansi` or `rgb_array`                                                     |

    ## Version History

    * v0: Initial version
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
