"""Environment over a surrogate model, for spaces too large to tabulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from kdnas_env.core.evaluation import Evaluator, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.making import Episode, SpaceSource, episode_arguments, resolve_space, vector_maker
from kdnas_env.envs.tabular import TableEnv

if TYPE_CHECKING:
    from kdnas_env.tables.surrogates.storage import TableNames
    from kdnas_env.tables.surrogates.surrogate import Surrogate
    from kdnas_env.tables.table import Table


class SurrogateEnv(TableEnv):
    """Search a space that is too large to tabulate, with a model of a table of real distillations.

    A surrogate is read from its file, or fitted to tables of one workload at the first `reset`, within seconds; the fit
    is kept in the cache folder. The default tables are `rotten-tomatoes` and `rotten-tomatoes-between`, which has
    students between those of the first; the fit to them comes with the package.
    The surrogate predicts every student within the range of its tables: by default all numbers of layers, numbers of
    heads that divide the teacher's, widths in steps of the teacher's heads, and all feed-forward sizes. Description,
    spaces, rewards, episode end and information are those of `KDNASEnv`; `env.unwrapped.evaluator.surrogate` is the
    surrogate. 20 % of the points of its space are invalid: they cannot be built, or exceed 15 million parameters.

    With `seed="sample"`, the seed of `reset` draws a deviation from the mean over seeds for each architecture, with the
    standard deviation of the table. The model uncertainty is not included.

    ## Arguments

    | Name          | Default             | Meaning                                                                  |
    |---------------|---------------------|--------------------------------------------------------------------------|
    | `table`       | as above            | table or tables by name or npz file, or the npz file of a surrogate      |
    | `space`       | `None`              | choices by dimension, a YAML or JSON file, or None: as above             |
    | `extrapolate` | `False`             | whether the space may exceed the range and the cap of the table          |
    | `seed`        | `"mean"`            | `mean`, `sample`, or a whole number that draws the deviations of one seed|
    | `epochs`      | `None`              | epochs per evaluation; None: all of the table                            |
    | `device`      | `None`              | name of the device whose latencies count; None: the table's first        |

    All other arguments are those of `kdnas_env.envs.making.Episode`;
    a budget in seconds uses predicted seconds.

    ## Version History

    * v0: Initial version

    Raises:
        TableError: If a table cannot be read, or lacks the seed, the device or the epochs.
        SpaceError: If the space is malformed, or exceeds the range of the table.
    """

    search_space: SearchSpace

    def __init__(
        self,
        table: TableNames = ("rotten-tomatoes", "rotten-tomatoes-between"),
        *,
        space: SpaceSource = None,
        extrapolate: bool = False,
        seed: int | str = "mean",
        epochs: int | None = None,
        device: str | None = None,
        **episode: Unpack[Episode],
    ) -> None:
        from kdnas_env.evaluators.surrogate import check_seed, source_metadata
        from kdnas_env.tables.surrogates.storage import load_source

        source = load_source(table)
        check_seed(seed)
        metadata = source_metadata(source)
        metadata.device_position(device)
        fidelity = Fidelity(epochs=metadata.epochs if epochs is None else epochs)
        metadata.check_fidelity(fidelity)
        search_space = _surrogate_space(source, space, extrapolate=extrapolate)
        settings = {"seed": seed, "device": device, "extrapolate": extrapolate, "search_space": search_space}
        self._drawn = seed == "sample"
        super().__init__(
            search_space,
            partial(_make_surrogate, source, settings),
            fidelity=fidelity,
            **episode_arguments(episode),
        )


make_vector = vector_maker(SurrogateEnv)


def _make_surrogate(source: Surrogate | Sequence[Table], settings: Mapping[str, Any]) -> Evaluator:
    from kdnas_env.evaluators.surrogate import SurrogateEvaluator
    from kdnas_env.tables.surrogates.storage import fitted

    return SurrogateEvaluator(fitted(source), **settings)


def _surrogate_space(source: Surrogate | Sequence[Table], given: SpaceSource, *, extrapolate: bool) -> SearchSpace:
    from kdnas_env.evaluators.surrogate import check_space, source_metadata, source_range, surrogate_space

    trusted, metadata = source_range(source), source_metadata(source)
    if given is None:
        return surrogate_space(metadata, trusted, extrapolate=extrapolate)
    space = resolve_space(given, metadata.encoder)
    if space.max_parameters is None and not extrapolate:
        # Without a cap, the space would exceed the table's.
        space = replace(space, max_parameters=trusted.max_parameters)
    check_space(space, trusted, extrapolate=extrapolate)
    return space
