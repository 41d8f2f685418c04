"""Eager PyTorch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from kdnas_env.errors import LatencyError, one_line
from kdnas_env.latency.interleave import Pass
from kdnas_env.latency.settings import LatencySettings


def load(model: nn.Module, settings: LatencySettings) -> Pass:
    """Return the forward pass of an encoder in inference mode; the pass waits for the device to finish.

    Raises:
        LatencyError: If the device cannot be used.
    """
    device = _checked_device(settings.device)
    encoder = ready(model, device)
    input_ids = random_ids(model, settings).to(device)

    @torch.inference_mode()
    def run() -> None:
        encoder(input_ids=input_ids)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return run


def ready(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model in eval mode on a device: itself if possible, else a copy. The caller's model never changes."""
    there = all(tensor.device == device for tensor in model.state_dict().values())
    if there and not any(module.training for module in model.modules()):
        return model
    return copy.deepcopy(model).eval().to(device)


def random_ids(model: nn.Module, settings: LatencySettings) -> torch.Tensor:
    """Draw token ids of the model's vocabulary, none of them padding, int64 ``(batch_size, sequence_length)``."""
    encoder: Any = model
    padding = encoder.config.pad_token_id or 0
    generator = torch.Generator().manual_seed(settings.seed)
    rows = encoder.get_input_embeddings().num_embeddings
    ids = torch.randint(rows - 1, (settings.batch_size, settings.sequence_length), generator=generator)
    return ids + (ids >= padding)


def _checked_device(name: str) -> torch.device:
    try:
        # An existing tensor's device has an index, which 'cuda' alone lacks.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise LatencyError(f"device {name!r} cannot be used: {one_line(error)}; try 'cpu'") from error
