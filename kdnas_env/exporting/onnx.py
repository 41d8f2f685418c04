"""A model as a graph for ONNX Runtime, with any batch and length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas_env.errors import ExportError
from kdnas_env.exporting.check import random_batch
from kdnas_env.exporting.quantise import quantise
from kdnas_env.exporting.source import Source
from kdnas_env.latency.onnx_runtime import open_graph, write_graph
from kdnas_env.support.libraries import one_line

GRAPH, INT8_GRAPH = "onnx/model.onnx", "onnx/model_quantized.onnx"
"""Where graphs lie in a folder: as Optimum, Transformers.js and Sentence Transformers look for them on the hub."""

_EXAMPLE_SHAPE = (2, 8)


def write_float_graph(source: Source, folder: Path, threads: int) -> Any:
    """Write the graph of a model into a folder and open it.

    Raises:
        ExportError: If the model cannot be exported, or the runtime refuses it.
        OSError: If it cannot be written.
    """
    architecture = source.encoder.architecture
    batch = random_batch(architecture, source.input_names, _EXAMPLE_SHAPE, np.random.default_rng(0))
    example = {name: torch.from_numpy(array) for name, array in batch.items()}
    path = folder / GRAPH
    path.parent.mkdir()
    try:
        write_graph(source.encoder.model, example, path, longest=architecture.max_length)
        return open_graph(path, threads)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise _failed(source, "exported to ONNX", error) from error


def write_int8_graph(source: Source, folder: Path, threads: int) -> Any:
    """Write the int8 graph beside the float one and open it.

    Raises:
        ExportError: If the graph cannot be quantised, or the runtime refuses it.
        OSError: If it cannot be written.
    """
    path = folder / INT8_GRAPH
    try:
        quantise(folder / GRAPH, path)
        return open_graph(path, threads)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise _failed(source, "quantised to int8", error) from error


def _failed(source: Source, what: str, error: Exception) -> ExportError:
    return ExportError(
        f"model {source.encoder.name!r} ({type(source.encoder.model).__name__}) cannot be {what}: {one_line(error)}; "
        "export to safetensors, or try other versions of torch, onnx and onnxruntime"
    )
