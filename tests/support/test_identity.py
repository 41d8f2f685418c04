"""Refusals name all differences, with shortened fingerprints."""

from __future__ import annotations

import pytest

from kdnas_env.errors import RunError
from kdnas_env.support.identity import check_same, differences


def test_parts_that_both_tell_are_compared_also_within_parts() -> None:
    before = {"teacher": "a" * 64, "recipe": {"rate": 0.1, "ridge": 1}, "seed": 1}
    now = {"teacher": "b" * 64, "recipe": {"rate": 0.2, "ridge": 1, "new": True}, "text": "c" * 64, "seed": 1}
    assert differences(before, now) == [
        ("teacher", "'aaaaaaaaaaaa'", "'bbbbbbbbbbbb'"),
        ("recipe rate", "0.1", "0.2"),
        ("recipe new", "None", "True"),
    ]
    assert differences(before, {**before, "text": "new"}) == []


def test_a_refusal_names_all_that_differs_and_no_64_digits() -> None:
    with pytest.raises(RunError) as refused:
        check_same(
            {"row": f"random of {'a' * 64}", "task": "x"},
            {"row": f"random of {'b' * 64}", "task": "y"},
            "it cannot be resumed",
            "start anew",
        )
    assert str(refused.value) == (
        "it cannot be resumed: the row and the task are not what they were when the run was started (another device, "
        "version, or content under the same name: row: 'random of bbbbbbbbbbbb', was 'random of aaaaaaaaaaaa'; task: "
        "'y', was 'x'); start anew"
    )
