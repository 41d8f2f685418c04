"""Evaluations on Ray, in separate processes, because Ray keeps global state and emits many warnings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Started, run_script
from troubled import CONFIGS, begun

from kdnas_env.cli import main

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

_HEAD = """
import json, os, signal, subprocess, sys, threading, time
from pathlib import Path
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.evaluators.parallel import RayEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.evaluators.planted import PlantedEvaluator
from troubled import CONFIGS, SPACE, Troubled

FOLDER = sys.argv[1]
FIDELITY = Fidelity(epochs=2)
EXPECTED = PlantedEvaluator(SPACE).evaluate(CONFIGS, FIDELITY)
STORE = FOLDER + ".sqlite"
"""

_ONE_NODE = (
    _HEAD
    + """
import psutil
from kdnas_env.cli import main

trouble = Troubled(0.02, FOLDER, deadly=CONFIGS[3], hanging=CONFIGS[5])
heard = []
with RayEvaluator(trouble, 2, cpus=0.5, timeout=5, environment={"PYTHONPATH": os.environ["PYTHONPATH"]}) as evaluator:
    note = lambda report: heard.append((report.candidate, report.epoch))
    found = evaluator.evaluate(CONFIGS, FIDELITY, on_epoch=note)
    (stopped,) = evaluator.evaluate(CONFIGS[:1], FIDELITY, on_epoch=lambda report: report.epoch == 1)
    here = psutil.Process()
    listening = {
        socket.laddr.ip
        for process in [here, *here.children(recursive=True)]
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    print(json.dumps({
        "same": found[:3] + found[4:] == EXPECTED[:3] + EXPECTED[4:],
        "failed": [found[3].status, found[3].error],
        "stopped": stopped.status,
        "heard": sorted(set(heard)) == [(c, e) for c in range(len(CONFIGS)) for e in range(3) if c != 3],
        "replaced": evaluator.pool.replaced,
        "deterministic": evaluator.deterministic,
        "listening": sorted(listening),
        "started": sorted(process.name() for process in here.children()),
        "fingerprint": evaluator.fingerprint == PlantedEvaluator(SPACE).fingerprint,
        # It uses the cluster that is there: to start one takes long.
        "search": main([*sys.argv[2:], "--ray", "local", "--workers", "1"]),
    }))
"""
)

# The first driver is killed while both nodes evaluate a student; the second driver loses a node.
_TWO_NODES = (
    _HEAD
    + """
import psutil
from ray.cluster_utils import Cluster
from troubled import notes


def first_driver(address):
    trouble = Troubled(0.02, FOLDER, held=tuple(CONFIGS[5:]))
    evaluator = RayEvaluator(trouble, 2, address=address)
    StoredEvaluator(evaluator, STORE).evaluate(CONFIGS, FIDELITY)


def second_driver():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    first = subprocess.Popen([sys.executable, __file__, FOLDER, cluster.address])
    left = at_work(CONFIGS[5:])
    first.kill()
    while any(map(alive, left)):
        time.sleep(0.05)
    kept = StoredEvaluator(PlantedEvaluator(SPACE), STORE).records()
    trouble = Troubled(0.02, FOLDER, held=tuple(CONFIGS[12:]))
    evaluator = RayEvaluator(trouble, 2, address=cluster.address)
    store = StoredEvaluator(evaluator, STORE)

    def lose_a_node():
        busy = at_work(CONFIGS[12:])
        cluster.remove_node(second, allow_graceful=False)
        while all(map(alive, busy)):
            time.sleep(0.05)
        Path(FOLDER, "go").touch()

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    found = store.evaluate(CONFIGS, FIDELITY)
    thread.join()
    replaced = evaluator.pool.replaced
    evaluator.close()
    print(json.dumps({
        "killed": first.wait(),
        "kept": len(kept),
        "unchanged": store.records()[: len(kept)] == kept,
        "same": found == EXPECTED,
        "stored": store.count(),
        "replaced": replaced,
        "again": evaluator.evaluate(CONFIGS[:1], FIDELITY) == EXPECTED[:1],
    }))
    evaluator.close()
    cluster.shutdown()


def at_work(held):
    # Wait until both nodes evaluate a student that is held; return their processes.
    while len(busy := {int(path.name.split()[-2]) for one in held for path in notes(Path(FOLDER), one)}) < 2:
        time.sleep(0.05)
    return busy


def alive(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if sys.argv[2:]:
    first_driver(sys.argv[2])
else:
    second_driver()
"""
)


def run(code: str, folder: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run code in a process of its own; return the line of JSON that it prints."""
    folder.mkdir(exist_ok=True)
    script = folder.with_suffix(".py")
    script.write_text(code)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **variables}
    process = Started(run_script, script, str(folder), *arguments, environment=environment)
    printed = process.read(timeout=300)
    assert process.returncode == 0, printed
    found: dict[str, Any] = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    return found


@pytest.fixture(scope="module")
def searching(
    tiny_teacher_dirs: dict[str, Path],
    tiny_corpus_file: Path,
    small_space: dict[str, list[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], list[str]]:
    """Return a function from a run folder to the command line of a small search."""
    root = tmp_path_factory.mktemp("search")
    (root / "space.json").write_text(json.dumps(small_space))
    flags = {
        "teacher": tiny_teacher_dirs["bert"],
        "corpus.source": tiny_corpus_file,
        "space.file": root / "space.json",
        "speedup": 0,
        "budget": 4,
        "data-fraction": 1.0,
        "latency.runtime": "analytic",
        "device": "cpu",
        "threads": 1,
        "cache-dir": root / "cache",
    }
    words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return lambda out: ["search", *words, "--out", str(out)]


@pytest.fixture(scope="module")
def one_node(
    searching: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Folder of begun evaluations, and the results, of a local cluster; RAY_ADDRESS names another cluster."""
    root = tmp_path_factory.mktemp("ray")
    folder = root / "begun"
    return folder, run(_ONE_NODE, folder, *searching(root / "run"), RAY_ADDRESS="203.0.113.1:6379")


@pytest.mark.usefixtures("blank_pictures")
def test_a_search_of_the_command_line_finds_the_same(
    one_node: tuple[Path, dict[str, Any]], searching: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    folder, printed = one_node
    assert printed["search"] == main(searching(tmp_path)) == 0
    on_ray, here = (
        json.loads((path / "results.json").read_text())["students"] for path in (folder.with_name("run"), tmp_path)
    )
    assert len(here) == 4
    for name in ("student", "status", "loss", "reward"):
        assert [student[name] for student in on_ray] == [student[name] for student in here]


def test_actors_that_die_or_hang_are_replaced_and_epochs_heard(one_node: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = one_node
    found = {name: value for name, value in printed.items() if name not in ("listening", "started", "search")}
    status, error = found.pop("failed")
    assert status == "failed"
    assert error.startswith("given up after 3 attempts: the worker's actor is gone (ActorDiedError")
    assert found.pop("replaced") >= 4
    assert found == {"same": True, "stopped": "stopped", "heard": True, "deterministic": True, "fingerprint": True}
    tries = [begun(folder, config) for config in CONFIGS]
    assert tries == [2, 1, 1, 3, 1, 2, *[1] * (len(CONFIGS) - 6)]


def test_killed_drivers_and_nodes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """The actors of a killed driver end with it; otherwise the second driver would have no cores."""
    folder = tmp_path / "begun"
    found = run(_TWO_NODES, folder)
    assert found.pop("replaced") >= 1
    assert found == {"killed": -9, "kept": 5, "unchanged": True, "same": True, "stored": len(CONFIGS), "again": True}
    # Students that either fault interrupted began twice, the others once; the first one is repeated at the end.
    tries = [begun(folder, config) for config in CONFIGS]
    assert tries == [2, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1, *tries[12:]]
    assert sorted(tries[12:]) == [*[1] * (len(CONFIGS) - 13), 2]


def test_a_cluster_of_ones_own_is_not_reached_from_elsewhere(one_node: tuple[Path, dict[str, Any]]) -> None:
    """It listens on this machine only, and ignores the address of another cluster in the environment."""
    _, found = one_node
    assert {"gcs_server", "raylet"} <= set(found["started"])
    assert found["listening"]
    assert all(ip.removeprefix("::ffff:").startswith("127.") or ip == "::1" for ip in found["listening"])
