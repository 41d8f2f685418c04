"""Checkpoints that have a classification head for the labels of a task, which are used without training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdnas_env.distillation.teacher.loading import Teacher, locate
from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.finetuning import predict
from kdnas_env.tasks.heads import NativeHead, load_classifier
from kdnas_env.tasks.scores import OWN_HEAD, TaskScore, score_predictions
from kdnas_env.tasks.specs import TaskData, TaskSpec


def own_head(teacher: Teacher, spec: TaskSpec) -> nn.Module | None:
    """Return a teacher with the classification head of its checkpoint, with outputs in the order of the task's classes.

    It is None if the checkpoint has no such head, or its labels are not the task's. Labels without names (``LABEL_0``)
    match classes that are numbers.
    """
    from transformers import AutoConfig

    if not any(name.partition(".")[0] in ("classifier", "score") for name in teacher.left_out):
        return None
    folder = str(locate(teacher.name))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    order = _fitting(config, spec)
    if order is None:
        return None
    model = load_classifier(folder)
    return None if model is None else _OwnHead(model, order, spec)


def score_own_head(model: Teacher, task: TaskData, seed: int = 0, *, device: str | None = None) -> TaskScore:
    """Score a checkpoint with its own head, without training.

    Args:
        model: The checkpoint.
        task: The task.
        seed: Seed to record with the score; nothing is random.
        device: Device to run the model on.

    Raises:
        KDNASError: If the checkpoint has no head for the labels of the task, or the device cannot be used.
        DependencyError: If evaluate or scikit-learn is missing.
    """
    head = own_head(model, task.spec)
    if head is None:
        raise KDNASError(
            f"the head of {model.name!r} is not for the labels of the task {task.name!r}, "
            f"{list(task.spec.labels) or 'numbers'}; name the task that it was trained for"
        )
    began = time.perf_counter()
    head.to(resolve_device(device)).eval()
    with training_lock():
        predictions = {
            name: task.spec.decide(predict(head, model.tokenizer, split, model.tokenizer.model_max_length))
            for name, split in task.evaluation.items()
        }
    scored = score_predictions(task, predictions)
    return TaskScore(task.name, OWN_HEAD, seed, seconds=time.perf_counter() - began, **scored)


class _OwnHead(nn.Module):
    def __init__(self, model: nn.Module, order: Sequence[int], spec: TaskSpec) -> None:
        super().__init__()
        self.head, self.order, self.regression = NativeHead(model), list(order), spec.regression

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(input_ids, attention_mask, token_type_ids)
        return logits[:, 0] if self.regression else logits[:, self.order]


def _fitting(config: Any, spec: TaskSpec) -> list[int] | None:
    """Return the index of the head's output for each class of a task; None if the labels differ."""
    multi_label = config.problem_type == "multi_label_classification"
    if config.num_labels != spec.outputs or multi_label != spec.multi_label:
        return None
    if spec.regression:
        return [0]
    named = {str(name).lower().removeprefix("label_"): int(number) for number, name in config.id2label.items()}
    orders = ([named.get(label.lower(), -1) for label in labels] for labels in (spec.labels, spec.class_names))
    return next((order for order in orders if sorted(order) == list(range(spec.outputs))), None)
