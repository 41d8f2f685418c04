"""What every benchmark says about the machine it ran on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import version
from typing import Any

import psutil
import torch

from kdnas_env.support.machine import processor_name


def machine_facts() -> dict[str, Any]:
    """Return processor, cores, load and versions, as plain data."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("kdnas", "torch", "transformers")},
    }


def matmul_peak(size: int = 2048, repeats: int = 7) -> float:
    """Measure the speed of a float32 matrix product, in operations a second (median of some)."""
    left, right = torch.ones(size, size), torch.ones(size, size)
    left @ right
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds)
