"""A race from the command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from complaints import complaint
from printed import with_output
from small_tables import planted_table

from kdnas_env.bench.trajectory import read_trajectories
from kdnas_env.cli import main
from kdnas_env.tables.storage import write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tables") / "small.npz"
    write_table(planted_table(), path)
    return str(path)


def flags(table: str, folder: Path, *more: str) -> list[str]:
    small = ["--budget", "6", "--seeds", "3", "--workers", "1", "--repetitions", "50", "--out", str(folder)]
    tasks = [] if "--tasks" in more else ["--tasks", table]
    return ["bench", *tasks, *small, *more]


AGENTS = ["random", "optuna:sampler=random", "evolution"]


@pytest.fixture(scope="module")
def race(table: str) -> tuple[Path, str]:
    """The folder of a finished race, and what was printed."""
    folder = Path(table).parent / "race"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        status, printed = with_output(lambda: main(flags(table, folder, "--agents", *AGENTS)))
    assert status == 0
    return folder, printed


def test_a_race_is_run_told_and_kept(race: tuple[Path, str]) -> None:
    folder, printed = race
    for expected in ("optuna:sampler=random", "evolution", "95% interval", "p (Holm)", "optimum", "results.json"):
        assert expected in printed
    grids = [line for line in printed.splitlines() if line.startswith((" agent ", " optuna", " random", " evolution"))]
    assert len(grids) == 2 * 4  # two tables: a header and three agents, one line each
    assert max(map(len, grids)) <= 80
    assert "agents took" in printed
    results = json.loads((folder / "results.json").read_text())
    assert results["agents"] == AGENTS
    assert (results["budget"], results["seeds"], results["unit"]) == (6, 3, "evaluations")
    assert 0 < results["timing"]["agent_seconds"] < results["timing"]["wall_seconds"]
    assert results["timing"]["share"] == results["timing"]["agent_seconds"] / results["timing"]["wall_seconds"]
    trajectories, _ = read_trajectories(folder / "trajectories.parquet")
    assert len(trajectories) == 9
    for picture in ("curves", "profiles", "improvement", "targets"):
        assert (folder / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{picture}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{picture}.svg").exists()


@pytest.mark.usefixtures("blank_pictures")
def test_again_it_is_told_from_what_is_there(table: str, race: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(race[0], tmp_path / "race")
    before = (folder / "results.json").read_text()
    assert main(flags(table, folder, "--agents", *AGENTS)) == 0
    assert json.loads((folder / "results.json").read_text()) == json.loads(before)


@pytest.mark.usefixtures("blank_pictures")
def test_several_tasks_and_simulated_workers(table: str, tmp_path: Path) -> None:
    tasks = (table, f"{table}:alpha=-0.2,seed=mean")
    more = ("--agents", "random", "evolution", "--simulated-workers", "2", "--decision-time", "0.5")
    command = flags(table, tmp_path / "race", *more)
    command[2:3] = tasks
    assert main(command) == 0
    results = json.loads((tmp_path / "race" / "results.json").read_text())
    assert [view["title"] for view in results["views"]] == ["all 2 tasks", "small", "small:alpha=-0.2,seed=mean"]
    assert results["workers"] == 2
    assert (tmp_path / "race" / "curves-2.png").exists()
    assert (tmp_path / "race" / "standings-2.tex").exists()


@pytest.mark.usefixtures("blank_pictures")
def test_submissions_of_others_join_the_comparison(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    submission = str(tmp_path / "theirs.parquet")
    assert main(flags(table, tmp_path / "theirs", "--agents", "evolution")) == 0
    submit = ["bench", "submit", str(tmp_path / "theirs"), "--agent", "evolution", "--description", "of a friend"]
    assert main([*submit, "--to", submission]) == 0
    capsys.readouterr()
    mine = flags(table, tmp_path / "mine", "--agents", "random", "evolution", "--submissions", submission)
    name = "evolution (submitted)"
    assert main([*mine, "--reference", name]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert name in printed
    assert "every step of the submitted searches was replayed" in printed
    results = json.loads((tmp_path / "mine" / "results.json").read_text())
    assert results["agents"] == ["random", "evolution", name]
    assert results["reference"] == name
    assert results["submitted"][name]["description"] == "of a friend"
    view = results["views"][0]["agents"]
    assert view["evolution"]["test"]["p"] == 1  # the same searches
    assert view["evolution"]["curve"] == view[name]["curve"]
    page = (tmp_path / "mine" / "race.html").read_text()
    assert name in page
    assert "of a friend" in page
    # Only the user's own trajectories are written, so that nobody submits the searches of others.
    trajectories, _ = read_trajectories(tmp_path / "mine" / "trajectories.parquet")
    assert {one.agent for one in trajectories} == {"random", "evolution"}
    assert main(flags(table, tmp_path / "more", "--agents", "random", "--submissions", submission, "--seeds", "4")) == 2
    assert "has 3 seeds" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--agents", "nobody"), "nobody"),
        (("--agents", "random:speed=1"), "speed"),
        (("--agents", "random", "random"), "each once"),
        (("--agents", "random", "optuna:sampler=gp,n_startup_trials=5"), "'n_startup_trials'"),
        (("--agents", "random", "optuna:sampler gp, n_startup_trials 5"), "write it as NAME=VALUE"),
        (("--agents", "random", "lstm:learning_rate=nan"), "expected a finite number"),
        (("--agents", "random", "--reference", "lstm"), "reference"),
        (("--agents", "random", "--budget", "1.5"), "whole number"),
        (("--agents", "random", "--budget", "24"), "Lower the budget"),
        (("--agents", "random", "--budget-unit", "steps"), "--budget-unit"),
        (("--agents", "random", "--decision-time", "soon"), "decision-time"),
        (("--agents", "random", "--submissions", "nothing.parquet"), "nothing.parquet"),
        (("--agents", "random", "--tasks", "nowhere"), "nowhere"),
        (("--agents", "random", "--tasks", "nowhere:gamma=1"), "gamma"),
    ],
)
def test_bad_input_ends_with_a_message(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert main(flags(table, tmp_path / "race", *more)) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "race").exists()


def test_agents_are_checked_before_anything_is_read(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.pipeline.bench.race.Truth.of", lambda task: pytest.fail("a table was read"))
    assert main(flags(table, tmp_path / "race", "--agents", "random", "lstm:epochs=many")) == 2
    assert "epochs is 'many'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["seeds", "workers", "repetitions"])
def test_less_than_one_of_something_is_refused(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert f"--{flag} is 0" in complaint(flags(table, tmp_path / "race", f"--{flag}", "0"), capsys)
