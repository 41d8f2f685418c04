"""Cache of the answers to actions, so that no student is evaluated twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import ConstrainedReward, Constraints
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.core.grid_space import GridSpace
from kdnas_env.core.reward import KDReward, RewardComponents
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.layout import costs_info, evaluation_info, loss_curve, student_info
from kdnas_env.support.arrays import Bools, Ints

if TYPE_CHECKING:
    from kdnas_env.evaluators.cells import KnownCells

Action = tuple[int, ...]
Evaluate = Callable[[Sequence[StudentConfig]], Sequence[Evaluation]]
"""Evaluates architectures as one batch."""

FLOATS = ("quality", "loss", "latency_ratio", "latency_factor", "speedup", "latency_ms", "teacher_latency_ms")
INTS = ("index", "parameters", "flops", "epochs")
TEXTS = ("config", "status", "error")

_INT64 = np.dtype(np.int64)
_LARGEST_ARRAY = 10_000_000
"""Grids up to this many points use an array for look-ups, larger grids a dict."""


def can_be_best(evaluation: Evaluation, reward: RewardComponents) -> bool:
    """Return whether the evaluation succeeded, the latency is known, and the student keeps all limits."""
    return evaluation.ok and evaluation.latency is not None and reward.cost <= 0


@dataclass(slots=True, eq=False)
class Answer:
    """The answer to an action. The environment copies its arrays and its dict before it returns them.

    The record of an evaluation that a table knows is created on first access.

    Attributes:
        row: Row of the answer in the cache.
        first: Row of the first action with the same architecture.
        action: The action.
        reward: The reward, with components.
        value: The reward as one number.
        usable: Whether the evaluation succeeded, the latency is known, and the student keeps all limits.
        charged: Whether the first occurrence is charged to the budget.
        cost: Cost in the unit of the budget.
        tokens: The action as encoded in observations, int64 ``(dims,)``.
        earned: The reward as stored in observations, float32 ``(1,)``.
        curve: Held-out loss by epoch, float64 ``(epochs + 1,)``.
        info: The part of the info that does not depend on the state of the search, without the curve.
        record: The evaluation; for a table, None until it is read for the first time.
        cells: The results of the table; None for other evaluators.
    """

    row: int
    first: int
    action: Action
    reward: RewardComponents
    value: float
    usable: bool
    charged: bool
    cost: float
    tokens: Ints
    earned: npt.NDArray[np.float32]
    curve: npt.NDArray[np.float64]
    info: dict[str, Any]
    record: Evaluation | None
    cells: KnownCells | None = None

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation."""
        if self.record is None:
            assert self.cells is not None
            self.record = self.cells.cells.record(self.cells.row_of[self.info["index"]])
        return self.record


