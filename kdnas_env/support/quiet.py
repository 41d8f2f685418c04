"""Muting the output of third-party libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def muted(*logger_names: str) -> Iterator[None]:
    """Mute loggers and those below them in the block.

    Setting levels would clear the caches of all loggers, which takes longer than loading a small model.
    """
    loggers = [logging.getLogger(name) for name in logger_names]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Mute the report on unused weights and the progress bar of loading weights from disk.

    The caller checks what the report would say. Progress bars of downloads, by ``huggingface_hub``, still appear.
    """
    from transformers.utils import logging as transformers_logging

    # Early 5.x releases lack the hook and show the bar; disabling all bars would mute downloads too.
    set_hook = getattr(transformers_logging, "set_tqdm_hook", lambda hook: None)
    with muted("transformers"):
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
        stack.enter_context(muted("datasets", "huggingface_hub"))
        if shown and not forced:
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        yield
