"""Knowledge-distillation architecture search as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.core.grid_space import GridSpace
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.answers import Answer, Answers
from kdnas_env.envs.book import Book, Stopping
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.layout import checked_count, checked_options, loss_curve
from kdnas_env.envs.observation import Observation, SearchView, observation_space
from kdnas_env.envs.problem import SearchProblem
from kdnas_env.errors import KDNASError

Action = npt.NDArray[np.int64]


class KDNASEnv(SearchProblem, gym.Env[Observation, Action]):
    """Search for a small, fast student of a language model.

    ## Description

    A student is an encoder with a number of layers and heads, a width, a feed-forward size, an activation and a family.
    A step evaluates one student with a short knowledge distillation (mini-KD) and a latency measurement. The goal is
    the student with the highest reward: a fast student that imitates its teacher well.

    An episode is one search of `budget` evaluations. `round_size` evaluations form a round. After each round the
    controller of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639) learns; the environment only counts rounds.

    ## Action Space

    `MultiDiscrete(space.nvec)`, int64: the index of one choice for each searched dimension.

    | Num | Dimension             | Choices (derived from BERT-base)                   |
    |-----|-----------------------|----------------------------------------------------|
    | 0   | `num_hidden_layers`   | 3, 4, 6, 10, 12                                    |
    | 1   | `num_attention_heads` | 2, 3, 4, 6, 12                                     |
    | 2   | `hidden_size`         | 384, 768                                           |
    | 3   | `intermediate_size`   | 384, 512, 576, 768, 1024, 1536, 2048, 3072         |
    | 4   | `hidden_act`          | gelu, relu, silu                                   |
    | 5   | `family`              | bert, albert, roberta (if more than one is wanted) |

    `env.unwrapped.search_space` converts actions to architectures and back. An action outside the space raises
    `SpaceError`. An action whose architecture cannot be built gets the penalty.
    `env.unwrapped.valid_action_indices` lists the valid actions.

    ## Observation Space

    A `Dict` of flat arrays. Architectures are encoded as `choice + 1`; 0 means "none yet". Only students with a
    successful evaluation can be best.

    | Key                      | Space                                       | Meaning                               |
    |--------------------------|---------------------------------------------|---------------------------------------|
    | `last`                   | `MultiDiscrete(nvec + 1)`                   | the last action                       |
    | `last_reward`            | `Box(floor, upper_bound, (1,))`             | its reward; 0 if there is none yet    |
    | `previous_best`          | `MultiDiscrete(nvec + 1)`                   | best student of the previous round    |
    | `previous_best_reward`   | `Box(floor, upper_bound, (1,))`             | its reward                            |
    | `global_best`            | `MultiDiscrete(nvec + 1)`                   | best student of the search            |
    | `global_best_reward`     | `Box(floor, upper_bound, (1,))`             | its reward                            |
    | `previous_round`         | `MultiDiscrete(tile(nvec + 1, round_size))` | all candidates of the previous round  |
    | `previous_round_rewards` | `Box(floor, upper_bound, (round_size,))`    | their rewards                         |
    | `progress`               | `Box(0, 1, (1,))`                           | spent share of the budget             |

    ## Rewards

    `(1 - loss) * (latency_ratio / beta) ** alpha`, see `KDReward`, in `[floor, upper_bound]`. A student that cannot
    be built, diverges or does not fit into memory gets `penalty` (default: `floor`), and the search continues. If the
    first students all fail for the same reason (3 students; 8 if memory is the reason), a `RunError` is raised.

    All points of a derived space without `max_parameters` are valid. 31 % of the points of `kdnas/Tabular-v0` and 20 %
    of `kdnas/Surrogate-v0` are invalid, because their tables end at 15 million parameters. The floor, -1, is far below
    the rewards of valid students there, 0.49 to 0.66 and 0.49 to 0.70. Without masks, a learner mainly learns which
    students are valid, especially in a short search. Therefore use masks (`ActionMasks`, `SequentialChoice`,
    `FlatDiscrete` of `kdnas_env.wrappers`). If an algorithm does not support masks, set a penalty slightly below the
    rewards of valid students, here `penalty=0.3`.

    An architecture is never evaluated twice. `duplicates` sets the cost of a repetition:

    | `duplicates` | Reward             | Counted against the budget |
    |--------------|--------------------|----------------------------|
    | `charge`     | the earlier answer | yes                        |
    | `free`       | the earlier answer | no                         |
    | `reject`     | `penalty`          | no                         |

    ## Limits

    `limits` sets limits of students: minimum `speedup` (a multiple of the teacher's speed), maximum `latency_ms`,
    `size_mb` (of the exported file, in `format`) and `parameters`, and minimum `keep` (quality as a share of the
    teacher's). Only students that keep all limits can be best. Latency, size and parameters are known before
    distillation: a student that breaks such a limit is not distilled (status `infeasible`).

    | `constraints` | Reward of a student that breaks a limit                                                   |
    |---------------|-------------------------------------------------------------------------------------------|
    | `reward`      | in `(floor - 1, floor)`, the higher the smaller the violation; failures get `floor - 1`   |
    | `cost`        | as without limits, and all students are distilled: for algorithms that handle costs       |

    | `infeasible`  | Counted against the budget                                                                |
    |---------------|-------------------------------------------------------------------------------------------|
    | `free`        | no, because it is not distilled; at most 10 answers per evaluation of the budget           |
    | `charge`      | yes                                                                                       |

    ## Starting State

    Nothing is evaluated, and every token is "none yet". The first `reset` creates the evaluator (teacher, corpus,
    caches), which is kept. The seed of `reset` seeds `np_random` only; evaluations use the seed of the fidelity.

    ## Episode End

    Terminated when the budget is spent: evaluations, or as `budget_unit` says epochs of mini-KD (the last evaluation is
    shortened to the remaining epochs) or seconds of evaluation. Truncated after 10 steps per evaluation or epoch of the
    budget (per point of the space, if the unit is seconds), which happens only with uncounted duplicates.
    `reset(options={"budget": n})` sets another budget for the new episode.

    ## Information

    `reset` and `step` return the same keys. Values are neutral before the first step, and if they were not measured
    because the evaluation failed.

    | Key                                | Type          | Meaning                                             |
    |------------------------------------|---------------|-----------------------------------------------------|
    | `config`, `index`                  | str, int      | architecture as text; flat index ("" and -1: none)  |
    | `status`, `error`                  | str           | how the evaluation ended ("none": no step yet), why |
    | `quality`, `loss`                  | float         | `1 - loss`; held-out unexplained variance           |
    | `latency_ratio`, `latency_factor`  | float         | student/teacher latency; its factor in the reward   |
    | `speedup`                          | float         | teacher/student latency                             |
    | `latency_ms`, `teacher_latency_ms` | float         | medians of one probe (0: not measured)              |
    | `parameters`, `flops`              | int           | of the student's encoder; of one forward pass       |
    | `epochs`                           | int           | epochs requested                                    |
    | `heldout_curve`                    | float64 array | loss by epoch, `(epochs + 1,)`; -1: not reached     |
    | `evaluations`                      | int           | charged to the budget                               |
    | `budget_left`                      | int or float  | in the unit of the budget                           |
    | `round`                            | int           | finished rounds                                     |
    | `duplicate`, `counted`             | bool          | answered before; charged to the budget              |
    | `cost`, `costs`                    | float, dict   | only with limits: total relative violation, and     |
    |                                    |               | violation by name of the limit (0: kept)            |

    The full records, with all measured quantities, are in `env.unwrapped.history`.

    ## Arguments

    | Name           | Default      | Meaning                                                         |
    |----------------|--------------|-----------------------------------------------------------------|
    | `search_space` |              | the `SearchSpace`                                               |
    | `evaluator`    |              | an `Evaluator`, or a function that makes one at the first reset |
    | `reward`       | `KDReward()` | turns evaluations into rewards; holds `floor` and `penalty`     |
    | `fidelity`     | `Fidelity()` | epochs, share of the data and seed of every evaluation          |
    | `budget`       | `120`        | budget of an episode                                            |
    | `budget_unit`  | "evaluations"| `evaluations`, `epochs` or `seconds`                            |
    | `round_size`   | `8`          | evaluations per round                                           |
    | `duplicates`   | `"charge"`   | `charge`, `free` or `reject`                                    |
    | `stop`         | `None`       | early stopping, such as a `StoppingRule`                        |
    | `limits`       | `None`       | `Constraints`, or a mapping of some of them by name             |
    | `constraints`  | `"reward"`   | `reward` or `cost`                                              |
    | `infeasible`   | `"free"`     | `free` or `charge`                                              |
    | `render_mode`  | `None`       | `ansi` or `rgb_array`                                           |

    ## Version History

    * v0: Initial version

    Attributes:
        search_space: The search space.
        reward_function: Turns evaluations into rewards.
        budget: Budget of an episode, in ``budget_unit``.
        stop: Early stopping; it receives every epoch report and every evaluation.
        on_epoch: Called after every epoch of a running evaluation; a true return value stops it. Not pickled.

    Raises:
        KDNASError: If an argument is malformed, or the budget can never be spent.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        search_space: GridSpace[Any],
        evaluator: Evaluator | Callable[[], Evaluator],
        *,
        reward: KDReward | None = None,
        fidelity: Fidelity | None = None,
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        duplicates: str = "charge",
        stop: Stopping | None = None,
        limits: Constraints | Mapping[str, Any] | None = None,
        constraints: str = "reward",
        infeasible: str = "free",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise KDNASError(f"render_mode is {render_mode!r}; expected None or one of {self.metadata['render_modes']}")
        super().__init__(
            search_space,
            evaluator,
            reward=reward or KDReward(),
            fidelity=fidelity or Fidelity(),
            budget=budget,
            budget_unit=budget_unit,
            duplicates=duplicates,
            stop=stop,
            limits=limits,
            constraints=constraints,
            infeasible=infeasible,
        )
        self.round_size = checked_count("round_size", round_size)
        self.render_mode = render_mode
        self.on_epoch: EpochCallback | None = None
        self.action_space = spaces.MultiDiscrete(search_space.nvec)
        self._observation_space = observation_space(search_space, self.reward_function, self.round_size)
        self.observation_space = cast(spaces.Space[Any], self._observation_space)
        self._memory: dict[Fidelity, Answers] = {}
        self._altered = False  # whether a student may have been stopped; its answer is then valid only in this episode
        self._begin(self.checked_budget(budget))
        self._running = False

    @property
    def history(self) -> Book:
        """Every answer of the episode, in order, with the best students and the rounds."""
        return self._book

    @property
    def listener(self) -> EpochCallback | None:
        """The epoch callback: ``on_epoch`` and early stopping combined; None without either."""
        return self._book.listener(self.on_epoch)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new search; the history is cleared, the evaluator kept.

        Args:
            seed: Seeds ``np_random`` (the evaluations have their own seed, in the fidelity).
            options: ``{"budget": n}`` sets the budget of this episode.

        Raises:
            KDNASError: If an option is unknown or the budget is not a positive number. The first call also raises
                errors of creating the evaluator, such as ``TeacherError`` or ``CorpusError``.
        """
        super().reset(seed=seed)
        options = checked_options(options, ("budget",))
        budget = self.checked_budget(options.get("budget", self.budget))
        fidelity = self.fidelity
        self.draw_fidelity(self.np_random)
        # An invalid teacher or corpus must fail here, not in the first step.
        if self._altered or not getattr(self.evaluator, "tabular", False) or self.fidelity != fidelity:
            self._memory, self._altered = {}, False
        self._begin(budget)
        info = self.neutral_info | {"heldout_curve": loss_curve((), self._most_epochs)}
        return self._view.observation(), self._with_state(info, counted=False, duplicate=False)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Evaluate one student.

        Args:
            action: Index into each dimension's choices, integers of shape ``(dims,)``.

        Raises:
            SpaceError: If the action has the wrong shape or dtype, or is out of range.
            ResetNeeded: If no episode is running.
            RunError: If the first evaluations all fail for one reason.
        """
        if not self._running:
            raise _not_running()
        answers = self._affordable_answers()
        answer = answers.find(action)
        if answer is None:
            known = self.known(answers.fidelity) if self.listener is None else None
            (answer,) = answers.learn(self._by_index([action]), self._evaluate, known)
        return self._respond(answer, answers)

    def record(self, action: Action, evaluation: Evaluation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answer an action like ``step``, with an evaluation that was made elsewhere.

        If the architecture was already answered in this episode, the earlier answer is used and the evaluation ignored.

        Args:
            action: Index into each dimension's choices, integers of shape ``(dims,)``.
            evaluation: The evaluation of its architecture, at the fidelity of the environment or that of
                :meth:`affordable`.

        Raises:
            SpaceError: If the action has the wrong shape or dtype, or is out of range.
            ResetNeeded: If no episode is running.
        """
        if not self._running:
            raise _not_running()
        evaluation = self.screened(evaluation)
        self._altered |= evaluation.status is Status.STOPPED
        answers = self._answers = self._answers_at(evaluation.fidelity)
        answers.forget_earlier()
        (answer,) = answers.learn(self._by_index([action]), lambda _: [evaluation])
        return self._respond(answer, answers)

    def affordable(self, reserved: float = 0) -> Fidelity | None:
        """Return the affordable fidelity of one more evaluation; None if the budget does not allow one.

        Args:
            reserved: Budget reserved for evaluations in progress; see :meth:`~kdnas_env.envs.budget.Budget.reserved`.
        """
        return self._book.affordable(self._fidelity, reserved)

    def prefetch(self, actions: npt.ArrayLike) -> None:
        """Evaluate the actions of coming steps as one batch, if the evaluator works on several students at once.

        The answers of the steps do not change; they only come sooner. If time or remaining epochs limit the budget,
        nothing is evaluated in advance.

        Args:
            actions: Actions of the next steps, integers of shape ``(n, dims)``; actions beyond the budget are ignored.

        Raises:
            SpaceError: If an action has the wrong shape or dtype, or is out of range.
        """
        book = self._book
        ahead = self._running and book.budget.unit == "evaluations" and getattr(self.evaluator, "parallel", False)
        if ahead:
            affordable = np.asarray(actions)[: int(book.left)]
            self._affordable_answers().learn(self._by_index(affordable), self._evaluate)

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """Show the search so far.

        Returns:
            A text for ``ansi``; a picture, uint8 ``(height, width, 3)``, for ``rgb_array``.
        """
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render mode; set one when the environment is made, for example "
                'gym.make(id, render_mode="ansi")'
            )
            return None
        from kdnas_env.envs.render import render_search

        return render_search(self._book, self.render_mode, loss=self.reward_function.goes_by)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "on_epoch": None}

    def _begin(self, budget: Budget) -> None:
        self._book = self.new_book(budget, round_size=self.round_size, least=1)
        for answers in self._memory.values():
            answers.begin_episode()
        self._answers = self._answers_at(self._fidelity)
        self._view = SearchView(self._observation_space)
        self._running = True

    def _affordable_answers(self) -> Answers:
        """Return the answers at the affordable fidelity."""
        fidelity, budget = self._fidelity, self._book.budget
        if budget.unit == "epochs":
            fidelity = budget.affordable(fidelity, self._book.spent)
        if fidelity is not self._answered_fidelity:
            self._answers = self._answers_at(fidelity)
        if self.on_epoch is not None or self.stop is not None:
            self._answers.forget_earlier()
        return self._answers

    def _answers_at(self, fidelity: Fidelity) -> Answers:
        self._answered_fidelity = fidelity
        answers = self._memory.get(fidelity)
        if answers is None:
            answers = self._memory[fidelity] = self.new_answers(fidelity, self._book.budget)
        return answers

    def _by_index(self, actions: Iterable[Any]) -> dict[int, tuple[int, ...]]:
        """Return actions by their flat indices, or raise a ``SpaceError`` for an invalid action."""
        return {self.search_space.index(action): tuple(int(choice) for choice in action) for action in actions}

    def _evaluate(self, configs: Sequence[StudentConfig]) -> list[Evaluation]:
        listener = self.listener
        self._altered |= listener is not None
        return self.evaluate(configs, self._answers.fidelity, listener)

    def _respond(self, answer: Answer, answers: Answers) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        book, view = self._book, self._view
        reward, counted, duplicate = book.add(answer, answers)
        view.update(answer, reward, counted, book)
        self._running = not (book.terminated or book.truncated)
        info = answer.info.copy()
        info["heldout_curve"] = answer.curve.copy()
        if "costs" in info:
            info["costs"] = info["costs"].copy()
        self._with_state(info, counted, duplicate)
        return view.observation(), reward, book.terminated, book.truncated, info

    def _with_state(self, info: dict[str, Any], counted: bool, duplicate: bool) -> dict[str, Any]:
        """Add the state of the search to an info, and return it."""
        book = self._book
        info["evaluations"] = book.evaluations
        info["budget_left"] = book.left
        info["round"] = book.round
        info["duplicate"] = duplicate
        info["counted"] = counted
        return info


def _not_running() -> ResetNeeded:
    return ResetNeeded("no search is running: call reset() before the first step and after the end of an episode")
