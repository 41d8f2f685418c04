"""Algorithms of Stable-Baselines3 that learn from candidates which were evaluated elsewhere.

An algorithm of Stable-Baselines3 collects experience from an environment, then trains on it. Here the first half is
taken over: candidates are sampled from the algorithm's policy, and what they earned is put into the algorithm's buffer,
however and whenever they were evaluated. Networks, buffers, losses and updates are those of the algorithm.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from sb3_contrib import QRDQN
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger
from torch import Tensor

from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking
from kdnas_env.agents.sb3.episodes import (
    Episodes,
    OneByOne,
    OneShot,
    Remembered,
    SpacesEnv,
    close,
    closed_points,
    open_choices,
    put_together,
    ranked,
)
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.support.cpu_lock import pinned_threads

_logger = logging.getLogger(__name__)

_RANKED = 10_000
"""Youngest evaluations among which rewards are ranked, so that an update takes no longer the more there were."""


class Learner(ABC):
    """An algorithm with its policy, which proposes candidates and learns what they earned.

    Args:
        algorithm: Class of the algorithm.
        grid: What may be proposed.
        update_every: Evaluations between updates.
        arguments: Keyword arguments of the algorithm.
        device: Device of the networks.
        tensorboard_log: Folder of TensorBoard, in which a run is begun; None: nothing is logged.
        rng: Draws the initial weights.

    Attributes:
        model: The algorithm.
    """

    episodes_class: ClassVar[type[Episodes]]
    policy_name: ClassVar[str] = "MlpPolicy"

    def __init__(
        self,
        algorithm: type[BaseAlgorithm],
        grid: Grid,
        *,
        update_every: int,
        arguments: Mapping[str, Any],
        device: str,
        tensorboard_log: str | None,
        rng: np.random.Generator,
    ) -> None:
        self._grid = grid
        self._episodes = self.episodes_class(grid.nvec)
        self._update_every = update_every
        self._device = torch.device(device)
        self._used = 0
        self._closed: list[int] = []
        self._taken = 0  # how many numbers the closed points follow from
        with borrowed_generators(rng, self._device):
            # Any, since what is used of the algorithms is not part of their base class.
            self.model: Any = algorithm(
                self.policy_name,
                SpacesEnv(self._episodes),
                **{"gamma": 1.0, "device": device, **self._sizes(algorithm), **arguments},
            )
        # Without a folder Stable-Baselines3 makes one among the temporary files for every search, and leaves it there.
        silent = tensorboard_log is None
        self.model.set_logger(Logger(None, []) if silent else configure_logger(0, tensorboard_log, algorithm.__name__))

    def sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        """Return candidates that may be proposed and are not taken, each once.

        Args:
            n: How many at most.
            taken: Numbers of the points that were evaluated or are pending.
            progress: Share of the budget that is spent, in [0, 1].
            rng: The source of all randomness.

        Returns:
            int64 of shape ``(m, dims)``; m is less than n if the policy has nothing new to propose.
        """
        self.model.policy.set_training_mode(False)
        with borrowed_generators(rng, self._device), pinned_threads(1), torch.no_grad():
            return self._sample(n, taken, progress, rng)

    def learn(self, ranking: Ranking, rng: np.random.Generator) -> None:
        """Train on a ranking if enough of it is new.

        Args:
            ranking: The search up to now. Calls have to follow each other round by round.
            rng: The source of all randomness.
        """
        if ranking.evaluations - self._used < self._update_every or ranking.global_best is None:
            return
        with borrowed_generators(rng, self._device), pinned_threads(1):
            trained = self._train(ranking)
        if trained:
            self._log(ranking)
            self._used = ranking.evaluations

    def _log(self, ranking: Ranking) -> None:
        logger, earned = self.model.logger, ranking.rewards[self._used :][ranking.usable[self._used :]]
        if len(earned):
            logger.record("search/reward_mean", float(earned.mean()))
        if ranking.global_best is not None:
            logger.record("search/reward_best", ranking.global_best.reward)
        logger.dump(ranking.evaluations)

    @abstractmethod
    def _sizes(self, algorithm: type[BaseAlgorithm]) -> dict[str, int]:
        """Return sizes of the algorithm's buffer and batches that agree; both are replaced for each update."""

    @abstractmethod
    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        """Sample as :meth:`sample` has it, with the global generators seeded."""

    @abstractmethod
    def _train(self, ranking: Ranking) -> bool:
        """Train, with the global generators seeded; return False to wait for more evaluations."""

    def _closed_by(self, taken: Seen) -> list[int]:
        """Return what :func:`closed_points` does; only what was taken since the last call is sorted in."""
        new = [*islice(reversed(taken), len(taken) - self._taken)]
        close(self._closed, closed_points(self._grid, new))
        self._taken = len(taken)
        return self._closed

    def _observed(self, actions: Ints, step: int) -> Tensor:
        return torch.as_tensor(self._episodes.observe(actions, step), device=self._device)

    def _chosen(self, actions: Ints, step: int) -> Tensor:
        return torch.as_tensor(self._episodes.chosen(actions, step), device=self._device)


