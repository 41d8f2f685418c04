"""Small tables from the command line: built from a tiny teacher, inspected and verified."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
from complaints import complaint, instead
from printed import with_output
from processes import start_command

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.cli import main
from kdnas_env.tables.storage import load_table, write_table
from kdnas_env.tables.table import CURVES, MISSING, Table
from kdnas_env.tabulation.build import STORE
from kdnas_env.tabulation.verify import open_live

SPACE = {"num_hidden_layers": [1, 3], "hidden_size": [16, 32], "intermediate_size": [16, 64]}
STUDENTS, SEEDS = 8, 2

Flags = Callable[..., list[str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "space.json").write_text(json.dumps(SPACE))
    return folder


@pytest.fixture(scope="module")
def flags(root: Path, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path) -> Flags:
    """Return the command line of a small build. Keyword arguments change flags; None omits a flag."""

    def make(out: Path, *switches: str, **changes: Any) -> list[str]:
        values = {
            "teacher": tiny_teacher_dirs["bert"],
            "corpus.source": tiny_corpus_file,
            "corpus.max-samples": 80,
            "corpus.proxy-fraction": 1.0,
            "space.file": root / "space.json",
            "epochs": 2,
            "latency.sequence-length": 16,
            "device": "cpu",
            "cache-dir": root / "cache",
            **{name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()},
        }
        given = [str(part) for name, value in values.items() if value is not None for part in (f"--{name}", value)]
        return ["table", "build", "tiny", "--out", str(out), "--seeds", *map(str, range(SEEDS)), *given, *switches]

    return make


@pytest.fixture(scope="module")
def built(root: Path, flags: Flags) -> tuple[Path, str]:
    """The folder of a finished build, and what was printed."""
    status, printed = with_output(lambda: main(flags(root / "build", "--skip-latencies")))
    assert status == 0
    return root / "build", printed


@pytest.fixture(scope="module")
def build(built: tuple[Path, str]) -> Path:
    return built[0]


@pytest.fixture(scope="module")
def table_file(root: Path, build: Path) -> Path:
    assert main(["table", "export", str(build), "--to", str(root / "tiny.npz")]) == 0
    return root / "tiny.npz"


def assert_same_cells(one: Table, other: Table) -> None:
    """Check that two tables are equal bit for bit, except for the measured seconds."""
    seconds = CURVES.index("epoch_seconds")
    for name in Table.ARRAYS:
        ours, theirs = getattr(one, name), getattr(other, name)
        if name == "curves":
            ours, theirs = np.delete(ours, seconds, axis=-1), np.delete(theirs, seconds, axis=-1)
        assert np.array_equal(ours, theirs, equal_nan=name in ("curves", "latencies")), name


def rows(folder: Path) -> int:
    if not (folder / STORE).exists():
        return 0
    with closing(sqlite3.connect(f"file:{folder / STORE}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def test_a_table_is_whole(table_file: Path, tiny_teacher_dirs: dict[str, Path]) -> None:
    table = load_table(table_file)
    assert table.complete == 1
    assert table.curves.shape == (STUDENTS, SEEDS, 3, len(CURVES))
    meta = table.metadata
    assert (meta.name, meta.epochs, meta.seeds) == ("tiny", 2, (0, 1))
    assert meta.teacher == str(tiny_teacher_dirs["bert"])
    assert [device.name for device in meta.devices] == ["analytic"]
    assert meta.devices[0].sequence_length == 16
    facts = meta.corpus["facts"]
    assert (facts["train_sentences"], facts["heldout_sentences"]) == (72, 8)
    assert facts["tokens"] == facts["train_tokens"] + facts["heldout_tokens"]
    assert meta.recipe["learning_rate"] > 0
    assert {"kdnas", "torch"} <= set(meta.versions)
    assert meta.trained_on.endswith("1 thread")
    # Wider and deeper students have lower losses, as expected of a real distillation.
    last = table.curve("heldout_unexplained")[..., -1].mean(axis=1)
    sizes = [(config.num_hidden_layers, config.hidden_size) for config in table.configs()]
    assert np.mean(last[[size == (3, 32) for size in sizes]]) < np.mean(last[[size == (1, 16) for size in sizes]])


def test_a_build_says_what_the_rest_will_take(built: tuple[Path, str]) -> None:
    assert "10 distillations took" in built[1]
    assert "6 more will take about" in built[1]


def test_the_environment_takes_it(table_file: Path) -> None:
    env: Any = gym.make("kdnas/Tabular-v0", table=table_file, budget=3)
    env.reset(seed=0)
    assert np.isfinite(env.step(env.unwrapped.search_space.from_index(0))[1])


def test_what_is_done_is_not_done_again(
    build: Path, flags: Flags, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    before = rows(build)
    # All other settings are read from the folder.
    command = ["table", "build", "tiny", "--out", str(build), "--skip-latencies", "--cache-dir", str(root / "cache")]
    assert main(command) == 0
    assert "16 of 16 distillations are already done" in capsys.readouterr().out
    assert rows(build) == before == STUDENTS * SEEDS
    said = complaint([*command, "--epochs", "5"], capsys)
    assert "the run cannot be resumed with other settings: --epochs is 5, the run has 2" in said


def test_a_sample_grows_but_never_shrinks(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sampled"
    make = ["--skip-latencies"]
    assert main([*flags(folder, epochs=1, sample=2), *make]) == 0
    assert main([*flags(folder, epochs=1, sample=3), *make]) == 0
    assert "4 of 6 distillations are already done" in capsys.readouterr().out
    assert rows(folder) == 3 * SEEDS
    said = complaint([*flags(folder, epochs=1, sample=2), *make], capsys)
    assert "--sample is 2, the build in" in said
    assert "has 3; a sample may grow, but not shrink" in said
    # Without the flag, the build keeps its last size.
    assert main([*flags(folder, epochs=1), *make]) == 0
    assert "6 of 6 distillations are already done" in capsys.readouterr().out


def test_a_new_build_starts_from_an_old_store(
    build: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = flags(tmp_path / "new", "--skip-latencies", "--evaluations", str(build / STORE))
    assert main(command) == 0
    assert "16 of 16 distillations are already done" in capsys.readouterr().out


@pytest.mark.slow
def test_shards_find_what_one_process_does(
    build: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(flags(tmp_path / "a", "--skip-latencies", shard="1/2")) == 0
    assert main(flags(tmp_path / "b", "--skip-latencies", shard="2/2")) == 0
    printed = capsys.readouterr().out
    assert "8 distillations in part 2 of 2" in printed
    assert (rows(tmp_path / "a"), rows(tmp_path / "b")) == (8, 8)
    for folders, name in (([build], "one"), ([tmp_path / "a", tmp_path / "b"], "merged")):
        assert main(["table", "export", *map(str, folders), "--to", str(tmp_path / f"{name}.npz")]) == 0
    one, merged = load_table(tmp_path / "one.npz"), load_table(tmp_path / "merged.npz")
    assert_same_cells(one, merged)
    assert one.metadata == merged.metadata
    assert main(["table", "export", str(tmp_path / "a"), "--to", str(tmp_path / "half.npz")]) == 0
    assert "complete: 50.0 %, 8 cells are masked" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_with_any_number_of_workers(
    flags: Flags, tmp_path: Path, table_file: Path, moments: Random
) -> None:
    folder = tmp_path / "killed"
    for workers, distillations in enumerate(sorted(moments.sample(range(1, STUDENTS * SEEDS // 2), 2)), start=1):
        command = flags(folder, "--skip-latencies", workers=workers)
        process = start_command(command, output=tmp_path / "output.txt")
        deadline = time.monotonic() + 120
        while rows(folder) < distillations and time.monotonic() < deadline:
            assert process.poll() is None, "the build ended before it was killed"
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        # Worker processes end when their parent is killed.
        assert psutil.wait_procs(children, timeout=60)[1] == []
        assert distillations <= rows(folder) < STUDENTS * SEEDS
    assert main(flags(folder, "--skip-latencies")) == 0
    assert main(["table", "export", str(folder), "--to", str(tmp_path / "killed.npz")]) == 0
    assert_same_cells(load_table(tmp_path / "killed.npz"), load_table(table_file))


@pytest.mark.slow
def test_an_interrupted_build_says_how_to_go_on(flags: Flags, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = start_command(flags(folder, "--skip-latencies"))
    deadline = time.monotonic() + 120
    while rows(folder) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed = process.read(timeout=60)
    assert process.returncode == 130
    assert f"kdnas table build tiny --out {folder}" in printed
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"


@pytest.mark.slow
def test_latencies_are_measured_once(
    build: Path, flags: Flags, tmp_path: Path, root: Path, few_rounds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "timed"
    (root / "few.json").write_text(json.dumps({"num_hidden_layers": [1, 3]}))
    command = [*flags(folder, space__file=root / "few.json", evaluations=build / STORE), "--runtimes", "torch"]
    assert main([*command, "--skip-losses"]) == 0
    file = folder / "latencies" / "torch.jsonl"
    before = file.read_bytes()
    assert before.count(b"\n") == 3
    assert main(command) == 0
    assert "2 of 2 students timed with torch are already done" in capsys.readouterr().out
    assert file.read_bytes() == before
    assert main(["table", "export", str(folder), "--to", str(tmp_path / "timed.npz")]) == 0
    table = load_table(tmp_path / "timed.npz")
    assert [device.runtime for device in table.metadata.devices] == ["torch", "analytic"]
    assert table.metadata.devices[0].machine
    assert np.isfinite(table.latencies).all()
    assert main(["table", "verify", str(tmp_path / "timed.npz")]) == 0


def test_inspecting_tells_what_it_is_of(
    table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = ["table", "inspect", str(table_file), "--to", str(tmp_path / "tiny.png")]
    assert main([*command, "--json", str(tmp_path / "tiny-figures.json")]) == 0
    printed = capsys.readouterr().out
    record = json.loads(table_file.with_suffix(".json").read_text())
    for expected in (
        "table: tiny",
        "8 students, 2 seeds [0, 1], 2 epochs",
        "72 sentences",
        "complete: 100.0 %",
        "device analytic: 8 of 8 students",
        "best student: bert",
        "noise ceiling: tau 0.",
        "between seeds, within a width",
        "how hard it is to search",
        "local search to the optimum, median evaluations",
        record["sha256"],
        record["workload"],
    ):
        assert expected in printed
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "tiny-figures.json").read_text())
    assert figures["hardness"]["points"] == STUDENTS
    assert figures["noise"] == record["noise"]
    assert "surrogate" not in figures


def test_inspecting_compares_and_searches(
    table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = ["table", "inspect", f"{table_file}:alpha=-0.1", "--against", str(table_file), f"{table_file}:alpha=-0.2"]
    figures = tmp_path / "figures.json"
    assert main([*command, "--searches", "1", "--budget", "5", "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert "how hard it is to search, as tiny:alpha=-0.1" in printed
    assert "random-forest to the optimum, median evaluations" in printed
    assert "optuna:sampler=gp to the optimum, median evaluations" in printed
    assert printed.count("overlap of the best 1 percent") == 2
    told = json.loads(figures.read_text())
    assert [comparison["points"] for comparison in told["against"]] == [STUDENTS, STUDENTS]
    assert set(told["searches"]) == {"random-forest", "optuna:sampler=gp"}


def test_a_table_of_one_student_has_no_hardness(
    table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def alone(table: Table) -> dict[str, Any]:
        arrays = {name: getattr(table, name).copy() for name in ("status", "curves", "valid")}
        arrays["status"][1:], arrays["curves"][1:], arrays["valid"][1:] = MISSING, np.nan, False
        return arrays

    assert main(["table", "inspect", str(changed(table_file, tmp_path / "one.npz", alone))]) == 0
    assert "hardness: unknown" in capsys.readouterr().out


def test_the_tables_of_the_package_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from kdnas_env.tables.storage import table_names

    assert main(["table", "inspect"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in table_names())
    assert "kdnas table" in printed


def test_a_table_is_verified_by_distilling_anew(
    table_file: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "table",
        "verify",
        str(table_file),
        "--replay",
        "3",
        "--cache-dir",
        str(root / "cache"),
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 cells distilled again: losses differ by" in printed
    assert "no faults found" in printed


def test_a_table_of_a_gpu_is_verified_on_a_cpu_within_what_rounding_does(
    table_file: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    live, _ = open_live(load_table(table_file), device="cpu", cache_dir=root / "cache")

    def change(table: Table) -> dict[str, Any]:
        curves = table.curves * np.float32(1.01)
        return {"metadata": replace(table.metadata, workload=live.alike[0]), "curves": curves}

    path = changed(table_file, tmp_path / "gpu.npz", change)
    command = ["table", "verify", str(path), "--replay", "1", "--device", "cpu", "--cache-dir", str(root / "cache")]
    main(command)
    printed = " ".join(capsys.readouterr().out.split())
    assert "limit 0.03" in printed
    assert "when distilled anew" not in printed
    assert main([*command, "--precision", "bfloat16"]) == 1
    assert "precision or version differ from the table's" in " ".join(capsys.readouterr().out.split())


def changed(table_file: Path, path: Path, change: Callable[[Table], dict[str, Any]]) -> Path:
    from dataclasses import replace

    table = load_table(table_file)
    write_table(replace(table, **change(table)), path)
    return path


def test_a_table_of_other_losses_does_not_pass(
    table_file: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(table_file, tmp_path / "other.npz", lambda table: {"curves": table.curves * np.float32(1.01)})
    assert (
        main(["table", "verify", str(path), "--replay", "1", "--device", "cpu", "--cache-dir", str(root / "cache")])
        == 1
    )
    assert "when distilled anew" in " ".join(capsys.readouterr().out.split())


def test_a_table_with_faults_does_not_pass(
    table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(table_file, tmp_path / "bad.npz", lambda table: {"parameters": table.parameters + 1})
    assert main(["table", "verify", str(path)]) == 1
    assert "fault: parameters of 8 students are wrong" in " ".join(capsys.readouterr().out.split())


def test_a_damaged_table_is_refused(table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.npz").write_bytes(table_file.read_bytes()[:-10])
    (tmp_path / "cut.json").write_bytes(table_file.with_suffix(".json").read_bytes())
    for command in ("inspect", "verify"):
        assert "does not match its checksum" in complaint(["table", command, str(tmp_path / "cut.npz")], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2"], "shard is '3/2'; expected I/N"),
        (["--seeds", "1", "1"], "seeds are [1, 1]; expected one or more different numbers"),
        (["--epochs", "0"], "epochs is 0; expected a whole number, at least 1"),
        (["--workers", "0"], "workers is 0"),
        (
            ["--runtimes", "torch", "tensorrt"],
            "runtimes name ['tensorrt']; expected some of ['torch', 'onnxruntime', 'onnxruntime-int8']",
        ),
        (["--latency.threads", "0"], "threads is 0; expected a whole number, at least 1"),
        (["--recipe", "cake"], "unknown recipe 'cake'"),
        (["--teacher", "nowhere/at-all/there"], "nowhere/at-all/there"),
    ],
)
def test_bad_flags(
    arguments: list[str], message: str, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(instead(flags(tmp_path / "build"), arguments), capsys)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("name", ["a/b", "../up", ".."])
def test_a_name_is_no_path(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(["table", "build", name, "--out", str(tmp_path / "build")], capsys)
    assert f"name is {name!r}; expected letters" in said


def test_bad_exports(build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to merge" in complaint(["table", "export", "--to", str(tmp_path / "x.npz")], capsys)
    assert "has no workload.json" in complaint(
        ["table", "export", str(tmp_path), "--to", str(tmp_path / "x.npz")], capsys
    )
    assert "ends in .npz" in complaint(["table", "export", str(build), "--to", str(tmp_path / "x.csv")], capsys)


def test_builds_of_other_texts_cannot_be_merged(
    build: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = flags(tmp_path / "other", "--skip-latencies", "--skip-losses", corpus__max_samples=70)
    assert main(other) == 0
    capsys.readouterr()
    said = complaint(["table", "export", str(build), str(tmp_path / "other"), "--to", str(tmp_path / "x.npz")], capsys)
    assert "cannot be merged: workload is" in said
    assert str(tmp_path / "other") in said
    assert not (tmp_path / "x.npz").exists()
