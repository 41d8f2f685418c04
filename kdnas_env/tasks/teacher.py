"""The teacher of a task: a checkpoint with a matching head, or a fine-tuned encoder; and its soft labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdnas_env.core.evaluation import Status
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.distillation.training.resuming import report_resumption
from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import SILENT, OnProgress, Progress
from kdnas_env.support.settings import Settings
from kdnas_env.tasks.classifier import Classifier
from kdnas_env.tasks.encoding import Example, encode, resolve_device, tokenizer_fingerprint
from kdnas_env.tasks.finetuning import FinetuneSettings, default_epochs, default_learning_rate, fit, predict
from kdnas_env.tasks.labelling import corpus_examples, mean_outputs
from kdnas_env.tasks.own_heads import own_head
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.splits import choosing_splits
from kdnas_env.tasks.tensor_cache import (
    Tensors,
    cached_tensors,
    drop_tensors,
    drop_unfinished,
    unfinished_folder,
)

FORMAT_VERSION = 2

TASK_TEACHER = "task teacher"
"""Name of the step that makes the teacher of the task."""

FITTING = "fine-tuning the teacher"
"""Beginning of the names of the pieces of work that fine-tune a teacher."""


@dataclass(frozen=True)
class TeacherSettings(Settings):
    """Settings of the teacher of a task.

    Attributes:
        teachers: Number of fine-tuned teachers, each with its own seed; their logits are averaged.
        rates: Peak learning rates to try, as multiples of that of ``finetuning``; the best on the split of
            :func:`kdnas_env.tasks.splits.choosing_splits` is used.
        finetuning: All other settings.
        seed: Seed of the first teacher.

    Raises:
        KDNASError: If a value is out of range.
    """

    teachers: int = 1
    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    finetuning: FinetuneSettings = field(default_factory=FinetuneSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("teachers", at_least=1)
        self.check_numbers("seed", at_least=0)
        if not self.rates or any(not rate > 0 for rate in self.rates):
            raise KDNASError(f"rates is {self.rates}; expected one or more numbers above 0")


@dataclass(frozen=True, eq=False)
class TaskTeacher:
    """A teacher of a task.

    Attributes:
        members: Models that return logits ``(batch, classes)`` or numbers ``(batch,)``; the teacher's output is their
            mean.
        tokenizer: Their tokenizer.
        max_length: Maximum sequence length in tokens.
        fingerprint: SHA-256 (hex) of everything that determines its logits.
        record: How it was made: settings, tried learning rates, and scores on the selection split.
        name: Name of the encoder that it was made from.
    """

    members: tuple[nn.Module, ...]
    tokenizer: Any
    max_length: int
    fingerprint: str
    record: dict[str, Any]
    name: str

    def logits(self, texts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Return the logits ``(samples, classes)`` or numbers ``(samples,)`` for texts, one list per column."""
        split = Split(tuple(texts), np.zeros(len(texts[0])))
        return self._outputs(encode(self.tokenizer, split, self.max_length))

    def soft_labels(
        self,
        texts: Sequence[Sequence[str]],
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        on_progress: OnProgress = SILENT.advance,
    ) -> NDArray[np.float32]:
        """Return :meth:`logits`, computed once, cached by fingerprint, and memory-mapped.

        An interrupted labelling resumes.

        Args:
            texts: Texts, one list per column.
            cache_dir: Cache folder; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
            on_progress: Called with the number of finished texts, unless the labels were cached.
        """
        digest = hashlib.sha256()
        for column in texts:
            digest.update(json.dumps(list(column)).encode())
        split = Split(tuple(texts), np.zeros(len(texts[0])))
        return self._cached_outputs(
            digest.hexdigest(), lambda: encode(self.tokenizer, split, self.max_length), cache_dir, on_progress
        )

    def corpus_soft_labels(
        self,
        corpus: Corpus,
        samples: NDArray[np.int64],
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        on_progress: OnProgress = SILENT.advance,
    ) -> NDArray[np.float32]:
        """Return the logits or numbers for some samples of a tokenised corpus; see :meth:`soft_labels`."""
        digest = hashlib.sha256(f"{corpus.fingerprint} {samples.tolist()}".encode())
        return self._cached_outputs(
            digest.hexdigest(), lambda: corpus_examples(corpus, samples), cache_dir, on_progress
        )

    def _outputs(
        self,
        examples: Sequence[Example],
        unfinished: Path | None = None,
        on_progress: OnProgress = SILENT.advance,
    ) -> NDArray[np.float32]:
        padding = self.tokenizer.pad_token_id
        return mean_outputs(self.members, examples, padding, unfinished=unfinished, on_progress=on_progress)

    def _cached_outputs(
        self,
        content: str,
        examples: Callable[[], Sequence[Example]],
        cache_dir: str | os.PathLike[str] | None,
        on_progress: OnProgress,
    ) -> NDArray[np.float32]:
        name = f"soft-labels-{fingerprint_of([FORMAT_VERSION, self.fingerprint, content])[:32]}"

        def make() -> tuple[Tensors, Any]:
            outputs = self._outputs(examples(), unfinished_folder(name, cache_dir), on_progress)
            return {"logits": torch.from_numpy(outputs)}, {}

        soft: NDArray[np.float32] = cached_tensors(name, make, cache_dir)[0]["logits"].numpy()
        drop_unfinished(name, cache_dir)
        return soft


