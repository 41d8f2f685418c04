"""A classifier and its training objective: labels, soft labels of a teacher, or both."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_number
from kdnas_env.tasks.heads import NativeHead, PooledHead
from kdnas_env.tasks.specs import MULTI_LABEL, REGRESSION, TaskData


@dataclass(frozen=True)
class Objective:
    """The objective of a training (Hinton et al. 2015, arXiv:1503.02531).

    The loss is a weighted mean of two losses. Against labels (weight ``label_weight``), it is the cross-entropy or, for
    numbers, the mean squared error. Against soft labels, it is the Kullback-Leibler divergence at a temperature, times
    the squared temperature (per class in multi-label tasks), or the mean squared error.

    Attributes:
        label_weight: Weight of the labels: 1 ignores the soft labels, 0 ignores the labels.
        temperature: Divisor of the logits.

    Raises:
        KDNASError: If a value is out of range.
    """

    label_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("label_weight", self.label_weight, at_least=0, at_most=1)
        check_number("temperature", self.temperature, above=0)


class Classifier(nn.Module):
    """An encoder with a head for a task; for regression, the head predicts standardised numbers.

    Args:
        network: Encoder and head.
        task: The task, whose training split gives the mean and standard deviation of the numbers.

    Attributes:
        network: Encoder and head.
        objective: The training objective; initially labels only.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, network: PooledHead | NativeHead, task: TaskData) -> None:
        super().__init__()
        self.kind, self.objective = task.spec.kind, Objective()
        self.network = network
        numbers = task.train.labels if self.kind == REGRESSION else None
        self.register_buffer("centre", torch.tensor(0.0 if numbers is None else float(numbers.mean())))
        self.register_buffer("scale", torch.tensor(1.0 if numbers is None else float(numbers.std()) or 1.0))

    def pretrained(self) -> Any:
        """Return a copy of the model for ``save_pretrained``: on the CPU, in eval mode, with outputs not standardised.

        Raises:
            KDNASError: If the head is not one of transformers.
        """
        if not isinstance(self.network, NativeHead):
            raise KDNASError(
                "transformers has no model with a linear head on pooled states; train with pooling='native'"
            )
        network = copy.deepcopy(self.network).cpu().eval()
        with torch.no_grad():
            network.output.weight.mul_(self.scale.cpu())
            network.output.bias.mul_(self.scale.cpu()).add_(self.centre.cpu())
        return network.model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        soft_labels: Tensor | None = None,
    ) -> Any:
        """Return logits ``(batch, classes)`` or numbers ``(batch,)``; with labels of either kind, the loss too."""
        values = self.network(input_ids, attention_mask, token_type_ids)
        predictions = values[:, 0] * self.scale + self.centre if self.kind == REGRESSION else values
        if labels is None and soft_labels is None:
            return predictions
        return {"loss": self.loss(predictions, labels, soft_labels), "logits": predictions}

    def loss(self, predictions: Tensor, labels: Tensor | None, soft_labels: Tensor | None) -> Tensor:
        """Return the mean loss of the predictions of :meth:`forward`.

        Args:
            predictions: Logits ``(batch, classes)`` or numbers ``(batch,)``.
            labels: Labels as in :class:`kdnas_env.tasks.specs.Split`; None to ignore them.
            soft_labels: The teacher's logits or numbers, shaped like ``predictions``; None to ignore them.
        """
        weight = self.objective.label_weight
        loss = predictions.new_zeros(())
        if weight > 0 and labels is not None:
            loss = loss + weight * self._from_labels(predictions, labels)
        if weight < 1 and soft_labels is not None:
            loss = loss + (1 - weight) * self._from_teacher(predictions, soft_labels.to(predictions.dtype))
        return loss

    def _from_labels(self, predictions: Tensor, labels: Tensor) -> Tensor:
        if self.kind == REGRESSION:
            return functional.mse_loss(predictions / self.scale, labels.to(predictions.dtype) / self.scale)
        if self.kind == MULTI_LABEL:
            return functional.binary_cross_entropy_with_logits(predictions, labels.to(predictions.dtype))
        return functional.cross_entropy(predictions, labels)

    def _from_teacher(self, predictions: Tensor, soft_labels: Tensor) -> Tensor:
        if self.kind == REGRESSION:
            return functional.mse_loss(predictions / self.scale, soft_labels / self.scale)
        temperature = self.objective.temperature
        own, taught = predictions / temperature, soft_labels / temperature
        if self.kind == MULTI_LABEL:
            probabilities = taught.sigmoid()
            cross_entropy, entropy = (
                functional.binary_cross_entropy_with_logits(logits, probabilities) for logits in (own, taught)
            )
            return (cross_entropy - entropy) * temperature**2
        divergence = functional.kl_div(
            own.log_softmax(-1), taught.log_softmax(-1), reduction="batchmean", log_target=True
        )
        return divergence * temperature**2
