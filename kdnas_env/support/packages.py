"""Installed packages: their versions, and a check that required ones are installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from kdnas_env.errors import DependencyError


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {package: _version(package) for package in packages}
    return {package: version for package, version in versions.items() if version is not None}


# Cached, because every record of a run has versions, and looking one up parses all metadata of the package.
@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def require(purpose: str, extra: str, *modules: str) -> None:
    """Check early that the packages for some work are installed, without importing them.

    Args:
        purpose: For the message: what needs the packages.
        extra: The extra of kdnas that installs them.
        modules: Their top-level modules.

    Raises:
        DependencyError: If a package is not installed.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise DependencyError(
            f"{purpose} needs {' and '.join(missing)}, not installed here; run: pip install 'kdnas[{extra}]'"
        )