class OnPolicyLearner(Learner):
    """Learns from what its policy proposed since the last update; an epoch is one step over all of it.

    Args:
        arguments: As of :class:`Learner`.
        tries: Candidates that are sampled for each that is wanted, since those taken are left out.
    """

    episodes_class: ClassVar[type[Episodes]] = OneShot

    def __init__(self, *arguments: Any, tries: int = 1, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._tries = tries

    def _sizes(self, algorithm: type[BaseAlgorithm]) -> dict[str, int]:
        return {"n_steps": 2} if issubclass(algorithm, A2C) else {"n_steps": 2, "batch_size": 2}

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        blank = np.zeros((n * self._tries, len(self._grid.nvec)), dtype=np.int64)
        sampled, *_ = self.model.policy(self._observed(blank, 0))
        return self._grid.fresh(sampled.cpu().numpy(), taken)[:n]

    def _train(self, ranking: Ranking) -> bool:
        since = self._used
        proposed = ~ranking.column("random")[since:]
        if proposed.sum() < 2:  # one alone is neither better nor worse than the others
            return False
        begin = max(0, min(since, ranking.evaluations - _RANKED))
        rewards = ranked(ranking.rewards[begin:], ranking.usable[begin:])[since - begin :][proposed]
        if np.ptp(rewards) > 0:
            actions = ranking.column("actions")
            self.model.rollout_buffer = self._rollouts(actions[since:][proposed], rewards, actions[:since])
            self.model.batch_size = len(rewards) * self._episodes.steps
            with unbroken(self.model):
                self.model.train()
        return True

    def _rollouts(self, actions: Ints, rewards: Floats, earlier: Ints) -> RolloutBuffer:
        """Return a buffer with the episodes of all candidates, side by side."""
        model, n, steps = self.model, len(actions), self._episodes.steps
        buffer: RolloutBuffer = type(model.rollout_buffer)(
            steps,
            model.observation_space,
            model.action_space,
            device=self._device,
            gae_lambda=model.gae_lambda,
            gamma=model.gamma,
            n_envs=n,
            **self._buffer_arguments(n),
        )
        model.policy.set_training_mode(False)
        with torch.no_grad():
            for step, (values, logs, extra) in enumerate(self._judged(actions, earlier)):
                buffer.add(
                    self._episodes.observe(actions, step),
                    self._episodes.chosen(actions, step),
                    rewards if step == steps - 1 else np.zeros(n),
                    np.full(n, step == 0),
                    values,
                    logs,
                    **extra,
                )
        buffer.compute_returns_and_advantage(last_values=torch.zeros(n), dones=np.ones(n))
        return buffer

    def _buffer_arguments(self, n: int) -> dict[str, Any]:
        """Return what else a buffer of ``n`` episodes is made with."""
        return {}

    def _judged(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Yield for each step the values, the logarithms of the probabilities, and what else the buffer keeps.

        Args:
            actions: What was proposed since the last update.
            earlier: What was evaluated until then.
        """
        for step in range(self._episodes.steps):
            values, logs, _ = self.model.policy.evaluate_actions(
                self._observed(actions, step), self._chosen(actions, step)
            )
            yield values, logs, {}


class MaskableLearner(OnPolicyLearner):
    """Chooses one dimension after the other, by a policy that is masked to the choices which lead to an open point."""

    episodes_class = OneByOne

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._closed_earlier: list[int] = []
        self._earlier = 0  # how many evaluations these follow from

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            sampled, *_ = self.model.policy(self._observed(actions, step), action_masks=masks)
            choices: Ints = sampled.cpu().numpy()
            return choices

        return put_together(self._grid, n, self._closed_by(taken), choose, at_once=n)

    def _judged(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        close(self._closed_earlier, closed_points(self._grid, self._grid.numbers(earlier[self._earlier :])))
        self._earlier = len(earlier)
        for step in range(self._episodes.steps):
            masks = open_choices(self._grid, actions, step, self._closed_earlier)
            # What was proposed is possible, even if it was told a second time.
            masks[np.arange(len(actions)), actions[:, step]] = True
            values, logs, _ = self.model.policy.evaluate_actions(
                self._observed(actions, step), self._chosen(actions, step), action_masks=masks
            )
            yield values, logs, {"action_masks": masks}


class RecurrentLearner(OnPolicyLearner):
    """Chooses one dimension after the other, by an LSTM that sees the last choice and remembers those before.

    Its policy knows no masks: a choice that does not lead to an open point is sampled anew.
    """

    episodes_class = Remembered
    policy_name = "MlpLstmPolicy"

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        policy = self.model.policy
        state: tuple[Tensor, Tensor]

        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            nonlocal state
            if step == 0:
                state = self._blank(len(actions))
            going_on = torch.zeros(len(actions), device=self._device)
            distribution, state = policy.get_distribution(self._observed(actions, step), state, going_on)
            is_open = torch.as_tensor(masks, device=self._device)
            likelihood = distribution.distribution.logits.masked_fill(~is_open, -torch.inf).softmax(dim=1)
            choices: Ints = torch.multinomial(likelihood, 1)[:, 0].cpu().numpy()
            return choices

        return put_together(self._grid, n, self._closed_by(taken), choose, at_once=n)

    def _buffer_arguments(self, n: int) -> dict[str, Any]:
        layers, _, size = self.model.policy.lstm_hidden_state_shape
        return {"hidden_state_shape": (self._episodes.steps, layers, n, size)}

    def _judged(self, actions: Ints, earlier: Ints) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        n = len(actions)
        states = RNNStates(self._blank(n), self._blank(n))
        for step in range(self._episodes.steps):
            seen = self._observed(actions, step)
            begins = torch.full((n,), float(step == 0), device=self._device)
            values, logs, _ = self.model.policy.evaluate_actions(seen, self._chosen(actions, step), states, begins)
            yield values, logs, {"lstm_states": states}
            *_, states = self.model.policy(seen, states, begins)

    def _blank(self, n: int) -> tuple[Tensor, Tensor]:
        layers, _, size = self.model.policy.lstm_hidden_state_shape
        blank = torch.zeros(layers, n, size, device=self._device)
        return blank, blank


class QLearner(Learner):
    """Chooses one dimension after the other: the open choice that is expected to earn most, or at times a random one.

    Learns from the youngest evaluations over and over. The returns reach to the end of a candidate (as many steps as
    there are dimensions), so that values are compared with what was earned and never with other values.

    Args:
        arguments: As of :class:`Learner`.
        gradient_steps: Training steps per ``update_every`` evaluations.
        replay_size: Evaluations that are learnt from.
    """

    episodes_class = OneByOne

    def __init__(self, *arguments: Any, gradient_steps: int = 1, replay_size: int = 2_000, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._gradient_steps = gradient_steps
        self._replay_size = replay_size

    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        exploration = self.model.exploration_schedule(1.0 - progress)

        def choose(actions: Ints, step: int, masks: Bools) -> Ints:
            values = self._values(self._observed(actions, step)).cpu().numpy()
            scores = np.where(rng.random((len(actions), 1)) < exploration, rng.random(values.shape), values)
            choices: Ints = np.where(masks, scores, -np.inf).argmax(axis=1)
            return choices

        return put_together(self._grid, n, self._closed_by(taken), choose, at_once=1)

    def _sizes(self, algorithm: type[BaseAlgorithm]) -> dict[str, int]:
        return {"buffer_size": 1}

    def _values(self, observations: Tensor) -> Tensor:
        """Return what each choice is expected to earn, float32 of shape ``(n, max(nvec))``."""
        if isinstance(self.model, QRDQN):
            quantiles: Tensor = self.model.quantile_net(observations)
            return quantiles.mean(dim=1)
        values: Tensor = self.model.q_net(observations)
        return values

    def _train(self, ranking: Ranking) -> bool:
        actions, rewards, usable = (
            ranking.column(name)[-self._replay_size :] for name in ("actions", "rewards", "usable")
        )
        self.model.replay_buffer = self._replay(actions, ranked(rewards, usable))
        updates = (ranking.evaluations - self._used) // self._update_every
        with unbroken(self.model):
            self.model.train(gradient_steps=updates * self._gradient_steps, batch_size=self.model.batch_size)
        return True

    def _replay(self, actions: Ints, rewards: Floats) -> NStepReplayBuffer:
        """Return a buffer with the episodes of evaluations, side by side, since ranks change with every round."""
        model, n, steps = self.model, len(actions), self._episodes.steps
        buffer = NStepReplayBuffer(
            steps * n,
            model.observation_space,
            model.action_space,
            device=self._device,
            n_envs=n,
            handle_timeout_termination=False,
            n_steps=steps,
            gamma=model.gamma,
        )
        for step in range(steps):
            seen, last = self._episodes.observe(actions, step), step == steps - 1
            after = seen if last else self._episodes.observe(actions, step + 1)
            earned = rewards if last else np.zeros(n)
            buffer.add(seen, after, self._episodes.chosen(actions, step), earned, np.full(n, last), [{}] * n)
        return buffer


@contextmanager
def unbroken(model: Any) -> Iterator[None]:
    """Train in the block; an update that leaves weights which are not finite is undone, so that the search goes on."""
    policy = model.policy
    before = deepcopy(policy.state_dict()), deepcopy(policy.optimizer.state_dict())

    def whole() -> bool:
        return all(bool(weights.isfinite().all()) for weights in policy.parameters())

    try:
        yield
    except ZeroDivisionError:  # by the curvature along TRPO's step, which is 0 where the policy has become certain
        pass
    except ValueError:  # from a distribution over what is not a number
        if whole():
            raise
    if not whole():
        policy.load_state_dict(before[0])
        policy.optimizer.load_state_dict(before[1])
        name = type(model).__name__
        _logger.warning("an update of %s is undone, since its weights diverged; lower the learning rate", name)


def with_functions(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a policy with the activation function in the place of its name.

    Raises:
        AttributeError: If ``torch.nn`` has no such function.
    """
    names = {name: getattr(torch.nn, str(value)) for name, value in policy_kwargs.items() if name == "activation_fn"}
    return {**policy_kwargs, **names}


@contextmanager
def borrowed_generators(rng: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global generators that the libraries draw from, in the block, and give them back as they were."""
    on_device = device.type == "cuda"
    seed = int(rng.integers(2**32))
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if on_device else []):
        try:
            np.random.seed(seed)  # noqa: NPY002
            # Not torch.manual_seed, which seeds devices that are none of ours too.
            torch.default_generator.manual_seed(seed)
            if on_device:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
