"""Embedding students: their vectors of texts imitate those of the teacher, in the teacher's own dimension.

A student is a model of Sentence Transformers: encoder, mean over the tokens, a linear head to the width of the
teacher's vectors, unit length. The head is solved in closed form; then all is trained on the cosine with the teacher's
vectors.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnas_env.distillation.teacher.loading import Teacher, locate
from kdnas_env.distillation.training.projection import Moments
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.support.arrays import Floats32
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.libraries import quiet_transformers
from kdnas_env.support.progress import SILENT, OnProgress
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.support.settings import Settings
from kdnas_env.tasks.encoding import encode, resolve_device
from kdnas_env.tasks.finetuning import default_learning_rate
from kdnas_env.tasks.kept_tensors import kept_tensors, key_of
from kdnas_env.tasks.specs import Split
from kdnas_env.tasks.teacher import TaskTeacher
from kdnas_env.tasks.training import Plan, set_dropout, train
from kdnas_env.tasks.vector_scores import NEAREST, EmbeddingScore, score_vectors, spearman

_MODULES = "modules.json"
_RIDGE = 1e-3
_SOLVED_ON = 8192
_BATCH = 64


@dataclass(frozen=True)
class EmbeddingSettings(Settings):
    """How an embedding student is trained.

    Attributes:
        epochs: Passes over the text; 0 for the head in closed form alone.
        batch_size: Texts per step.
        learning_rate: Peak learning rate of AdamW; None for
            :func:`kdnas_env.tasks.finetuning.default_learning_rate`.
        warmup_fraction: Share of the steps over which it rises.
        weight_decay: Of all but biases and norms.
        max_length: Longest text in tokens; longer ones are cut.
        heldout: Texts that are held out to choose the epoch, and as many others to score; of few texts a tenth, but no
            fewer than 40.
        patience: Epochs without improvement after which the training ends.

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


@dataclass(frozen=True, eq=False)
class EmbeddingTeacher:
    """A frozen model that makes vectors of texts.

    Attributes:
        model: A ``SentenceTransformer``.
        name: Name of the teacher.
        fingerprint: SHA-256 (hex) of what decides its vectors.
    """

    model: Any
    name: str
    fingerprint: str

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.model.get_embedding_dimension())

    def vectors(self, texts: Sequence[str], cache_dir: str | os.PathLike[str] | None = None) -> Floats32:
        """Return unit vectors of texts, float32 ``(texts, width)``; computed once and kept."""

        def make() -> tuple[dict[str, Tensor], None]:
            with training_lock():
                return {"vectors": torch.from_numpy(vectors(self.model, texts))}, None

        tensors, _ = kept_tensors(f"vectors-{key_of([self.fingerprint, list(texts)])[:32]}", make, cache_dir)
        return tensors["vectors"].numpy()


def embedding_teacher(teacher: Teacher, max_length: int | None = None) -> EmbeddingTeacher:
    """Return what makes vectors of a teacher: what its files for Sentence Transformers say, else the mean over tokens.

    Args:
        teacher: The teacher.
        max_length: Longest text in tokens; None for what the teacher says.

    Raises:
        DependencyError: If sentence-transformers is not installed.
    """
    st, modules = _library()
    folder = locate(teacher.name)
    with quiet_transformers(), preserved_rng():
        if (folder / _MODULES).exists():
            model = st.SentenceTransformer(str(folder), device=str(teacher.device), local_files_only=True)
        else:
            width = teacher.architecture.hidden_size
            parts = [modules.Transformer(str(folder)), modules.Pooling(width, "mean"), modules.Normalize()]
            model = st.SentenceTransformer(modules=parts, device=str(teacher.device))
    model.requires_grad_(False).eval()
    own = model.max_seq_length or teacher.tokenizer.model_max_length
    model.max_seq_length = min(own, max_length or own, teacher.tokenizer.model_max_length)
    layout = [repr(module) for module in list(model)[1:]]
    fingerprint = key_of([teacher.fingerprint, layout, model.max_seq_length])
    return EmbeddingTeacher(model, teacher.name, fingerprint)


def vector_teacher(teacher: Teacher) -> TaskTeacher:
    """Return what makes vectors of a teacher as the teacher of a task, whose soft labels are unit vectors.

    They are those of texts without a prompt, as long as the corpus has them.

    Raises:
        DependencyError: If sentence-transformers is not installed.
    """
    made = embedding_teacher(teacher)
    members = (_UnitVectors(made.model),)
    return TaskTeacher(
        members, teacher.tokenizer, made.model.max_seq_length, made.fingerprint, {"head": "none"}, teacher.name
    )


def open_embedder(folder: str | os.PathLike[str]) -> Any:
    """Load an embedding student as a ``SentenceTransformer`` on the CPU, running no code of its folder.

    Raises:
        DependencyError: If sentence-transformers is not installed.
    """
    st, _ = _library()
    with quiet_transformers(), preserved_rng():
        return st.SentenceTransformer(os.fspath(folder), device="cpu", local_files_only=True).eval()


