"""What the registered environments share: spaces from plain data, and vectors of environments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.vector import KDNASVectorEnv
from kdnas_env.errors import KDNASError, SpaceError

SpaceSource = Mapping[str, Any] | str | os.PathLike[str] | None
"""A space as plain data: its choices, the path of a YAML or JSON file, or None to derive it from the teacher."""


def vector_maker(kind: Callable[..., KDNASEnv]) -> Callable[..., KDNASVectorEnv]:
    """Return the function that makes vector environments of an environment.

    Its arguments are ``num_envs``, ``autoreset_mode``, and those of the environment but for ``round_size``.
    """

    def make_vector(num_envs: int = 1, *, autoreset_mode: str = "NextStep", **kwargs: Any) -> KDNASVectorEnv:
        if "round_size" in kwargs:
            raise KDNASError(
                f"round_size is {kwargs['round_size']!r}, but a round of a vector environment is one step of all its "
                "seats; leave it out and set num_envs"
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
        families: Student families; only where the space is derived.
        max_parameters: Largest student allowed; takes the place of the cap that the source sets, if any.

    Raises:
        SpaceError: If the source is malformed, or families are given beside it.
    """
    if source is None:
        families = (families,) if isinstance(families, str) else families
        return SearchSpace.from_teacher(teacher, families=families, max_parameters=max_parameters)
    if families is not None:
        raise SpaceError(f"families {families!r} are given beside a space; list them in the space, under 'family'")
    if isinstance(source, Mapping):
        space = SearchSpace.from_dict(source, teacher)
    else:
        space = SearchSpace.from_file(os.fspath(source), teacher)
    return space if max_parameters is None else replace(space, max_parameters=max_parameters)
