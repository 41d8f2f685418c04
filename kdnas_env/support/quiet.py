"""Muting the output of third-party libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


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
