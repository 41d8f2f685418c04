"""What an environment searches: space, evaluator, reward, fidelity, limits and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig, count_parameters
from kdnas_env.core.constraints import ConstrainedReward, Constraints
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.core.grid_space import GridSpace
from kdnas_env.core.reward import IMITATION, KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.answers import Answers
from kdnas_env.envs.book import DUPLICATES, STEPS_PER_EVALUATION, Book, Stopping
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.layout import NEUTRAL_REWARD, costs_info, evaluation_info
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.faults import FaultWatch
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.support.checks import check_choice

if TYPE_CHECKING:
    from kdnas_env.evaluators.cells import KnownCells

INFEASIBLE = ("free", "charge")
"""Whether the budget is charged for a student that breaks a limit and is not distilled."""


class SearchProblem:
    """The definition of a search: which students there are, how they are evaluated and rewarded, and the budget.

    It holds no state of an episode. The scalar environment extends it, the vector environment wraps it.

    Args:
        search_space: The search space.
        evaluator: An evaluator, or a function that creates one on first access.
        reward: Turns evaluations into rewards.
        fidelity: Fidelity of the evaluations.
        budget: Budget of an episode.
        budget_unit: Unit of the budget.
        duplicates: Cost of a repeated action, one of :data:`~kdnas_env.envs.book.DUPLICATES`.
        stop: Early stopping.
        limits: Limits of students.
        constraints: Effect of a broken limit, one of :data:`~kdnas_env.core.constraints.HANDLING`.
        infeasible: Cost of a student that breaks a limit, one of :data:`INFEASIBLE`.

    Attributes:
        search_space: The search space.
        reward_function: Turns evaluations into rewards.
        limits: Limits of students.
        budget: Budget of an episode, in ``budget_unit``.
        stop: Early stopping; it receives every epoch report and every evaluation.

    Raises:
        KDNASError: If an argument is malformed.
    """

    def __init__(
        self,
        search_space: GridSpace[Any],
        evaluator: Evaluator | Callable[[], Evaluator],
        *,
        reward: KDReward,
        fidelity: Fidelity,
        budget: float,
        budget_unit: str,
        duplicates: str,
        stop: Stopping | None,
        limits: Constraints | Mapping[str, Any] | None,
        constraints: str,
        infeasible: str,
    ) -> None:
        check_choice("infeasible", infeasible, INFEASIBLE)
        check_choice("duplicates", duplicates, DUPLICATES)
        self.search_space = search_space
        self.limits = Constraints.of(limits)
        limited = ConstrainedReward.of(reward, self.limits, constraints)
        self.reward_function = limited if self.limits else reward
        self.infeasible = infeasible
        self.duplicates = duplicates
        self.budget_unit = budget_unit
        self.budget = self.checked_budget(budget).amount
        self.stop = stop
        # Not isinstance: it would compute the fingerprint, which may load the teacher.
        ready = hasattr(evaluator, "evaluate")
        self._evaluator = cast(Evaluator, evaluator) if ready else None
        self._make_evaluator = None if ready else cast(Callable[[], Evaluator], evaluator)
        self._fidelity = fidelity
        self._most_epochs = fidelity.epochs
        self._faults = FaultWatch()

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator; created on first access."""
        if self._evaluator is None:
            assert self._make_evaluator is not None
            self._evaluator = self._make_evaluator()
        return self._evaluator

    @property
    def fidelity(self) -> Fidelity:
        """The fidelity of the next evaluations; its epochs must not exceed those at construction."""
        return self._fidelity

    @fidelity.setter
    def fidelity(self, fidelity: Fidelity) -> None:
        if fidelity.epochs > self._most_epochs:
            raise KDNASError(
                f"the fidelity has {fidelity.epochs} epochs; expected at most {self._most_epochs}, the epochs that the "
                f"environment was made with; make it with epochs={fidelity.epochs}"
            )
        self._fidelity = fidelity

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that determine the rewards; processes may share evaluations if their identities are equal.

        The choices of the space, the fingerprint of the evaluator (and of its parts, if available), the reward, the
        fidelity, and the wrappers that change rewards or actions.
        """
        return {
            "space": self.search_space.to_dict(),
            "reward": asdict(self.reward_function),
            "fidelity": asdict(self.fidelity),
            **getattr(self.evaluator, "fingerprints", {}),
            "workload": self.evaluator.fingerprint,
            "wrappers": {},
        }

    @property
    def max_evaluations(self) -> int | None:
        """Evaluations per episode at the current fidelity; None if the budget is in seconds."""
        return Budget(self.budget, self.budget_unit).evaluations(self.fidelity)

    @property
    def valid_action_indices(self) -> npt.NDArray[np.int64] | None:
        """Flat indices (last dimension fastest) of the valid actions, one per architecture that can be built.

        Sorted int64 of shape ``(n,)``; None if the space is too large to list.
        """
        return self.search_space.valid_indices if self.search_space.listable else None

    @cached_property
    def parameter_counts(self) -> npt.NDArray[np.int64] | None:
        """Parameters of the architectures of ``valid_action_indices``, in their order, int64 ``(n,)``.

        None if the space is too large to list, or its points are not students.
        """
        indices, space = self.valid_action_indices, self.search_space
        if indices is None or not isinstance(space, SearchSpace):
            return None
        counts = [count_parameters(space.decode(space.from_index(index)), space.teacher) for index in indices.tolist()]
        array = np.array(counts, dtype=np.int64)
        array.setflags(write=False)
        return array

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Evaluate one batch without recording it; invalid or forbidden architectures are ``invalid``.

        Args:
            configs: Architectures.
            fidelity: The fidelity.
            on_epoch: Passed to the evaluator.

        Raises:
            RunError: If the first evaluations all fail for one reason (:mod:`kdnas_env.evaluators.faults`).
        """
        refused = [self.refused(config, fidelity) for config in configs]
        valid = [config for config, refusal in zip(configs, refused, strict=True) if refusal is None]
        evaluated = iter(self.evaluator.evaluate(valid, fidelity, on_epoch=on_epoch) if valid else ())
        evaluations = [self.screened(next(evaluated)) if refusal is None else refusal for refusal in refused]
        # A store may replay old records, and has its own fault watch. Tables return recorded results.
        if not isinstance(self.evaluator, StoredEvaluator) and not getattr(self.evaluator, "tabular", False):
            for evaluation in evaluations:
                self._faults.note(evaluation)
        return evaluations

    def known(self, fidelity: Fidelity) -> KnownCells | None:
        """Return the results of a table by flat index.

        None with limits, task quality or a budget in seconds, which need full evaluation records. None also if the
        evaluator has no such results.
        """
        reward = self.reward_function
        if self.limits or self.budget_unit == "seconds" or reward.quality != IMITATION:
            return None
        look_up: Callable[[Fidelity], KnownCells | None] | None = getattr(self.evaluator, "known", None)
        return None if look_up is None else look_up(fidelity)

    def refused(self, config: StudentConfig, fidelity: Fidelity) -> Evaluation | None:
        """Return the evaluation of an invalid or forbidden architecture; None for all others."""
        violation = self.search_space.violation(config)
        return None if violation is None else Evaluation(config, fidelity, Status.INVALID, error=violation)

    def screened(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation; if it breaks a limit that lowers the reward, return it as if it was not distilled."""
        reward = self.reward_function
        screens = isinstance(reward, ConstrainedReward) and reward.handling == "reward"
        return self.limits.screened(evaluation) if screens else evaluation

    def draw_fidelity(self, rng: np.random.Generator) -> None:
        """Draw the fidelity of a new episode; the default implementation keeps it.

        Args:
            rng: Random generator of the episode.
        """

    def checked_budget(self, amount: Any) -> Budget:
        """Return the budget of an episode.

        Raises:
            KDNASError: If the amount is not a positive number of the unit, or can never be spent.
        """
        budget = Budget(amount, self.budget_unit)
        free = self.duplicates != "charge" and self.budget_unit == "evaluations"
        if free and budget.amount > self.search_space.size:
            raise KDNASError(
                f"budget is {amount}, but the space has {self.search_space.size} points and duplicates="
                f"{self.duplicates!r} does not count repetitions; lower the budget or use duplicates='charge'"
            )
        return budget

    @property
    def neutral_info(self) -> dict[str, Any]:
        """The neutral info, when no student was evaluated."""
        return evaluation_info(None, NEUTRAL_REWARD, -1) | costs_info(dict.fromkeys(self.limits.names, 0.0))

    def new_book(self, budget: Budget, *, round_size: int, least: int) -> Book:
        """Return the book of a new episode, with this environment's duplicates policy, penalty and early stopping.

        Args:
            budget: Budget of the episode.
            round_size: Evaluations per round.
            least: Minimum cost of the next step, in the unit of the budget.
        """
        limit = self.search_space.size if budget.unit == "seconds" else int(budget.amount)
        if self.stop is not None:
            self.stop.begin()
        return Book(
            budget,
            round_size=round_size,
            duplicates=self.duplicates,
            failure=self.reward_function.failure,
            steps=STEPS_PER_EVALUATION * limit,
            least=least,
            stop=self.stop,
        )

    def new_answers(self, fidelity: Fidelity, budget: Budget) -> Answers:
        """Return an empty cache of answers at a fidelity, with the reward of this environment."""
        charges = self.infeasible == "charge"
        return Answers(self.search_space, self.reward_function, fidelity, budget, self._most_epochs, charges)

    def close(self) -> None:
        """Close what the environment opened itself; an evaluator that was passed in stays open."""
        close = getattr(self._evaluator, "close", None)
        if self._make_evaluator is not None:
            self._evaluator = None
            if close is not None:
                close()

    def __getstate__(self) -> dict[str, Any]:
        # Parts that the environment can create again (teacher, corpus, caches) are not pickled.
        made_here = self._make_evaluator is not None
        return {**self.__dict__, "_evaluator": None} if made_here else self.__dict__.copy()
