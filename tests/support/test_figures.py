from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdnas_env.errors import RunError
from kdnas_env.support.figures import BLUE, figure_to_rgb, line_styles, save_figure


def curve() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1, 2], [2, 1, 3], color=BLUE)
    return figure


def test_save_figure_writes_a_whole_png(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = save_figure(curve(), tmp_path / "search.png")
    picture = imread(path)[..., :3]
    np.testing.assert_array_equal((picture * 255).round().astype(np.uint8), figure_to_rgb(curve()))
    save_figure(curve(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["search.png"]


@pytest.mark.parametrize("name", ["search.jpg", "search"])
def test_save_figure_refuses_names_of_other_formats(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{name}' is not the name of a picture.*\.png, \.svg or \.pdf"):
        save_figure(curve(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_save_figure_names_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/search\.png' cannot be written.*name a file in a writable folder"):
        save_figure(curve(), tmp_path / "nowhere" / "search.png")
    (tmp_path / "search.png").mkdir()
    with pytest.raises(RunError, match=r"search\.png' cannot be written"):
        save_figure(curve(), tmp_path / "search.png")
    assert [file.name for file in tmp_path.iterdir()] == ["search.png"]


def test_forty_names_have_lines_of_their_own() -> None:
    assert len(set(line_styles([str(place) for place in range(40)]).values())) == 40
