"""Agents by name, found through the entry-point group ``kdnas.agents``.

Any installed package can add agents: ``[project.entry-points."kdnas.agents"]`` maps a name to a class with the
interface of :class:`kdnas_env.agents.base.Agent`: its ``Config`` is a dataclass of hyper-parameters, which its
constructor takes.
"""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from kdnas_env.errors import DependencyError, KDNASError, one_line
from kdnas_env.support.checks import meant
from kdnas_env.support.untrusted import restore

GROUP = "kdnas.agents"


def agent_names() -> list[str]:
    """Return the names of the installed agents, sorted, without loading any."""
    return sorted(entry_points(group=GROUP).names)


@lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of agents on a path. Cached, because reading them is slow compared to an evaluation."""
    return entry_points(group=GROUP)


def _entry_points_of(name: str) -> tuple[EntryPoint, ...]:
    """Return all entry points with the name of an agent."""
    path = tuple(sys.path)
    if name not in _entry_points(path).names:  # it may have been installed in the meantime
        _entry_points.cache_clear()
    return tuple(_entry_points(path).select(name=name))


def agent_class(name: str) -> type[Any]:
    """Load the class of an agent.

    Args:
        name: One of :func:`agent_names`.

    Raises:
        KDNASError: If there is no agent with this name.
        DependencyError: If the agent, or a package that it needs, cannot be imported.
    """
    offers = _entry_points_of(name)
    if not offers:
        raise KDNASError(
            f"unknown agent {name!r}; known are {agent_names()}. Another package can add one under the entry-point "
            f"group {GROUP!r}{meant(name, agent_names())}"
        )
    if len(offers) > 1:
        raise KDNASError(f"agent {name!r} is offered by {' and by '.join(map(_origin, offers))}; uninstall all but one")
    try:
        loaded = offers[0].load()
    except Exception as error:  # importing a package may raise anything
        raise DependencyError(
            f"agent {name!r} of {_origin(offers[0])} cannot be imported: {one_line(error)}. {_remedy(error)}"
        ) from error
    if not isinstance(loaded, type) or not is_dataclass(getattr(loaded, "Config", None)):
        raise DependencyError(
            f"agent {name!r} of {_origin(offers[0])} is {loaded!r}; expected a class with a dataclass 'Config'"
        )
    return loaded


def make_agent(name: str, **config: Any) -> Any:
    """Make an agent.

    Args:
        name: One of :func:`agent_names`, such as ``random`` or ``lstm``.
        config: Hyper-parameters of the agent, of the types that its ``Config`` declares; others keep their defaults.

    Returns:
        The agent, ready to ``search(env, budget=...)``; see :class:`kdnas_env.agents.base.Agent`.

    Raises:
        KDNASError: If there is no agent with this name, or a hyper-parameter is unknown or malformed.
        DependencyError: If the agent, or a package that it needs, cannot be imported.
    """
    cls = agent_class(name)
    known = [field.name for field in fields(cls.Config)]
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise KDNASError(f"agent {name!r} has no hyper-parameter(s) {unknown}; it has {known}")
    try:
        return cls(restore(cls.Config, config))
    except KDNASError:
        raise
    except ValueError as error:
        raise KDNASError(f"agent {name!r} cannot be made: {error}") from error


def _remedy(error: Exception) -> str:
    """Return advice for an agent that cannot be imported."""
    missing = error.name or "" if isinstance(error, ImportError) else ""
    if missing.split(".")[0] == "agents":
        return (
            "It imports 'agents', the former name of 'kdnas_env.agents': change its imports, or install a newer "
            "version of it"
        )
    return "Install what is missing; for the agents of kdnas: pip install 'kdnas[all]'"


def _origin(entry_point: EntryPoint) -> str:
    package = entry_point.dist.name if entry_point.dist else "an unnamed package"
    return f"{package} ({entry_point.value})"
