"""Adapter that lets Stable-Baselines3 algorithms train on vector environments of Gymnasium.

It is for training an algorithm with its own method ``learn``. The agents do not use it: they step vector environments
like all other agents and write the rewards to the algorithm's buffer themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from kdnas_env.agents.environment import split_infos
from kdnas_env.errors import DependencyError, KDNASError

try:
    from stable_baselines3.common.env_util import is_wrapped
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise DependencyError(
        f"BatchVecEnv needs Stable-Baselines3, which cannot be imported: {error}; pip install 'kdnas[sb3]'"
    ) from error

Indices = int | Iterable[int] | None
_FINAL = ("final_obs", "final_info")
"""Keys of the infos for the end of an episode, if the environment is reset in the same step."""


class BatchVecEnv(VecEnv):
    """A ``VecEnv`` of Stable-Baselines3 that wraps a vector environment of Gymnasium.

        env = BatchVecEnv(gym.make_vec("kdnas/Planted-v0", num_envs=8, budget=2000))
        PPO("MultiInputPolicy", env, n_steps=4, batch_size=32).learn(2000)

    A ``VecEnv`` resets a sub-environment in the step that ends its episode. The last observation of the episode is in
    ``info["terminal_observation"]``, and ``info["TimeLimit.truncated"]`` says whether the episode was truncated. How
    sub-environments are reset depends on the environment's ``autoreset_mode``:

    | ``autoreset_mode`` | Reset at the end of episodes                                                           |
    |--------------------|----------------------------------------------------------------------------------------|
    | ``SameStep``       | The environment itself resets the sub-environments that ended.                         |
    | ``Disabled``       | ``reset(options={"reset_mask": ended})`` resets the sub-environments that ended.       |
    | ``NextStep``       | ``reset()`` resets all; an error is raised if only some sub-environments ended.        |

    An algorithm collects whole rollouts of ``n_steps`` times ``num_envs`` steps. Training ends with the rollout in
    which it reaches ``total_timesteps``.

    Args:
        env: The vector environment.

    Raises:
        KDNASError: If ``env`` is not a vector environment, or its metadata lack an ``autoreset_mode``.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, gym.vector.VectorEnv):
            raise KDNASError(
                f"env is {env!r}; expected a vector environment of Gymnasium, such as gym.make_vec returns. A single "
                "environment can be passed to Stable-Baselines3 directly"
            )
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise KDNASError(
                f"the environment's metadata has the autoreset_mode {mode!r}; expected one of {[*AutoresetMode]}"
            )
        self.env = env
        self._mode = mode
        self._actions: npt.NDArray[Any] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Reset all sub-environments, once with the seeds of :meth:`seed` and the options of :meth:`set_options`.

        Returns:
            Batched observations of the sub-environments.

        Raises:
            KDNASError: If the options differ between sub-environments.
        """
        if any(options != self._options[0] for options in self._options):
            raise KDNASError(
                f"options are {self._options}; a vector environment needs the same options for all sub-environments"
            )
        # Gymnasium's vector environments accept one seed each, although their base class does not declare it.
        seeds: Any = None if all(seed is None for seed in self._seeds) else [*self._seeds]
        observations, infos = self.env.reset(seed=seeds, options=self._options[0] or None)
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Store the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """Step all sub-environments, and reset those whose episode ends.

        Returns:
            Batched observations, after the resets; rewards, float32 ``(num_envs,)``; whether episodes ended, bool
            ``(num_envs,)``; and one info per sub-environment, with ``terminal_observation`` if its episode ended.

        Raises:
            KDNASError: If only some episodes end, and the environment cannot reset single sub-environments.
        """
        observations, rewards, terminations, truncations, infos = self.env.step(self._actions)
        ended = np.logical_or(terminations, truncations)
        own = self._split(infos)
        if ended.any():
            if self._mode is AutoresetMode.SAME_STEP:
                last, resets, finals = infos["final_obs"], own, self._split(infos["final_info"])
                own = [final if end else info for end, final, info in zip(ended, finals, own, strict=True)]
            else:
                last = self._split_observations(observations)
                observations, reset_infos = self._reset(ended)
                resets = self._split(reset_infos)
            for seat in np.flatnonzero(ended):
                own[seat]["terminal_observation"] = last[seat]
                self.reset_infos[seat] = resets[seat]
        for info, terminated, truncated in zip(own, terminations, truncations, strict=True):
            info["TimeLimit.truncated"] = bool(truncated and not terminated)
        return observations, np.asarray(rewards, dtype=np.float32), ended, own

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of each sub-environment, or of the vector environment if it has no separate ones.

        Raises:
            AttributeError: If the attribute does not exist.
        """
        seats, inner = [*self._get_indices(indices)], self.env.unwrapped
        if isinstance(inner, gym.vector.SyncVectorEnv):
            return [inner.envs[seat].get_wrapper_attr(attr_name) for seat in seats]
        if isinstance(inner, gym.vector.AsyncVectorEnv):
            values = inner.get_attr(attr_name)
            return [values[seat] for seat in seats]
        return [getattr(inner, attr_name)] * len(seats)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of each sub-environment, or of the vector environment if it has no separate ones.

        Raises:
            KDNASError: If ``indices`` selects some sub-environments, but the environment has no separate ones.
        """
        seats, inner = [*self._get_indices(indices)], self.env.unwrapped
        if isinstance(inner, gym.vector.SyncVectorEnv):
            for seat in seats:
                inner.envs[seat].set_wrapper_attr(attr_name, value)
            return
        self._check_all(seats)
        if isinstance(inner, gym.vector.AsyncVectorEnv):
            inner.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(inner, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each sub-environment, or once of the vector environment if it has no separate ones.

        Raises:
            KDNASError: If ``indices`` selects some sub-environments, but the environment has no separate ones.
        """
        seats, inner = [*self._get_indices(indices)], self.env.unwrapped
        if isinstance(inner, gym.vector.SyncVectorEnv):
            methods = [inner.envs[seat].get_wrapper_attr(method_name) for seat in seats]
            return [method(*method_args, **method_kwargs) for method in methods]
        self._check_all(seats)
        if isinstance(inner, gym.vector.AsyncVectorEnv):
            return [*inner.call(method_name, *method_args, **method_kwargs)]
        return [getattr(inner, method_name)(*method_args, **method_kwargs)] * len(seats)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Return whether each sub-environment has a wrapper; False if the vector environment has no separate ones."""
        seats, inner = [*self._get_indices(indices)], self.env.unwrapped
        if isinstance(inner, gym.vector.SyncVectorEnv):
            return [is_wrapped(inner.envs[seat], wrapper_class) for seat in seats]
        return [False] * len(seats)

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Return the rendered image of each sub-environment, or None."""
        return [*(self.env.render() or [None] * self.num_envs)]

    def _reset(self, ended: npt.NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
        if self._mode is AutoresetMode.DISABLED:
            return self.env.reset(options={"reset_mask": ended.copy()})
        if not ended.all():
            raise KDNASError(
                f"sub-environments {np.flatnonzero(ended).tolist()} of {self.num_envs} ended before the others, but "
                "with autoreset_mode NextStep only all can be reset together; make the environment with SameStep or "
                "Disabled"
            )
        return self.env.reset()

    def _check_all(self, seats: Sequence[int]) -> None:
        if sorted(seats) != list(range(self.num_envs)):
            raise KDNASError(
                f"indices are {seats}; this environment only supports all {self.num_envs} sub-environments together"
            )

    def _split_observations(self, observations: Any) -> list[Any]:
        """Return the observation of each sub-environment."""
        return [*gym.vector.utils.iterate(self.env.observation_space, deepcopy(observations))]

    def _split(self, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the info of each sub-environment, without the final observations and infos of ended episodes."""
        current = {name: value for name, value in infos.items() if name.removeprefix("_") not in _FINAL}
        return split_infos(current, self.num_envs)
