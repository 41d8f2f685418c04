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

# Test processes share the cores, and threads that wait for one another burn them unless they sleep. Libraries read this
# when they are loaded, which conftest.py of some folders does before pytest is configured.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_MEMORY, _ROOM = "/dev/shm", 4 * 2**30

# How long an example takes says more of what else the machine does than of the code. There are half as many as is
# usual; tests that need more say so.
settings.register_profile("kdnas", deadline=None, max_examples=50)
settings.load_profile("kdnas")


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is None:  # workers of pytest-xdist, and all that tests start, inherit it
        _isolate()
    else:  # but none waits until the students of another are trained
        os.environ["KDNAS_LOCK"] += f".{worker['workerid']}"
    # Where a shell runs the tests in the background, interrupts are ignored, by the processes that they start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector off what is imported and collected: it stays to the end.

    These are millions of objects, all of which the collector would pass over each time. A training of transformers has
    it do so at its start, which took more than half of the time of tests that train small models.
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
    """Keep it off what the tests of a file have imported, too."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            gc.collect()
            gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker a contiguous share of the tests, of which whoever is done first takes a part.

    In the small portions that are the default, workers share out the tests of one file, and each makes its fixtures.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def _in_memory() -> bool:
    """Whether there is a file system in memory with room for the files of the tests.

    Every commit of a store waits for the disk, some milliseconds, of which the tests have thousands.
    """
    with suppress(OSError, AttributeError):  # which another operating system does not have
        status = os.statvfs(_MEMORY)
        room = status.f_bavail * status.f_frsize
        return room >= _ROOM and os.access(_MEMORY, os.W_OK) and not status.f_flag & os.ST_NOEXEC
    return False


def _isolate() -> None:
    """Keep hidden states, the CPU lock and temporary files in a folder that ends with the tests.

    It lies where TMPDIR says, else in memory if possible. What the user has of the hub, or reaches of it, is not seen
    either, by libraries that are loaded after this.
    """
    if not any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")) and _in_memory():
        tempfile.tempdir = _MEMORY
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest keeps those of failed tests
    ending = ExitStack()
    Finalize(None, ending.close, exitpriority=-200)  # after the folder that multiprocessing has in it, which is -100
    own = ending.enter_context(scratch_folder("tests"))
    tempfile.tempdir = os.environ["TMPDIR"] = str(own)
    os.environ["KDNAS_CACHE"] = str(own / "cache")
    os.environ["KDNAS_LOCK"] = str(own / "cores.lock")
    os.environ["HF_HOME"] = str(own / "hub")
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> Random:
    """Draws the moments at which a test kills processes, the same in every run; a test that fails shows the seed."""
    seed = zlib.crc32(request.node.name.encode())
    print(f"moments are drawn by Random({seed})")
    return Random(seed)


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Rougher intervals, which take most of the time of small studies and comparisons of vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnas_env.support.statistics.RESAMPLES", 100)
        patch.setattr("kdnas_env.tasks.vector_scores._RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def few_rounds() -> Iterator[None]:
    """Latencies after five rounds, where their number is not what is tested: an export is timed for many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnas_env.latency.interleave._should_stop", lambda student_ns, *others: len(student_ns) >= 5)
        yield


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files for pictures, where those are not what is tested: to draw one takes a third of a small search."""
    _draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def only_blank_pictures() -> Iterator[None]:
    """The same for a whole file, whose own fixtures draw as well."""
    with pytest.MonkeyPatch.context() as patch:
        _draw_nothing(patch)
        yield


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    patch.setattr(Figure, "savefig", lambda figure, file, **settings: None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, by selenium; tests of pages are skipped without it."""
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
    """Tyro reads the source code of all options for each command line, which takes half of the time to parse it."""
    from tyro._docstrings import _ClassTokenization

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ClassTokenization, "make", staticmethod(cache(_ClassTokenization.make)))
        yield


@pytest.fixture(scope="session")
def operators_are_read_once() -> Iterator[None]:
    """Torch's exporter reads the source of all operators of ONNX for each graph, which takes a sixth of its time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def graphs_are_written_once(operators_are_read_once: None) -> Iterator[WrittenGraphs]:
    """A graph of a model that another test has exported, or timed, is copied, with other weights in their place. Use
    where graphs are not what is tested.
    """
    from written_graphs import share_graphs

    with pytest.MonkeyPatch.context() as patch:
        yield share_graphs(patch)


@pytest.fixture
def bert_base() -> EncoderArchitecture:
    return PLANTED_TEACHER


@pytest.fixture(scope="session")
def tiny_teacher_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in hub layout, one a teacher family: 3 layers, 32 wide, 4 heads, about 100 to 600 tokens, 64 positions.

    Keys: bert, roberta, xlm-roberta, albert, distilbert, electra. ``load_teacher(tiny_teacher_dirs["bert"])`` takes
    some hundredths of a second. Do not write into them; ``tiny_teachers.save_teacher`` makes others.
    """
    root = tmp_path_factory.mktemp("teachers")
    return {family: tiny_teachers.save_teacher(root / family, family) for family in tiny_teachers.FAMILIES}


@pytest.fixture(scope="session")
def flat_teacher(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny teacher of one layer; to export a layer takes long. Do not write into it."""
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
    """A search space that takes no time to search."""
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
    """Return the folder of a student that was distilled for a moment. Do not write into it."""
    import small_tasks

    root = tmp_path_factory.mktemp("student")
    return small_tasks.save_tiny_student(
        root / "student", tiny_teacher_dirs["bert"], tiny_corpus_file, tmp_path_factory.mktemp("cache")
    )
