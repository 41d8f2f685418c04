"""Embedding students: their text vectors imitate those of the teacher, with the same width.

A student is a model of Sentence Transformers: encoder, mean pooling, a linear head to the width of the teacher's
vectors, normalisation to unit length. The head is first solved in closed form. Then the whole model is trained on the
cosine with the teacher's vectors.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnas_env.distillation.teacher.loading import Teacher, locate
from kdnas_env.distillation.training.projection import Moments
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats32
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import SILENT, OnProgress, counting_on
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.support.settings import Settings
from kdnas_env.tasks.encoding import encode, resolve_device
from kdnas_env.tasks.finetuning import default_learning_rate
from kdnas_env.tasks.specs import Split
from kdnas_env.tasks.training import Plan, set_dropout, train
from kdnas_env.tasks.vector_scores import NEAREST, EmbeddingScore, score_vectors, spearman
from kdnas_env.tasks.vectors import BATCH_SIZE, EmbeddingTeacher, sentence_transformers_library, vectors

STAGES = SOLVING, TRAINING, SCORING = "closed form", "training", "scoring"
"""Stages after the teacher's vectors were computed."""

_RIDGE = 1e-3
_SOLVED_ON = 8192


@dataclass(frozen=True)
class EmbeddingSettings(Settings):
    """Settings of the training of an embedding student.

    Attributes:
        epochs: Passes over the text; 0 uses only the head in closed form.
        batch_size: Texts per step.
        learning_rate: Peak learning rate of AdamW; None for
            :func:`kdnas_env.tasks.finetuning.default_learning_rate`.
        warmup_fraction: Share of the steps over which the learning rate rises.
        weight_decay: Weight decay of all parameters except biases and norms.
        max_length: Maximum length of a text in tokens; longer ones are truncated.
        heldout: Number of texts held out to select the epoch, and again to score. For little text it is a tenth of it,
            but at least 40.
        patience: Epochs without improvement before the training stops.

    Raises:
        KDNASError: If a value is out of range.
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 128
    heldout: int = 500
    patience: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("epochs", at_least=0)
        self.check_numbers("batch_size", "max_length", "patience", at_least=1)
        self.check_numbers("heldout", at_least=4 * NEAREST)
        self.check_numbers("learning_rate", above=0)
        self.check_numbers("warmup_fraction", at_least=0, below=1)
        self.check_numbers("weight_decay", at_least=0)

    def held_out(self, texts: int) -> int:
        """Return how many texts are held out to select the epoch; the same number is scored."""
        return min(self.heldout, max(4 * NEAREST, texts // 10))


@dataclass(frozen=True, eq=False)
class EmbeddingDistillation:
    """A student that was trained to embed texts.

    Attributes:
        model: A ``SentenceTransformer``, in eval mode.
        score: Comparison of its vectors with the teacher's.
        closed_form: The same for the head in closed form, before the training. If no epoch is better, the student keeps
            this state.
        curve: For each epoch the mean training loss, and on the texts that select the epoch the mean cosine and 1 minus
            Spearman's correlation.
        texts: Number of training texts.
        seconds: Duration in seconds.
        heldout: The scored texts.
    """

    model: Any
    score: EmbeddingScore
    closed_form: EmbeddingScore
    curve: tuple[dict[str, float], ...]
    texts: int
    seconds: float
    heldout: tuple[str, ...]


def distil_embedder(
    student: Teacher,
    teacher: EmbeddingTeacher,
    texts: Sequence[str],
    settings: EmbeddingSettings | None = None,
    seed: int = 0,
    *,
    device: str | None = None,
    checkpoints: Path | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    on_vectors: OnProgress = SILENT.advance,
    on_stage: Callable[[str], object] = SILENT.begin,
    on_progress: OnProgress = SILENT.advance,
) -> EmbeddingDistillation:
    """Train a student to imitate the vectors of its teacher.

    Args:
        student: The student's encoder, loaded from its folder; it does not change.
        teacher: Computes the target vectors.
        texts: Texts without labels; duplicates count once.
        settings: Settings; None for the defaults.
        seed: Seed of the held-out texts, dropout, and the order of the texts.
        device: Device to train on; None for the first GPU, or the CPU if there is none.
        checkpoints: Folder for one checkpoint per epoch, used by this training only. A killed training resumes from it.
            None to save none.
        cache_dir: Cache folder of the teacher's vectors; None for the default.
        on_vectors: Called with the number of vectors that the teacher has computed, unless they were cached.
        on_stage: Called with the name of each stage, one of :data:`STAGES`, when it begins.
        on_progress: Called after each training step.

    Raises:
        FloatingPointError: If the loss is not finite.
        KDNASError: If there is too little text, or the device cannot be used.
        RunError: If a checkpoint cannot be written or read.
        DependencyError: If sentence-transformers is not installed.
    """
    settings = settings or EmbeddingSettings()
    began = time.perf_counter()
    scored, choosing, training = split_texts(texts, settings, seed)
    total, done, parts = len(training) + len(scored) + len(choosing), 0, []
    for part in (training, scored, choosing):
        parts.append(teacher.vectors(part, cache_dir, on_progress=counting_on(on_vectors, done, total)))
        done += len(part)
    taught, wanted, chosen_by = parts
    where = resolve_device(device)
    on_stage(SOLVING)
    model = _embedder(student, teacher, settings).to(where)
    with training_lock():
        _solve_head(model, training[:_SOLVED_ON], taught[:_SOLVED_ON])
        closed_form = score_vectors(vectors(model, scored), wanted, seed)
    curve: tuple[dict[str, float], ...] = ()
    if settings.epochs:
        rows = encode(student.tokenizer, Split((training,), np.zeros(len(training))), model.max_seq_length)
        examples = [{**row, "soft_labels": vector} for row, vector in zip(rows, taught, strict=True)]
        plan = Plan(
            learning_rate=settings.learning_rate or default_learning_rate(student.architecture.hidden_size),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            warmup_fraction=settings.warmup_fraction,
            weight_decay=settings.weight_decay,
            seed=seed,
            device=where,
            patience=settings.patience,
        )

        def validate() -> dict[str, float]:
            model.eval()
            made = vectors(model, choosing)
            correlation = spearman(made, chosen_by)
            return {"loss": 1 - correlation, "cosine": float((made * chosen_by).sum(axis=1).mean())}

        learner, pad_token = _Imitation(model), student.tokenizer.pad_token_id
        with training_lock():
            start, before = copy.deepcopy(model.state_dict()), validate()
        on_stage(TRAINING)
        trained = train(learner, examples, pad_token, plan, checkpoints, on_progress, validate)
        if before["loss"] <= min(validation["loss"] for validation in trained.validations):
            model.load_state_dict(start)  # With too few texts, training can only make it worse.
        curve = tuple(
            {"epoch": epoch, "train_loss": loss, **validation}
            for epoch, (loss, validation) in enumerate(zip(trained.losses, trained.validations, strict=True), start=1)
        )
    model.eval().requires_grad_(False).to("cpu")
    on_stage(SCORING)
    with training_lock():
        score = score_vectors(vectors(model, scored), wanted, seed)
    seconds = time.perf_counter() - began
    return EmbeddingDistillation(model, score, closed_form, curve, len(training), seconds, tuple(scored))


def split_texts(texts: Sequence[str], settings: EmbeddingSettings, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Split texts into those to score, to select the epoch, and to train on.

    Args:
        texts: Texts; duplicates count once.
        settings: Determines how many texts are held out.
        seed: Seed of the split.

    Raises:
        KDNASError: If there are too few.
    """
    distinct = sorted({text.strip() for text in texts} - {""})
    held = settings.held_out(len(distinct))
    if len(distinct) < 3 * held:
        raise KDNASError(
            f"there are {len(distinct)} distinct texts; expected at least {3 * held}, of which {2 * held} are held "
            "out; give more text"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    scored, choosing, training = ([distinct[place] for place in part] for part in np.split(order, [held, 2 * held]))
    return scored, choosing, training


class _Imitation(nn.Module):
    """A ``SentenceTransformer`` with its objective: 1 minus the cosine with the teacher's vector."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        set_dropout(model, 0.0)  # The teacher's vectors are exact, so the student cannot overfit to noise in them.

    def forward(self, soft_labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        made = self.model(inputs)["sentence_embedding"]
        return {"loss": (1 - nn.functional.cosine_similarity(made, soft_labels)).mean()}


def _embedder(student: Teacher, teacher: EmbeddingTeacher, settings: EmbeddingSettings) -> Any:
    """Return a student with an untrained head."""
    st, modules = sentence_transformers_library()
    longest = min(settings.max_length, student.tokenizer.model_max_length, teacher.model.max_seq_length)
    width = student.architecture.hidden_size
    with quiet_transformers(), preserved_rng():
        parts = [
            modules.Transformer(str(locate(student.name)), max_seq_length=longest),
            modules.Pooling(width, "mean"),
            modules.Dense(width, teacher.width, activation_function=nn.Identity()),
            modules.Normalize(),
        ]
        return st.SentenceTransformer(
            modules=parts,
            device="cpu",
            prompts=teacher.model.prompts,
            default_prompt_name=teacher.model.default_prompt_name,
            similarity_fn_name=teacher.model.similarity_fn_name,
        )


@torch.no_grad()
def _solve_head(model: Any, texts: Sequence[str], taught: Floats32) -> None:
    """Solve the linear head by ridge regression of the teacher's vectors on the student's mean states."""
    st, _ = sentence_transformers_library()
    pooled = st.SentenceTransformer(modules=list(model)[:2], device=str(model.device)).eval()
    states = torch.from_numpy(
        np.asarray(pooled.encode(list(texts), batch_size=BATCH_SIZE, show_progress_bar=False), dtype=np.float32)
    )
    moments = Moments()
    moments.add(states, torch.from_numpy(taught))
    fit = moments.solve(_RIDGE)
    head = model[2].linear
    head.weight.copy_(fit.weight.T)
    head.bias.copy_(fit.bias)
