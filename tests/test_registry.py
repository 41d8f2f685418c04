from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import kdnas_env
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.registry import agent_class, agent_names, make_agent

AGENT = """
from dataclasses import dataclass

@dataclass(frozen=True)
class GreedyConfig:
    width: int = 3

class Greedy:
    Config = GreedyConfig

    def __init__(self, config):
        self.config = config

class Bare:
    pass
"""


@dataclass(frozen=True)
class Site:
    """A folder of installed packages."""

    folder: Path

    def install(self, package: str, entry_points: dict[str, str], modules: dict[str, str] | None = None) -> None:
        metadata = self.folder / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[kdnas.agents]", *lines]) + "\n")
        for module, source in (modules or {}).items():
            (self.folder / f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(tmp_path)
    return Site(tmp_path)


def test_the_agents_of_kdnas_are_found() -> None:
    assert {"random", "lstm"} <= set(agent_names())
    assert agent_names() == sorted(agent_names())


def test_agents_are_made_with_their_settings() -> None:
    assert type(make_agent("random")).__name__ == "RandomAgent"
    agent = make_agent("lstm", epochs=3, context="bests")
    assert (agent.config.epochs, agent.config.context) == (3, "bests")
    assert agent_class("lstm") is type(agent)


def test_the_package_offers_them_itself() -> None:
    assert kdnas_env.make_agent is make_agent
    assert kdnas_env.agent_names is agent_names
    with pytest.raises(AttributeError, match="module 'kdnas_env' has no attribute 'make_agents'"):
        _ = kdnas_env.make_agents


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KDNASError, match=r"unknown agent 'genius'; known are \[.*'lstm', .*'random'.*\]"):
        make_agent("genius")


def test_an_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KDNASError, match=r"agent 'lstm' has no hyper-parameter\(s\) \['depth'\]; it has \['context', "):
        make_agent("lstm", depth=3)
    with pytest.raises(KDNASError, match=r"agent 'random' has no hyper-parameter\(s\) \['seed'\]; it has \[\]"):
        make_agent("random", seed=3)


def test_a_malformed_setting_is_refused_by_the_agent() -> None:
    with pytest.raises(KDNASError, match="epochs is -1"):
        make_agent("lstm", epochs=-1)


def test_any_package_can_add_an_agent(site: Site) -> None:
    site.install("greedy-search", {"greedy": "greedy_search:Greedy"}, {"greedy_search": AGENT})
    assert "greedy" in agent_names()
    assert make_agent("greedy", width=5).config.width == 5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Agent", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("needs_more:Agent", "ModuleNotFoundError: No module named 'surely_not_installed'"),
        ("greedy_search:Missing", "AttributeError: .*'Missing'"),
        ("with_a_typo:Agent", "SyntaxError"),
        ("fails:Agent", "RuntimeError: the licence has expired"),
    ],
)
def test_an_agent_that_cannot_be_imported_is_named(site: Site, value: str, message: str) -> None:
    modules = {
        "greedy_search": AGENT,
        "needs_more": "import surely_not_installed",
        "with_a_typo": "class Agent:\n  def",
        "fails": "raise RuntimeError('the licence has expired')",
    }
    site.install("greedy-search", {"greedy": value}, modules)
    assert "greedy" in agent_names()
    expected = rf"agent 'greedy' of greedy-search \({value}\) cannot be imported: {message}.*Install what is missing"
    with pytest.raises(DependencyError, match=expected):
        make_agent("greedy")


@pytest.mark.parametrize("value", ["greedy_search:Bare", "greedy_search:dataclass"])
def test_what_is_no_agent_is_refused(site: Site, value: str) -> None:
    site.install("greedy-search", {"greedy": value}, {"greedy_search": AGENT})
    with pytest.raises(DependencyError, match=r"agent 'greedy' of greedy-search .* expected a class with a dataclass"):
        make_agent("greedy")


@pytest.mark.parametrize("other", ["agents/__init__.py", "agents.py"])
def test_what_hides_the_agents_of_kdnas_is_named(other: str, tmp_path: Path) -> None:
    hiding = tmp_path / other
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("class LSTMAgent: pass")
    script = tmp_path / "script.py"
    script.write_text("import kdnas_env; print(kdnas_env.agent_names()); kdnas_env.make_agent('lstm')")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "'random'" in run.stdout
    told = run.stderr.splitlines()[-1]
    place = hiding if other == "agents.py" else tmp_path / "agents"
    own = Path(kdnas_env.__file__).parents[1] / "agents"
    assert f"DependencyError: the package 'agents' of kdnas ('{own}') is hidden by '{place}'. Give your own" in told
    assert "pip install" not in told


def test_another_package_with_agents_of_its_own_is_named_where_they_fail(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("openai-agents", {})
    (site.folder / "openai-agents-1.0.dist-info" / "top_level.txt").write_text("agents\n")
    assert make_agent("random").config == agent_class("random").Config()
    monkeypatch.setitem(sys.modules, "agents.exhaustive", None)
    with pytest.raises(DependencyError, match=r"^openai-agents and kdnas both bring a package 'agents'; .*its own$"):
        make_agent("exhaustive")


def test_two_packages_may_not_offer_the_same_name(site: Site) -> None:
    site.install("one", {"greedy": "greedy_search:Greedy"}, {"greedy_search": AGENT})
    site.install("two", {"greedy": "greedy_search:Greedy"})
    with pytest.raises(KDNASError, match=r"agent 'greedy' is offered by \w+ .* and by \w+ .*; uninstall all but one"):
        make_agent("greedy")


def test_the_environments_know_of_no_agent() -> None:
    package = Path(kdnas_env.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.split(".")[0] == "agents"], path


def test_listing_the_agents_loads_none_of_them() -> None:
    code = "import sys, kdnas_env; kdnas_env.agent_names(); print({'agents', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
