"""Exported graphs, cached by the structure of the model: torch's exporter takes seconds for each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx.numpy_helper import from_array, to_array
from torch import nn

from kdnas_env.cli import main
from kdnas_env.exporting import measuring
from kdnas_env.exporting import onnx as exporting
from kdnas_env.latency.onnx_runtime import LAST_HIDDEN_STATE, Output, write_graph
from kdnas_env.support.atomic import replacing

_IN_NO_GRAPH = dict.fromkeys(
    (
        *("_name_or_path", "architectures", "id2label", "label2id", "classifier_dropout", "dtype", "initializer_range"),
        *("problem_type", "vocab_size"),
    )
)
"""Settings of a model that do not change its graph: names, training, tokens. Modules tell the number of labels."""

_TOKENS = re.compile(r"(?<=word_embeddings\): Embedding\()\d+")
"""Matches the number of tokens in a printed model."""


@dataclass(frozen=True)
class WrittenGraphs:
    """Cache of exported graphs.

    Attributes:
        folder: Folder of the graphs; created if needed.
    """

    folder: Path

    def write(
        self,
        model: nn.Module,
        example: Mapping[str, torch.Tensor],
        path: Path,
        *,
        longest: int | None = None,
        outputs: Mapping[str, Output] = LAST_HIDDEN_STATE,
    ) -> None:
        """As :func:`~kdnas_env.latency.onnx_runtime.write_graph`, but only replaces the weights of a cached graph.

        Two models share a graph if their modules and settings are equal; the longest sequence and the number of tokens
        do not matter. Outputs of the same name count as equal.
        """
        shapes = None if longest else [tuple(tensor.shape) for tensor in example.values()]
        configs: list[Any] = [part.config for part in model.modules() if hasattr(part, "config")]
        settings = [{**config.to_dict(), **_IN_NO_GRAPH} for config in configs]
        types = {parameter.dtype for parameter in model.parameters()}
        modules = _TOKENS.sub("", str(model))
        known = sha256(str([modules, settings, types, [*example], shapes, [*outputs]]).encode())
        kept = self.folder / known.hexdigest()
        if not kept.exists():
            write_graph(model, example, path, longest=longest, outputs=outputs)
            self.folder.mkdir(exist_ok=True)
            with replacing(kept) as file:  # other processes read it
                file.write(path.read_bytes())
            return
        graph = onnx.load(kept)
        # The exporter names weights as the model does, after "model.", the attribute of the exported module.
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for constant in graph.graph.initializer:
            if constant.name in weights:
                array = weights[constant.name].cpu().numpy().astype(to_array(constant).dtype)
                constant.CopyFrom(from_array(array, constant.name))
        onnx.save(graph, path)


def share_graphs(patch: pytest.MonkeyPatch) -> WrittenGraphs:
    """Make exports and their latency measurements share cached graphs, across all test processes."""
    written = WrittenGraphs(Path(os.environ["TMPDIR"]) / "graphs")
    for module in (measuring, exporting):
        patch.setattr(module, "write_graph", written.write)
    return written


def command_with_shared_graphs(arguments: list[str]) -> int:
    """Run ``kdnas`` with shared graphs, in a process that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        share_graphs(patch)
        return main(arguments)