class _UnitVectors(nn.Module):
    """A ``SentenceTransformer`` as a function of the inputs of its encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, **inputs: Tensor) -> Tensor:
        """Return unit vectors, float32 ``(batch, width)``."""
        return nn.functional.normalize(self.model(inputs)["sentence_embedding"].float(), dim=1)


class SentenceVectors(nn.Module):
    """An embedding student as a function of the inputs of its encoder, as graphs have it.

    Args:
        encoder: Its encoder, as transformers has it.
        model: The ``SentenceTransformer``.
    """

    def __init__(self, encoder: nn.Module, model: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.after = nn.ModuleList(list(model)[1:])
        self.eval()

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors ``(batch, width)``, and the encoder's states ``(batch, length, hidden_size)``."""
        states: Tensor = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        features = {"token_embeddings": states, "attention_mask": attention_mask}
        for module in self.after:
            features = module(features)
        return features["sentence_embedding"], states


def vectors(model: Any, texts: Sequence[str]) -> Floats32:
    """Return unit vectors of texts by a ``SentenceTransformer``, float32 ``(texts, width)``."""
    made = model.encode(
        list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(made, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class EmbeddingDistillation:
    """A student that learnt to embed texts.

    Attributes:
        model: A ``SentenceTransformer``, in eval mode.
        score: How its vectors compare with the teacher's.
        closed_form: The same of the head in closed form alone, before the training; the student is left so if no epoch
            is better.
        curve: Of every epoch the mean training loss, and of the texts that choose the epoch the mean cosine and 1 less
            Spearman's correlation.
        texts: Texts that it was trained on.
        seconds: Seconds that it took.
        heldout: Texts that it was scored on.
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
    on_progress: OnProgress = SILENT.advance,
) -> EmbeddingDistillation:
    """Have a student imitate the vectors of its teacher.

    Args:
        student: The student's encoder, loaded from its folder; it does not change.
        teacher: What makes the vectors.
        texts: Texts without labels; repeated ones count once.
        settings: How; the defaults by default.
        seed: Seed of the held-out texts, dropout, and the order of the texts.
        device: Where to train; None for a GPU if there is one.
        checkpoints: Folder for a checkpoint an epoch, of this training alone: when it was killed it goes on from there.
            None to keep none.
        cache_dir: Where the teacher's vectors are kept; None for the default.
        on_progress: Called after every step.

    Raises:
        FloatingPointError: If the loss is not finite.
        KDNASError: If there is too little text, or the device cannot be used.
        RunError: If a checkpoint cannot be written or read.
        DependencyError: If sentence-transformers is not installed.
    """
    settings = settings or EmbeddingSettings()
    began = time.perf_counter()
    scored, choosing, training = split_texts(texts, settings, seed)
    taught, wanted, chosen_by = (teacher.vectors(part, cache_dir) for part in (training, scored, choosing))
    where = resolve_device(device)
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
        trained = train(learner, examples, pad_token, plan, checkpoints, on_progress, validate)
        if before["loss"] <= min(validation["loss"] for validation in trained.validations):
            model.load_state_dict(start)  # Too few texts to train on can only make it worse.
        curve = tuple(
            {"epoch": epoch, "train_loss": loss, **validation}
            for epoch, (loss, validation) in enumerate(zip(trained.losses, trained.validations, strict=True), start=1)
        )
    model.eval().requires_grad_(False).to("cpu")
    with training_lock():
        score = score_vectors(vectors(model, scored), wanted, seed)
    seconds = time.perf_counter() - began
    return EmbeddingDistillation(model, score, closed_form, curve, len(training), seconds, tuple(scored))


def split_texts(texts: Sequence[str], settings: EmbeddingSettings, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Return texts to score, to choose the epoch by, and to train on.

    Args:
        texts: Texts; repeated ones count once.
        settings: How many are held out.
        seed: Seed of the draw.

    Raises:
        KDNASError: If there are too few.
    """
    distinct = sorted({text.strip() for text in texts} - {""})
    held = min(settings.heldout, max(4 * NEAREST, len(distinct) // 10))
    if len(distinct) < 3 * held:
        raise KDNASError(
            f"there are {len(distinct)} distinct texts; expected at least {3 * held}, of which {2 * held} are held "
            "out; give more text"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    scored, choosing, training = ([distinct[place] for place in part] for part in np.split(order, [held, 2 * held]))
    return scored, choosing, training


class _Imitation(nn.Module):
    """A ``SentenceTransformer`` with its objective: 1 less the cosine with the teacher's vector."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        set_dropout(model, 0.0)  # The teacher's vectors have no noise that the student could overfit to.

    def forward(self, soft_labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        made = self.model(inputs)["sentence_embedding"]
        return {"loss": (1 - nn.functional.cosine_similarity(made, soft_labels)).mean()}


def _embedder(student: Teacher, teacher: EmbeddingTeacher, settings: EmbeddingSettings) -> Any:
    """Return a student with an untrained head."""
    st, modules = _library()
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
    st, _ = _library()
    pooled = st.SentenceTransformer(modules=list(model)[:2], device=str(model.device)).eval()
    states = torch.from_numpy(
        np.asarray(pooled.encode(list(texts), batch_size=_BATCH, show_progress_bar=False), dtype=np.float32)
    )
    moments = Moments()
    moments.add(states, torch.from_numpy(taught))
    fit = moments.solve(_RIDGE)
    head = model[2].linear
    head.weight.copy_(fit.weight.T)
    head.bias.copy_(fit.bias)


def _library() -> tuple[Any, Any]:
    try:
        import sentence_transformers
        from sentence_transformers.sentence_transformer import modules
    except ImportError as error:
        raise DependencyError(
            f'embedding students need the extra embedding ({error}); install it with pip install "kdnas[embedding]"'
        ) from error
    return sentence_transformers, modules
