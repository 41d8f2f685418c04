"""Splits that are drawn from others, and texts that two splits share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.text.samples import text_key
from kdnas_env.errors import CorpusError
from kdnas_env.tasks.specs import VALIDATION, Split, TaskData

_CHOOSING_SHARE, _CHOOSING_SEED = 0.1, [0, len(VALIDATION)]


def draw_share(split: Split, fraction: float, rng: np.random.Generator, what: str) -> tuple[Split, Split]:
    """Return a split without a share, and this share; each class in proportion, and none without a sample left.

    Args:
        split: The split.
        fraction: The share.
        rng: Draws it.
        what: Purpose of the share, for messages.

    Raises:
        CorpusError: If there are too few samples.
    """
    order = rng.permutation(len(split))
    one_class = split.labels.dtype == np.int64 and split.labels.ndim == 1
    classes: NDArray[Any] = split.labels if one_class else np.zeros(len(split), dtype=np.int64)
    drawn = np.zeros(len(split), dtype=bool)
    for value in np.unique(classes):
        members = order[classes[order] == value]
        drawn[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    if not drawn.any():
        raise CorpusError(
            f"{len(split)} samples are too few to draw {what} from; give more, or name a split or file for it"
        )
    return split.subset(np.flatnonzero(~drawn)), split.subset(np.flatnonzero(drawn))


def choosing_splits(task: TaskData) -> tuple[TaskData, Split]:
    """Return a task for training, and the split that settings are chosen on, which is never a split that is scored.

    That is the validation split, where it does not make the score; else a tenth of the training split.
    """
    validation = task.evaluation.get(VALIDATION)
    if validation is not None and VALIDATION not in task.spec.scored:
        return task, validation
    train, share = draw_share(
        task.train,
        _CHOOSING_SHARE,
        np.random.default_rng(_CHOOSING_SEED),
        f"what settings of {task.name!r} are chosen on",
    )
    return task.with_train(train), share


def choosing_name(task: TaskData, choosing: Split) -> str:
    """Return what the second of :func:`choosing_splits` is called."""
    names = (name for name, split in task.evaluation.items() if split is choosing)
    return next(names, "a tenth of the training split")


def text_keys(split: Split) -> Iterator[tuple[str, ...]]:
    """Yield a key for the texts of each sample, which ignores case and surrounding blanks."""
    return (tuple(map(text_key, texts)) for texts in zip(*split.texts, strict=True))


def repeats(split: Split) -> int:
    """Return how many samples have the texts of an earlier one, by :func:`text_keys`."""
    return len(split) - len(set(text_keys(split)))
