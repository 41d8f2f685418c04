"""Settings of mini-KD evaluations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdnas_env.core.constraints import Constraints
from kdnas_env.distillation.training.mini_kd import PRECISIONS
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.errors import KDNASError, LatencyError
from kdnas_env.latency import LatencySettings, ReferenceMachine
from kdnas_env.support.checks import check_whole


@dataclass(frozen=True)
class MiniKDSettings:
    """Settings of mini-KD evaluations; plain data.

    Attributes:
        teacher: Name or folder of the teacher; ``demo`` for the embedded one.
        corpus: Name, folder or file of the corpus, or a mapping of arguments of
            :func:`kdnas_env.distillation.text.corpus.load_corpus`, including ``source``.
        recipe: Name of a recipe, or a mapping of changes
            (:func:`kdnas_env.distillation.training.recipe.resolve_recipe`).
        latency: A runtime, or a mapping of fields of :class:`kdnas_env.latency.LatencySettings`.
        cache_dir: Folder of the teacher's hidden states; None for the user's cache folder.
        cache_dtype: ``float16`` or ``float32``.
        device: Training device; None for the first GPU, or the CPU if there is no GPU.
        precision: ``float32``, ``bfloat16`` (automatic mixed precision), or None: bfloat16 on a GPU, else float32.
        threads: PyTorch threads for teacher and students; None for PyTorch's current number. The number changes results
            only in their last digits, so it is not part of the fingerprint.
        limits: Limits of students, as fields of :class:`kdnas_env.core.constraints.Constraints`. With limits, a
            student's latency is measured before distillation, and a student that breaks a limit is not distilled.
            Limits are not part of the fingerprint, because they do not change distilled students.
        task: The target task: the name of a task, or a mapping of fields of
            :class:`kdnas_env.tasks.search_task.SearchTask`. Students then run a short task stage after their
            distillation, and their records have ``task_divergence`` and ``task_unexplained``. None for no task.

    Raises:
        KDNASError: If the recipe, the precision or the number of threads is malformed.
        LatencyError: If the latency settings are malformed.
    """

    teacher: str = "demo"
    corpus: str | Mapping[str, Any] = "demo"
    recipe: str | Mapping[str, Any] = "default"
    latency: str | Mapping[str, Any] = "torch"
    cache_dir: str | os.PathLike[str] | None = None
    cache_dtype: str = "float16"
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    limits: Mapping[str, Any] | None = None
    task: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        Constraints.of(self.limits)
        if self.task is not None:
            from kdnas_env.tasks.search_task import SearchTask

            SearchTask.of(self.task)
        resolve_recipe(self.recipe)
        latency_settings(self.latency)
        if self.precision not in (None, *PRECISIONS):
            raise KDNASError(f"precision is {self.precision!r}; expected None or one of {list(PRECISIONS)}")
        if self.threads is not None:
            check_whole("threads", self.threads, at_least=1, advice="None uses PyTorch's current number")


def latency_settings(latency: str | Mapping[str, Any]) -> LatencySettings:
    """Return latency settings.

    Args:
        latency: A runtime, or a mapping of fields of :class:`kdnas_env.latency.LatencySettings`.

    Raises:
        LatencyError: If a setting is unknown or malformed.
    """
    values: dict[str, Any] = {"runtime": latency} if isinstance(latency, str) else dict(latency)
    try:
        if isinstance(values.get("reference"), Mapping):
            values["reference"] = ReferenceMachine(**values["reference"])
        return LatencySettings(**values)
    except TypeError as error:
        raise LatencyError(
            f"unknown latency setting in {dict(latency) if isinstance(latency, Mapping) else latency!r}: {error}"
        ) from error