def task_teacher(
    teacher: Teacher,
    task: TaskData,
    settings: TeacherSettings | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> TaskTeacher:
    """Return the teacher of a task.

    If only one teacher is requested and its checkpoint has a classification head for the task's labels, it is used
    unchanged. Otherwise the encoder is fine-tuned once, and the result is cached by fingerprint. With several
    fine-tunings, each is cached until all are done. A killed fine-tuning resumes after its last complete epoch; on the
    CPU the result is identical. No scored split is used for any choice.

    Args:
        teacher: The teacher.
        task: The task.
        settings: Settings; None for the defaults.
        cache_dir: Cache folder; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
        progress: Receives the steps of fine-tuning.

    Raises:
        FloatingPointError: If it diverges at every learning rate.
        KDNASError: If no text fits, or the device cannot be used.
        DependencyError: If evaluate or scikit-learn is missing.
    """
    settings = settings or TeacherSettings()
    device = resolve_device(settings.finetuning.device)
    max_length = settings.finetuning.max_length
    head = own_head(teacher, task.spec) if settings.teachers == 1 else None
    if head is not None:
        weights = {name: tensor.numpy().tobytes() for name, tensor in sorted(head.state_dict().items())}
        digest = hashlib.sha256(b"".join(name.encode() + value for name, value in weights.items())).hexdigest()
        shape = [task.spec.kind, task.spec.labels]  # which output is which class
        identity = [FORMAT_VERSION, digest, shape, max_length, tokenizer_fingerprint(teacher.tokenizer)]
        own = (head.to(device).eval(),)
        return TaskTeacher(own, teacher.tokenizer, max_length, fingerprint_of(identity), {"head": "own"}, teacher.name)
    identity = [
        *(FORMAT_VERSION, teacher.fingerprint, tokenizer_fingerprint(teacher.tokenizer), task.fingerprint),
        *(task.spec.kind, task.spec.labels, task.spec.scored, task.spec.metrics),
        {**asdict(settings), "finetuning": {**asdict(settings.finetuning), "device": device.type}},
    ]
    key = fingerprint_of(identity)
    name = _cache_name(key)

    def tuned(rate: float, seed: int) -> tuple[Tensors, dict[str, Any]]:
        fit_name, finetuning = f"{name}-{rate!r}-{seed}", settings.finetuning.changed({"learning_rate": rate})

        def make() -> tuple[Tensors, dict[str, Any]]:
            return _finetune_once(teacher, task, finetuning, seed, unfinished_folder(fit_name, cache_dir), progress)

        fitted: tuple[Tensors, dict[str, Any]] = cached_tensors(fit_name, make, cache_dir)
        drop_unfinished(fit_name, cache_dir)
        return fitted

    tensors, record = cached_tensors(name, lambda: _finetuned(teacher, task, settings, tuned), cache_dir)
    progress.end()
    drop_tensors(f"{name}-", cache_dir)
    return _restored(teacher, task, settings, tensors, record, key)


def cached_task_teacher(
    teacher: Teacher,
    task: TaskData,
    fingerprint: str,
    max_length: int,
    *,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> TaskTeacher:
    """Return the cached teacher that a classifier was distilled from, without training.

    Args:
        teacher: The encoder that it was made from, or the checkpoint whose own head it uses.
        task: The task.
        fingerprint: Fingerprint of the task's teacher, from the record of the classifier.
        max_length: Maximum sequence length in tokens.
        device: Device to run it on.
        cache_dir: See :func:`task_teacher`.

    Raises:
        KDNASError: If it is no longer cached, or the device cannot be used.
    """
    settings = TeacherSettings(finetuning=FinetuneSettings(max_length=max_length, device=device))
    if own_head(teacher, task.spec) is not None:
        own = task_teacher(teacher, task, settings)
        if own.fingerprint == fingerprint:
            return own

    def missing() -> tuple[Tensors, Any]:
        raise KDNASError(
            f"the teacher that the classifier of {task.name!r} was distilled from is not cached (fingerprint "
            f"{fingerprint[:12]}...); name its cache folder with `cache_dir`, or distil the classifier again"
        )

    weights, record = cached_tensors(_cache_name(fingerprint), missing, cache_dir)
    return _restored(teacher, task, settings, weights, record, fingerprint)


def _finetuned(
    teacher: Teacher,
    task: TaskData,
    settings: TeacherSettings,
    tuned: Callable[[float, int], tuple[Tensors, dict[str, Any]]],
) -> tuple[Tensors, dict[str, Any]]:
    """Fine-tune with each learning rate, then with further seeds at the best; return all weights, and a record.

    Args:
        teacher: The encoder.
        task: The task.
        settings: Learning rates and seeds.
        tuned: :func:`_finetune_once` for a rate and a seed.
    """
    base = settings.finetuning.learning_rate or default_learning_rate(teacher.architecture.hidden_size)
    tried = [tuned(multiple * base, settings.seed) for multiple in settings.rates]
    trained = [fitted for fitted in tried if "score" in fitted[1]]
    if not trained:
        raise FloatingPointError(f"the teacher diverges on {task.name!r} at every learning rate; lower it")
    best = max(trained, key=lambda fitted: fitted[1]["score"])
    members = [best]
    for number in range(1, settings.teachers):
        fitted = tuned(best[1]["learning_rate"], settings.seed + number)
        if "score" not in fitted[1]:
            raise FloatingPointError(f"teacher {number + 1} diverges on {task.name!r}; lower the learning rate")
        members.append(fitted)
    weights = {
        f"{number}.{name}": tensor for number, (member, _) in enumerate(members) for name, tensor in member.items()
    }
    training, choosing = choosing_splits(task)
    record = {"head": "fine-tuned", "chosen": best[1], "tried": [record for _, record in (*tried, *members[1:])]}
    return weights, {**record, "chosen_on": len(choosing), "train_samples": len(training.train)}


def _finetune_once(
    teacher: Teacher,
    task: TaskData,
    settings: FinetuneSettings,
    seed: int,
    checkpoints: Path | None,
    progress: Progress,
) -> tuple[Tensors, dict[str, Any]]:
    """Fine-tune once; return the weights, and a record with the score. If it diverges, there are neither."""
    training, choosing = choosing_splits(task)
    metric, spec, rate = task_metric(task.spec), task.spec, settings.learning_rate
    progress.begin(f"{FITTING} on {task.name}, learning rate {rate:g}, seed {seed}")
    if checkpoints is not None:
        report_resumption(checkpoints, progress)
    epochs = settings.epochs or default_epochs(task.name)
    record: dict[str, Any] = {"learning_rate": rate, "epochs": epochs, "seed": seed}
    try:
        fitted = fit(
            teacher.model,
            teacher.tokenizer,
            training,
            settings,
            seed,
            checkpoints=checkpoints,
            on_progress=progress.advance,
        )
        with training_lock():
            logits = predict(fitted.model, teacher.tokenizer, choosing, settings.max_length)
    except FloatingPointError as error:
        return {}, {**record, "status": str(Status.DIVERGED), "error": str(error)}
    values = metric.compute(predictions=spec.decide(logits), references=choosing.labels)
    score = float(np.mean([values[name] for name in spec.metrics]))
    return fitted.model.state_dict(), {**record, "score": score, "train_loss": fitted.details["train_loss"]}


def _cache_name(fingerprint: str) -> str:
    return f"task-teacher-{fingerprint[:32]}"


def _restored(
    teacher: Teacher,
    task: TaskData,
    settings: TeacherSettings,
    weights: Tensors,
    record: dict[str, Any],
    fingerprint: str,
) -> TaskTeacher:
    """Return a fine-tuned teacher from its cached weights."""
    device, count = resolve_device(settings.finetuning.device), len({name.partition(".")[0] for name in weights})
    members = tuple(_member(teacher, task, settings, weights, number).to(device) for number in range(count))
    return TaskTeacher(members, teacher.tokenizer, settings.finetuning.max_length, fingerprint, record, teacher.name)


def _member(teacher: Teacher, task: TaskData, settings: TeacherSettings, weights: Tensors, number: int) -> Classifier:
    model = settings.finetuning.classifier(teacher.model, task, settings.seed)
    prefix = f"{number}."
    model.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)})
    return model.requires_grad_(False).eval()
