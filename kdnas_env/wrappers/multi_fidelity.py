"""Choosing the number of epochs of a candidate's distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.support.untrusted import as_array, is_integer, is_whole
from kdnas_env.wrappers.common import Step, extended_observation, extended_space, wrapped_identity


class MultiFidelity(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Make the epochs of mini-KD one more dimension of the action, under a budget of epochs.

    ## Description

    An agent can evaluate many candidates for few epochs and few candidates for many epochs. This finds better
    candidates at the same cost if short evaluations rank candidates like long ones (Li et al. 2018, Hyperband,
    arXiv:1603.06560). The wrapped environment must count its budget in epochs (`budget_unit="epochs"`), because
    otherwise all evaluations would cost the same. The budget is never exceeded: the last evaluation is shortened to the
    remaining epochs.

    The same architecture with another number of epochs is not a duplicate: it is distilled from the start and charged.

    ## Action Space

    `MultiDiscrete([*nvec, len(epochs)])`: that of the wrapped environment, with the index of a choice of epochs last.

    ## Observation Space

    That of the wrapped environment with one more key, `last_epochs`: `MultiDiscrete([len(epochs) + 1])`, the choice of
    epochs of the last action plus 1; 0 before the first.

    ## Rewards, Episode End and Information

    As in the wrapped environment; `info["epochs"]` is the number of epochs of the evaluation.

    ## Arguments

    | Name     | Default | Meaning                                                                                  |
    |----------|---------|------------------------------------------------------------------------------------------|
    | `epochs` | `None`  | choices, ascending; None: 1, 2, 4, ... and the epochs that the environment was made with |

    Raises:
        KDNASError: If the environment has no fidelity or another budget, or the choices are malformed or too long.
    """

    def __init__(self, env: gym.Env[Any, Any], *, epochs: Sequence[int] | None = None) -> None:
        RecordConstructorArgs.__init__(self, epochs=epochs)
        gym.Wrapper.__init__(self, env)
        fidelity, inner = env_attribute(env, "fidelity"), env.action_space
        if not isinstance(fidelity, Fidelity) or env_attribute(env, "budget_unit") != "epochs":
            raise KDNASError(
                f"{env} does not count its budget in epochs; make it with budget_unit='epochs' before wrapping it"
            )
        if not isinstance(inner, spaces.MultiDiscrete) or inner.nvec.ndim != 1:
            raise KDNASError(f"the action space is {inner}; expected a one-dimensional MultiDiscrete; apply it first")
        self.epochs = _checked_epochs(epochs, fidelity.epochs)
        self._longest = fidelity
        count = len(self.epochs)
        self.action_space = spaces.MultiDiscrete([*inner.nvec.tolist(), count])
        self.observation_space = extended_space(
            env.observation_space, {"last_epochs": spaces.MultiDiscrete([count + 1])}
        )

    @property
    def identity(self) -> dict[str, Any] | None:
        """Identity of the rewards: that of the wrapped environment, and this wrapper's settings."""
        return wrapped_identity(self, epochs=list(self.epochs))

    @property
    def valid_action_indices(self) -> npt.NDArray[np.int64] | None:
        """Flat indices of the useful actions: those of the wrapped environment, each with every choice of epochs."""
        valid = env_attribute(self.env, "valid_action_indices")
        if valid is None:
            return None
        count = len(self.epochs)
        return cast(npt.NDArray[np.int64], (valid[:, None] * count + np.arange(count)).ravel())

    @property
    def parameter_counts(self) -> npt.NDArray[np.int64] | None:
        """Parameters of the architectures of ``valid_action_indices``, in their order, int64 ``(n,)``, or None."""
        counts = env_attribute(self.env, "parameter_counts")
        return None if counts is None else np.repeat(counts, len(self.epochs))

    @property
    def max_evaluations(self) -> int:
        """Maximum number of evaluations per episode, with the fewest epochs each."""
        return int(env_attribute(self.env, "budget")) // max(1, self.epochs[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation, 0), info

    def step(self, action: Any) -> Step:
        """Evaluate a candidate for the chosen number of epochs.

        Raises:
            SpaceError: If the action is malformed or out of range.
        """
        choices = as_array(action)
        size = len(cast(spaces.MultiDiscrete, self.action_space).nvec)
        if choices.shape != (size,) or not is_whole(choices):
            raise SpaceError(
                f"action is {choices.dtype} of shape {choices.shape}; expected integers of shape ({size},)"
            )
        choice = int(choices[-1])
        if not 0 <= choice < len(self.epochs):
            raise SpaceError(
                f"action {choices.tolist()} is out of range: epochs is {choice}, expected 0 to {len(self.epochs) - 1}"
            )
        environment = cast(Any, self.unwrapped)
        environment.fidelity = replace(self._longest, epochs=self.epochs[choice])
        try:
            observation, reward, terminated, truncated, info = self.env.step(choices[:-1])
        finally:
            environment.fidelity = self._longest
        return self._observed(observation, choice + 1), float(reward), terminated, truncated, info

    def _observed(self, observation: Any, token: int) -> dict[str, Any]:
        return extended_observation(observation, {"last_epochs": np.array([token], dtype=np.int64)})


def _checked_epochs(epochs: Sequence[int] | None, longest: int) -> tuple[int, ...]:
    if epochs is None:
        return tuple(sorted({*(2**power for power in range(longest.bit_length()) if 2**power < longest), longest}))
    choices = tuple(epochs)
    whole = all(is_integer(value) and value >= 0 for value in choices)
    if not choices or not whole or list(choices) != sorted(set(choices)):
        raise KDNASError(f"epochs is {epochs!r}; expected whole numbers, 0 or more, in ascending order")
    if choices[-1] > longest:
        raise KDNASError(
            f"epochs go up to {choices[-1]}, but the environment was made for {longest} at most; make it with "
            f"epochs={choices[-1]}"
        )
    return tuple(int(value) for value in choices)
