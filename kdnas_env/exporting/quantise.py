"""Dynamic quantisation of a graph to int8, and what it costs."""

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


def quantise(graph: Path, out: Path) -> None:
    """Quantise a graph: weights of matrix products per channel, embeddings per row, activations as they come.

    Weights keep to 7 bits, since processors without VNNI add two products of 8 bits in 16 and would overflow. Rows of
    an embedding table differ much in size, so that one scale for all of them would cost more than all the rest.

    Args:
        graph: File of the float graph.
        out: File of the int8 graph.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = out.with_name(f".{out.name}.folded")
    try:
        with _quiet():
            # The exporter transposes weights in the graph; only once that is folded are they constants to quantise.
            quant_pre_process(str(graph), str(folded), skip_symbolic_shape=True)
            model = onnx.load(folded)
            _quantise_tables(model)
            quantize_dynamic(model, out, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, reduce_range=True)
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
    """Replace each look-up in a float table by one in an int8 table and one in the scales of its rows."""
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
            rows, scales = _by_row(numpy_helper.to_array(table))
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


def _by_row(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the rows in int8 and their scales, ``(rows, 1)``."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute advice on shape inference, which the root logger gives."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
