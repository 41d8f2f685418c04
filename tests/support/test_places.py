from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdnas_env.errors import RunError
from kdnas_env.support.places import PLACES, found_again, local_path, same_place, with_places

PATHS = ("teacher", "corpus.source", "models")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a teacher, a text and a folder for runs."""
    root = tmp_path / "tree"
    (root / "teacher").mkdir(parents=True)
    (root / "text.txt").write_text("")
    (root / "runs" / "run").mkdir(parents=True)
    monkeypatch.chdir(root)
    return root


def recorded(folder: Path, **changes: Any) -> dict[str, Any]:
    data = {"teacher": "teacher", "corpus": {"source": "text.txt", "split": "train"}, "models": ["org/name", "teacher"]}
    made: dict[str, Any] = json.loads(json.dumps(with_places({**data, **changes}, PATHS, folder)))
    return made


def test_what_is_recorded(tree: Path) -> None:
    data = recorded(tree / "runs" / "run")
    assert data["teacher"] == "teacher"
    assert data[PLACES] == {
        "teacher": [["../../teacher", str(tree / "teacher")]],
        "corpus.source": [["../../text.txt", str(tree / "text.txt")]],
        "models": [[], ["../../teacher", str(tree / "teacher")]],
    }
    assert with_places({"teacher": "teacher"}, PATHS, tree / "runs", absolute=False)[PLACES] == {
        "teacher": [["../teacher"]]
    }
    names = {"teacher": "demo", "corpus": {"source": "demo:all"}, "models": []}
    assert PLACES not in recorded(tree / "runs" / "run", **names), "names of something else have no places"


def test_names_stay_as_they_were_given_where_that_is_right(tree: Path) -> None:
    data = recorded(tree / "runs" / "run")
    again = found_again(data, tree / "runs" / "run")
    assert again == {name: value for name, value in data.items() if name != PLACES}


def test_the_order_in_which_places_are_tried(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = recorded(tree / "runs" / "run")
    moved = tmp_path / "moved"
    shutil.copytree(tree, moved)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "teacher").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    # First relative to the record, then at the original path, then in the current folder; nowhere else.
    for there in (moved, tree, elsewhere):
        found = found_again(data, moved / "runs" / "run")
        expected = "teacher" if there == elsewhere else str(there / "teacher")
        assert (found["teacher"], found["models"]) == (expected, ["org/name", expected])
        shutil.rmtree(there / "teacher")
    assert found_again(data, moved / "runs" / "run")["teacher"] == str(tree / "teacher")


def test_a_record_without_places_is_left_alone(tree: Path) -> None:
    data = {"teacher": "teacher", "corpus": {"source": "text.txt"}}
    assert found_again(data, tree / "runs" / "run") == data


@pytest.mark.parametrize("places", [3, [], {"teacher": "x"}, {"teacher": ["x"]}, {"teacher": [[3]]}])
def test_malformed_places(places: Any, tree: Path) -> None:
    with pytest.raises(RunError, match="places is not a mapping of lists of paths"):
        found_again({"teacher": "teacher", PLACES: places}, tree)


@pytest.mark.parametrize("data", [{}, {"teacher": 3}, {"teacher": None, "corpus": 4}, {"models": ["a", "b"]}])
def test_a_record_that_was_edited(data: dict[str, Any], tree: Path) -> None:
    places = recorded(tree / "runs" / "run")[PLACES] | {"corpus.split": []}
    expected = {**data, "models": ["a", str(tree / "teacher")]} if "models" in data else data
    assert found_again({**data, PLACES: places}, tree / "runs" / "run") == expected


def test_equal_places(tree: Path) -> None:
    assert same_place("teacher", str(tree / "teacher"))
    assert same_place(("org/name", "./teacher"), ["org/name", "teacher"])
    assert not same_place("teacher", "text.txt")
    assert not same_place("org/name", "org/other")
    assert not same_place(3, 4)
    assert local_path("org/name") is None
    assert local_path(str(tree / "nothing")) == tree / "nothing"
