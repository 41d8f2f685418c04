from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import check_contained, expanded, read_json, write_json, write_text


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    write_json(path, {"x": [2.5]})
    assert json.loads(path.read_text()) == {"x": [2.5]}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"x": 1}


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / "none" / "a.txt", "x")


@pytest.mark.parametrize("text", ["[]", "3", "{", "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', "\udcff"])
def test_what_is_no_plain_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"cannot be read|where a JSON object was expected"):
        read_json(tmp_path / "a.json")


def test_a_link_that_leads_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    outside.mkdir()
    (folder / "file").write_text("")
    (folder / "deep" / "inside").symlink_to(folder / "file")
    (folder / "deep" / "also-inside").symlink_to("../file")
    check_contained(folder)
    for target in (outside, outside / "absent", Path("../../outside"), Path("/")):
        (folder / "deep" / "link").symlink_to(target)
        with pytest.raises(RunError, match="leads out of the folder"):
            check_contained(folder)
        (folder / "deep" / "link").unlink()


def test_a_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    check_contained(tmp_path / "link")


def test_a_user_that_nobody_knows_is_a_name_like_others() -> None:
    assert expanded("~nobody-at-all/x") == Path("~nobody-at-all/x")
    assert expanded("~/x") == Path.home() / "x"
