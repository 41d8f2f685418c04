"""ONNX Runtime on the CPU: the graph that would be deployed, optimised as far as the runtime can."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnas_env.distill.libraries import one_line
from kdnas_env.errors import DependencyError, LatencyError
from kdnas_env.latency.interleave import Pass
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.latency.torch_runtime import random_ids, ready

_LOGGERS = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_ONLY_ERRORS = 3
"""ONNX Runtime's severity that mutes its warnings."""


class _LastHiddenState(nn.Module):
    """The encoder as a function of token ids alone, which fixes the inputs and outputs of the graph."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return states


def load(model: nn.Module, settings: LatencySettings) -> Pass:
    """Return the forward pass of an encoder, exported for the shape of the probe.

    Raises:
        DependencyError: If the extra ``onnx`` is not installed.
        LatencyError: If the model cannot be exported, or the runtime refuses it.
    """
    session = open_session(model, settings)
    feed = {"input_ids": random_ids(model, settings).numpy()}

    def run() -> None:
        session.run(None, feed)

    return run


def open_session(model: nn.Module, settings: LatencySettings) -> Any:
    """Export an encoder and open it: input ``input_ids``, one output, the last hidden state. No file remains.

    Raises:
        DependencyError: If the extra ``onnx`` is not installed.
        LatencyError: If the model cannot be exported, or the runtime refuses it.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise DependencyError(
            f'runtime "onnxruntime" needs the extra onnx ({error}); install it with pip install "kdnas[onnx]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = _ONLY_ERRORS
    # Two sessions take turns: the threads of the one that rests must not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory(prefix="kdnas-onnx-") as folder:
        path = Path(folder) / "encoder.onnx"
        try:
            _export(model, settings, path)
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise LatencyError(
                f"the {type(model).__name__} cannot be run by ONNX Runtime: {one_line(error)}; measure it with "
                "runtime 'torch'"
            ) from error


def _export(model: nn.Module, settings: LatencySettings, path: Path) -> None:
    encoder = _LastHiddenState(ready(model, torch.device("cpu"))).eval()
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            encoder,
            (random_ids(model, settings),),
            input_names=["input_ids"],
            dynamo=True,
            verbose=False,
            optimize=False,  # ONNX Runtime does the same again, in a tenth of the time.
        )
    if program is None:
        raise LatencyError("the exporter returned nothing")
    program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute the exporter: what matters it raises."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
