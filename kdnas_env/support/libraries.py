"""Helpers for third-party libraries: mute their output, check that they are installed, and name their versions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


@contextmanager
def log_level(logger_name: str, level: int) -> Iterator[None]:
    """Set the level of a logger in the block."""
    logger = logging.getLogger(logger_name)
    previous = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(previous)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Mute the report on unused weights and the progress bar of loading weights from disk.

    The caller checks what the report would say. Progress bars of downloads, by ``huggingface_hub``, still appear.
    """
    from transformers.utils import logging as transformers_logging

    # Early 5.x releases lack the hook and show the bar; disabling all bars would mute downloads too.
    set_hook = getattr(transformers_logging, "set_tqdm_hook", lambda hook: None)
    with log_level("transformers", logging.CRITICAL):
        previous = set_hook(lambda factory, args, kwargs: factory(*args, **{**kwargs, "disable": True}))
        try:
            yield
        finally:
            set_hook(previous)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Mute the progress bars and log lines of ``datasets``; its exceptions contain the same information."""
    import datasets

    forced = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None
    shown = not datasets.are_progress_bars_disabled()
    with ExitStack() as stack:
        stack.enter_context(log_level("datasets", logging.CRITICAL))
        stack.enter_context(log_level("huggingface_hub", logging.CRITICAL))
        if shown and not forced:
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        yield
