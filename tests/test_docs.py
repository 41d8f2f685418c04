"""Every Python example of README and pages runs unchanged, commands parse, and the targets of links exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from processes import Started, run_script

import kdnas_env.wrappers
from kdnas_env.cli.commands import COMMANDS, parse_words
from kdnas_env.cli.short_help import asks_for_help

ROOT = Path(__file__).parents[1]
PAGES = {page: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]}
TEXT = "\n".join(PAGES.values())
# Two pages may show the same example.
BLOCKS = list(dict.fromkeys(re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)))


def block(part: str) -> str:
    texts: list[str] = [text for text in BLOCKS if part in text]
    [text] = texts
    return text


def run(code: str, folder: Path) -> str:
    """Run code as a script, in a folder and in a separate process, and return its output."""
    script = folder / "script.py"
    script.write_text('import warnings\n\nwarnings.simplefilter("error")\n' + code)
    return _printed(Started(run_script, script))


def _printed(started: Started) -> str:
    printed = started.read()
    assert started.returncode == 0, printed
    return printed


def lines(code: str) -> int:
    return len([line for line in code.splitlines() if line.strip()])


@pytest.mark.slow
def test_the_environment(tmp_path: Path) -> None:
    printed = run(block('gym.make("kdnas/MiniKD-v0"'), tmp_path)
    assert re.match(r"bert \d+L/\d+h\S* 0\.\d+ \d+\.\d+ ", printed)


@pytest.mark.slow
def test_a_search_from_python(tmp_path: Path) -> None:
    printed = run(block("kdnas_env.search("), tmp_path)
    assert re.search(r"bert \d+L/\d+h\S* 0\.\d+ \S*runs", printed)
    assert (tmp_path / "search.png").exists()


@pytest.mark.slow
def test_workers(tmp_path: Path) -> None:
    printed = run(block("workers=2"), tmp_path)
    assert re.match(r"\['bert \d+L/\d+h.*' 'bert \d+L/\d+h.*'\] \[[-\d. ]+\]", printed)


def test_an_agent(tmp_path: Path) -> None:
    reward, action = run(block('make_agent("lstm")'), tmp_path).split(maxsplit=1)
    assert float(reward) > 0.48  # random search finds 0.484 on average, 0.4897 is the optimum
    assert action.startswith("[")


def test_a_policy_gradient_loop_learns(tmp_path: Path) -> None:
    code = block("log_probs")
    assert lines(code) <= 32
    best, last = (float(number) for number in re.findall(r"\d\.\d+", run(code, tmp_path)))
    assert best > 0.48
    assert last > 0.44  # an untrained policy earns 0.41


def test_an_agent_of_ones_own_is_found_by_name(tmp_path: Path) -> None:
    code = block("class NeighbourConfig")
    own = code[code.index("@dataclass") : code.index("print(")]
    assert lines(own) <= 20
    assert float(run(code, tmp_path)) > 0.48
    (tmp_path / "my_package.py").write_text(code.replace("\nprint(", "\nif __name__ == '__main__':\n    print("))
    toml = re.search(r'^```toml\n\[project.entry-points."(.*?)"\]\n(.*?)^```', TEXT, re.M | re.S)
    assert toml is not None
    metadata = tmp_path / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[{}]\n{}".format(*toml.groups()).replace('"', ""))
    search = """
