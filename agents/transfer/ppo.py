"""Search policies: trained by PPO on many recorded tasks, then used for a search of a new task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.agents.ask_tell import Proposal
from kdnas_env.agents.sb3.agent import check_importable
from kdnas_env.agents.transfer.base import TaskAgent
from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.agents.transfer.history import RecordedSearchEnv, observe_history
from kdnas_env.agents.transfer.learnt_file import read_learnt, write_learnt
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.progress import Progress
from kdnas_env.support.settings import Settings

DATA = Path(__file__).parent / "data"
_KIND = "search policy"


@dataclass(frozen=True)
class TransferPPOConfig(Settings):
    """Hyper-parameters of a policy that was trained across tasks.

    Attributes:
        policy: File of a policy (``kdnas bench train transfer-recurrent-ppo``, or ``transfer-maskable-ppo``). None for
            that of the package. The policy of the package cannot be used in spaces with other numbers of choices; there
            all candidates are random.
    """

    policy: str | None = None


@dataclass(frozen=True, eq=False)
class SearchPolicy:
    """A trained policy.

    Attributes:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        unit: Typical reward difference between candidates.
        network: The policy of Stable-Baselines3.
    """

    nvec: Ints
    unit: float
    network: Any


class TransferPPOAgent(TaskAgent[TransferPPOConfig]):
    """Proposes samples of a trained policy, each candidate at most once; a search does not train it.

    As in RL² (Duan et al. 2016, arXiv:1611.02779), an episode of the training is a whole search, and the policy
    observes its earlier proposals and their rewards, so it learns how to search. It is trained by PPO on recorded tasks
    (:class:`kdnas_env.agents.transfer.history.RecordedSearchEnv`), with the improvement of the best reward as the
    reward of a step.

    Raises:
        DependencyError: If sb3-contrib is not installed.
    """

    Config = TransferPPOConfig
    setting: ClassVar[str] = "policy"
    algorithm: ClassVar[str]
    """Name of the algorithm in sb3-contrib."""

    def __init__(self, config: TransferPPOConfig | None = None) -> None:
        super().__init__(config)
        check_importable(f"sb3_contrib:{self.algorithm}")

    @classmethod
    def train_across(
        cls, env: gym.Env[Any, Any], names: Sequence[str], path: Path, *, steps: int, seed: int, progress: Progress
    ) -> float:
        """Train a policy on tasks, or resume an interrupted training.

        ``TaskAgent.train_across`` describes all arguments. ``steps`` is the number of evaluations of each of 16
        parallel searches, rounded up to a whole number of updates.

        Returns:
            Mean gap to the best candidate at the end of the last searches, in standard deviations of the rewards.
        """
        from kdnas_env.agents.transfer.ppo_training import train

        experience = Experience.gather(env, names, seed, progress)
        progress.begin("training the policy")

        def on_update(done: int, total: int, gap: float) -> None:
            progress.advance(done, total)
            progress.note(f"gap {gap:.3f}")

        def save(network: Any) -> None:
            save_policy(SearchPolicy(experience.nvec, experience.mean_scale, network), cls.algorithm, path)

        return train(
            cls.algorithm, cls.recorded, experience, path, steps=steps, seed=seed, on_update=on_update, save=save
        )

    @staticmethod
    @abstractmethod
    def recorded(experience: Experience, evaluations: int) -> RecordedSearchEnv:
        """Return the environment of the training."""

    def _start(self) -> None:
        super()._start()
        self._policy = self._if_fits_space(self._stored_policy, self.config.policy)

    @cached_property
    def _stored_policy(self) -> SearchPolicy | None:
        """The policy in the configured file, or in the package; read once. None if the package has none.

        Raises:
            RunError: If the file does not contain a policy of this agent.
        """
        path, shipped = self.config.policy, DATA / f"{self.algorithm}.safetensors"
        if path is None and not shipped.exists():
            return None
        return load_policy(self.algorithm, self.recorded, shipped if path is None else path)

    def _propose(self, n: int) -> Proposal:
        return self._fill(self._evaluated[:0] if self._policy is None else self._sampled(n), n)

    @abstractmethod
    def _sampled(self, n: int) -> Ints:
        """Return samples of the policy for a round of ``n`` candidates, int64 ``(m, dims)``."""

    def _observed(self, rounds: int) -> npt.NDArray[np.float32]:
        """Return the observation of the policy after some rounds, float32 ``(width,)``."""
        policy, known = self._policy, self.ranking.rounds.until(rounds)
        assert policy is not None
        end = sum(len(record.rewards) for record in known)
        return observe_history(
            self._task,
            policy.nvec,
            self._evaluated[:end],
            self.ranking.rewards[:end],
            self.ranking.usable[:end],
            unit=policy.unit,
            spent=min(1.0, end / self.budget),
        )


def save_policy(policy: SearchPolicy, algorithm: str, path: Path) -> None:
    """Write a policy to a file.

    Raises:
        RunError: If the file cannot be written.
    """
    description = {"algorithm": algorithm, "nvec": policy.nvec.tolist(), "unit": policy.unit}
    state = {name: values.detach().numpy() for name, values in policy.network.state_dict().items()}
    write_learnt(path, _KIND, description, state)


def load_policy(
    algorithm: str, recorded: Callable[[Experience, int], RecordedSearchEnv], path: str | Path
) -> SearchPolicy:
    """Read a policy written by :func:`save_policy`.

    Args:
        algorithm: Name of the algorithm that must have trained the policy.
        recorded: Creates the environment of the training, which has the spaces of the policy.
        path: The file.

    Raises:
        RunError: If the file cannot be read, or has other content.
    """
    from kdnas_env.agents.transfer.ppo_training import untrained

    with read_learnt(path, _KIND, framework="pt") as (description, weights):
        if description["algorithm"] != algorithm:
            raise ValueError(f"it was trained by {description['algorithm']}")
        nvec = np.array(description["nvec"], dtype=np.int64)
        network = untrained(algorithm, recorded(Experience.blank(nvec, len(FEATURES)), 1), seed=0).policy
        network.load_state_dict(weights)
        unit = float(description["unit"])
    network.set_training_mode(False)
    return SearchPolicy(nvec, unit, network)


def draw_choices(probabilities: Floats, tries: int, rng: np.random.Generator) -> Ints:
    """Draw ``tries`` choices for each row of probabilities, float64 ``(n, choices)``; int64 of shape ``(tries, n)``."""
    ends = probabilities.cumsum(axis=1)
    places: Ints = (rng.random((tries, len(ends), 1)) * ends[:, -1:] >= ends).sum(axis=2)
    return places
