"""Quantisation of a graph to int8, and what it costs an encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.exporting.check import Batch, Forward

DYNAMIC, WEIGHTS_ONLY = "weights and activations", "weights alone"
SCHEMES = (DYNAMIC, WEIGHTS_ONLY)
"""What is quantised, from the fastest to the most exact."""

_LARGEST = 127
_FEW_ROWS = 64
"""Tables of fewer rows (segments) are not worth it."""


@dataclass(frozen=True)
class QuantisationCost:
    """What int8 costs, against the float graph.

    Attributes:
        unexplained: Squared error of the last hidden states of real tokens over their variance; 0 is no error.
        cosine: Mean cosine of mean-pooled sentence vectors; 1 is no error.
        sentences: Sentences it was measured on.
        text: Where they come from.
        float_bytes: Size of the float graph.
        int8_bytes: Size of the int8 graph.
    """

    unexplained: float
    cosine: float
    sentences: int
    text: str
    float_bytes: int
    int8_bytes: int


def quantise(graph: Path, out: Path, scheme: str = DYNAMIC) -> None:
    """Quantise a graph: weights of matrix products per channel, embeddings per row.

    With ``DYNAMIC`` activations are quantised too, in the range that each batch has, and products are computed in int8.
    Weights then keep to 7 bits, since processors without VNNI add two products of 8 bits in 16 and would overflow. With
    ``WEIGHTS_ONLY`` weights have 8 bits, and products are computed in float32: as small, more exact, and about as slow
    as the float graph. Rows of an embedding table differ much in size, so that one scale for all of them would cost
    more than everything else.

    Args:
        graph: File of the float graph.
        out: File of the int8 graph.
        scheme: One of :data:`SCHEMES`.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = out.with_name(f".{out.name}.folded")
    try:
        with _quiet():
            # The exporter transposes weights in the graph; folding makes them constants, which can be quantised.
            quant_pre_process(str(graph), str(folded), skip_symbolic_shape=True)
            model = onnx.load(folded)
            _quantise_tables(model)
            if scheme == WEIGHTS_ONLY:
                _quantise_weights(model)
                onnx.save(model, out)
            else:
                products = ["MatMul", "Gemm"]
                quantize_dynamic(model, out, op_types_to_quantize=products, per_channel=True, reduce_range=True)
    finally:
        folded.unlink(missing_ok=True)


def quantisation_cost(quantised: Forward, original: Forward, batches: Sequence[Batch]) -> tuple[float, float]:
    """Compare the last hidden states of two graphs.

    Args:
        quantised: The int8 graph.
        original: The float graph.
        batches: Inputs.

    Returns:
        Unexplained variance of the states of real tokens, and mean cosine of mean-pooled sentence vectors.
    """
    states: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    cosines: list[NDArray[np.float64]] = []
    for batch in batches:
        mask = batch["attention_mask"]
        theirs, ours = (forward(batch).astype(np.float64) for forward in (original, quantised))
        states.append((theirs[mask.astype(bool)], ours[mask.astype(bool)]))
        cosines.append(_cosines(_mean_pooled(theirs, mask), _mean_pooled(ours, mask)))
    expected, actual = (np.concatenate(part) for part in zip(*states, strict=True))
    variance = np.square(expected - expected.mean(axis=0)).sum()
    return float(np.square(actual - expected).sum() / variance), float(np.concatenate(cosines).mean())


def _mean_pooled(states: NDArray[np.float64], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    pooled: NDArray[np.float64] = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1)[:, None]
    return pooled


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float64] = (first * second).sum(axis=1) / norms
    return cosines


def _quantise_tables(model: Any) -> None:
    """Replace each look-up in a float table by a look-up in an int8 table and a look-up in the scales of its rows."""
    from onnx import TensorProto, helper, numpy_helper

    tables = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    nodes, replaced = [], set()
    for node in model.graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.dims[0] < _FEW_ROWS:
            nodes.append(node)
            continue
        name, (output,) = table.name, node.output
        if name not in replaced:
            replaced.add(name)
            rows, scales = _scaled(numpy_helper.to_array(table), axis=1)
            model.graph.initializer.append(numpy_helper.from_array(rows, f"{name}_int8"))
            model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
        for part in ("int8", "scale"):
            nodes.append(helper.make_node("Gather", [f"{name}_{part}", node.input[1]], [f"{output}_{part}"], axis=0))
        nodes.append(helper.make_node("Cast", [f"{output}_int8"], [f"{output}_float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{output}_float", f"{output}_scale"], [output]))
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def _quantise_weights(model: Any) -> None:
    """Replace the float weights of matrix products by int8 weights that the graph multiplies by a scale per channel."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    }
    channel_axes = {
        node.input[1]: 0 if any(field.name == "transB" and field.i for field in node.attribute) else 1
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
    }
    restored = []
    for name, channels in channel_axes.items():
        values, scales = _scaled(numpy_helper.to_array(weights[name]), axis=1 - channels)
        model.graph.initializer.remove(weights[name])
        model.graph.initializer.append(numpy_helper.from_array(values, f"{name}_int8"))
        model.graph.initializer.append(numpy_helper.from_array(scales.ravel(), f"{name}_scale"))
        inputs = [f"{name}_int8", f"{name}_scale"]
        restored.append(helper.make_node("DequantizeLinear", inputs, [name], axis=channels))
    nodes = [*restored, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _scaled(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a matrix in int8, and the scales of its rows (axis 1) or columns (axis 0), which keep that axis."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute advice on shape inference, which the root logger gives."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
