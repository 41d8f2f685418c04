"""Whether an export computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.errors import ExportError

TOLERANCE = 1e-4
"""Largest deviation of a hidden state, absolute; of a logit as a share of the largest one where that is above 1."""

RELOADED_TOLERANCE = 1e-5
"""The same where weights are equal: how they are aligned in memory decides how sums are rounded."""

SHAPES = ((1, 1), (1, 7), (3, 16), (2, 128), (9, 5))
"""Batch sizes and lengths that are compared: 1, and larger ones than an export is traced with."""

Batch = dict[str, NDArray[np.int64]]
"""Inputs of an encoder by name, each ``(batch, length)``."""

Forward = Callable[[Batch], NDArray[np.float32]]
"""Maps inputs to last hidden states ``(batch, length, hidden_size)``, logits ``(batch, classes)``, or vectors
``(batch, width)``."""


@dataclass(frozen=True)
class Check:
    """A comparison that was passed.

    Attributes:
        max_abs_error: Largest absolute deviation of a hidden state of a real token, a logit, or a vector's component.
        tolerance: Largest one allowed.
        shapes: Batches and lengths that were compared, with padding where the batch is larger than one.
    """

    max_abs_error: float
    tolerance: float
    shapes: tuple[tuple[int, int], ...]


def random_batch(
    architecture: EncoderArchitecture, names: Sequence[str], shape: tuple[int, int], generator: np.random.Generator
) -> Batch:
    """Draw token ids, padded on the right: the first row is full, others have a random length.

    Args:
        architecture: Of the model.
        names: Inputs to make.
        shape: Batch and length; the latter is cut to what the model takes.
        generator: Source of randomness.
    """
    rows, length = shape[0], min(shape[1], architecture.max_length)
    ids = generator.integers(architecture.vocab_size - 1, size=(rows, length))
    ids += ids >= architecture.pad_token_id
    lengths = np.concatenate([[length], generator.integers(1, length + 1, size=rows - 1)])
    real = np.arange(length) < lengths[:, None]
    batch = {
        "input_ids": np.where(real, ids, architecture.pad_token_id),
        "attention_mask": real.astype(np.int64),
        "token_type_ids": (real & (np.arange(length) >= lengths[:, None] // 2)).astype(np.int64),
    }
    return {name: batch[name] for name in names}


def torch_forward(model: torch.nn.Module) -> Forward:
    """Return a model as a function of arrays."""

    @torch.inference_mode()
    def run(batch: Batch) -> NDArray[np.float32]:
        # The first output of an encoder are its last hidden states, of a classifier its logits, of an embedding student
        # its vectors.
        output = model(**{name: torch.from_numpy(array) for name, array in batch.items()})[0]
        array: NDArray[np.float32] = output.numpy()
        return array

    return run


def graph_forward(session: Any, output_name: str) -> Forward:
    """Return an output of a session of ONNX Runtime as a function of arrays."""

    def run(batch: Batch) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run([output_name], batch)[0]
        return output

    return run


def check_equal(
    what: str,
    export: Forward,
    model: Forward,
    architecture: EncoderArchitecture,
    names: Sequence[str],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Check:
    """Compare an export with its model on random tokens in batches of ``SHAPES``.

    Args:
        what: Name of the export, for the message.
        export: What was exported.
        model: What it should compute.
        architecture: Of the model.
        names: Inputs of both.
        tolerance: Largest deviation allowed, see :data:`TOLERANCE`.
        seed: Seed of the tokens.

    Raises:
        ExportError: If it deviates by more.
    """
    generator = np.random.default_rng(seed)
    shapes, errors, largest = [], [], 1.0
    for shape in SHAPES:
        batch = random_batch(architecture, names, shape, generator)
        real = batch["attention_mask"].astype(bool)
        shapes.append((real.shape[0], real.shape[1]))
        actual, expected = export(batch), model(batch)
        if expected.ndim == 3:
            actual, expected = actual[real], expected[real]
        else:
            largest = max(largest, float(np.abs(expected).max()))
        errors.append(np.abs(actual - expected).max())
    worst = float(np.max(errors))  # NaN if any is.
    tolerance *= largest
    if not worst <= tolerance:
        rows, length = shapes[int(np.argmax(errors))]
        raise ExportError(
            f"{what} does not compute what the model computes: its outputs are off by up to {worst:.3g} "
            f"(batch {rows}, length {length}), {tolerance:g} is allowed; nothing was written. try other versions of "
            "torch and onnxruntime, or export to safetensors"
        )
    return Check(worst, tolerance, tuple(shapes))
