"""The registered environments: the arguments of each, all plain data, and how its evaluator is made from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.core.evaluation import Evaluator, Fidelity
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.layout import checked_count
from kdnas_env.envs.vector import KDNASVectorEnv
from kdnas_env.errors import KDNASError, SpaceError

if TYPE_CHECKING:
    from kdnas_env.tables.surrogates.surrogate import Surrogate, TableNames
    from kdnas_env.tables.table import Table

SpaceSource = Mapping[str, Any] | str | os.PathLike[str] | None
"""A space as plain data: its choices, the path of a YAML or JSON file, or None to derive it from the teacher."""


class MiniKDEnv(KDNASEnv):
    """Distil real students of a real teacher on real text.

    Description, spaces, rewards, episode end and information are those of `KDNASEnv`. Making the environment reads
    the teacher's configuration only; weights, text and hidden states are loaded at the first `reset`.

    With a measured latency (`torch`, `onnxruntime`) two runs differ by the measurement. With `latency="analytic"`,
    the default of `kdnas/MiniKDAnalytic-v0`, equal runs with equal `threads` on one CPU give equal results.

    ## Arguments

    | Name             | Default     | Meaning                                                                      |
    |------------------|-------------|------------------------------------------------------------------------------|
    | `teacher`        | `"demo"`    | name or folder of the teacher                                                |
    | `corpus`         | `"demo"`    | name, folder or file of the corpus, or a dict of options of `load_corpus`    |
    | `space`          | `None`      | choices by dimension, a YAML or JSON file, or None: derived from the teacher |
    | `families`       | `None`      | student families to search, with a derived space; None: the teacher's own    |
    | `max_parameters` | `None`      | largest student allowed, in parameters                                       |
    | `budget`         | `120`       | what an episode may spend                                                    |
    | `budget_unit`    | evaluations | `evaluations`, `epochs` or `seconds`                                         |
    | `round_size`     | `8`         | evaluations per round                                                        |
    | `epochs`         | `2`         | epochs of mini-KD per evaluation                                             |
    | `data_fraction`  | `1.0`       | share of the training sentences that is used, in (0, 1]                      |
    | `seed`           | `0`         | of initialisation and data order, the same for every student                 |
    | `recipe`         | `"default"` | `default`, `seed` (that of the original text), or a dict of changes          |
    | `latency`        | `"torch"`   | `torch`, `onnxruntime`, `analytic`, or a dict of `LatencySettings` fields    |
    | `alpha`          | `-0.06`     | exponent of the latency factor                                               |
    | `beta`           | `0.6**6`    | target latency; scales all positive rewards alike, changes no choice         |
    | `penalty`        | `None`      | reward of what fails or cannot be built; None: -1                            |
    | `loss`           | `None`      | loss of the reward; None: `train_raw` for recipe `seed`, else `heldout`      |
    | `duplicates`     | `"charge"`  | what a repeated architecture costs: `charge`, `free` or `reject`             |
    | `store`          | `None`      | SQLite file that keeps every evaluation and answers repeated ones            |
    | `cache_dir`      | `None`      | folder of the teacher's hidden states                                        |
    | `device`         | `None`      | device of the training; None: CUDA where there is one                        |
    | `threads`        | `None`      | threads of the training; None: those that PyTorch uses, shared by workers    |
    | `workers`        | `1`         | processes that evaluate the students of a round side by side                 |
    | `render_mode`    | `None`      | `ansi` or `rgb_array`                                                        |

    ## Version History

    * v0: Initial version
    """

    def __init__(
        self,
        teacher: str = "demo",
        corpus: str | Mapping[str, Any] = "demo",
        *,
        space: SpaceSource = None,
        families: Sequence[str] | str | None = None,
        max_parameters: int | None = None,
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        epochs: int = 2,
        data_fraction: float = 1.0,
        seed: int = 0,
        recipe: str | Mapping[str, Any] = "default",
        latency: str | Mapping[str, Any] = "torch",
        alpha: float = -0.06,
        beta: float = 0.6**6,
        penalty: float | None = None,
        loss: str | None = None,
        duplicates: str = "charge",
        store: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        device: str | None = None,
        threads: int | None = None,
        workers: int = 1,
        render_mode: str | None = None,
    ) -> None:
        from kdnas_env.distillation.teacher.loading import load_teacher_architecture

        settings = {
            "teacher": teacher,
            "corpus": corpus,
            "recipe": recipe,
            "latency": latency,
            "cache_dir": cache_dir,
            "device": device,
            "threads": threads,
        }
        super().__init__(
            resolve_space(space, load_teacher_architecture(teacher), families, max_parameters),
            partial(_make_mini_kd, settings, store, checked_count("workers", workers, "processes")),
            reward=KDReward(alpha, beta, loss=loss or default_loss(recipe), penalty=penalty),
            fidelity=Fidelity(epochs=epochs, data_fraction=data_fraction, seed=seed),
            budget=budget,
            budget_unit=budget_unit,
            round_size=round_size,
            duplicates=duplicates,
            render_mode=render_mode,
        )


class PlantedEnv(KDNASEnv):
    """Search a made-up landscape with a known optimum, in microseconds per step.

    For tests and for the development of agents: `PlantedEvaluator` answers in the place of mini-KD, over the space
    derived from BERT-base or any other. `env.unwrapped.evaluator` knows the optimum and the Pareto front. All else
    is as in `KDNASEnv`.

    ## Arguments

    | Name             | Default    | Meaning                                                                    |
    |------------------|------------|----------------------------------------------------------------------------|
    | `space`          | `None`     | choices by dimension, a YAML or JSON file, or None: derived from BERT-base |
    | `families`       | `None`     | student families to search, with a derived space; None: `bert`             |
    | `max_parameters` | `None`     | largest student allowed, in parameters                                     |
    | `budget`         | `120`      | what an episode may spend                                                  |
    | `budget_unit`    | evaluations| `evaluations`, `epochs`, or `seconds` as simulated                         |
    | `round_size`     | `8`        | evaluations per round                                                      |
    | `epochs`         | `2`        | epochs per evaluation                                                      |
    | `seed`           | `0`        | of the noise and of the failures                                           |
    | `noise`          | `0.0`      | standard deviation of the logarithm of the loss                            |
    | `failures`       | `0.0`      | share of the architectures that diverge or run out of memory               |
    | `alpha`          | `-0.06`    | exponent of the latency factor                                             |
    | `beta`           | `0.6**6`   | target latency; scales all positive rewards alike, changes no choice       |
    | `penalty`        | `None`     | reward of what fails or cannot be built; None: -1                          |
    | `duplicates`     | `"charge"` | what a repeated architecture costs: `charge`, `free` or `reject`           |
    | `render_mode`    | `None`     | `ansi` or `rgb_array`                                                      |

    ## Version History

    * v0: Initial version
    """

    def __init__(
        self,
        *,
        space: SpaceSource = None,
        families: Sequence[str] | str | None = None,
        max_parameters: int | None = None,
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        epochs: int = 2,
        seed: int = 0,
        noise: float = 0.0,
        failures: float = 0.0,
        alpha: float = -0.06,
        beta: float = 0.6**6,
        penalty: float | None = None,
        duplicates: str = "charge",
        render_mode: str | None = None,
    ) -> None:
        from kdnas_env.evaluators.planted import PLANTED_TEACHER

        search_space = resolve_space(space, PLANTED_TEACHER, families, max_parameters)
        super().__init__(
            search_space,
            partial(_make_planted, search_space, noise, failures, seed),
            reward=KDReward(alpha, beta, penalty=penalty),
            fidelity=Fidelity(epochs=epochs, seed=seed),
            budget=budget,
            budget_unit=budget_unit,
            round_size=round_size,
            duplicates=duplicates,
            render_mode=render_mode,
        )


class _TableEnv(KDNASEnv):
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


class TabularEnv(_TableEnv):
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
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        alpha: float = -0.06,
        beta: float = 0.6**6,
        penalty: float | None = None,
        loss: str = "heldout",
        duplicates: str = "charge",
        render_mode: str | None = None,
    ) -> None:
        from kdnas_env.evaluators.tabular import TabularEvaluator

        evaluator = TabularEvaluator.of(table, seed=seed, device=device, missing=missing)
        fidelity = Fidelity(epochs=evaluator.table.metadata.epochs if epochs is None else epochs)
        evaluator.table.metadata.check_fidelity(fidelity)
        self._drawn = seed == "sample"
        super().__init__(
            evaluator.space,
            evaluator,
            reward=KDReward(alpha, beta, loss=loss, penalty=penalty),
            fidelity=fidelity,
            budget=budget,
            budget_unit=budget_unit,
            round_size=round_size,
            duplicates=duplicates,
            render_mode=render_mode,
        )


class SurrogateEnv(_TableEnv):
    """Search a space too large to tabulate, answered by a model of a table of real distillations.

    A surrogate is read from its file, or fitted to tables of one workload at the first `reset`, in seconds; the fit is
    then kept in the cache folder. By default these are `rotten-tomatoes` and `rotten-tomatoes-between`, which has
    students between those of the first; the fit to them comes with the package.
    It answers for any student within their range: by default all numbers of layers and of heads that divide the
    teacher's, widths in steps of the teacher's heads and all feed-forward sizes. Description, spaces, rewards, episode
    end and information are those of `KDNASEnv`; `env.unwrapped.evaluator.surrogate` is the surrogate. 20 % of the
    points of its space are students that cannot be built or are beyond 15 million parameters.

    With `seed="sample"` each episode draws, by the seed of `reset`, the deviation of every architecture from the mean
    over seeds, of the size that it has in the table. What the model itself does not know is never drawn.

    ## Arguments

    | Name          | Default             | Meaning                                                                  |
    |---------------|---------------------|--------------------------------------------------------------------------|
    | `table`       | as above            | table or tables by name or npz file, or the npz file of a surrogate      |
    | `space`       | `None`              | choices by dimension, a YAML or JSON file, or None: as above             |
    | `extrapolate` | `False`             | whether the space may go beyond the table's numbers and its cap          |
    | `seed`        | `"mean"`            | `mean`, `sample`, or a whole number that draws what one seed would find  |
    | `epochs`      | `None`              | epochs per evaluation; None: all of the table                            |
    | `device`      | `None`              | name of the device whose latencies count; None: the table's first        |
    | `budget`      | `120`               | what an episode may spend                                                |
    | `budget_unit` | evaluations         | `evaluations`, `epochs`, or `seconds` as they would be                   |
    | `round_size`  | `8`                 | evaluations per round                                                    |
    | `alpha`       | `-0.06`             | exponent of the latency factor                                           |
    | `beta`        | `0.6**6`            | target latency; scales all positive rewards alike, changes no choice     |
    | `penalty`     | `None`              | reward of what fails or cannot be built; None: -1                        |
    | `loss`        | `"heldout"`         | loss of the reward                                                       |
    | `duplicates`  | `"charge"`          | what a repeated architecture costs: `charge`, `free` or `reject`         |
    | `render_mode` | `None`              | `ansi` or `rgb_array`                                                    |

    ## Version History

    * v0: Initial version
    """

    def __init__(
        self,
        table: TableNames = ("rotten-tomatoes", "rotten-tomatoes-between"),
        *,
        space: SpaceSource = None,
        extrapolate: bool = False,
        seed: int | str = "mean",
        epochs: int | None = None,
        device: str | None = None,
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        alpha: float = -0.06,
        beta: float = 0.6**6,
        penalty: float | None = None,
        loss: str = "heldout",
        duplicates: str = "charge",
        render_mode: str | None = None,
    ) -> None:
        from kdnas_env.evaluators.surrogate import check_seed, source_metadata
        from kdnas_env.tables.surrogates.surrogate import load_source

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
            reward=KDReward(alpha, beta, loss=loss, penalty=penalty),
            fidelity=fidelity,
            budget=budget,
            budget_unit=budget_unit,
            round_size=round_size,
            duplicates=duplicates,
            render_mode=render_mode,
        )


def make_surrogate_vector(num_envs: int = 1, *, autoreset_mode: str = "NextStep", **kwargs: Any) -> KDNASVectorEnv:
    """Make a vector environment of `SurrogateEnv`; the keyword arguments are those of the class."""
    return KDNASVectorEnv(SurrogateEnv(**_without_round_size(kwargs)), num_envs, autoreset_mode=autoreset_mode)


def make_tabular_vector(num_envs: int = 1, *, autoreset_mode: str = "NextStep", **kwargs: Any) -> KDNASVectorEnv:
    """Make a vector environment of `TabularEnv`; the keyword arguments are those of the class."""
    return KDNASVectorEnv(TabularEnv(**_without_round_size(kwargs)), num_envs, autoreset_mode=autoreset_mode)


def make_mini_kd_vector(num_envs: int = 1, *, autoreset_mode: str = "NextStep", **kwargs: Any) -> KDNASVectorEnv:
    """Make a vector environment of `MiniKDEnv`; the keyword arguments are those of the class."""
    return KDNASVectorEnv(MiniKDEnv(**_without_round_size(kwargs)), num_envs, autoreset_mode=autoreset_mode)


def make_planted_vector(num_envs: int = 1, *, autoreset_mode: str = "NextStep", **kwargs: Any) -> KDNASVectorEnv:
    """Make a vector environment of `PlantedEnv`; the keyword arguments are those of the class."""
    return KDNASVectorEnv(PlantedEnv(**_without_round_size(kwargs)), num_envs, autoreset_mode=autoreset_mode)


def _without_round_size(kwargs: dict[str, Any]) -> dict[str, Any]:
    if "round_size" in kwargs:
        raise KDNASError(
            f"round_size is {kwargs['round_size']!r}, but a round of a vector environment is one step of all its "
            "seats; leave it out and set num_envs"
        )
    return kwargs


def default_loss(recipe: object) -> str:
    """Return the loss that rewards use with a recipe: for ``seed`` the training loss, as the original text has it."""
    return "train_raw" if recipe == "seed" else "heldout"


def resolve_space(
    source: SpaceSource,
    teacher: EncoderArchitecture,
    families: Sequence[str] | str | None = None,
    max_parameters: int | None = None,
) -> SearchSpace:
    """Make a space under a teacher from plain data.

    Args:
        source: Choices by dimension, the path of a YAML or JSON file, or None to derive the space from the teacher.
        teacher: The teacher's architecture.
        families: Student families; only where the space is derived.
        max_parameters: Largest student allowed; takes the place of the cap that the source sets, if any.

    Raises:
        SpaceError: If the source is malformed, or families are given beside it.
    """
    if source is None:
        families = (families,) if isinstance(families, str) else families
        return SearchSpace.from_teacher(teacher, families=families, max_parameters=max_parameters)
    if families is not None:
        raise SpaceError(f"families {families!r} are given beside a space; list them in the space, under 'family'")
    if isinstance(source, Mapping):
        space = SearchSpace.from_dict(source, teacher)
    else:
        space = SearchSpace.from_file(os.fspath(source), teacher)
    return space if max_parameters is None else replace(space, max_parameters=max_parameters)


def _make_mini_kd(settings: Mapping[str, Any], store: str | os.PathLike[str] | None, workers: int) -> Evaluator:
    import torch

    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, MiniKDSettings
    from kdnas_env.evaluators.parallel import ParallelEvaluator
    from kdnas_env.evaluators.stored import StoredEvaluator

    given = {name: value for name, value in settings.items() if value is not None}
    evaluator: Evaluator
    if workers == 1:
        evaluator = MiniKDEvaluator(MiniKDSettings(**given))
    else:
        given.setdefault("threads", max(1, torch.get_num_threads() // workers))
        evaluator = ParallelEvaluator.local(partial(MiniKDEvaluator, MiniKDSettings(**given)), workers)
        _ = evaluator.fingerprint  # a bad teacher or corpus shall fail here
    return evaluator if store is None else StoredEvaluator(evaluator, store)


def _make_planted(space: SearchSpace, noise: float, failures: float, seed: int) -> Evaluator:
    from kdnas_env.evaluators.planted import PlantedEvaluator, random_failures

    planted = random_failures(space, failures, np.random.default_rng(seed)) if failures else {}
    return PlantedEvaluator(space, noise, planted)


def _make_surrogate(source: Surrogate | Sequence[Table], settings: Mapping[str, Any]) -> Evaluator:
    from kdnas_env.evaluators.surrogate import SurrogateEvaluator
    from kdnas_env.tables.surrogates.fits import fitted

    return SurrogateEvaluator(fitted(source), **settings)


def _surrogate_space(source: Surrogate | Sequence[Table], given: SpaceSource, *, extrapolate: bool) -> SearchSpace:
    from kdnas_env.evaluators.surrogate import check_space, source_metadata, source_range, surrogate_space

    trusted, metadata = source_range(source), source_metadata(source)
    if given is None:
        return surrogate_space(metadata, trusted, extrapolate=extrapolate)
    space = resolve_space(given, metadata.encoder)
    if space.max_parameters is None and not extrapolate:
        # Without a cap the space would reach beyond the table's.
        space = replace(space, max_parameters=trusted.max_parameters)
    check_space(space, trusted, extrapolate=extrapolate)
    return space
