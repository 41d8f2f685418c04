from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import LatencyError
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.latency.torch_runtime import random_ids
from kdnas_env.support.cpu_lock import probe_lock, training_lock

BRIEF = LatencySettings(max_rounds=5)
STUDENT = StudentConfig(1, 4, 32, 64)


@pytest.fixture(scope="module")
def teacher(flat_teacher: Callable[[str], Path]) -> Teacher:
    return load_teacher(flat_teacher("bert"))


@pytest.fixture
def model(teacher: Teacher) -> Any:
    return build_student(STUDENT, teacher.architecture, seed=0)


@pytest.fixture(params=["torch", "onnxruntime"])
def settings(request: pytest.FixtureRequest) -> LatencySettings:
    return replace(BRIEF, runtime=request.param, batch_size=2, sequence_length=12)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def watch(model: torch.nn.Module, look: Callable[[dict[str, Any]], None]) -> None:
    """Call ``look`` with the inputs of every forward pass."""
    model.register_forward_pre_hook(lambda module, args, kwargs: look(kwargs), with_kwargs=True)


@pytest.mark.usefixtures("timed_graphs_are_written_once")
def test_a_measurement_says_what_was_measured(teacher: Teacher, model: Any, settings: LatencySettings) -> None:
    settings = replace(settings, threads=2)
    latency = LatencyProbe(teacher.model, teacher.architecture, settings).measure(model, STUDENT)
    assert (latency.runtime, latency.device, latency.threads) == (settings.runtime, "cpu", 2)
    assert (latency.batch_size, latency.sequence_length) == (2, 12)
    assert latency.count >= 2 * settings.min_rounds
    assert min(latency.median_ms, latency.teacher_median_ms, latency.ratio) > 0
    assert min(latency.iqr_ms, latency.teacher_iqr_ms, latency.ratio_iqr) >= 0


def test_passes_are_inference_of_one_thread_on_real_tokens(teacher: Teacher, model: Any, three_threads: None) -> None:
    seen: list[dict[str, Any]] = []
    watch(
        model,
        lambda inputs: seen.append(
            {**inputs, "threads": torch.get_num_threads(), "inference": torch.is_inference_mode_enabled()}
        ),
    )
    modes: list[bool] = []
    model.encoder.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    model.train()
    latency = LatencyProbe(teacher.model, teacher.architecture, BRIEF).measure(model, STUDENT)
    assert len(seen) == latency.count + BRIEF.warmup_passes
    assert not any(modes)
    for inputs in seen:
        ids = inputs.pop("input_ids")
        assert inputs == {"threads": 1, "inference": True}
        assert ids.shape == (1, 50)
        assert not (ids == teacher.architecture.pad_token_id).any()
    assert torch.get_num_threads() == 3


def test_a_probe_leaves_no_trace(teacher: Teacher, model: Any, settings: LatencySettings, three_threads: None) -> None:
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    states = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    probe = LatencyProbe(teacher.model, teacher.architecture, settings)
    for training in (True, False):
        model.train(training)
        model.embeddings.eval()
        modes = [module.training for module in model.modules()]
        probe.measure(model, STUDENT)
        assert [module.training for module in model.modules()] == modes
    assert (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()) == states  # noqa: NPY002
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.get_num_threads() == 3
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("lost"), KeyboardInterrupt()]
)
def test_an_error_passes_through_and_all_is_restored(
    teacher: Teacher, model: Any, three_threads: None, error: BaseException
) -> None:
    left = iter(range(10))

    def fail(inputs: dict[str, Any]) -> None:
        if next(left, None) is None:
            raise error

    watch(model.eval(), fail)
    with pytest.raises(type(error)) as caught:
        LatencyProbe(teacher.model, teacher.architecture, BRIEF).measure(model, STUDENT)
    assert caught.value is error
    assert torch.get_num_threads() == 3
    assert gc.isenabled()
    with probe_lock():
        pass


def test_measuring_waits_for_training(teacher: Teacher, model: Any, own_cores_lock: Path) -> None:
    code = f"""
import sys, time
from kdnas_env.support.cpu_lock import training_lock
with training_lock({str(own_cores_lock)!r}):
    print("training", flush=True)
    sys.stdin.readline()
    print(time.monotonic_ns(), flush=True)
"""
    passes: list[int] = []
    watch(model.eval(), lambda inputs: passes.append(time.monotonic_ns()))
    probe = LatencyProbe(teacher.model, teacher.architecture, BRIEF)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"training\n"
        ending = threading.Timer(0.5, process.stdin.close)
        ending.start()
        probe.measure(model, STUDENT)
        ending.join()
        assert int(process.stdout.readline()) < passes[0]


def test_measuring_keeps_training_out(teacher: Teacher, model: Any) -> None:
    refusals: list[str] = []

    def train(inputs: dict[str, Any]) -> None:
        with pytest.raises(RuntimeError) as caught:
            training_lock().__enter__()
        refusals.append(str(caught.value))

    watch(model.eval(), train)
    LatencyProbe(teacher.model, teacher.architecture, BRIEF).measure(model, STUDENT)
    assert set(refusals) == {"this thread already holds the CPU lock for a probe; end that before the training"}


def test_measuring_within_training_is_refused(teacher: Teacher, model: Any) -> None:
    probe = LatencyProbe(teacher.model, teacher.architecture, BRIEF)
    with training_lock(), pytest.raises(RuntimeError, match="already holds the CPU lock for a training"):
        probe.measure(model, STUDENT)


def test_a_trimmed_vocabulary_is_measured_on_its_own_tokens(teacher: Teacher, model: Any) -> None:
    model.set_input_embeddings(torch.nn.Embedding(5, 32, padding_idx=0))
    LatencyProbe(teacher.model, teacher.architecture, BRIEF).measure(model, STUDENT)
    ids = random_ids(model, replace(BRIEF, batch_size=20))
    assert set(ids.flatten().tolist()) == {1, 2, 3, 4}
    assert torch.equal(ids, random_ids(model, replace(BRIEF, batch_size=20)))
    assert not torch.equal(ids, random_ids(model, replace(BRIEF, batch_size=20, seed=1)))


def test_sequences_too_long_for_the_teacher_are_refused(teacher: Teacher, settings: LatencySettings) -> None:
    with pytest.raises(LatencyError, match="sequence_length is 67; the teacher takes at most 66 tokens"):
        LatencyProbe(teacher.model, teacher.architecture, replace(settings, sequence_length=67))


@pytest.mark.usefixtures("timed_graphs_are_written_once")
def test_models_cannot_be_left_out(teacher: Teacher, settings: LatencySettings) -> None:
    with pytest.raises(LatencyError, match=f"runtime '{settings.runtime}' needs models.*teacher is None"):
        LatencyProbe(None, teacher.architecture, settings)
    with pytest.raises(LatencyError, match=r"student is None"):
        LatencyProbe(teacher.model, teacher.architecture, settings).measure(None, STUDENT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named(teacher: Teacher) -> None:
    with pytest.raises(LatencyError, match="device 'cuda' cannot be used"):
        LatencyProbe(teacher.model, teacher.architecture, LatencySettings(device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_models_on_the_cpu_are_measured_on_the_gpu(teacher: Teacher, model: Any) -> None:
    latency = LatencyProbe(teacher.model, teacher.architecture, replace(BRIEF, device="cuda")).measure(model, STUDENT)
    assert latency.device == "cuda"
    assert next(model.parameters()).device.type == "cpu"
