"""Matplotlib figures: colours, rasterising, and writing to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, RED = "#2c6fbb", "#e07b00", "#8a8a8a", "#c0392b"
"""Colours of lines and marks."""

_METADATA: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Picture formats, and the metadata fields to omit."""


def figure_to_rgb(figure: Figure) -> npt.NDArray[np.uint8]:
    """Rasterise a figure to uint8 ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure atomically as PNG, SVG or PDF, depending on the suffix of the name.

    Equal figures give equal files, without dates or random names.

    Raises:
        RunError: If the suffix is not one of these, or the file cannot be written.
    """
    import matplotlib

    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in _METADATA:
        raise RunError(f"{str(path)!r} is not the name of a picture; expected a name that ends in .png, .svg or .pdf")
    with replacing(path) as file, matplotlib.rc_context({"svg.hashsalt": "kdnas"}):
        figure.savefig(file, format=kind, metadata=_METADATA[kind])
    return Path(path)