class Answers:
    """The answers at one fidelity: one row per action, in the order of evaluation.

    Answers are kept across episodes if an evaluator's results are free and never change. The answers already given in
    the current episode are recorded separately.

    Args:
        space: The space of the actions.
        reward: Turns evaluations into rewards.
        fidelity: Fidelity of the evaluations.
        budget: Unit of the costs.
        epochs: Maximum number of epochs in loss curves.
        charges_infeasible: Whether the budget is charged for a student that breaks a limit and is not distilled.
    """

    def __init__(
        self,
        space: GridSpace[Any],
        reward: KDReward,
        fidelity: Fidelity,
        budget: Budget,
        epochs: int,
        charges_infeasible: bool = True,
    ) -> None:
        self.fidelity = fidelity
        self.rows: list[Answer] = []
        self._space, self._reward, self._budget, self._epochs = space, reward, budget, epochs
        self._limits = reward.limits if isinstance(reward, ConstrainedReward) else Constraints()
        self._charges_infeasible = charges_infeasible
        self._of_action: dict[bytes, Answer] = {}
        self._first: dict[StudentConfig, int] = {}
        self._given = bytearray()  # by row: whether its architecture was answered in this episode
        self._earlier = 0  # number of rows from earlier episodes, whose epochs were already reported
        self._columns: Columns | None = None

    @property
    def columns(self) -> Columns:
        """The answers in columns."""
        if self._columns is None:
            self._columns = Columns(self._space.size, self._epochs, self._limits.names)
        self._columns.extend(self.rows)
        return self._columns

    def find(self, action: Any) -> Answer | None:
        """Return the answer to an action; None if it is unknown, or the action must be checked first."""
        # A known action is not checked again: the check would double the time.
        if type(action) is np.ndarray and action.dtype is _INT64 and action.ndim == 1:
            return self._of_action.get(action.tobytes())
        return None

    def learn(self, actions: Mapping[int, Action], evaluate: Evaluate, known: KnownCells | None = None) -> list[Answer]:
        """Return the answers to actions; unknown architectures are evaluated.

        Args:
            actions: Actions of the space, by their flat indices.
            evaluate: Evaluates missing architectures as one batch; not called if none is missing.
            known: Results of a table, which need no evaluation.
        """
        keys = {index: np.array(action, dtype=np.int64).tobytes() for index, action in actions.items()}
        configs = {
            index: self._space.config_at(actions[index]) for index, key in keys.items() if key not in self._of_action
        }
        if known is not None:
            for index in [index for index in configs if known.row_of[index] >= 0]:
                answer = self._append_known(index, actions[index], configs.pop(index), known)
                self._of_action[keys[index]] = answer
        new = [config for config in dict.fromkeys(configs.values()) if config not in self._first]
        evaluated = dict(zip(new, evaluate(new), strict=True)) if new else {}
        for index, config in configs.items():
            evaluation = evaluated[config] if config in evaluated else self.rows[self._first[config]].evaluation
            self._of_action[keys[index]] = self._append(index, actions[index], config, evaluation)
        return [self._of_action[key] for key in keys.values()]

    def begin_episode(self) -> None:
        """Mark all current answers as answers of earlier episodes."""
        self._earlier = len(self.rows)
        self._given = bytearray(self._earlier)

    def forget_earlier(self) -> None:
        """Drop answers of earlier episodes that this one has not used, because an epoch callback needs new reports."""
        if not self._earlier:
            return
        self._earlier = 0
        self._first = {config: row for config, row in self._first.items() if self._given[row]}
        kept = set(self._first.values())
        self._of_action = {key: answer for key, answer in self._of_action.items() if answer.first in kept}
        if self._columns is not None:
            self._columns.keep([answer.row for answer in self._of_action.values()])

    def give(self, answer: Answer) -> bool:
        """Record an answer as given; return whether its architecture was already answered in the episode."""
        given, first = self._given, answer.first
        if given[first]:
            return True
        given[first] = True
        return False

    def give_all(self, rows: Ints) -> Bools:
        """Record answers as given; return which ones repeat an answer of the episode, bool ``(n,)``."""
        first, given = self.columns.first.take(rows), np.frombuffer(self._given, dtype=np.bool_)
        repeated: Bools = given.take(first)
        if not repeated.all():
            repeated |= self._repeated_within(first)
            given[first] = True
        return repeated

    def _repeated_within(self, first: Ints) -> Bools:
        """Return which rows occur earlier in the same round, bool ``(n,)``."""
        scratch, places = self.columns.scratch, np.arange(len(first))
        # With repeated indices, NumPy keeps the last assignment; reversed order keeps the first occurrence.
        scratch[first[::-1]] = places[::-1]
        return np.asarray(scratch.take(first) != places)

    def _append(self, index: int, action: Action, config: StudentConfig, evaluation: Evaluation) -> Answer:
        reward, costs = self._reward.with_costs(evaluation)
        return self._add(
            action,
            config,
            reward,
            usable=can_be_best(evaluation, reward),
            charged=self._charges_infeasible or evaluation.status is not Status.INFEASIBLE,
            cost=self._budget.cost(evaluation),
            losses=evaluation.heldout_unexplained,
            info=evaluation_info(evaluation, reward, index) | costs_info(costs),
            record=evaluation,
        )

    def _append_known(self, index: int, action: Action, config: StudentConfig, known: KnownCells) -> Answer:
        row = known.row_of[index]
        latency_ms, teacher_ms, ratio, parameters, flops = known.numbers[row]
        reward = self._reward.components(known.losses[self._reward.curve][row], ratio)
        return self._add(
            action,
            config,
            reward,
            usable=True,
            charged=True,
            cost=self._budget.reserved(self.fidelity),
            losses=known.heldout[row],
            info=student_info(
                reward,
                index,
                config=str(config),
                status=str(Status.OK),
                error="",
                latency_ms=latency_ms,
                teacher_latency_ms=teacher_ms,
                parameters=parameters,
                flops=flops,
                epochs=self.fidelity.epochs,
            ),
            cells=known,
        )

    def _add(
        self,
        action: Action,
        config: StudentConfig,
        reward: RewardComponents,
        *,
        losses: Sequence[float] | npt.NDArray[np.float64],
        record: Evaluation | None = None,
        **answer: Any,
    ) -> Answer:
        row = len(self.rows)
        made = Answer(
            row=row,
            first=self._first.setdefault(config, row),
            action=action,
            reward=reward,
            value=reward.reward,
            tokens=np.array(action, dtype=np.int64) + 1,
            earned=np.array([reward.reward], dtype=np.float32),
            curve=loss_curve(losses, self._epochs),
            record=record,
            **answer,
        )
        self.rows.append(made)
        self._given.append(False)
        return made


