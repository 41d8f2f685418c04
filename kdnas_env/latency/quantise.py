"""Quantisation of ONNX graphs to int8."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DYNAMIC, WEIGHTS_ONLY, TABLES_ONLY = "weights and activations", "weights alone", "embedding tables alone"
SCHEMES = (DYNAMIC, WEIGHTS_ONLY, TABLES_ONLY)
"""Quantisation schemes, from the fastest to the most accurate."""

_PRODUCTS = ("MatMul", "Gemm")
"""Operators that multiply by a weight matrix."""
_LARGEST = 127
WARNINGS, ONLY_ERRORS = 2, 3
"""Severities of ONNX Runtime's logger. The default is warnings; the current one cannot be queried."""
_FEW_ROWS = 64
"""Minimum rows of a table to be quantised; smaller ones (such as segment embeddings) save too little."""


def quantise(graph: Path, out: Path, scheme: str = DYNAMIC, *, exact_head: bool = False) -> None:
    """Quantise a graph: weights of matrix products per output channel, embedding tables per row.

    ``DYNAMIC`` also quantises activations, with the range of each batch, and computes products in int8. Its weights
    have 7 bits, because processors without VNNI add two 8-bit products in 16 bits, which could overflow.
    ``WEIGHTS_ONLY`` uses 8-bit weights and computes products in float32: as small, more accurate, and about as slow as
    the float graph. ``TABLES_ONLY`` keeps the products in float32; the tables are most of a small student. Tables have
    one scale per row, because rows differ much in size and a common scale would cause most of the error.

    Args:
        graph: File of the float graph.
        out: File of the int8 graph.
        scheme: One of :data:`SCHEMES`.
        exact_head: Whether to keep the last product with a weight in float32. A linear head with large weights, as
            closed forms produce, would amplify the rounding error of its inputs.
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
            exact = _last_product(model) if exact_head else None
            if scheme == DYNAMIC:
                quantize_dynamic(
                    model,
                    out,
                    op_types_to_quantize=list(_PRODUCTS),
                    per_channel=True,
                    reduce_range=True,
                    # quantize_dynamic first replaces a Gemm by a MatMul with this name.
                    nodes_to_exclude=[] if exact is None else [exact.name, f"{exact.name}_MatMul"],
                )
            else:
                if scheme == WEIGHTS_ONLY:
                    _quantise_weights(model, exact)
                onnx.save(model, out)
    finally:
        folded.unlink(missing_ok=True)


def _quantise_tables(model: Any) -> None:
    """Replace each look-up in a float table by look-ups in an int8 table and in the scales of its rows."""
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


def _last_product(model: Any) -> Any:
    """Return the last matrix product with a weight; name it if it has no name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    last = next(node for node in reversed(model.graph.node) if node.op_type in _PRODUCTS and node.input[1] in weights)
    last.name = last.name or "head"
    return last


def _quantise_weights(model: Any, exact: Any = None) -> None:
    """Replace the float weights of matrix products by int8 weights that the graph multiplies by a scale per channel.

    Args:
        model: The graph.
        exact: A product to keep in float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    }
    channel_axes = {
        node.input[1]: 0 if any(field.name == "transB" and field.i for field in node.attribute) else 1
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in weights and node is not exact
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
    """Return a matrix in int8, and the scales of its rows (axis 1) or columns (axis 0), with the reduced axis kept."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute advice on shape inference (root logger) and on constant folding (ONNX Runtime)."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(ONLY_ERRORS)
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(WARNINGS)
