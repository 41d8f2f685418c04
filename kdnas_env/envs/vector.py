"""The vector environment: one search that evaluates a round of candidates per step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation
from kdnas_env.core.grid_space import GridSpace
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.answers import FLOATS, INTS, Answers, Columns
from kdnas_env.envs.book import Book
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.layout import checked_count, checked_options, loss_curve
from kdnas_env.envs.observation import Observation, nothing_yet, observation_space
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.support.arrays import Bools, Floats, Ints
from kdnas_env.support.untrusted import as_array, is_whole, shown

Infos = dict[str, Any]
Scalar = TypeVar("Scalar", bound=np.generic)


class KDNASVectorEnv(gym.vector.VectorEnv[Observation, Ints, npt.NDArray[Any]]):
    """Evaluate one round of candidates per step: `num_envs` candidates as one batch of the evaluator.

    ## Description

    All sub-environments belong to one search. They share budget, best students and duplicates, and begin and end
    together. One step is one round. Rewards, best students and infos are those of a `KDNASEnv` with a `round_size` of
    `num_envs` that gets the same candidates one by one. For independent searches, use `SyncVectorEnv` or
    `AsyncVectorEnv` over `KDNASEnv`, as `gym.make_vec(id, num_envs, "sync")` does.

    ## Action and Observation Space

    Those of `KDNASEnv`, batched. The observation has no `previous_round` and no `previous_round_rewards`, because the
    `last` entries of all sub-environments contain them.

    ## Episode End

    Terminated in all sub-environments when less than one round of the budget is left, so that the budget is never
    exceeded: of a budget of 100 evaluations, 8 sub-environments spend 96, and `reset` warns about the other 4. There
    are no partial rounds, because a vector environment must answer each action. Truncated in all sub-environments after
    10 times as many answers as the budget allows, which happens only with uncounted duplicates. `autoreset_mode` sets
    what follows:

    | `autoreset_mode` | The step that ends a search                          | The step after it                    |
    |------------------|------------------------------------------------------|--------------------------------------|
    | `NextStep`       | returns its last observation                         | begins a search; ignores its actions |
    | `SameStep`       | begins a search; the end of the old one is in        | is the first of the new search       |
    |                  | `infos["final_obs"]` and `infos["final_info"]`       |                                      |
    | `Disabled`       | returns its last observation                         | raises, unless `reset` was called    |

    The mask of `reset(options={"reset_mask": mask})` must be true for all sub-environments.

    ## Information

    The keys of `KDNASEnv`, each an array with one entry per sub-environment, and its mask under the key with a leading
    `_`. `error` is present only in rounds with a failed student. `evaluations`, `budget_left` and `round` have their
    values after the round.

    ## Arguments

    | Name             | Default      | Meaning                                                         |
    |------------------|--------------|-----------------------------------------------------------------|
    | `env`            |              | a `KDNASEnv` that defines the search; it is never stepped       |
    | `num_envs`       |              | candidates per round; replaces the `round_size` of `env`        |
    | `autoreset_mode` | `"NextStep"` | an `AutoresetMode`, its value or its name                       |

    Attributes:
        env: The wrapped environment, with search space, reward, fidelity and evaluator.
        on_epoch: Called after every epoch of a running evaluation; a true return value stops it. Not pickled.
    """

    def __init__(self, env: KDNASEnv, num_envs: int, *, autoreset_mode: AutoresetMode | str = "NextStep") -> None:
        self.env = env
        self.num_envs = checked_count("num_envs", num_envs)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = env.render_mode
        self.on_epoch: EpochCallback | None = None
        self._seat_space = observation_space(env.search_space, env.reward_function, None)
        self.single_observation_space = self._seat_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._answers: Answers | None = None
        self._altered = False  # whether a student may have been stopped; its answer is then valid only in this episode
        self._begin(self._checked_budget(env.budget))
        self._running = self._ended = False

    @property
    def search_space(self) -> GridSpace[Any]:
        """The search space."""
        return self.env.search_space

    @property
    def reward_function(self) -> KDReward:
        """The reward function: turns evaluations into rewards."""
        return self.env.reward_function

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that determine the rewards, as in ``KDNASEnv``."""
        return self.env.identity

    @property
    def round_size(self) -> int:
        """Candidates per round: the number of sub-environments."""
        return self.num_envs

    @property
    def budget(self) -> float:
        """Budget of an episode, in the unit of the environment's budget."""
        return self.env.budget

    @property
    def max_evaluations(self) -> int | None:
        """Evaluations per episode, in whole rounds; None if the budget is in seconds."""
        evaluations = self.env.max_evaluations
        return None if evaluations is None else evaluations - evaluations % self.num_envs

    @property
    def valid_action_indices(self) -> Ints | None:
        """Flat indices of the valid actions, int64 ``(n,)``, as in ``KDNASEnv``."""
        return self.env.valid_action_indices

    @property
    def parameter_counts(self) -> Ints | None:
        """Parameters of the valid actions, int64 ``(n,)``, as in ``KDNASEnv``."""
        return self.env.parameter_counts

    @property
    def history(self) -> Book:
        """Every answer of the episode, in order, with the best students and the rounds."""
        return self._book

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Infos]:
        """Begin a new search in all sub-environments.

        Args:
            seed: Seeds ``np_random``; the first of a list is used, as there is one search.
            options: ``budget`` sets the budget of this episode; ``reset_mask``, bool ``(num_envs,)``, must be all true.

        Raises:
            KDNASError: If an option is unknown or malformed, or the budget is less than a round.
        """
        super().reset(seed=next(iter(seed), None) if isinstance(seed, list) else seed)
        options = checked_options(options, ("budget", "reset_mask"))
        mask = options.get("reset_mask")
        if mask is not None and as_array(mask).tolist() != [True] * self.num_envs:
            raise KDNASError(
                f"reset_mask is {shown(mask)}; expected true for all {self.num_envs} sub-environments, as they begin a "
                "search together"
            )
        budget = self._checked_budget(options.get("budget", self.env.budget))
        self._warn_of_rest(budget)
        self.env.draw_fidelity(self.np_random)
        tabular = getattr(self.env.evaluator, "tabular", False)  # an invalid teacher or corpus must fail here
        if self._altered or not tabular or self._kept.fidelity != self.env.fidelity:
            self._answers, self._altered = None, False
        self._begin(budget)
        self._running, self._ended = True, False
        nothing = {name: np.tile(array, (self.num_envs, 1)) for name, array in nothing_yet(self._seat_space).items()}
        return nothing, self._empty_infos()

    def step(self, actions: Ints) -> tuple[Observation, Floats, Bools, Bools, Infos]:
        """Evaluate a round of students.

        Args:
            actions: One index per sub-environment and dimension, integers of shape ``(num_envs, dims)``.

        Returns:
            Observations, rewards float64 ``(num_envs,)``, terminations and truncations, bool ``(num_envs,)``, infos.

        Raises:
            SpaceError: If the actions have the wrong shape or dtype, or are out of range.
            ResetNeeded: If no search is running.
        """
        if self._ended and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            observation, infos = self.reset()
            return observation, np.zeros(self.num_envs), self._flags(False), self._flags(False), infos
        if not self._running:
            raise ResetNeeded("no search is running: call reset() before the first step and after the end of a search")
        actions, book = self._checked(actions), self._book
        rows = self._rows(actions)
        columns = self._kept.columns
        rewards, counted, duplicates = book.add_round(rows, self._kept)
        usable = columns.usable.take(rows)
        self._running, self._ended = not book.over, book.over
        observation, infos = self._observation(actions, rewards, usable), self._infos(columns, rows, usable)
        infos = self._masked(infos | {"duplicate": duplicates, "counted": counted})
        if self._ended and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = {
                "final_obs": _unbatched(observation, self.num_envs),
                "final_info": infos,
                "_final_obs": self._flags(True),
                "_final_info": self._flags(True),
            }
            observation, infos = self.reset()
            infos |= final
        return observation, rewards, self._flags(book.terminated), self._flags(book.truncated), infos

    def render(self) -> tuple[Any, ...] | None:
        """Show the search so far, once per sub-environment; see ``KDNASEnv.render``."""
        if self.render_mode is None:
            return None
        from kdnas_env.envs.render import render_search

        frame = render_search(self.history, self.render_mode, loss=self.reward_function.goes_by)
        return (frame,) * self.num_envs

    def close_extras(self, **kwargs: Any) -> None:
        """Close what the environment opened itself; an evaluator that was passed in stays open."""
        self.env.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "on_epoch": None}

    @property
    def _kept(self) -> Answers:
        """The known answers at the fidelity of the environment."""
        if self._answers is None:
            self._answers = self.env.new_answers(self.env.fidelity, self._book.budget)
        return self._answers

    def _rows(self, actions: Ints) -> Ints:
        """Return the rows of the answers to actions, int64 ``(num_envs,)``; unknown actions are evaluated."""
        answers, indices = self._kept, self.search_space.indices(actions)
        if self.on_epoch is not None or self.env.stop is not None:
            answers.forget_earlier()
        rows = answers.columns.rows(indices)
        missing = rows < 0
        if missing.any():
            new = zip(indices[missing].tolist(), map(tuple, actions[missing].tolist()), strict=True)
            listens = self.on_epoch is not None or self.env.stop is not None
            answers.learn(dict(new), self._evaluate, None if listens else self.env.known(answers.fidelity))
            rows = answers.columns.rows(indices)
        return rows

    def _evaluate(self, configs: Sequence[StudentConfig]) -> list[Evaluation]:
        listener = self._book.listener(self.on_epoch)
        self._altered |= listener is not None
        return self.env.evaluate(configs, self._kept.fidelity, listener)

    def _infos(self, columns: Columns, rows: Ints, usable: Bools) -> Infos:
        """Return the infos of the students of a round."""
        floats, ints = columns.floats.take(rows, axis=0), columns.ints.take(rows, axis=0)
        infos: Infos = {name: columns.texts[name].take(rows) for name in ("config", "status")}
        infos["heldout_curve"] = floats[:, len(FLOATS) :]
        infos |= zip(FLOATS, floats.T, strict=False)
        infos |= zip(INTS, ints.T, strict=True)
        if columns.limits:
            broken = columns.broken.take(rows, axis=0)
            infos |= {"cost": broken.sum(axis=1), "costs": self._costs_info(broken)}
        if not usable.all():
            infos["error"] = columns.texts["error"].take(rows)
        return infos

    def _costs_info(self, broken: Floats) -> Infos:
        infos: Infos = dict(zip(self.env.limits.names, broken.T, strict=True))
        return infos | {f"_{name}": self._flags(True) for name in infos}

    def _empty_infos(self) -> Infos:
        """Return the infos before the first step: neutral values."""
        neutral = self.env.neutral_info | {"duplicate": False, "counted": False}
        costs = neutral.pop("costs", {})
        infos: Infos = {
            name: np.full(self.num_envs, value, dtype=object if isinstance(value, str) else type(value))
            for name, value in neutral.items()
            if name != "error"
        }
        if costs:
            infos["costs"] = self._costs_info(np.zeros((self.num_envs, len(costs))))
        infos["heldout_curve"] = np.tile(loss_curve((), self.env.fidelity.epochs), (self.num_envs, 1))
        return self._masked(infos)

    def _masked(self, infos: Infos) -> Infos:
        """Add the state of the search, and the mask of every key."""
        book = self._book
        for name, value in (("evaluations", book.evaluations), ("budget_left", book.left), ("round", book.round)):
            infos[name] = self._filled(value, np.int64 if isinstance(value, int) else np.float64)
        present = self._flags(True)
        return infos | {_mask_of(name): present for name in infos}

    def _begin(self, budget: Budget) -> None:
        self._book = self.env.new_book(budget, round_size=self.num_envs, least=self._least)
        if self._answers is not None:
            self._answers.begin_episode()
        self._best = self._none_yet

    @property
    def _none_yet(self) -> tuple[Ints, float]:
        """Tokens and reward that mean "no student"."""
        return np.zeros(len(self.search_space.dimensions), dtype=np.int64), -np.inf

    def _checked_budget(self, amount: Any) -> Budget:
        budget = self.env.checked_budget(amount)
        self._least = self.num_envs * (max(1, self.env.fidelity.epochs) if budget.unit == "epochs" else 1)
        if budget.unit != "seconds" and budget.amount < self._least:
            raise KDNASError(
                f"budget is {budget.amount} {budget.unit}, less than one round of {self.num_envs} sub-environments, "
                f"which takes {self._least}; raise the budget or lower num_envs"
            )
        return budget

    def _warn_of_rest(self, budget: Budget) -> None:
        rest = 0 if budget.unit == "seconds" else budget.amount % self._least
        if rest:
            gym.logger.warn(
                f"{rest} of the budget of {budget.amount} {budget.unit} will not be spent, since a round of "
                f"{self.num_envs} sub-environments takes {self._least}; set budget={budget.amount - rest}, or another "
                "num_envs"
            )

    def _checked(self, actions: Any) -> Ints:
        """Return actions as int64 of the required shape; values beyond 64 bits become negative."""
        array = as_array(actions)
        shape = (self.num_envs, len(self.search_space.dimensions))
        if array.shape != shape or not is_whole(array):
            raise SpaceError(f"actions are {array.dtype} of shape {array.shape}; expected integers of shape {shape}")
        return array.astype(np.int64)

    def _observation(self, actions: Ints, rewards: Floats, usable: Bools) -> Observation:
        """Return the observation after a round; all arrays are new."""
        best = int(np.where(usable, rewards, -np.inf).argmax())
        round_best = (actions[best] + 1, float(rewards[best])) if usable[best] else self._none_yet
        if usable[best] and round_best[1] > self._best[1]:
            self._best = round_best
        observation: Observation = {"last": actions + 1, "last_reward": rewards.astype(np.float32)[:, None]}
        for name, (tokens, reward) in (("previous_best", round_best), ("global_best", self._best)):
            # Filled dimension by dimension, because repeating short rows is slow.
            by_dimension = np.empty(actions.shape[::-1], dtype=np.int64)
            by_dimension[:] = tokens[:, None]
            observation[name] = by_dimension.T
            observation[f"{name}_reward"] = self._column(0.0 if reward == -np.inf else reward)
        observation["progress"] = self._column(self._book.progress)
        return observation

    def _column(self, value: float) -> npt.NDArray[np.float32]:
        return self._filled(value, np.float32)[:, None]

    def _flags(self, value: bool) -> Bools:
        return self._filled(value, np.bool_)

    def _filled(self, value: float, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
        """Return one value per sub-environment; faster than ``np.full`` for the few sub-environments of a round."""
        array = np.empty(self.num_envs, dtype=dtype)
        array.fill(value)
        return array


@cache
def _mask_of(name: str) -> str:
    """Return the key of the mask of an info."""
    return f"_{name}"


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if mode in (known.value, known.name):
            return known
    raise KDNASError(f"autoreset_mode is {mode!r}; expected one of {[known.value for known in AutoresetMode]}")


def _unbatched(observation: Observation, seats: int) -> npt.NDArray[Any]:
    """Return the observation of each sub-environment, objects ``(seats,)``."""
    final = np.empty(seats, dtype=object)
    final[:] = [{name: array[seat].copy() for name, array in observation.items()} for seat in range(seats)]
    return final