class Columns:
    """Answers in columns, for vectorised access to the answers of a round.

    Args:
        size: Number of points in the space.
        epochs: Maximum number of epochs in loss curves.
        limits: Names of the limits.

    Attributes:
        length: Number of rows; the arrays below may have more.
        rewards: Rewards, float64.
        costs: Costs in the unit of the budget, float64.
        usable: Whether the student is usable and keeps all limits, bool.
        charged: Whether the first occurrence is charged to the budget, bool.
        floats: ``FLOATS``, then the held-out loss by epoch, float64 ``(rows, len(FLOATS) + epochs + 1)``.
        broken: Violation of each limit, float64 ``(rows, limits)``.
        ints: ``INTS``, int64 ``(rows, len(INTS))``.
        texts: ``TEXTS``, arrays of objects by name.
        first: Row of the first action with the same architecture, int64.
        scratch: Temporary work array, int64.
    """

    def __init__(self, size: int, epochs: int, limits: Sequence[str] = ()) -> None:
        self.length = 0
        self.limits = tuple(limits)
        self.broken = np.empty((0, len(limits)))
        self.charged = np.empty(0, dtype=np.bool_)
        self.rewards = np.empty(0)
        self.costs = np.empty(0)
        self.usable = np.empty(0, dtype=np.bool_)
        self.floats = np.empty((0, len(FLOATS) + epochs + 1))
        self.ints = np.empty((0, len(INTS)), dtype=np.int64)
        self.texts = {name: np.empty(0, dtype=object) for name in TEXTS}
        self.first = np.empty(0, dtype=np.int64)
        self.scratch = np.empty(0, dtype=np.int64)
        self._row_of: Ints | dict[int, int] = {} if size > _LARGEST_ARRAY else np.full(size, -1, dtype=np.int64)

    def rows(self, indices: Ints) -> Ints:
        """Return the rows of actions by their flat indices, int64 ``(n,)``; -1 for unknown actions."""
        if isinstance(self._row_of, dict):
            return np.array([self._row_of.get(index, -1) for index in indices.tolist()], dtype=np.int64)
        return self._row_of.take(indices)

    def extend(self, answers: Sequence[Answer]) -> None:
        """Add the missing answers."""
        start, end = self.length, len(answers)
        if start == end:
            return
        new = answers[start:]
        columns: dict[str, list[Any]] = {
            "rewards": [answer.value for answer in new],
            "costs": [answer.cost for answer in new],
            "usable": [answer.usable for answer in new],
            "charged": [answer.charged for answer in new],
            "broken": [[answer.info["costs"][name] for name in self.limits] for answer in new],
            "floats": [[*(answer.info[name] for name in FLOATS), *answer.curve] for answer in new],
            "ints": [[answer.info[name] for name in INTS] for answer in new],
            "first": [answer.first for answer in new],
            "scratch": [0] * len(new),
        }
        for name, values in columns.items():
            array = with_room(getattr(self, name), end)
            array[start:end] = values
            setattr(self, name, array)
        for name in TEXTS:
            self.texts[name] = with_room(self.texts[name], end)
            self.texts[name][start:end] = [answer.info[name] for answer in new]
        for answer in new:
            self._row_of[answer.info["index"]] = answer.row
        self.length = end

    def keep(self, rows: Sequence[int]) -> None:
        """Restrict look-ups to these rows."""
        indices = self.ints[list(rows), INTS.index("index")].tolist()
        if isinstance(self._row_of, dict):
            self._row_of = dict(zip(indices, rows, strict=True))
        else:
            self._row_of.fill(-1)
            self._row_of[indices] = rows


def with_room(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return an array with at least this many rows; it grows by doubling, so that adding a row takes constant time."""
    if len(array) >= rows:
        return array
    larger = np.zeros((max(rows, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
