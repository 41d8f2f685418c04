"""Checks that an export computes the same outputs as the model."""

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
"""Maximum deviation: absolute for hidden states; for logits relative to the largest one, if that is above 1."""

RELOADED_TOLERANCE = 1e-5
"""The same for equal weights, where only the memory alignment changes how sums are rounded."""

SHAPES = ((1, 1), (1, 7), (3, 16), (2, 128), (9, 5))
"""Batch sizes and lengths to compare: 1, and larger ones than the export was traced with."""

Batch = dict[str, NDArray[np.int64]]
"""Inputs of an encoder by name, each ``(batch, length)``."""

Forward = Callable[[Batch], NDArray[np.float32]]
"""Maps inputs to last hidden states ``(batch, length, hidden_size)``, logits ``(batch, classes)``, or vectors
``(batch, width)``."""


@dataclass(frozen=True)
class Check:
    """A successful comparison.

    Attributes:
        max_abs_error: Largest absolute deviation of a hidden state (without padding), a logit, or a vector component.
        tolerance: Maximum deviation allowed.
        shapes: Compared batch sizes and lengths; batches larger than one are padded.
    """

    max_abs_error: float
    tolerance: float
    shapes: tuple[tuple[int, int], ...]


def random_batch(
    architecture: EncoderArchitecture, names: Sequence[str], shape: tuple[int, int], generator: np.random.Generator
) -> Batch:
    """Draw random token ids, padded on the right: the first row has the full length, others a random one.

    Args:
        architecture: Architecture of the model.
        names: Names of the inputs.
        shape: Batch size and length; the length is limited to the model's maximum.
        generator: Random generator.
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
        # The first output is the last hidden states of an encoder, the logits of a classifier, or the vectors of an
        # embedding student.
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
        what: For the message: name of the export.
        export: Forward pass of the export.
        model: Forward pass of the model.
        architecture: Architecture of the model.
        names: Names of the inputs of both.
        tolerance: Maximum deviation, see :data:`TOLERANCE`.
        seed: Seed of the tokens.

    Raises:
        ExportError: If the deviation is larger.
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
    worst = float(np.max(errors))  # NaN if any error is NaN
    tolerance *= largest
    if not worst <= tolerance:
        rows, length = shapes[int(np.argmax(errors))]
        raise ExportError(
            f"{what} does not compute what the model computes: its outputs deviate by up to {worst:.3g} "
            f"(batch {rows}, length {length}); the limit is {tolerance:g}. Nothing was written; try other versions of "
            "torch and onnxruntime, or export to safetensors"
        )
    return Check(worst, tolerance, tuple(shapes))
