"""Knowledge-distillation architecture search as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from kdnas_env.architecture import StudentConfig
from kdnas_env.envs.history import Record, SearchHistory
from kdnas_env.errors import KDNASError
from kdnas_env.evaluation import EpochCallback, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.reward import KDReward, RewardComponents
from kdnas_env.space import LARGEST_ENUMERATION, SearchSpace

Action = npt.NDArray[np.int64]
Observation = dict[str, npt.NDArray[Any]]

DUPLICATES = ("charge", "free", "reject")
"""What an action that was answered before costs."""

STEPS_PER_EVALUATION = 10
"""An episode is truncated after this many steps per evaluation of the budget."""

MISSING_LOSS = -1.0
"""Stands in ``info["heldout_curve"]`` for epochs that were not reached; a loss is never negative."""


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
    be built, diverges or does not fit in memory gets `floor`, and the search goes on.

    An architecture that was answered before is never evaluated again. What it costs is set by `duplicates`:

    | `duplicates` | Reward             | Counted against the budget |
    |--------------|--------------------|----------------------------|
    | `charge`     | the earlier answer | yes                        |
    | `free`       | the earlier answer | no                         |
    | `reject`     | `floor`            | no                         |

    ## Starting State

    Nothing is evaluated and every token is "none yet". The evaluator (teacher, corpus, caches) is made at the first
    `reset` and kept. The seed of `reset` seeds `np_random` only; the seed of the evaluations belongs to the fidelity.

    ## Episode End

    Terminated when the budget is spent. Truncated after 10 steps per evaluation of the budget, which only uncounted
    duplicates can reach. `reset(options={"budget": n})` sets another budget for the coming episode.

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
    | `heldout_curve`                    | float64 array | loss by epoch, `(epochs + 1,)`; -1: not reached     |
    | `evaluations`, `budget_left`       | int           | spent and left                                      |
    | `round`                            | int           | finished rounds                                     |
    | `duplicate`, `counted`             | bool          | answered before; charged to the budget              |

    The full records, with everything that was measured, are in `env.unwrapped.history`.

    ## Arguments

    | Name           | Default      | Meaning                                                         |
    |----------------|--------------|-----------------------------------------------------------------|
    | `search_space` |              | the `SearchSpace`                                               |
    | `evaluator`    |              | an `Evaluator`, or a function that makes one at the first reset |
    | `reward`       | `KDReward()` | turns evaluations into rewards                                  |
    | `fidelity`     | `Fidelity()` | epochs, share of the data and seed of every evaluation          |
    | `budget`       | `120`        | evaluations per episode                                         |
    | `round_size`   | `8`          | evaluations per round                                           |
    | `duplicates`   | `"charge"`   | `charge`, `free` or `reject`                                    |
    | `render_mode`  | `None`       | `ansi` or `rgb_array`                                           |

    ## Version History

    * v0: Initial version

    Attributes:
        search_space: What is searched.
        reward_function: What turns evaluations into rewards.
        fidelity: The effort of every evaluation.
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
        budget: int = 120,
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
        self.fidelity = fidelity or Fidelity()
        self.duplicates = duplicates
        self.round_size = _checked_count("round_size", round_size)
        self.budget = self._checked_budget(budget)
        self.render_mode = render_mode
        self.on_epoch: EpochCallback | None = None

        # Not isinstance: that would compute the fingerprint, for which an evaluator may have to load its teacher.
        ready = hasattr(evaluator, "evaluate")
        self._evaluator = cast(Evaluator, evaluator) if ready else None
        self._make_evaluator = None if ready else cast(Callable[[], Evaluator], evaluator)
        self._history = SearchHistory(self.round_size)
        self._episode_budget = self.budget
        self._running = False

        self.action_space = spaces.MultiDiscrete(search_space.nvec)
        self.observation_space = self._make_observation_space()

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, made now if it was not yet."""
        if self._evaluator is None:
            assert self._make_evaluator is not None
            self._evaluator = self._make_evaluator()
        return self._evaluator

    @property
    def valid_action_indices(self) -> npt.NDArray[np.int64] | None:
        """Flat indices (last dimension fastest) of the actions worth a step, one per architecture that can be built.

        Sorted int64 of shape ``(n,)``; None where the space is too large to list.
        """
        return self.search_space.valid_indices if self.search_space.size <= LARGEST_ENUMERATION else None

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
        options = options or {}
        unknown = sorted(set(options) - {"budget"})
        if unknown:
            raise KDNASError(f"unknown reset option(s) {unknown}; the only option is 'budget'")
        self._episode_budget = self._checked_budget(options.get("budget", self.budget))
        _ = self.evaluator  # a bad teacher or corpus shall fail here, not in the first step
        self._history = SearchHistory(self.round_size)
        self._running = True
        return self._observation(), self._info(None)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Evaluate one student.

        Args:
            action: Index into each dimension's choices, integers of shape ``(dims,)``.

        Raises:
            SpaceError: If the action has the wrong shape or dtype, or is out of range.
            ResetNeeded: If no episode is running.
        """
        if not self._running:
            raise ResetNeeded(
                "no search is running: call reset() before the first step and after the end of an episode"
            )
        config = self.search_space.decode(action)
        earlier = self._history.find(config)
        evaluation = earlier.evaluation if earlier else self._evaluate(config)
        reward = self.reward_function(evaluation)
        if earlier and self.duplicates == "reject":
            reward = replace(reward, reward=self.reward_function.floor)
        record = self._history.add(
            [int(index) for index in action],
            evaluation,
            reward,
            counted=earlier is None or self.duplicates == "charge",
        )
        terminated = self._history.evaluations >= self._episode_budget
        truncated = not terminated and len(self._history) >= STEPS_PER_EVALUATION * self._episode_budget
        self._running = not (terminated or truncated)
        return self._observation(), reward.reward, terminated, truncated, self._info(record)

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
        from kdnas_env.envs.render import draw_search, figure_to_rgb, search_text

        if self.render_mode == "ansi":
            return search_text(self._history, budget=self._episode_budget)
        figure = draw_search(
            self._history,
            budget=self._episode_budget,
            round_size=self.round_size,
            loss=self.reward_function.loss,
        )
        return figure_to_rgb(figure)

    def close(self) -> None:
        """Close what the environment opened itself; an evaluator that was passed in stays open."""
        close = getattr(self._evaluator, "close", None)
        if self._make_evaluator is not None:
            self._evaluator = None
            if close is not None:
                close()

    def __getstate__(self) -> dict[str, Any]:
        # What the environment can make again (teacher, corpus, caches) does not travel.
        made_here = self._make_evaluator is not None
        return {**self.__dict__, "on_epoch": None} | ({"_evaluator": None} if made_here else {})

    def _evaluate(self, config: StudentConfig) -> Evaluation:
        violation = self.search_space.violation(config)
        if violation:
            return Evaluation(config, self.fidelity, Status.INVALID, error=violation)
        (evaluation,) = self.evaluator.evaluate([config], self.fidelity, on_epoch=self.on_epoch)
        return evaluation

    def _checked_budget(self, budget: object) -> int:
        count = _checked_count("budget", budget)
        if self.duplicates != "charge" and count > self.search_space.size:
            raise KDNASError(
                f"budget is {count}, but the space has {self.search_space.size} points and duplicates="
                f"{self.duplicates!r} does not count repetitions; lower the budget or use duplicates='charge'"
            )
        return count

    def _make_observation_space(self) -> spaces.Space[Any]:
        tokens = self.search_space.nvec + 1
        low, high = self.reward_function.floor, self.reward_function.upper_bound
        observation: dict[str, spaces.Space[Any]] = {}
        for name in ("last", "previous_best", "global_best"):
            observation[name] = spaces.MultiDiscrete(tokens)
            observation[f"{name}_reward"] = spaces.Box(low, high, (1,), np.float32)
        observation["previous_round"] = spaces.MultiDiscrete(np.tile(tokens, self.round_size))
        observation["previous_round_rewards"] = spaces.Box(low, high, (self.round_size,), np.float32)
        observation["progress"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        return spaces.Dict(observation)

    def _observation(self) -> Observation:
        history = self._history
        observation: Observation = {}
        singles = {"last": history.last, "previous_best": history.previous_best, "global_best": history.best}
        for name, record in singles.items():
            observation[name] = self._tokens([record] if record else [], 1)
            observation[f"{name}_reward"] = _rewards([record] if record else [], 1)
        observation["previous_round"] = self._tokens(history.previous_round, self.round_size)
        observation["previous_round_rewards"] = _rewards(history.previous_round, self.round_size)
        observation["progress"] = np.array([history.evaluations / self._episode_budget], dtype=np.float32)
        return observation

    def _tokens(self, records: Sequence[Record], count: int) -> npt.NDArray[np.int64]:
        tokens = np.zeros((count, len(self.search_space.dimensions)), dtype=np.int64)
        for row, record in zip(tokens, records, strict=False):
            row[:] = record.action
            row += 1
        return tokens.ravel()

    def _info(self, record: Record | None) -> dict[str, Any]:
        evaluation = record.evaluation if record else None
        latency = evaluation.latency if evaluation else None
        reward = record.reward if record else RewardComponents(0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
        curve = np.full(self.fidelity.epochs + 1, MISSING_LOSS)
        if evaluation:
            reached = evaluation.heldout_unexplained[: len(curve)]
            curve[: len(reached)] = reached
        return {
            "config": str(evaluation.config) if evaluation else "",
            "index": self.search_space.index(record.action) if record else -1,
            "status": str(evaluation.status) if evaluation else "none",
            "error": evaluation.error if evaluation else "",
            "quality": reward.quality,
            "loss": reward.loss,
            "latency_ratio": reward.latency_ratio,
            "latency_factor": reward.latency_factor,
            "speedup": reward.speedup,
            "latency_ms": float(latency.median_ms) if latency else 0.0,
            "teacher_latency_ms": float(latency.teacher_median_ms) if latency else 0.0,
            "parameters": int(evaluation.parameters) if evaluation else 0,
            "flops": int(evaluation.flops) if evaluation else 0,
            "heldout_curve": curve,
            "evaluations": self._history.evaluations,
            "budget_left": self._episode_budget - self._history.evaluations,
            "round": self._history.round,
            "duplicate": record.duplicate if record else False,
            "counted": record.counted if record else False,
        }


def _checked_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise KDNASError(f"{name} is {value!r}; expected a whole number of evaluations, at least 1")
    return int(value)


def _rewards(records: Sequence[Record], count: int) -> npt.NDArray[np.float32]:
    rewards = np.zeros(count, dtype=np.float32)
    rewards[: len(records)] = [record.reward.reward for record in records]
    return rewards
