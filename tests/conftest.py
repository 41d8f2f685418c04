"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import tiny_teachers
from hypothesis import settings

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.evaluators.planted import PLANTED_TEACHER
from kdnas_env.support.scratch import scratch_folder

if TYPE_CHECKING:
    from written_graphs import WrittenGraphs

# Test processes share the cores, and OpenMP threads that wait without sleeping would waste them. Libraries read these
# variables on import, and conftest.py of some folders imports such libraries before pytest is configured.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_LONGEST = ("test_notebooks.py", "test_ray.py")
"""Files with a single test, or set-up, of half a minute."""

_MEMORY, _ROOM = "/dev/shm", 4 * 2**30

# No deadline: the time of an example depends more on the load of the machine than on the code. 50 examples are half of
# Hypothesis's default; tests that need more set their own number.
settings.register_profile("kdnas", deadline=None, max_examples=50)
settings.load_profile("kdnas")


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is None:  # workers of pytest-xdist and processes that tests start inherit the environment
        _isolate()
    else:  # a lock per worker: none waits for the trainings of another
        os.environ["KDNAS_LOCK"] += f".{worker['workerid']}"
    # If a shell runs the tests in the background, they and the processes that they start would ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude imported modules and collected tests from garbage collection; they stay until the end.

    They are millions of objects, and each full collection would visit all of them. A training of transformers starts
    with a full collection, which took more than half of the time of tests that train small models.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        if "processes" in sys.modules:  # some of the tests start processes
            sys.modules["processes"].start_server()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Also exclude what the tests of a file have imported from garbage collection."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            gc.collect()
            gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest, or one worker would end with them while the other has no work."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker a contiguous share of the tests; idle workers take tests from the shares of others.

    By default, workers get small portions: several of them run tests of one file, and each makes its fixtures.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def _in_memory() -> bool:
    """Return whether there is a file system in memory with room for the files of the tests.

    On a disk, every commit of a store takes some milliseconds, and the tests make thousands of commits.
    """
    with suppress(OSError, AttributeError):  # other operating systems lack the function or the folder
        status = os.statvfs(_MEMORY)
        room = status.f_bavail * status.f_frsize
        return room >= _ROOM and os.access(_MEMORY, os.W_OK) and not status.f_flag & os.ST_NOEXEC
    return False


def _isolate() -> None:
    """Keep hidden states, the CPU lock and temporary files in a folder that is removed after the tests.

    The folder is in TMPDIR if set, otherwise in memory if possible. Libraries that are imported later see neither the
    user's cache of the hub nor the hub itself.
    """
    if not any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")) and _in_memory():
        tempfile.tempdir = _MEMORY
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest keeps the folders of failed tests
    ending = ExitStack()
    Finalize(None, ending.close, exitpriority=-200)  # after multiprocessing removes its folder in it (priority -100)
    own = ending.enter_context(scratch_folder("tests"))
    tempfile.tempdir = os.environ["TMPDIR"] = str(own)
    os.environ["KDNAS_CACHE"] = str(own / "cache")
    os.environ["KDNAS_LOCK"] = str(own / "cores.lock")
    os.environ["HF_HOME"] = str(own / "hub")
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> Random:
    """Generator of the moments at which a test kills processes: same in every run. A failing test shows the seed."""
    seed = zlib.crc32(request.node.name.encode())
    print(f"moments are drawn by Random({seed})")
    return Random(seed)


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Fewer resamples for intervals, which take most of the time of small studies and comparisons of vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnas_env.support.statistics.RESAMPLES", 100)
        patch.setattr("kdnas_env.tasks.vector_scores._RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def few_rounds() -> Iterator[None]:
    """Latencies of only five rounds, for tests of other things; timing an export usually takes many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnas_env.latency.interleave._should_stop", lambda student_ns, *others: len(student_ns) >= 5)
        yield


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files for pictures, for tests of other things; drawing one takes a third of the time of a small search."""
    _draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def only_blank_pictures() -> Iterator[None]:
    """As ``blank_pictures``, for a whole file, including its own fixtures."""
    with pytest.MonkeyPatch.context() as patch:
        _draw_nothing(patch)
        yield


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    patch.setattr(Figure, "savefig", lambda figure, file, **settings: None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Selenium; tests of pages are skipped without it."""
    if not shutil.which("chromedriver"):
        pytest.skip("there is no chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"):
        options.add_argument(flag)
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="session", autouse=True)
def options_are_read_once() -> Iterator[None]:
    """Cache the source code of options, which Tyro reads for each command line in half of the parsing time."""
    from tyro._docstrings import _ClassTokenization

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ClassTokenization, "make", staticmethod(cache(_ClassTokenization.make)))
        yield


@pytest.fixture(scope="session")
def operators_are_read_once() -> Iterator[None]:
    """Cache the registry of ONNX operators, which torch's exporter builds for each graph in a sixth of its time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def graphs_are_written_once(operators_are_read_once: None) -> Iterator[WrittenGraphs]:
    """Copy a graph that another test has exported or timed, with the new weights; for tests of other things."""
    from written_graphs import share_graphs

    with pytest.MonkeyPatch.context() as patch:
        yield share_graphs(patch)


@pytest.fixture
def bert_base() -> EncoderArchitecture:
    return PLANTED_TEACHER


@pytest.fixture(scope="session")
def tiny_teacher_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in hub layout, one per teacher family: 3 layers, 32 wide, 4 heads, about 100 to 600 tokens, 64 positions.

    Keys: bert, roberta, xlm-roberta, albert, distilbert, electra. ``load_teacher(tiny_teacher_dirs["bert"])`` takes
    some hundredths of a second. Do not write into them; for other teachers, use ``tiny_teachers.save_teacher``.
    """
    root = tmp_path_factory.mktemp("teachers")
    return {family: tiny_teachers.save_teacher(root / family, family) for family in tiny_teachers.FAMILIES}


@pytest.fixture(scope="session")
def flat_teacher(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny teacher of one layer, because exporting a layer takes long. Do not write into it."""
    root = tmp_path_factory.mktemp("flat")

    def make(family: str) -> Path:
        layers: dict[str, Any] = {"n_layers" if family == "distilbert" else "num_hidden_layers": 1}
        if not (root / family).exists():
            tiny_teachers.save_teacher(root / family, family, **layers)
        return root / family

    return make


@pytest.fixture(scope="session")
def tiny_corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file with 210 distinct short English sentences in column ``text``, all in the tiny vocabularies."""
    return tiny_teachers.save_sentences(tmp_path_factory.mktemp("corpus") / "sentences.jsonl")


@pytest.fixture(scope="session")
def small_space() -> dict[str, list[Any]]:
    """A search space that is fast to search."""
    return {
        "num_hidden_layers": [1, 2, 3],
        "num_attention_heads": [2, 4],
        "hidden_size": [16, 32],
        "intermediate_size": [16, 32, 64],
    }


@pytest.fixture(scope="module")
def student_folder(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a briefly distilled student. Do not write into it."""
    import small_tasks

    root = tmp_path_factory.mktemp("student")
    return small_tasks.save_tiny_student(
        root / "student", tiny_teacher_dirs["bert"], tiny_corpus_file, tmp_path_factory.mktemp("cache")
    )
