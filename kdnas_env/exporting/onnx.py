"""Exporting a model as an ONNX graph with variable batch size and length."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas_env.errors import ExportError, one_line
from kdnas_env.exporting.check import random_batch
from kdnas_env.exporting.source import Source
from kdnas_env.latency.onnx_runtime import LAST_HIDDEN_STATE, Output, open_graph, write_graph
from kdnas_env.latency.quantise import DYNAMIC, quantise
from kdnas_env.tasks.specs import MULTI_LABEL

GRAPH, INT8_GRAPH = "onnx/model.onnx", "onnx/model_quantized.onnx"
"""Paths of graphs in a folder, where Optimum, Transformers.js and Sentence Transformers expect them on the hub."""

LOGITS, PROBABILITIES, SENTENCE_EMBEDDING = "logits", "probabilities", "sentence_embedding"

_EXAMPLE_SHAPE = (2, 8)


def write_float_graph(source: Source, folder: Path, threads: int, *, probabilities: bool = False) -> Any:
    """Write the graph of a model to a folder, and open it.

    Args:
        source: The model.
        folder: The folder.
        threads: Threads of the session.
        probabilities: Whether the graph of a classifier also returns probabilities.

    Raises:
        ExportError: If the model cannot be exported, or ONNX Runtime cannot run it.
        OSError: If it cannot be written.
    """
    architecture = source.encoder.architecture
    batch = random_batch(architecture, source.input_names, _EXAMPLE_SHAPE, np.random.default_rng(0))
    example = {name: torch.from_numpy(array) for name, array in batch.items()}
    path = folder / GRAPH
    path.parent.mkdir()
    try:
        write_graph(
            source.model,
            example,
            path,
            longest=architecture.max_length,
            outputs=_outputs(source, probabilities),
        )
        return open_graph(path, threads)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise _failed(source, "exported to ONNX", error) from error


def _outputs(source: Source, probabilities: bool) -> Mapping[str, Output]:
    """Return the outputs of a graph; those of an embedding student have the names that Optimum uses."""
    if source.embedder is not None:
        return {"token_embeddings": operator.itemgetter(1), SENTENCE_EMBEDDING: operator.itemgetter(0)}
    kind = source.kind
    if kind is None:
        return LAST_HIDDEN_STATE
    logits = operator.attrgetter("logits")
    outputs: dict[str, Output] = {LOGITS: logits}
    if probabilities:
        outputs[PROBABILITIES] = lambda result: (
            logits(result).sigmoid() if kind == MULTI_LABEL else logits(result).softmax(-1)
        )
    return outputs


def main_output(source: Source) -> str:
    """Return the name of the main output of a model."""
    if source.embedder is not None:
        return SENTENCE_EMBEDDING
    return next(iter(LAST_HIDDEN_STATE)) if source.kind is None else LOGITS


def write_int8_graph(source: Source, folder: Path, threads: int, scheme: str = DYNAMIC) -> Any:
    """Write the int8 graph beside the float graph, and open it.

    Args:
        source: The model.
        folder: The folder.
        threads: Threads of the session.
        scheme: One of :data:`kdnas_env.latency.quantise.SCHEMES`.

    Raises:
        ExportError: If the graph cannot be quantised, or ONNX Runtime cannot run it.
        OSError: If it cannot be written.
    """
    path = folder / INT8_GRAPH
    try:
        quantise(folder / GRAPH, path, scheme, exact_head=source.embedder is not None)
        return open_graph(path, threads)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise _failed(source, "quantised to int8", error) from error


def _failed(source: Source, what: str, error: Exception) -> ExportError:
    return ExportError(
        f"model {source.encoder.name!r} ({type(source.model).__name__}) cannot be {what}: {one_line(error)}; "
        "export to safetensors, or try other versions of torch, onnx and onnxruntime"
    )
