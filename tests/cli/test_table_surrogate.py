"""Surrogates from the command line: evaluated, fitted and searched; and the list of tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from complaints import complaint
from small_tables import planted_table

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.cli import main
from kdnas_env.tables.storage import write_table

PLANTED = {
    "num_hidden_layers": [3, 6, 9, 12],
    "hidden_size": [384, 576, 768],
    "intermediate_size": [768, 3072],
    "hidden_act": ["gelu", "relu"],
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tables") / "planted.npz"
    write_table(planted_table(PLANTED, noise=0.02), path)
    return str(path)


def test_a_surrogate_is_judged(
    planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["table", "inspect", planted, "--surrogate", "--json", str(tmp_path / "card.json")]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "48 students, each predicted",
        "heldout_unexplained@3",
        "ratio@analytic",
        "best tenth",
        "resolved",
    ):
        assert expected in printed
    card = json.loads((tmp_path / "card.json").read_text())["surrogate"]
    assert card["splits"]["random"]["reward"]["r2"] > 0.9
    assert "coverage_95" in card["splits"]["random"]["seconds"]


def test_a_surrogate_is_fitted_to_a_file_and_searched(
    planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    between = {**PLANTED, "num_hidden_layers": [5, 8], "hidden_size": [480]}
    write_table(planted_table(between, noise=0.02), tmp_path / "between.npz")
    path = str(tmp_path / "surrogate.npz")
    assert main(["table", "fit", planted, str(tmp_path / "between.npz"), "--to", path]) == 0
    printed = capsys.readouterr().out
    assert "the held-out loss of the 8 students of planted is predicted by planted alone with r2 0." in printed
    assert "by both, in cross-validation, with r2 0.9" in printed
    assert "fitted to 48 students of planted, 8 students of planted" in printed
    env: Any = gym.make("kdnas/Surrogate-v0", table=path, budget=2)
    env.reset(seed=0)
    assert np.isfinite(env.step(env.unwrapped.search_space.from_index(0))[1])
    assert main(["table", "inspect", path]) == 0
    printed = capsys.readouterr().out
    assert "num_hidden_layers: 3 to 12" in printed
    assert "is a surrogate" in complaint(["table", "inspect", path, "--surrogate"], capsys)
    figures = tmp_path / "hardness.json"
    asked = ["table", "inspect", f"{path}:speedup=2", "--against", path, "--points", "40", "--json", str(figures)]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "how hard it is to search, by 40 random points" in printed
    assert "Kendall's tau of the rewards" in printed
    assert 0 < json.loads(figures.read_text())["feasible"] <= 1
    assert "holds" in complaint(["table", "fit", path, "--to", str(tmp_path / "x.npz")], capsys)
    assert not (tmp_path / "x.npz").exists()


def test_agents_are_ranked_by_a_table_and_by_its_surrogate(
    planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "agreement"
    small = ["--budget", "6", "--seeds", "2", "--workers", "1", "--out", str(folder)]
    command = ["table", "agreement", planted, *small]
    assert main([*command, "--agents", "random", "evolution"]) == 0
    printed = capsys.readouterr().out
    assert "ranking agreement: tau" in printed
    told = json.loads((folder / "results.json").read_text())
    assert {name: len(one) for name, one in told["scores"]["surrogate"].items()} == {"random": 2, "evolution": 2}
    assert told["low"] <= told["tau"] <= told["high"]
    assert told["scores"]["table"] != told["scores"]["surrogate"]
    # Finished searches are not repeated, and agents can be added.
    assert main([*command, "--agents", "random", "evolution", "local-search"]) == 0
    again = json.loads((folder / "results.json").read_text())
    assert again["scores"]["surrogate"]["random"] == told["scores"]["surrogate"]["random"]
    assert again["agents"] == 3
    assert "two or more" in complaint([*command, "--agents", "random"], capsys)
    assert "budget is 0" in complaint([*command, "--budget", "0"], capsys)


def test_bad_fits(planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = ["--to", str(tmp_path / "x.npz")]
    assert "there is no table to fit to" in complaint(["table", "fit", *to], capsys)
    assert "ends in .npz" in complaint(["table", "fit", planted, "--to", str(tmp_path / "x.csv")], capsys)
    foreign = planted_table(PLANTED)
    write_table(
        replace(foreign, metadata=replace(foreign.metadata, workload="1" * 64, teacher="roberta-base")),
        tmp_path / "foreign.npz",
    )
    said = complaint(["table", "fit", planted, str(tmp_path / "foreign.npz"), *to], capsys)
    assert "cannot be fitted together: teacher is planted in the one and roberta-base in the other" in said
    few = {"num_hidden_layers": [3, 6]}
    write_table(planted_table(few), tmp_path / "few.npz")
    assert "needs at least 12" in complaint(["table", "fit", str(tmp_path / "few.npz"), *to], capsys)


def test_the_tables_of_a_package_are_told_in_a_line_each(
    planted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("kdnas_env.tables.storage.DATA", Path(planted).parent)
    monkeypatch.setattr("kdnas_env.tables.storage.table_names", lambda: ["planted"])
    monkeypatch.setattr("kdnas_env.pipeline.table.inspect.table_names", lambda: ["planted"])
    assert main(["table", "inspect"]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" planted"))
    assert row[:5] == ["planted", "48", "3", "3", "100%"]
    assert 0.5 < float(row[5]) <= 1
    assert row[6:8] == ["Planted", "landscape"]
