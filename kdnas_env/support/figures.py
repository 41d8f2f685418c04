"""Matplotlib figures: colours, rasterising, and writing to files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
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

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""The colours of Okabe and Ito (2008), which colour-blind readers can distinguish, and two more."""

LINE_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.5), (1.5, 1.5), (8, 2, 1.5, 2), (3, 1.5, 1.5, 1.5, 1.5, 1.5))
"""Lengths of dashes and gaps in line widths; empty for a solid line."""

_METADATA: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Picture formats, and the metadata fields to omit."""


@dataclass(frozen=True)
class LineStyle:
    """Colour and dashes of a line.

    Attributes:
        colour: One of ``LINE_COLOURS``.
        dashes: One of ``LINE_DASHES``.
    """

    colour: str
    dashes: tuple[float, ...]


def line_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """Return a line style for each name, in order: solid lines in all colours first; distinct for up to 40 names."""
    return {
        name: LineStyle(
            LINE_COLOURS[place % len(LINE_COLOURS)], LINE_DASHES[place // len(LINE_COLOURS) % len(LINE_DASHES)]
        )
        for place, name in enumerate(names)
    }


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
