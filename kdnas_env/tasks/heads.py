"""Encoders with a head: the head of the encoder's family in transformers, or a linear head on pooled states."""

from __future__ import annotations

import copy
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdnas_env.distillation.checkpoint import POOLER
from kdnas_env.errors import KDNASError
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.tasks.encoding import POOLINGS, PooledEncoder
from kdnas_env.tasks.specs import CLASSIFICATION, MULTI_LABEL, REGRESSION, TaskSpec

NATIVE = "native"
HEADS = (*POOLINGS, NATIVE)
"""Types of heads: a linear head on states pooled in one of two ways, or the head of the encoder's family."""

NUMBER = "score"
"""Name of the output of a regression head."""

PROBLEM_TYPES = {
    CLASSIFICATION: "single_label_classification",
    MULTI_LABEL: "multi_label_classification",
    REGRESSION: "regression",
}
"""Problem types of transformers for the kinds of tasks."""

_INITIAL_RANGE = 0.02


class _Layout(NamedTuple):
    """Names of the hidden and the output layer of a family's head, and of the configuration field of its dropout."""

    hidden: str
    output: str
    dropout: str = "classifier_dropout"


_ROBERTA = _Layout("classifier.dense", "classifier.out_proj")
_LAYOUTS = {
    "bert": _Layout("bert.pooler.dense", "classifier"),
    "albert": _Layout("albert.pooler", "classifier", "classifier_dropout_prob"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "ernie": _Layout("ernie.pooler.dense", "classifier"),
    "electra": _ROBERTA,
    "distilbert": _Layout("pre_classifier", "classifier", "seq_classif_dropout"),
}


class PooledHead(nn.Module):
    """A copy of an encoder with pooling, dropout, and a linear layer.

    Args:
        encoder: Encoder of transformers.
        spec: The task.
        pooling: One of :data:`kdnas_env.tasks.encoding.POOLINGS`.
        dropout: Dropout of the pooled states.
        seed: Seed of the linear layer.
    """

    def __init__(self, encoder: nn.Module, spec: TaskSpec, pooling: str, dropout: float, seed: int) -> None:
        super().__init__()
        self.pooled = PooledEncoder(copy.deepcopy(encoder).requires_grad_(True), pooling)
        self.dropout = nn.Dropout(dropout)
        with preserved_rng():
            self.output = nn.Linear(self.pooled.width, spec.outputs)
        _initialise(self.output, seed)

    @property
    def width(self) -> int:
        """Width of the encoder."""
        return self.pooled.width

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the outputs, ``(batch, outputs)``."""
        values: Tensor = self.output(self.dropout(self.pooled(input_ids, attention_mask, token_type_ids)))
        return values


class NativeHead(nn.Module):
    """An encoder with the head of its family in transformers.

    Args:
        model: A model made by ``AutoModelForSequenceClassification``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def width(self) -> int:
        """Width of the encoder."""
        return int(self.model.config.hidden_size)

    @property
    def output(self) -> nn.Linear:
        """The output layer."""
        layer: nn.Linear = self.model.get_submodule(_layout(self.model.config.model_type).output)
        return layer

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the outputs, ``(batch, outputs)``."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).logits
        return logits


def native_head(encoder: nn.Module, spec: TaskSpec, dropout: float, seed: int) -> NativeHead:
    """Return a copy of an encoder with a new head of its family.

    The hidden layer of the head starts as the identity, so that the head initially sees the encoder's state of the
    first token, passed only through the activation. The output layer is random.

    Args:
        encoder: Encoder of transformers.
        spec: The task, whose class names go into the model's configuration.
        dropout: Dropout of the head.
        seed: Seed of the output layer.

    Raises:
        KDNASError: If the head of the encoder's family is unknown, or the encoder has no layers.
    """
    from transformers import AutoModelForSequenceClassification

    source: Any = encoder
    if getattr(source.config, "num_hidden_layers", 1) == 0:
        raise KDNASError(
            "a student of 0 layers has no native classifier: the head reads the state of the first token, which is the "
            f"same for all texts; choose a pooling of {list(POOLINGS)}, or a student of 1 layer or more"
        )
    layout = _layout(source.config.model_type)
    labels = spec.class_names or (NUMBER,)
    config = copy.deepcopy(source.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = PROBLEM_TYPES[spec.kind]
    setattr(config, layout.dropout, dropout)
    with preserved_rng(), quiet_transformers():
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    # The pooler belongs to the head, so it keeps its new weights.
    own = {name: tensor for name, tensor in model.base_model.state_dict().items() if name.startswith(POOLER)}
    weights = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith(POOLER)}
    model.base_model.load_state_dict(own | weights)
    head = NativeHead(model)
    hidden = model.get_submodule(layout.hidden)
    with torch.no_grad():
        nn.init.eye_(hidden.weight)
        hidden.bias.zero_()
    _initialise(head.output, seed)
    return head


def load_classifier(folder: str | os.PathLike[str]) -> Any | None:
    """Load a model with a classification head, from safetensors only and without running its code.

    Args:
        folder: Folder in the hub's layout.

    Returns:
        The model of ``AutoModelForSequenceClassification``, float32, on the CPU, in eval mode, without gradients; None
        if weights of its head or encoder are missing.
    """
    from transformers import AutoModelForSequenceClassification

    with quiet_transformers():
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            os.fspath(folder),
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    return None if loading["missing_keys"] else model.requires_grad_(False).eval()


def _layout(model_type: str) -> _Layout:
    if model_type not in _LAYOUTS:
        raise KDNASError(
            f"the classification head of models of type {model_type!r} is not known to kdnas; known are "
            f"{list(_LAYOUTS)}; choose a pooling of {list(POOLINGS)}"
        )
    return _LAYOUTS[model_type]


def _initialise(layer: nn.Linear, seed: int) -> None:
    with torch.no_grad():
        layer.weight.normal_(0.0, _INITIAL_RANGE, generator=torch.Generator().manual_seed(seed))
        layer.bias.zero_()
