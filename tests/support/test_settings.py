"""Settings that users type, in the form NAME=VALUE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from kdnas_env.errors import KDNASError
from kdnas_env.support.settings import Settings, parse_settings


def test_settings_are_read() -> None:
    typed = {
        "rate=1e-3": 1e-3,
        "rate = 1E-3 ": 1e-3,
        "rate=.5": 0.5,
        "size=1_000": 1000,
        "deep=true": True,
        "deep=False": False,
        "reach=null": None,
        "reach=None": None,
        "pruner=none": "none",
        "name=": None,
        "name=a=b": "a=b",
        'name="1e-3"': "1e-3",
        "widths=[64, 64]": [64, 64],
        'options={"n_startup_trials": 5}': {"n_startup_trials": 5},
        "options={n_startup_trials: 5}": {"n_startup_trials": 5},
    }
    for text, value in typed.items():
        assert [*parse_settings([text]).values()] == [value], text


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["rate"], "'rate' is not a setting; write it as NAME=VALUE"),
        (["sampler gp"], "'sampler gp' is not a setting"),
        (["two words=1"], "'two words=1' is not a setting"),
        (["rate=1", "rate=2"], "the setting 'rate' is given twice"),
        (["rate=["], r"'\[' is not plain data: .*; put a text into double quotes"),
        (["options={a: 1, a: 2}"], "the key 'a' occurs twice"),
    ],
)
def test_malformed_settings_are_named(texts: list[str], said: str) -> None:
    with pytest.raises(KDNASError, match=f"(?s){said}"):
        parse_settings(texts)


@dataclass(frozen=True)
class Some(Settings):
    share: float = 0.5
    count: int | None = None
    idle: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("share", at_least=0, below=1)
        self.check_numbers("count", above=1, at_most=9)
        self.check_idle("idle", because="nobody works")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": "0.5"}, "share is '0.5'; expected a finite number"),
        ({"share": 1}, "share is 1.0; expected a number at least 0 and below 1"),
        ({"count": 1}, "count is 1; expected a whole number, above 1 and at most 9"),
        ({"idle": 4}, "idle is 4, but changes nothing: nobody works; leave it out"),
    ],
)
def test_settings_out_of_bounds_are_named(settings: dict[str, Any], said: str) -> None:
    assert Some(share=0).share == 0.0
    with pytest.raises(KDNASError, match=said):
        Some(**settings)
