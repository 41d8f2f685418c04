"""Agents by name, found through the entry-point group ``kdnas.agents``.

Any installed package can add one: ``[project.entry-points."kdnas.agents"]`` maps a name to a class whose ``Config`` is
a dataclass of its hyper-parameters and whose constructor takes one, as :class:`agents.base.Agent` has it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdnas_env.distill.libraries import one_line
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.plain import restore

GROUP = "kdnas.agents"

_OWN = "kdnas"
_APART = (
    "where another installed package brings 'agents' too, such as openai-agents, install kdnas in an environment of "
    "its own"
)


def agent_names() -> list[str]:
    """Return the names of the installed agents, sorted; none of them is loaded."""
    return sorted(entry_points(group=GROUP).names)


def agent_class(name: str) -> type[Any]:
    """Load the class of an agent.

    Args:
        name: One of :func:`agent_names`.

    Raises:
        KDNASError: If no agent has the name.
        DependencyError: If the agent, or a package that it needs, cannot be imported.
    """
    found = tuple(entry_points(group=GROUP, name=name))
    if not found:
        raise KDNASError(
            f"unknown agent {name!r}; known are {agent_names()}. Another package can add one under the entry-point "
            f"group {GROUP!r}"
        )
    if len(found) > 1:
        raise KDNASError(f"agent {name!r} is offered by {' and by '.join(map(_origin, found))}; uninstall all but one")
    own = found[0].dist is not None and found[0].dist.name == _OWN
    if own:
        check_own_agents()
    try:
        loaded = found[0].load()
    except Exception as error:  # a package may fail to import in any way
        if own:
            check_shared_agents()
        raise DependencyError(
            f"agent {name!r} of {_origin(found[0])} cannot be imported: {one_line(error)}. Install what is "
            "missing; for the agents of kdnas: pip install 'kdnas[all]'"
        ) from error
    if not isinstance(loaded, type) or not is_dataclass(getattr(loaded, "Config", None)):
        raise DependencyError(
            f"agent {name!r} of {_origin(found[0])} is {loaded!r}; expected a class with a dataclass 'Config'"
        )
    return loaded


def make_agent(name: str, **config: Any) -> Any:
    """Make an agent.

    Args:
        name: One of :func:`agent_names`, such as ``random`` or ``lstm``.
        config: Hyper-parameters of the agent, of the types that its ``Config`` declares; those left out keep their
            defaults.

    Returns:
        The agent, ready to ``search(env, budget=...)``; see :class:`agents.base.Agent`.

    Raises:
        KDNASError: If no agent has the name, or a hyper-parameter is unknown or malformed.
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
        raise KDNASError(f"agent {name!r} is not made: {error}") from error


def check_own_agents() -> None:
    """Check that ``agents`` is the package of kdnas, since the name is so common that others have it too.

    Raises:
        DependencyError: If an import of ``agents`` finds something else.
    """
    own = Path(__file__).resolve().parents[1] / "agents"
    spec = find_spec("agents")
    found = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    if own in [place.resolve() for place in found]:
        return
    other = f"is hidden by {' and '.join(repr(str(place)) for place in found)}" if found else "is not there"
    raise DependencyError(
        f"the package 'agents' of kdnas ({str(own)!r}) {other}. Give your own folder or file another name, or start "
        f"Python where it is not found; {_APART}"
    )


def check_shared_agents() -> None:
    """Refuse an environment in which another installed package brings files of a package ``agents``.

    In one folder with those of kdnas, either may be imported, and the removal of one removes files of the other.

    Raises:
        DependencyError: If there is one.
    """
    others = [name for name in packages_distributions().get("agents", ()) if name != _OWN]
    if others:
        raise DependencyError(f"{' and '.join(others)} and kdnas both bring a package 'agents'; {_APART}")


def _origin(entry_point: EntryPoint) -> str:
    package = entry_point.dist.name if entry_point.dist else "an unnamed package"
    return f"{package} ({entry_point.value})"
