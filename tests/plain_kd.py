"""Plain distillation, as a reference: transformers' own padded forward pass, whole vocabulary, masked losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.distillation.training.mapping import LayerPair
from kdnas_env.distillation.training.workload import Workload

Project = Callable[[Tensor, int], Tensor]


def tiny_student(family: str = "bert", **changes: Any) -> StudentConfig:
    """Two layers, 24 wide."""
    values: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 24,
        "intermediate_size": 40,
        "hidden_act": "gelu",
        "family": family,
    }
    return StudentConfig(**{**values, **changes})


def workload_of(teacher: Teacher, corpus: Corpus, directory: Path) -> Workload:
    # float32, so that cached states differ from the teacher's only by the order of sums.
    states = open_cache(teacher, corpus, directory, dtype="float32")
    return Workload(teacher, corpus, states, corpus.train, corpus.heldout, torch.device("cpu"))


def shake(model: torch.nn.Module, seed: int = 0, scale: float = 0.2) -> None:
    """Add noise to every parameter, so that none is 0 or 1 and no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def padded_forward(model: Any, workload: Workload, samples: NDArray[np.int64]) -> tuple[list[Tensor], Tensor]:
    """Return all hidden states ``(samples, longest, width)`` and the attention mask."""
    ids, mask, types = workload.corpus.padded(samples, workload.teacher.architecture.pad_token_id)
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if types is not None and getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.from_numpy(types)
    return list(model(**inputs, output_hidden_states=True).hidden_states), inputs["attention_mask"]


def teacher_forward(workload: Workload, samples: NDArray[np.int64]) -> list[Tensor]:
    with torch.no_grad():
        return padded_forward(workload.teacher.model, workload, samples)[0]


def hidden_state_loss(
    model: Any, workload: Workload, samples: NDArray[np.int64], pairs: Sequence[LayerPair], project: Project
) -> Tensor:
    """Mean squared error over real tokens, pairs and teacher dimensions."""
    ours, mask = padded_forward(model, workload, samples)
    theirs = teacher_forward(workload, samples)
    real = mask.bool()
    errors = []
    for index, pair in enumerate(pairs):
        target = torch.cat([theirs[layer] for layer in pair.teacher], dim=-1)[real]
        errors.append((project(ours[pair.student][real], index) - target).square().flatten())
    return torch.cat(errors).mean()


def relation_loss(
    model: Any, workload: Workload, samples: NDArray[np.int64], qkv: Callable[[Any], Sequence[Any]], heads: int
) -> Tensor:
    """MiniLMv2's loss, sequence by sequence, head by head and token by token.

    Args:
        qkv: Returns the query, key and value maps of a model's last layer.
    """
    ours, mask = padded_forward(model, workload, samples)
    theirs = teacher_forward(workload, samples)
    divergences = []
    for row in range(len(samples)):
        real = mask[row].bool()
        for student_map, teacher_map in zip(qkv(model), qkv(workload.teacher.model), strict=True):
            student_heads = student_map(ours[-2][row][real]).chunk(heads, dim=1)
            teacher_heads = teacher_map(theirs[-2][row][real]).chunk(heads, dim=1)
            for student_head, teacher_head in zip(student_heads, teacher_heads, strict=True):
                student_relation = (student_head @ student_head.T / student_head.shape[1] ** 0.5).softmax(dim=1)
                teacher_relation = (teacher_head @ teacher_head.T / teacher_head.shape[1] ** 0.5).softmax(dim=1)
                for ours_row, theirs_row in zip(student_relation, teacher_relation, strict=True):
                    divergences.append((theirs_row * (theirs_row / ours_row).log()).sum())
    # Summed over the three kinds, averaged over tokens and heads.
    return 3 * torch.stack(divergences).mean()
