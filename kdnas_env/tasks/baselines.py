"""Baselines for distilled students: the same architecture with other initial weights, not distilled."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.training.embeddings import EmbeddingBasis, embedding_basis
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import Recipe, resolve_recipe
from kdnas_env.distillation.training.workload import Workload, open_workload
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.tasks.encoding import resolve_device

RANDOM, EMBEDDINGS, CLOSED_FORMS = "random", "embeddings", "closed-forms"


def random_encoder(config: Any, seed: int) -> nn.Module:
    """Return an encoder with the random initial weights of transformers, without pooler and in eval mode."""
    from transformers import AutoModel

    with preserved_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(config)
    if hasattr(model, "pooler"):
        model.pooler = None
    encoder: nn.Module = model.eval()
    return encoder


@dataclass(frozen=True, eq=False)
class Undistilled:
    """Undistilled students, with initial weights from the teacher of a distilled student.

    Attributes:
        lineage: Origin of the distilled student.
        cache_dir: Folder of the teacher's hidden states; None for the user's.
        device: Device to build them on; None for the first GPU, or the CPU if there is none.
    """

    lineage: Lineage
    cache_dir: str | os.PathLike[str] | None = None
    device: str | None = None

    @property
    def starts(self) -> tuple[str, ...]:
        """The initialisations that differ from one another."""
        recipe = resolve_recipe(self.lineage.recipe)
        sliced = recipe.layers == "teacher" and self.lineage.student.family != "albert"
        return (EMBEDDINGS, CLOSED_FORMS) if sliced else (EMBEDDINGS,)

    def encoder(self, start: str, seed: int) -> nn.Module:
        """Build an encoder.

        Args:
            start: ``embeddings`` (embeddings derived from the teacher's, as in the recipe; random layers) or
                ``closed-forms`` (mini-KD before its first step).
            seed: Seed of the random weights.

        Raises:
            TeacherError, CorpusError, CacheError: If the teacher or the corpus of the distillation cannot be loaded.
            RunError: If the teacher or the text has changed since the distillation.
        """
        recipe = self._recipes[start]
        fraction = next((stage["data_fraction"] for stage in self.lineage.stages if "data_fraction" in stage), 1.0)
        kd = MiniKD(
            self._workload,
            self.lineage.student,
            recipe,
            Fidelity(epochs=0, data_fraction=fraction, seed=seed),
            basis=self._basis,
        )
        model: nn.Module = kd.export()
        return model

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        own = resolve_recipe(self.lineage.recipe)
        if own.embeddings == "random":
            own = replace(own, embeddings=Recipe.embeddings)
        return {EMBEDDINGS: replace(own, layers="random"), CLOSED_FORMS: own}

    @cached_property
    def _basis(self) -> EmbeddingBasis:
        return embedding_basis(self._workload, self._recipes[EMBEDDINGS].embeddings)

    @cached_property
    def _workload(self) -> Workload:
        lineage = self.lineage
        teacher = load_teacher(lineage.teacher, device=str(resolve_device(self.device)))
        recipe = resolve_recipe(lineage.recipe)
        workload, text = open_workload(teacher, lineage.corpus, recipe, cache_dir=self.cache_dir)
        lineage.check_teacher(teacher.fingerprint)
        lineage.check_corpus(text)
        return workload
