"""Knowledge-distillation architecture search as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from kdnas_env.core.architecture import StudentConfig, count_parameters
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import LARGEST_ENUMERATION, SearchSpace
from kdnas_env.envs.answers import (
    DUPLICATES,
    NEUTRAL_REWARD,
    STEPS_PER_EVALUATION,
    Answer,
    Known,
    Observation,
    checked_count,
    checked_options,
    evaluate_valid,
    evaluation_info,
    loss_curve,
    nothing_yet,
    observation_space,
    rewards_of,
    tokens_of,
)
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.history import SearchHistory
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.faults import FaultWatch
from kdnas_env.evaluators.stored import StoredEvaluator

Action = npt.NDArray[np.int64]


class KDNASEnv(gym.Env[Observation, Action]):
    """Search for a small, fast student of a language model.

    ## Description

    A student is an encoder described by a few numbers: layers, heads, width, feed-forward size, activation, family.
    A step evaluates one student by a short knowledge distillation (mini-KD) and a latency measurement. The aim is
    the student with the highest reward: a good imitation of the teacher that is fast.

    An episode is one whole search of `budget` evaluations. Every `round_size` evaluations make a round, after which
    the controller of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639) learns; the environment only tells rounds apart.

    ## Action Space

    `MultiDiscrete(space.nvec)`, int64: for each searched dimension the index of one of its choices.

    | Num | Dimension             | Choices (derived from BERT-base)                   |
    |-----|-----------------------|----------------------------------------------------|
    | 0   | `num_hidden_layers`   | 3, 4, 6, 10, 12                                    |
    | 1   | `num_attention_heads` | 2, 3, 4, 6, 12                                     |
    | 2   | `hidden_size`         | 384, 768                                           |
    | 3   | `intermediate_size`   | 384, 512, 576, 768, 1024, 1536, 2048, 3072         |
    | 4   | `hidden_act`          | gelu, relu, silu                                   |
    | 5   | `family`              | bert, albert, roberta (if more than one is wanted) |

    `env.unwrapped.search_space` translates actions to architectures and back. An action outside the space raises
    `SpaceError`; one inside that names an architecture which cannot be built is answered with the penalty.
    `env.unwrapped.valid_action_indices` lists the actions that can be built, for agents that would rather not ask.

    ## Observation Space

    A `Dict` of flat arrays. Architectures are encoded as `choice + 1`, where 0 stands for "none yet". Only students
    whose evaluation succeeded can be best.

    | Key                      | Space                                       | Meaning                               |
    |--------------------------|---------------------------------------------|---------------------------------------|
    | `last`                   | `MultiDiscrete(nvec + 1)`                   | the last action                       |
    | `last_reward`            | `Box(floor, upper_bound, (1,))`             | its reward; 0 where there is none yet |
    | `previous_best`          | `MultiDiscrete(nvec + 1)`                   | best student of the previous round    |
    | `previous_best_reward`   | `Box(floor, upper_bound, (1,))`             | its reward                            |
    | `global_best`            | `MultiDiscrete(nvec + 1)`                   | best student of the search            |
    | `global_best_reward`     | `Box(floor, upper_bound, (1,))`             | its reward                            |
    | `previous_round`         | `MultiDiscrete(tile(nvec + 1, round_size))` | all candidates of the previous round  |
    | `previous_round_rewards` | `Box(floor, upper_bound, (round_size,))`    | their rewards                         |
    | `progress`               | `Box(0, 1, (1,))`                           | share of the budget that is spent     |

    ## Rewards

    `(1 - loss) * (latency_ratio / beta) ** alpha`, see `KDReward`, in `[floor, upper_bound]`. A student that cannot
    be built, diverges or does not fit in memory gets `penalty` (`floor`, unless set), and the search goes
    on. Where the first students all fail for one reason (3 of them; 8 for want of memory), that is raised as a
    `RunError`.

    Of uniformly drawn actions, this share cannot be built: none of a derived space without `max_parameters`; 31 % of
    `kdnas/Tabular-v0` and 20 % of `kdnas/Surrogate-v0`, whose tables end at 15 million parameters. The floor, -1, lies
    far below what the others earn there, 0.49 to 0.66 and 0.49 to 0.70. A learner that is not told which students there
    are learns that first, and little else in a short search. So use masks (`ActionMasks`, `SequentialChoice`,
    `FlatDiscrete` of `kdnas_env.wrappers`); where an algorithm knows none, set a penalty a little below what the others
    earn, here `penalty=0.3`.

    An architecture that was answered before is never evaluated again. What it costs is set by `duplicates`:

    | `duplicates` | Reward             | Counted against the budget |
    |--------------|--------------------|----------------------------|
    | `charge`     | the earlier answer | yes                        |
    | `free`       | the earlier answer | no                         |
    | `reject`     | `penalty`          | no                         |

    ## Starting State

    Nothing is evaluated and every token is "none yet". The evaluator (teacher, corpus, caches) is made at the first
    `reset` and kept. The seed of `reset` seeds `np_random` only; the seed of the evaluations belongs to the fidelity.

    ## Episode End

    Terminated when the budget is spent: evaluations, or with `budget_unit` epochs of mini-KD (the last evaluation is
    cut to those that are left) or seconds of evaluation. Truncated after 10 steps per evaluation or epoch of the
    budget (per point of the space, where seconds count), which only uncounted duplicates can reach.
    `reset(options={"budget": n})` sets another budget for the coming episode.

    ## Information

    `reset` and `step` return the same keys. Before the first step, and for what a failed evaluation lacks, there are
    neutral values.

    | Key                                | Type          | Meaning                                             |
    |------------------------------------|---------------|-----------------------------------------------------|
    | `config`, `index`                  | str, int      | architecture in words; flat index ("" and -1: none) |
    | `status`, `error`                  | str           | how the evaluation ended ("none": no step yet), why |
    | `quality`, `loss`                  | float         | `1 - loss`; held-out unexplained variance           |
    | `latency_ratio`, `latency_factor`  | float         | student/teacher latency; its factor in the reward   |
    | `speedup`                          | float         | teacher/student latency                             |
    | `latency_ms`, `teacher_latency_ms` | float         | medians of one probe (0: not measured)              |
    | `parameters`, `flops`              | int           | of the student's encoder; of one forward pass       |
    | `epochs`                           | int           | epochs that were asked for                          |
    | `heldout_curve`                    | float64 array | loss by epoch, `(epochs + 1,)`; -1: not reached     |
    | `evaluations`                      | int           | charged to the budget                               |
    | `budget_left`                      | int or float  | in the unit of the budget                           |
    | `round`                            | int           | finished rounds                                     |
    | `duplicate`, `counted`             | bool          | answered before; charged to the budget              |

    The full records, with everything that was measured, are in `env.unwrapped.history`.

    ## Arguments

    | Name           | Default      | Meaning                                                         |
    |----------------|--------------|-----------------------------------------------------------------|
    | `search_space` |              | the `SearchSpace`                                               |
    | `evaluator`    |              | an `Evaluator`, or a function that makes one at the first reset |
    | `reward`       | `KDReward()` | turns evaluations into rewards; holds `floor` and `penalty`     |
    | `fidelity`     | `Fidelity()` | epochs, share of the data and seed of every evaluation          |
    | `budget`       | `120`        | what an episode may spend                                       |
    | `budget_unit`  | "evaluations"| `evaluations`, `epochs` or `seconds`                            |
    | `round_size`   | `8`          | evaluations per round                                           |
    | `duplicates`   | `"charge"`   | `charge`, `free` or `reject`                                    |
    | `render_mode`  | `None`       | `ansi` or `rgb_array`                                           |

    ## Version History

    * v0: Initial version

    Attributes:
        search_space: What is searched.
        reward_function: What turns evaluations into rewards.
        budget: What an episode may spend, in ``budget_unit``.
        on_epoch: Called after every epoch of a running evaluation; a true return value stops it. Not pickled.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        search_space: SearchSpace,
        evaluator: Evaluator | Callable[[], Evaluator],
        *,
        reward: KDReward | None = None,
        fidelity: Fidelity | None = None,
        budget: float = 120,
        budget_unit: str = "evaluations",
        round_size: int = 8,
        duplicates: str = "charge",
        render_mode: str | None = None,
    ) -> None:
        if duplicates not in DUPLICATES:
            raise KDNASError(f"duplicates is {duplicates!r}; expected one of {list(DUPLICATES)}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise KDNASError(f"render_mode is {render_mode!r}; expected None or one of {self.metadata['render_modes']}")
        self.search_space = search_space
        self.reward_function = reward or KDReward()
        self.duplicates = duplicates
        self.round_size = checked_count("round_size", round_size)
        self.budget_unit = budget_unit
        self.budget = self.checked_budget(budget).amount
        self.render_mode = render_mode
        self.on_epoch: EpochCallback | None = None

        # Not isinstance: that would compute the fingerprint, for which an evaluator may have to load its teacher.
        ready = hasattr(evaluator, "evaluate")
        self._evaluator = cast(Evaluator, evaluator) if ready else None
        self._make_evaluator = None if ready else cast(Callable[[], Evaluator], evaluator)
        self._most_epochs = (fidelity or Fidelity()).epochs
        self.action_space = spaces.MultiDiscrete(search_space.nvec)
        self._observation_space = observation_space(search_space, self.reward_function, self.round_size)
        self.observation_space = cast(spaces.Space[Any], self._observation_space)

        self._answers: dict[Fidelity, dict[tuple[int, ...], Answer]] = {}
        self._known: dict[tuple[StudentConfig, Fidelity], Known] = {}
        self._heard = False  # whether somebody listened to epochs, who may have stopped a student
        self._faults = FaultWatch()
        self._episode = 0
        self._begin(self.checked_budget(budget))
        self._running = False
        self.fidelity = fidelity or Fidelity()

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, made now if it was not yet."""
        if self._evaluator is None:
            assert self._make_evaluator is not None
            self._evaluator = self._make_evaluator()
        return self._evaluator

    @property
    def fidelity(self) -> Fidelity:
        """The effort of the next evaluations; at most as many epochs as the environment was made with."""
        return self._fidelity

    @fidelity.setter
    def fidelity(self, fidelity: Fidelity) -> None:
        if fidelity.epochs > self._most_epochs:
            raise KDNASError(
                f"the fidelity has {fidelity.epochs} epochs; the environment was made for {self._most_epochs} at most"
            )
        self._fidelity = fidelity

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the rewards, as plain data: the same in all processes whose evaluations may be mixed.

        The choices of the space, the fingerprint of the evaluator (and those of its parts, where it tells them), the
        reward, the fidelity, and the wrappers that change rewards or actions.
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
        """Evaluations per episode at the present effort; None where the budget is in seconds."""
        return Budget(self.budget, self.budget_unit).evaluations(self.fidelity)

    @property
    def valid_action_indices(self) -> npt.NDArray[np.int64] | None:
        """Flat indices (last dimension fastest) of the actions worth a step, one per architecture that can be built.

        Sorted int64 of shape ``(n,)``; None where the space is too large to list.
        """
        return self.search_space.valid_indices if self.search_space.size <= LARGEST_ENUMERATION else None

    @cached_property
    def parameter_counts(self) -> npt.NDArray[np.int64] | None:
        """Parameters of the architectures of ``valid_action_indices``, in their order, int64 ``(n,)``, or None."""
        indices, space = self.valid_action_indices, self.search_space
        if indices is None:
            return None
        counts = [count_parameters(space.decode(space.from_index(index)), space.teacher) for index in indices.tolist()]
        array = np.array(counts, dtype=np.int64)
        array.setflags(write=False)
        return array

    @property
    def history(self) -> SearchHistory:
        """Every answer of the episode, in order, with the best students and the rounds."""
        return self._history

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new search; the history is cleared, the evaluator kept.

        Args:
            seed: Seeds ``np_random`` (the evaluations have their own seed, in the fidelity).
            options: ``{"budget": n}`` sets the budget of this episode.

        Raises:
            KDNASError: If an option is unknown or the budget is not a positive number. The first call may raise
                whatever making the evaluator raises, such as ``TeacherError`` or ``CorpusError``.
        """
        super().reset(seed=seed)
        options = checked_options(options, ("budget",))
        budget = self.checked_budget(options.get("budget", self.budget))
        self.draw_fidelity(self.np_random)
        # A bad teacher or corpus shall fail here, not in the first step.
        if self._heard or not getattr(self.evaluator, "tabular", False):
            self._answers, self._known, self._heard = {}, {}, False
        self._begin(budget)
        return self._observation(), {
            **evaluation_info(None, NEUTRAL_REWARD, -1),
            "heldout_curve": loss_curve(None, self._most_epochs),
            **self._progress_info(duplicate=False, counted=False),
        }

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
            raise ResetNeeded(
                "no search is running: call reset() before the first step and after the end of an episode"
            )
        answer = self._answer(action)
        known, shown, history = answer.known, self._shown, self._history
        duplicate = known.episode == self._episode
        known.episode = self._episode
        counted = not duplicate or self.duplicates == "charge"
        reward, shown["last"], shown["last_reward"] = known.reward, answer.tokens, answer.reward
        if duplicate and self.duplicates == "reject":
            reward = replace(reward, reward=self.reward_function.failure)
            shown["last_reward"] = np.array([reward.reward], dtype=np.float32)
        record = history.add(answer.action, known.evaluation, reward, counted=counted, duplicate=duplicate)
        if history.best is record:
            shown["global_best"], shown["global_best_reward"] = answer.tokens, answer.reward
        if counted:
            self._spent += self._budget.cost(known.evaluation)
            if not history.evaluations % self.round_size:
                self._show_round()
        terminated = self._spent >= self._budget.amount
        truncated = not terminated and len(history) >= self._step_limit
        self._running = not (terminated or truncated)
        info = {
            **answer.info,
            "heldout_curve": answer.curve.copy(),
            **self._progress_info(duplicate=duplicate, counted=counted),
        }
        return self._observation(), reward.reward, terminated, truncated, info

    def prefetch(self, actions: npt.ArrayLike) -> None:
        """Evaluate as one batch what coming steps will be asked for, if the evaluator works on several at once.

        Nothing else changes: the steps answer as they would have, only sooner. Where the clock or the epochs that are
        left decide what can be afforded, nothing is done ahead.

        Args:
            actions: Actions of the next steps, integers of shape ``(n, dims)``; those beyond the budget are left out.

        Raises:
            SpaceError: If one has the wrong shape or dtype, or is out of range.
        """
        ahead = self._running and self._budget.unit == "evaluations" and getattr(self.evaluator, "parallel", False)
        if not ahead:
            return
        wanted = [self.search_space.decode(action) for action in np.asarray(actions)]
        affordable = wanted[: int(self._budget.amount - self._spent)]
        missing = [config for config in dict.fromkeys(affordable) if not self._knows(config, self._fidelity)]
        if missing:
            self._evaluate(missing, self._fidelity)

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Evaluate as one batch, and forget it; what cannot be built or is not allowed is ``invalid``.

        Args:
            configs: Architectures.
            fidelity: The effort.
            on_epoch: Passed to the evaluator.

        Raises:
            RunError: If the first evaluations all fail for one reason (:mod:`kdnas_env.evaluators.faults`).
        """
        evaluations = evaluate_valid(self.evaluator, self.search_space, configs, fidelity, on_epoch)
        # Of a store, answers may be remembered from before, and it watches itself. Tables answer as they were built.
        if not isinstance(self.evaluator, StoredEvaluator) and not getattr(self.evaluator, "tabular", False):
            for evaluation in evaluations:
                self._faults.note(evaluation)
        return evaluations

    def offer(self, evaluation: Evaluation) -> None:
        """Take an evaluation that was made elsewhere as the answer to the next step that asks for its architecture.

        What was answered in this episode stays as it was.
        """
        known = self._known.get((evaluation.config, evaluation.fidelity))
        if known is None or known.episode != self._episode:
            self._heard |= evaluation.status is Status.STOPPED
            self._learn(evaluation.config, evaluation.fidelity, evaluation)

    def draw_fidelity(self, rng: np.random.Generator) -> None:
        """Set the fidelity of a new episode, where it is drawn; here it stays as it is.

        Args:
            rng: Random numbers of the episode.
        """

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

        budget = None if self.budget_unit != "evaluations" else int(self._budget.amount)
        return render_search(self._history, self.render_mode, budget=budget, loss=self.reward_function.loss)

    def close(self) -> None:
        """Close what the environment opened itself; an evaluator that was passed in stays open."""
        close = getattr(self._evaluator, "close", None)
        if self._make_evaluator is not None:
            self._evaluator = None
            if close is not None:
                close()

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

    def __getstate__(self) -> dict[str, Any]:
        # What the environment can make again (teacher, corpus, caches) does not travel.
        made_here = self._make_evaluator is not None
        return {**self.__dict__, "on_epoch": None} | ({"_evaluator": None} if made_here else {})

    def _begin(self, budget: Budget) -> None:
        self._budget = budget
        self._spent: float = 0
        limit = self.search_space.size if budget.unit == "seconds" else int(budget.amount)
        self._step_limit = STEPS_PER_EVALUATION * limit
        self._history = SearchHistory(self.round_size)
        self._shown = nothing_yet(self._observation_space)
        self._episode += 1
        self._running = True

    def _answer(self, action: Action) -> Answer:
        fidelity = self._budget.affordable(self._fidelity, self._spent)
        answers = self._answers.get(fidelity)
        if answers is None:
            answers = self._answers[fidelity] = {}
        # An action that is known is not checked again, which would take as long as all the rest.
        if isinstance(action, np.ndarray) and action.dtype.kind == "i" and action.ndim == 1:
            found = answers.get(tuple(action.tolist()))
            # Who listens to epochs wants to hear those of every episode.
            if found is not None and (self.on_epoch is None or found.known.heard == self._episode):
                return found
        config = self.search_space.decode(action)
        if not self._knows(config, fidelity):
            self._evaluate([config], fidelity)
        known = self._known[config, fidelity]
        key = tuple(int(index) for index in action)
        answers[key] = answer = Answer.of(key, known, self.search_space, self._most_epochs)
        return answer

    def _knows(self, config: StudentConfig, fidelity: Fidelity) -> bool:
        known = self._known.get((config, fidelity))
        return known is not None and (self.on_epoch is None or known.heard == self._episode)

    def _evaluate(self, configs: Sequence[StudentConfig], fidelity: Fidelity) -> None:
        self._heard |= self.on_epoch is not None
        evaluations = self.evaluate(configs, fidelity, self.on_epoch)
        for config, evaluation in zip(configs, evaluations, strict=True):
            self._learn(config, fidelity, evaluation)

    def _learn(self, config: StudentConfig, fidelity: Fidelity, evaluation: Evaluation) -> None:
        self._known[config, fidelity] = Known(evaluation, self.reward_function(evaluation), heard=self._episode)

    def _show_round(self) -> None:
        history, shown = self._history, self._shown
        shown["previous_round"] = tokens_of(history.previous_round)
        shown["previous_round_rewards"] = rewards_of(history.previous_round)
        best, empty = history.previous_best, nothing_yet(self._observation_space)
        shown["previous_best"] = tokens_of([best]) if best else empty["previous_best"]
        shown["previous_best_reward"] = rewards_of([best]) if best else empty["previous_best_reward"]

    def _observation(self) -> Observation:
        self._shown["progress"][0] = min(self._spent / self._budget.amount, 1.0)
        return {name: array.copy() for name, array in self._shown.items()}

    def _progress_info(self, *, duplicate: bool, counted: bool) -> dict[str, Any]:
        history = self._history
        return {
            "evaluations": history.evaluations,
            "budget_left": self._budget.amount - self._spent,
            "round": history.round,
            "duplicate": duplicate,
            "counted": counted,
        }