import sys
sys.path.insert(0, ".")
import kdnas_env
print(type(kdnas_env.make_agent("neighbours", share=0.25)).__name__)
"""
    assert run(search, tmp_path).strip() == "NeighbourAgent"

    suite = code[: code.index("print(")] + block("class TestNeighbours")
    (tmp_path / "test_mine.py").write_text(suite)
    arguments = ["-q", "-x", "-p", "no:cacheprovider", str(tmp_path / "test_mine.py")]
    assert "passed" in _printed(Started(pytest.main, arguments))


def test_an_optimiser_from_elsewhere(tmp_path: Path) -> None:
    printed = run(block("nevergrad"), tmp_path)
    assert float(printed.split()[-1]) > 0.47


def test_a_table_and_a_search_of_one(tmp_path: Path) -> None:
    trajectory, best = run(block("TabularEvaluator.of"), tmp_path).splitlines()
    assert len(json.loads(trajectory)) == 4
    assert float(best) > 0.64


def test_a_surrogate_of_the_package(tmp_path: Path) -> None:
    printed = run(block('table="joint-sentences"'), tmp_path).splitlines()
    assert len(printed) == 3
    assert all("learning_rate=" in line and -1 <= float(line.split()[-1]) < 0.7 for line in printed)


def test_a_short_agent(tmp_path: Path) -> None:
    assert float(run(block("class NeighbourAgent(AskTellAgent):"), tmp_path)) > 0.48


def test_an_algorithm_of_stable_baselines(tmp_path: Path) -> None:
    assert re.fullmatch(r"\d+", run(block("MaskablePPO"), tmp_path).strip())


def test_a_benchmark_of_optunahub(tmp_path: Path) -> None:
    found, optimum = map(float, run(block("integrations.optunahub"), tmp_path).split()[-2:])
    assert 0.57 < found <= optimum


def test_a_dataset_of_minari(tmp_path: Path) -> None:
    shapes, best = run(block("load_dataset"), tmp_path).rsplit(maxsplit=1)
    assert shapes == "(31, 5) (30, 5)"
    assert float(best) > 0.6


def test_an_environment_of_many_tasks(tmp_path: Path) -> None:
    task, described = run(block("kdnas/Tasks-v0"), tmp_path).split(maxsplit=1)
    assert task.startswith(("rotten-tomatoes", "imdb", "joint"))
    assert described.startswith("[")


def test_every_block_is_tried() -> None:
    assert len(BLOCKS) == 15


def test_what_registers_the_environments_is_imported() -> None:
    """The tests above would not notice: they run examples in processes that have already imported kdnas_env."""
    made = [code for code in BLOCKS if re.search(r"gym\.make\w*\(", code)]
    assert made
    assert [code for code in made if not re.search(r"^(import|from) kdnas_env", code, re.MULTILINE)] == []


def commands() -> list[str]:
    """Return the command lines of all pages, in blocks and in sentences."""
    blocks = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for text in blocks for line in text.splitlines() if line.startswith("kdnas ")]
    return sorted({*lines, *(" ".join(text.split()) for text in re.findall(r"`(kdnas [^`]+)`", TEXT))})


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    words = shlex.split(command)[1:]
    known = {word for name in COMMANDS for word in name.split()} | {"COMMAND", "glue"}
    assert words[0] in known
    # The name of a command alone, as in a sentence, and requests for help have no options to parse.
    if " ".join(words) not in COMMANDS and not asks_for_help(words):
        parse_words(words)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGES[ROOT / "README.md"])
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_public_name_is_on_the_python_page() -> None:
    page = PAGES[ROOT / "docs/reference/python.md"]
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", page, re.MULTILINE)}
    assert set(kdnas_env.__all__) - shown == {"__version__"}
    assert "`kdnas_env.__version__`" in page
    wrappers = PAGES[ROOT / "docs/reference/wrappers.md"]
    assert [name for name in kdnas_env.wrappers.__all__ if f"`{name}`" not in wrappers] == []


def test_every_module_that_a_page_names_is_on_the_python_page() -> None:
    named = {name.replace(".", "/") for name in re.findall(r"\bkdnas_env(?:\.[a-z]\w*)+", TEXT)}
    modules = {place for name in named for place in (name, name.rpartition("/")[0]) if (ROOT / f"{place}.py").exists()}
    assert len(modules) > 15
    page = PAGES[ROOT / "docs/reference/python.md"]
    assert sorted(module for module in modules if module.replace("/", ".") not in page) == []


def test_files_that_the_architecture_page_names_exist() -> None:
    page = PAGES[ROOT / "docs/architecture.md"]
    named = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert len(named) > 30
    package = ROOT / "kdnas_env"
    common = {"__init__.py", "options.py", "loop.py", "result.py"}
    assert [name for name in named if name not in common and not (package / name).exists()] == []
    groups = [package / "pipeline" / name for name in ("search", "distill", "score", "run")]
    assert [group for group in groups if not common <= {file.name for file in group.iterdir()}] == []
