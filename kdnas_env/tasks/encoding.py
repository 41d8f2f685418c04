"""Tokenising texts, batching, and pooling of states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdnas_env.core.shapes import customary_values
from kdnas_env.errors import KDNASError, one_line
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.tasks.specs import Split

POOLINGS = ("mean", "cls")

_PREDICTING_TOKENS = 4096

Example = dict[str, list[int]]


def resolve_device(name: str | None) -> torch.device:
    """Return the device to run models on; by default the first GPU, or the CPU if there is none.

    Raises:
        KDNASError: If there is no such device, or it is a GPU other than the first.
    """
    try:
        device = torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        raise KDNASError(f"device {name!r} cannot be used: {one_line(error)}; try 'cpu'") from error
    if device.index not in (None, 0):
        raise KDNASError(f"device {name!r} is not the first GPU; choose it with CUDA_VISIBLE_DEVICES, and name 'cuda'")
    return device


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return the SHA-256 (hex) of a fast tokenizer's rules, so that equal ones give equal tokens."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # depend on the last call, not on the tokenizer
        content.pop(name, None)
    return fingerprint_of(content)


def encode(tokenizer: Any, split: Split, max_length: int) -> list[Example]:
    """Tokenise a split. Sentence pairs become one sequence, with segment ids if the model uses them.

    Args:
        tokenizer: A fast tokenizer.
        split: Texts.
        max_length: Maximum sequence length in tokens; longer ones are truncated, also to the tokenizer's own limit.

    Returns:
        The model's inputs for each sample, not padded.

    Raises:
        KDNASError: If ``max_length`` leaves no room for text.
    """
    longest = min(max_length, tokenizer.model_max_length)
    special = tokenizer.num_special_tokens_to_add(pair=len(split.texts) == 2)
    if longest < special + len(split.texts):
        raise KDNASError(
            f"max_length is {longest}, which leaves no room for text beside {special} special tokens; give at least "
            f"{special + len(split.texts)}"
        )
    encoded = tokenizer(
        *(list(column) for column in split.texts),
        truncation=True,
        max_length=longest,
        padding=False,
        return_attention_mask=True,
    )
    return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]


def pad(examples: Sequence[Mapping[str, Sequence[int]]], pad_token_id: int) -> dict[str, Tensor]:
    """Stack samples into int64 tensors ``(samples, longest)``."""
    longest = max(len(example["input_ids"]) for example in examples)
    batch = {}
    for name in examples[0]:
        filler = pad_token_id if name == "input_ids" else 0
        array = np.full((len(examples), longest), filler, dtype=np.int64)
        for row, example in zip(array, examples, strict=True):
            row[: len(example[name])] = example[name]
        batch[name] = torch.from_numpy(array)
    return batch


class PooledEncoder(nn.Module):
    """An encoder whose states are pooled to one vector per sequence.

    Args:
        encoder: Encoder of transformers.
        pooling: ``mean`` over the tokens without padding, or ``cls`` for the first token.

    Raises:
        KDNASError: If there is no such pooling.
    """

    def __init__(self, encoder: nn.Module, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise KDNASError(f"unknown pooling {pooling!r}; choose from {list(POOLINGS)}")
        self.encoder, self.pooling = encoder, pooling

    @property
    def width(self) -> int:
        """Width of a pooled vector."""
        return int(customary_values(self.encoder.config)["hidden_size"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the pooled states, ``(batch, width)``."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        real = attention_mask[:, :, None].to(states.dtype)
        return (states * real).sum(1) / real.sum(1)


def outputs(model: nn.Module, examples: Sequence[Example], pad_token_id: int, device: torch.device) -> Tensor:
    """Return a model's output for each sample, in the original order, on the CPU: ``(samples, ...)``.

    This sets the model to eval mode and runs it on batches of samples of similar length.
    """
    batches = list(batches_of(examples))
    values = batch_outputs(model, examples, batches, pad_token_id, device)
    results = torch.empty_like(values)
    results[torch.from_numpy(np.concatenate(batches))] = values
    return results


@torch.inference_mode()
def batch_outputs(
    model: nn.Module,
    examples: Sequence[Example],
    batches: Sequence[NDArray[np.int64]],
    pad_token_id: int,
    device: torch.device,
) -> Tensor:
    """Return a model's output for several batches of samples, concatenated, on the CPU: ``(samples, ...)``."""
    model.eval()
    values = []
    for samples in batches:
        batch = pad([examples[index] for index in samples], pad_token_id)
        values.append(model(**{name: tensor.to(device) for name, tensor in batch.items()}).float().cpu())
    return torch.cat(values)


def batches_of(examples: Sequence[Example]) -> Iterator[NDArray[np.int64]]:
    """Yield batches of sample indices, shortest samples first; the number of tokens per padded batch is bounded."""
    lengths = np.array([len(example["input_ids"]) for example in examples])
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * lengths[order[end]] <= _PREDICTING_TOKENS:
            end += 1
        yield order[start:end]
        start = end
