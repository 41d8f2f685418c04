"""Evaluations on Ray, in processes of their own: Ray keeps global state, and warns of much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from troubled import CONFIGS, begun

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

_HEAD = """
import json, os, sys, threading, time
from pathlib import Path
from kdnas_env.core.evaluation import Fidelity, Status
from kdnas_env.evaluators.parallel import RayEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.evaluators.planted import PlantedEvaluator
from troubled import CONFIGS, SPACE, Troubled

FOLDER = sys.argv[1]
FIDELITY = Fidelity(epochs=2)
HERE = {"PYTHONPATH": os.environ["PYTHONPATH"]}
EXPECTED = PlantedEvaluator(SPACE).evaluate(CONFIGS, FIDELITY)
"""

_ONE_NODE = (
    _HEAD
    + """
import psutil

trouble = Troubled(0.02, FOLDER, deadly=CONFIGS[3], hanging=CONFIGS[5])
heard = []
with RayEvaluator(trouble, 2, cpus=0.5, timeout=10, environment=HERE) as evaluator:
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
    started = sorted(process.name() for process in here.children())
    evaluator.close()
    again = evaluator.evaluate(CONFIGS[6:8], FIDELITY)
    print(json.dumps({
        "again": again == EXPECTED[6:8],
        "same": found[:3] + found[4:] == EXPECTED[:3] + EXPECTED[4:],
        "failed": [found[3].status, found[3].error],
        "stopped": stopped.status,
        "heard": sorted(set(heard)) == [(c, e) for c in range(len(CONFIGS)) for e in range(3) if c != 3],
        "replaced": evaluator.pool.replaced,
        "deterministic": evaluator.deterministic,
        "listening": sorted(listening),
        "started": started,
        "fingerprint": evaluator.fingerprint == PlantedEvaluator(SPACE).fingerprint,
    }))
"""
)

_TWO_NODES = (
    _HEAD
    + """
import psutil
from ray.cluster_utils import Cluster
from troubled import notes

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
trouble = Troubled(0.1, FOLDER, held=tuple(CONFIGS[6:]))
evaluator = RayEvaluator(trouble, 2, address=cluster.address, cpus=1, environment=HERE)
store = StoredEvaluator(evaluator, FOLDER + ".sqlite")
reader = StoredEvaluator(PlantedEvaluator(SPACE), FOLDER + ".sqlite")


def lose_a_node():
    # Each node evaluates a student, and goes no further, until one node and all its processes are gone.
    while len(at_work := processes()) < 2 or reader.count() < 6:
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    while all(map(alive, at_work)):
        time.sleep(0.05)
    Path(FOLDER, "go").touch()
    while reader.count() < 14:
        time.sleep(0.05)
    cluster.add_node(num_cpus=1)


def processes():
    # Those that evaluate students that are held.
    return {int(path.name.split()[-2]) for held in CONFIGS[6:] for path in notes(Path(FOLDER), held)}


def alive(process):
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


thread = threading.Thread(target=lose_a_node)
thread.start()
found = store.evaluate(CONFIGS, FIDELITY)
thread.join()
print(json.dumps({"same": found == EXPECTED, "stored": store.count(), "replaced": evaluator.pool.replaced}))
evaluator.close()
cluster.shutdown()
"""
)

_KILLED_DRIVER = (
    _HEAD
    + """
import signal

evaluator = RayEvaluator(Troubled(0.2, FOLDER), 2, cpus=0.5, environment=HERE)
store = StoredEvaluator(evaluator, FOLDER + ".sqlite")
reader = StoredEvaluator(PlantedEvaluator(SPACE), FOLDER + ".sqlite")


def kill():
    while reader.count() < 5:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


if len(sys.argv) > 2:
    threading.Thread(target=kill, daemon=True).start()
found = store.evaluate(CONFIGS, FIDELITY)
print(json.dumps({"same": found == EXPECTED, "stored": store.count()}))
evaluator.close()
"""
)


def run(code: str, folder: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    script = folder.with_suffix(".py")
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, str(script), str(folder), *more],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where evaluations on a cluster of one's own are noted, and what they gave; the environment names another."""
    folder = tmp_path_factory.mktemp("ray") / "begun"
    return folder, answer(run(_ONE_NODE, folder, RAY_ADDRESS="203.0.113.1:6379"))


def test_actors_that_die_or_hang_are_replaced_and_epochs_heard(one_node: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = one_node
    found = {name: value for name, value in printed.items() if name not in ("listening", "started")}
    status, error = found.pop("failed")
    assert status == "failed"
    assert error.startswith("given up after 3 attempts: the worker's actor is gone (ActorDiedError")
    assert found.pop("replaced") >= 4
    assert found.pop("again")
    assert found == {"same": True, "stopped": "stopped", "heard": True, "deterministic": True, "fingerprint": True}
    tries = [begun(folder, config) for config in CONFIGS]
    assert tries == [2, 1, 1, 3, 1, 2, 2, 2, *[1] * (len(CONFIGS) - 8)]


def test_a_node_that_is_killed_loses_and_repeats_nothing(tmp_path: Path) -> None:
    found = answer(run(_TWO_NODES, tmp_path / "begun"))
    assert found["replaced"] >= 1
    assert (found["same"], found["stored"]) == (True, len(CONFIGS))
    # What ran on the node was begun twice, all else once.
    tries = [begun(tmp_path / "begun", config) for config in CONFIGS]
    assert sorted(tries) == [*[1] * (len(CONFIGS) - 1), 2]


def test_a_killed_driver_takes_its_actors_along_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    killed = run(_KILLED_DRIVER, folder, "kill")
    assert killed.returncode == -9
    before = sum(begun(folder, config) for config in CONFIGS)
    found = answer(run(_KILLED_DRIVER, folder))
    assert found == {"same": True, "stored": len(CONFIGS)}
    assert sum(begun(folder, config) for config in CONFIGS) <= len(CONFIGS) + 2 + 2
    assert before >= 5


def test_a_cluster_of_ones_own_is_not_reached_from_elsewhere(one_node: tuple[Path, dict[str, Any]]) -> None:
    """Nor does an address in the environment lead it to another."""
    _, found = one_node
    assert {"gcs_server", "raylet"} <= set(found["started"])
    assert found["listening"]
    assert all(ip.removeprefix("::ffff:").startswith("127.") or ip == "::1" for ip in found["listening"])
