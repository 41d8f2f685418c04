"""Shared code of the registered environments: spaces from plain data, and vector environments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.vector import KDNASVectorEnv
from kdnas_env.errors import KDNASError, SpaceError


class Episode(TypedDict, total=False):
    """The arguments that all registered environments share; the defaults are those of :class:`KDNASEnv`.

    :class:`kdnas_env.envs.mini_kd.MiniKDEnv` has its own defaults.

    Attributes:
        budget: Budget of an episode; 120.
        budget_unit: ``evaluations`` (the default), ``epochs`` or ``seconds``.
        round_size: Evaluations per round; 8.
        alpha: Exponent of the latency factor; -0.06.
        beta: Target latency, ``0.6**6``. It scales all positive rewards alike and changes no choice.
        penalty: Reward of a student that fails or cannot be built; None: the lowest reward.
        loss: Loss of the reward: ``heldout`` (the default), ``heldout_raw`` or ``train_raw``.
        duplicates: Cost of a repeated architecture: ``charge`` (the default), ``free`` or ``reject``.
        limits: Limits of students by name, such as ``{"speedup": 5}``; None: no limits.
        constraints: Effect of a broken limit: a lower ``reward`` (the default), or a ``cost`` in the information.
        infeasible: Cost of a student that breaks a limit: ``free`` (the default) or ``charge``.
        render_mode: ``ansi``, ``rgb_array`` or None.
    """

    budget: float
    budget_unit: str
    round_size: int
    alpha: float
    beta: float
    penalty: float | None
    loss: str
    duplicates: str
    limits: Mapping[str, Any] | None
    constraints: str
    infeasible: str
    render_mode: str | None


def episode_arguments(episode: Episode) -> dict[str, Any]:
    """Return arguments of :class:`kdnas_env.envs.kdnas.KDNASEnv`, including the reward.

    Raises:
        KDNASError: If the reward is malformed.
    """
    arguments: dict[str, Any] = {**episode}
    rewards = {name: arguments.pop(name) for name in ("alpha", "beta", "penalty", "loss") if name in arguments}
    return {**arguments, "reward": KDReward(**rewards)}


SpaceSource = Mapping[str, Any] | str | os.PathLike[str] | None
"""A space as plain data: its choices, the path of a YAML or JSON file, or None to derive it from the teacher."""


def vector_maker(kind: Callable[..., KDNASEnv]) -> Callable[..., KDNASVectorEnv]:
    """Return a function that makes vector environments of an environment class.

    Its arguments are ``num_envs``, ``autoreset_mode``, and those of the environment except ``round_size``, for which it
    raises a KDNASError.

    Args:
        kind: The environment class.
    """

    def make_vector(num_envs: int = 1, *, autoreset_mode: str = "NextStep", **kwargs: Any) -> KDNASVectorEnv:
        if "round_size" in kwargs:
            raise KDNASError(
                f"round_size is {kwargs['round_size']!r}, but a round of a vector environment is one step of all its "
                "sub-environments; leave it out and set num_envs"
            )
        return KDNASVectorEnv(kind(**kwargs), num_envs, autoreset_mode=autoreset_mode)

    return make_vector


def resolve_space(
    source: SpaceSource,
    teacher: EncoderArchitecture,
    families: Sequence[str] | str | None = None,
    max_parameters: int | None = None,
) -> SearchSpace:
    """Make a space under a teacher from plain data.

    Args:
        source: Choices by dimension, the path of a YAML or JSON file, or None to derive the space from the teacher.
        teacher: The teacher's architecture.
        families: Student families; only for a derived space.
        max_parameters: Largest allowed student in parameters; replaces the cap of the source, if any.

    Raises:
        SpaceError: If the source is malformed, or both a source and families are given.
    """
    if source is None:
        families = (families,) if isinstance(families, str) else families
        return SearchSpace.from_teacher(teacher, families=families, max_parameters=max_parameters)
    if families is not None:
        raise SpaceError(
            f"families is {families!r}, but a space is given too; list families in the space, under 'family'"
        )
    if isinstance(source, Mapping):
        space = SearchSpace.from_dict(source, teacher)
    else:
        space = SearchSpace.from_file(os.fspath(source), teacher)
    return space if max_parameters is None else replace(space, max_parameters=max_parameters)
