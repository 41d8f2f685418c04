"""The files of deploy/ run commands of this version, start and resume a run, and agree with each other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdnas_env.cli.commands import parse
from kdnas_env.pipeline.search.options import SearchOptions, check_workers
from kdnas_env.searching.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
SLURM = (DEPLOY / "slurm.sh").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
CLUSTER = yaml.safe_load((DEPLOY / "cluster.yaml").read_text(encoding="utf-8"))
VOLUME, JOB = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))
HEAD = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]
[WORKERS] = JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]


def options_of(arguments: list[str]) -> SearchOptions:
    """Return the options of a ``kdnas`` command line; an unknown flag fails the test."""
    program, *rest = arguments
    assert program == "kdnas"
    options: SearchOptions = parse(rest).args[1]  # type: ignore[attr-defined]
    check_workers(options)
    assert options.ray == "auto"
    return options


def start(options: SearchOptions) -> None:
    assert options.out is not None
    RunFolder.create(Path(options.out).expanduser(), options, "").release()


def stub(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)


def run(command: list[str], folder: Path, **variables: str) -> list[str]:
    """Return the command that a script runs, with the stubs in a folder in place of the programs of a cluster."""
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def container(group: dict[str, Any]) -> dict[str, Any]:
    [only] = group["template"]["spec"]["containers"]
    described: dict[str, Any] = only
    return described


def test_the_job_on_kubernetes_starts_and_goes_on(tmp_path: Path) -> None:
    stub(tmp_path, "kdnas", 'printf "%s\\n" kdnas "$@"')
    entrypoint = JOB["spec"]["entrypoint"].replace("/runs/", f"{tmp_path}/runs/")
    # The shell of the submitter splits the command, and the shell of the head gets it quoted again.
    entrypoint = shlex.join(shlex.split(entrypoint))
    first = options_of(run(["sh", "-c", entrypoint], tmp_path))
    assert (first.out, first.resume) == (f"{tmp_path}/runs/first", None)
    start(first)
    again = options_of(run(["sh", "-c", entrypoint], tmp_path))
    assert (again.resume, again.budget, again.workers) == (first.out, first.budget, first.workers)
    cores = int(container(WORKERS)["resources"]["limits"]["cpu"])
    assert first.threads is not None
    assert WORKERS["replicas"] * (cores // first.threads) == first.workers
    assert HEAD["rayStartParams"]["num-cpus"] == "0"


def test_the_volume_of_the_runs_is_mounted_where_they_lie() -> None:
    [volume] = HEAD["template"]["spec"]["volumes"]
    [mount] = container(HEAD)["volumeMounts"]
    assert volume["persistentVolumeClaim"]["claimName"] == VOLUME["metadata"]["name"]
    assert mount["name"] == volume["name"]
    assert f"run={mount['mountPath']}/" in JOB["spec"]["entrypoint"]
    for group in (HEAD, WORKERS):
        [mount] = container(group)["volumeMounts"]
        [variable] = container(group)["env"]
        assert variable["name"] == "KDNAS_CACHE"
        assert variable["value"].startswith(mount["mountPath"])


def test_the_job_on_slurm_starts_and_goes_on(tmp_path: Path) -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SLURM, re.MULTILINE))
    stub(tmp_path, "ray", "true")
    stub(tmp_path, "srun", 'while [ "$1" != -- ]; do shift; done; shift; printf "%s\\n" "$@"')
    (tmp_path / "kdnas-env" / "bin").mkdir(parents=True)
    (tmp_path / "kdnas-env" / "bin" / "activate").touch()
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": asked["nodes"],
        "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
        "SLURMD_NODENAME": "node1",
    }
    script = ["bash", str(DEPLOY / "slurm.sh")]
    first = options_of(run(script, tmp_path, **variables))
    assert (first.out, first.resume) == ("runs/kdnas-7", None)
    assert first.workers == int(asked["nodes"]) * int(asked["cpus-per-task"])
    there = tmp_path / "runs" / "kdnas-7"
    RunFolder.create(there, first, "").release()
    for more in ({}, {"SLURM_JOB_ID": "8", "RUN": "runs/kdnas-7"}):
        command = run(script, tmp_path, **variables | more)
        assert command[2:4] == ["--resume", "runs/kdnas-7"]
        command[3] = str(there)
        assert options_of(command).budget == first.budget


def test_the_commands_of_the_readme_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    commands = [shlex.split(command) for command in re.findall(r"'(kdnas search .*?)'", README)]
    assert [command[2] for command in commands] == ["--out", "--resume"]
    first = options_of(commands[0])
    start(first)
    assert options_of(commands[1]).budget == first.budget


def test_all_run_the_version_of_ray_that_the_tests_do() -> None:
    [version] = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.findall(r"^FROM rayproject/ray:([\d.]+)-py311$", DOCKERFILE, re.MULTILINE) == [version]
    assert JOB["spec"]["rayClusterSpec"]["rayVersion"] == version


def test_what_is_installed_exists() -> None:
    lines = re.findall(r"^COPY \S+ (.*)$", DOCKERFILE, re.MULTILINE)
    copied = [source for line in lines for source in line.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "kdnas_env", "agents"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in (DOCKERFILE, README, " ".join(CLUSTER["setup_commands"])):
        [asked] = re.findall(r'-c constraints.txt "\.\[(.*?)\]"', text)
        assert set(asked.split(",")) <= set(extras)


_VALIDATE = """
import re, shlex, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

ready = prepare_config(yaml.safe_load(open(sys.argv[1], encoding="utf-8")))
validate_config(ready)
starts = [re.split(r"\\bray start ", command)[1:] for command in
          ready["head_start_ray_commands"] + ready["worker_start_ray_commands"]]
for flags in [shlex.split(only) for found in starts for only in found]:
    start.make_context("start", [*flags])
    print(*flags)
"""


def test_ray_takes_the_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    # In a separate process: warnings of Ray would be errors here.
    command = [sys.executable, "-c", _VALIDATE, str(DEPLOY / "cluster.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    head, worker = [line for line in done.stdout.splitlines() if line.startswith("--")]
    assert "--head" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
