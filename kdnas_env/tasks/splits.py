"""Drawing splits from others, and finding texts that two splits share."""

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
    """Split off a share; each class is drawn in proportion, and keeps at least one sample.

    Args:
        split: The split to draw from.
        fraction: The share to draw.
        rng: Random generator.
        what: For messages: purpose of the share.

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
    """Return a task for training, and the split for selecting settings, which is never scored.

    That is the validation split if it is not part of the score, else a tenth of the training split.
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
    """Return the name of the selection split that :func:`choosing_splits` returned."""
    names = (name for name, split in task.evaluation.items() if split is choosing)
    return next(names, "a tenth of the training split")


def text_keys(split: Split) -> Iterator[tuple[str, ...]]:
    """Yield a key for the texts of each sample, which ignores case and surrounding whitespace."""
    return (tuple(map(text_key, texts)) for texts in zip(*split.texts, strict=True))


def repeats(split: Split) -> int:
    """Return the number of samples whose texts repeat those of an earlier one, by :func:`text_keys`."""
    return len(split) - len(set(text_keys(split)))
