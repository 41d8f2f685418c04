"""ONNX Runtime on the CPU: measures the graph as it would be deployed, in float32 or int8, with all optimisations."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnas_env.errors import DependencyError, LatencyError, one_line
from kdnas_env.latency.interleave import Pass
from kdnas_env.latency.quantise import ONLY_ERRORS, quantise
from kdnas_env.latency.settings import INT8, LatencySettings
from kdnas_env.latency.torch_runtime import random_ids, ready
from kdnas_env.support.quiet import muted
from kdnas_env.support.scratch import scratch_folder

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs that a graph may have, in order; each int64 ``(batch, sequence)``."""

Output = Callable[[Any], torch.Tensor]
"""Extracts an output of a graph from the return value of the model."""

LAST_HIDDEN_STATE: Mapping[str, Output] = {"last_hidden_state": operator.attrgetter("last_hidden_state")}

_LOGGERS = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class _Graph(nn.Module):
    """A model as a function of positional inputs, which fixes the inputs and outputs of the graph."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[Output, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    # No *args: the exporter would treat them as one input.
    def forward(
        self, first: torch.Tensor, second: torch.Tensor | None = None, third: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        given = [tensor for tensor in (first, second, third) if tensor is not None]
        result = self.model(**dict(zip(self.inputs, given, strict=True)))
        return tuple(output(result) for output in self.outputs)


def load(model: nn.Module, settings: LatencySettings) -> Pass:
    """Return the forward pass of an encoder, exported for the batch size and length of the probe.

    Raises:
        DependencyError: If the extra ``onnx`` is not installed.
        LatencyError: If the model cannot be exported, or ONNX Runtime cannot run it.
    """
    session = open_session(model, settings)
    feed = {"input_ids": random_ids(model, settings).numpy()}

    def run() -> None:
        session.run(None, feed)

    return run


def open_session(model: nn.Module, settings: LatencySettings) -> Any:
    """Export an encoder, quantise it for runtime ``onnxruntime-int8``, and open it. No file remains.

    The graph has one input, ``input_ids``, and one output, the last hidden state.

    Raises:
        DependencyError: If the extra ``onnx`` is not installed.
        LatencyError: If the model cannot be exported, or ONNX Runtime cannot run it.
    """
    require_onnx(f'runtime "{settings.runtime}"')
    with scratch_folder("onnx") as folder:
        path = folder / "encoder.onnx"
        try:
            write_graph(model, {"input_ids": random_ids(model, settings)}, path)
            if settings.runtime == INT8:
                quantise(path, int8_path := folder / "encoder-int8.onnx")
                path = int8_path
            return open_graph(path, settings.threads)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise LatencyError(
                f"the {type(model).__name__} cannot be run by ONNX Runtime: {one_line(error)}; measure it with "
                "runtime 'torch'"
            ) from error


def require_onnx(purpose: str) -> None:
    """Check that the extra ``onnx`` is installed.

    Args:
        purpose: For the message: what needs the extra.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise DependencyError(
            f'{purpose} needs the extra onnx ({error}); install it with pip install "kdnas[onnx]"'
        ) from error


def write_graph(
    model: nn.Module,
    example: Mapping[str, torch.Tensor],
    path: Path,
    *,
    longest: int | None = None,
    outputs: Mapping[str, Output] = LAST_HIDDEN_STATE,
) -> None:
    """Write a model as an ONNX graph. Exceptions of the exporter are passed on.

    Args:
        model: Model of transformers; it does not change.
        example: Inputs by name, a subset of ``INPUT_NAMES`` in that order, each int64 ``(batch, sequence)``. Each must
            be a different tensor: the exporter would merge two inputs that share one.
        path: The file.
        longest: Maximum sequence length, if batch size and length are variable; None fixes both as in the example. For
            variable ones, the example needs sizes of 2 or more, because the exporter treats a size of 1 as constant.
        outputs: Outputs by name.
    """
    names = tuple(example)
    graph = _Graph(ready(model, torch.device("cpu")), names, tuple(outputs.values())).eval()
    axes = None
    if longest is not None:
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
        axes = tuple(free for _ in names)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            tuple(example.values()),
            input_names=list(names),
            output_names=list(outputs),
            dynamic_shapes=axes,
            dynamo=True,
            verbose=False,
            optimize=False,  # ONNX Runtime applies the same optimisations, ten times as fast.
        )
        if program is None:
            raise LatencyError("the exporter returned nothing")
        # The exporter records the source code position of each node, which contains paths of this machine.
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        ClearMetadataAndDocStringPass()(program.model)
    program.save(path)


def open_graph(path: Path, threads: int) -> Any:
    """Open a graph on the CPU with all optimisations. Exceptions of ONNX Runtime are passed on.

    Args:
        path: File written by :func:`write_graph`.
        threads: Threads of the session.

    Returns:
        An ``onnxruntime.InferenceSession``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.log_severity_level = ONLY_ERRORS
    # Sessions run alternately: the threads of an idle session must not occupy cores by spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute the exporter; real problems raise exceptions."""
    with muted(*_LOGGERS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
