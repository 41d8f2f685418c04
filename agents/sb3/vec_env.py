"""Gymnasium's vector environments for the algorithms of Stable-Baselines3, which then evaluate a round as one batch.

For those who train an algorithm themselves, with its own ``learn``. The agents do not need it: they step a vector
environment as all agents do, and put what was earned into the algorithm's buffer.
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
"""Where a vector environment that resets in the step which ends an episode puts the end of it."""


class BatchVecEnv(VecEnv):
    """Gives an algorithm of Stable-Baselines3 a vector environment of Gymnasium.

        env = BatchVecEnv(gym.make_vec("kdnas/Planted-v0", num_envs=8, budget=2000))
        PPO("MultiInputPolicy", env, n_steps=4, batch_size=32).learn(2000)

    Stable-Baselines3 knows vector environments of its own kind, which reset a sub-environment in the step that ends its
    episode; the last observation is then ``info["terminal_observation"]``, and ``info["TimeLimit.truncated"]`` says
    whether the episode was cut off. All else is as in the environment:

    | ``autoreset_mode`` | What is reset, and how                                        |
    |--------------------|---------------------------------------------------------------|
    | ``SameStep``       | what has ended, by the environment itself                     |
    | ``Disabled``       | what has ended, by ``reset(options={"reset_mask": ended})``   |
    | ``NextStep``       | all, by ``reset()``; it is an error if some end before others |

    An algorithm collects whole rollouts, ``n_steps`` times the number of sub-environments, and ends with the one in
    which it reaches ``total_timesteps``.

    Args:
        env: The environment.

    Raises:
        KDNASError: If it is no vector environment, or does not say how it resets.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, gym.vector.VectorEnv):
            raise KDNASError(
                f"env is {env!r}; expected a vector environment of Gymnasium, such as gym.make_vec makes. A single one "
                "can be passed to Stable-Baselines3 as it is"
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
        """Reset all sub-environments, with the seeds of :meth:`seed` and the options of :meth:`set_options` once.

        Returns:
            Their observations, side by side.

        Raises:
            KDNASError: If the options differ between sub-environments.
        """
        if any(options != self._options[0] for options in self._options):
            raise KDNASError(f"options are {self._options}; a vector environment takes the same for all")
        # Gymnasium's own vector environments take a seed for each, which their base class does not declare.
        seeds: Any = None if all(seed is None for seed in self._seeds) else [*self._seeds]
        observations, infos = self.env.reset(seed=seeds, options=self._options[0] or None)
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """Step all sub-environments, and reset those that end.

        Returns:
            Observations, after the reset where there was one; rewards, float32 ``(num_envs,)``; which ended, bool
            ``(num_envs,)``; and the infos of the step, of which those of an end have ``terminal_observation`` too.

        Raises:
            KDNASError: If some end before others, and the environment cannot reset them alone.
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
        """Return an attribute of each sub-environment; where they are no objects of their own, the environment's.

        Raises:
            AttributeError: If there is none.
        """
        seats, inner = [*self._get_indices(indices)], self.env.unwrapped
        if isinstance(inner, gym.vector.SyncVectorEnv):
            return [inner.envs[seat].get_wrapper_attr(attr_name) for seat in seats]
        if isinstance(inner, gym.vector.AsyncVectorEnv):
            values = inner.get_attr(attr_name)
            return [values[seat] for seat in seats]
        return [getattr(inner, attr_name)] * len(seats)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of each sub-environment; where they are no objects of their own, the environment's.

        Raises:
            KDNASError: If only some are named, but they cannot be told apart.
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
        """Call a method of each sub-environment; where they are no objects of their own, the environment's, once.

        Raises:
            KDNASError: If only some are named, but they cannot be told apart.
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
        """Say of each sub-environment whether it is wrapped, as far as that can be seen from here."""
        seats, inner = [*self._get_indices(indices)], self.env.unwrapped
        if isinstance(inner, gym.vector.SyncVectorEnv):
            return [is_wrapped(inner.envs[seat], wrapper_class) for seat in seats]
        return [False] * len(seats)

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Return the picture of each sub-environment."""
        return [*(self.env.render() or [None] * self.num_envs)]

    def _reset(self, ended: npt.NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
        if self._mode is AutoresetMode.DISABLED:
            return self.env.reset(options={"reset_mask": ended.copy()})
        if not ended.all():
            raise KDNASError(
                f"sub-environments {np.flatnonzero(ended).tolist()} of {self.num_envs} ended before the others, and "
                "with autoreset_mode NextStep they cannot be reset alone; make the environment with SameStep or "
                "Disabled"
            )
        return self.env.reset()

    def _check_all(self, seats: Sequence[int]) -> None:
        if sorted(seats) != list(range(self.num_envs)):
            raise KDNASError(f"indices are {seats}; of this environment all {self.num_envs} are reached together")

    def _split_observations(self, observations: Any) -> list[Any]:
        """Return the observation of each sub-environment."""
        return [*gym.vector.utils.iterate(self.env.observation_space, deepcopy(observations))]

    def _split(self, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the info of each sub-environment, without what belongs to an episode that has ended."""
        going_on = {name: value for name, value in infos.items() if name.removeprefix("_") not in _FINAL}
        return split_infos(going_on, self.num_envs)
