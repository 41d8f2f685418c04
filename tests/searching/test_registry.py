from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from import_statements import import_statements

import kdnas_env
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.searching.registry import agent_class, agent_names, make_agent

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


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(KDNASError, match=r"did you mean 'lstm'\?$"):
        make_agent("lsmt")


def test_an_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KDNASError, match=r"agent 'lstm' has no hyper-parameter\(s\) \['depth'\]; it has \['embedd"):
        make_agent("lstm", depth=3)
    with pytest.raises(KDNASError, match=r"agent 'random' has no hyper-parameter\(s\) \['seed'\]; it has \[\]"):
        make_agent("random", seed=3)


def test_a_malformed_setting_is_refused_by_the_agent() -> None:
    with pytest.raises(KDNASError, match="epochs is -1"):
        make_agent("lstm", epochs=-1)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("lstm", {"learning_rate": "3e-4"}, "learning_rate is '3e-4'; expected a finite number"),
        ("lstm", {"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number"),
        ("lstm", {"epochs": "4"}, "epochs is '4'; expected a whole number"),
        ("lstm-ensemble", {"features": "all"}, r"features is 'all'; expected one of \['both', 'deep', 'wide'\]"),
        ("local-search", {"reach": "2"}, "reach is '2'; expected a whole number or nothing"),
        ("evolution", {"adjacent": None}, "adjacent is None; expected a finite number"),
        ("parameter-count", {"largest_first": 1}, "largest_first is 1; expected true or false"),
        ("reinforce", {"tries": True}, "tries is True; expected a whole number"),
        ("maskable-ppo", {"learning_rate": "3e-4"}, "learning_rate is '3e-4'; expected a finite number"),
        ("ppo", {"net_arch": "64,64"}, "net_arch is '64,64'; expected a list"),
        ("ppo", {"net_arch": [64, 1.5]}, r"net_arch is \[64, 1.5\]; expected a whole number"),
        ("ppo", {"policy_kwargs": "ReLU"}, "policy_kwargs is 'ReLU'; expected a mapping of names"),
        ("dqn", {"device": 0}, "device is 0; expected a text"),
        ("optuna", {"sampler_options": [5]}, r"sampler_options is \[5\]; expected a mapping of names"),
        ("optuna", {"objectives": "loss"}, "objectives is 'loss'; expected a list"),
        ("optuna", {"retries": "4"}, "retries is '4'; expected a whole number"),
    ],
)
def test_a_setting_of_another_type_is_refused_for_every_agent(name: str, settings: dict[str, Any], said: str) -> None:
    """The configuration class checks types even without the registry."""
    with pytest.raises(KDNASError, match=said):
        make_agent(name, **settings)
    with pytest.raises(KDNASError, match=said):
        agent_class(name).Config(**settings)


@pytest.mark.parametrize("name", ["lstm", "lstm-ensemble", "ppo", "qr-dqn", "evolution", "local-search", "optuna"])
def test_settings_are_of_the_types_that_are_declared(name: str) -> None:
    """NumPy numbers, and integers for float settings, are converted to the declared types."""
    for field in fields(agent_class(name).Config):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            given = np.asarray(field.default)[()]
            made = getattr(make_agent(name, **{field.name: given}).config, field.name)
            assert (type(made), made) == (type(field.default), field.default)
    assert type(make_agent("lstm", learning_rate=1).config.learning_rate) is float
    assert make_agent("ppo", net_arch=(32, 16)).config.net_arch == [32, 16]


def test_any_package_can_declare_what_it_likes(site: Site) -> None:
    source = """
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable
if TYPE_CHECKING:
    from nowhere import Nothing

@dataclass
class Cfg:
    start: Path | None = None
    key: Callable[[int], int] | None = None
    pair: tuple[int, float] = (1, 2.0)
    names: list[str] = field(default_factory=list)

@dataclass
class Odd:
    what: "Nothing" = None

class Mine:
    Config = Cfg
    def __init__(self, config):
        self.config = config

class Other(Mine):
    Config = Odd
"""
    site.install("cfg-search", {"mine": "cfg_search:Mine", "other": "cfg_search:Other"}, {"cfg_search": source})
    made = make_agent("mine", start="states", key=abs, pair=[3, 4], names=("a", "b")).config
    assert (made.start, made.key, made.pair, made.names) == (Path("states"), abs, (3, 4.0), ["a", "b"])
    assert make_agent("other", what=3).config.what == 3
    for settings, said in (({"key": 3}, "key is 3; expected a Callable or nothing"), ({"pair": [1]}, "a list of 2")):
        with pytest.raises(KDNASError, match=said):
            make_agent("mine", **settings)


def test_any_package_can_add_an_agent(site: Site) -> None:
    site.install("greedy-search", {"greedy": "greedy_search:Greedy"}, {"greedy_search": AGENT})
    assert "greedy" in agent_names()
    assert make_agent("greedy", width=5).config.width == 5


def test_an_agent_that_is_installed_meanwhile_is_found(site: Site) -> None:
    with pytest.raises(KDNASError, match="unknown agent 'greedy'"):
        make_agent("greedy")
    site.install("greedy-search", {"greedy": "greedy_search:Greedy"}, {"greedy_search": AGENT})
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
def test_other_agents_of_the_user_hide_nothing(other: str, tmp_path: Path) -> None:
    beside = tmp_path / other
    beside.parent.mkdir(exist_ok=True)
    beside.write_text("class LSTMAgent: pass")
    script = tmp_path / "script.py"
    script.write_text(
        "import agents, kdnas_env\nprint(agents.LSTMAgent.__module__, type(kdnas_env.make_agent('lstm')).__module__)"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.stdout.split() == ["agents", "kdnas_env.agents.lstm.agent"], run.stderr


@pytest.mark.parametrize("imported", ["agents.ask_tell", "agents"])
def test_an_agent_written_for_the_first_version_is_told_the_new_name(
    site: Site, monkeypatch: pytest.MonkeyPatch, imported: str
) -> None:
    monkeypatch.setitem(sys.modules, "agents", None)
    module = f"written_with_{imported.replace('.', '_')}"
    site.install("old-search", {"greedy": f"{module}:Greedy"}, {module: f"import {imported}"})
    with pytest.raises(
        DependencyError, match=r"agent 'greedy' of old-search .* the former name of 'kdnas_env\.agents'"
    ):
        make_agent("greedy")


def test_two_packages_may_not_offer_the_same_name(site: Site) -> None:
    site.install("one", {"greedy": "greedy_search:Greedy"}, {"greedy_search": AGENT})
    site.install("two", {"greedy": "greedy_search:Greedy"})
    with pytest.raises(KDNASError, match=r"agent 'greedy' is offered by \w+ .* and by \w+ .*; uninstall all but one"):
        make_agent("greedy")


def test_the_environments_know_of_no_agent() -> None:
    package = Path(kdnas_env.__file__).parent
    for path in package.rglob("*.py"):
        for node in import_statements(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.split(".")[0] == "agents"], path
            if "agents" not in path.relative_to(package).parts:
                assert not [name for name in names if name.startswith("kdnas_env.agents")], path


def test_listing_the_agents_loads_none_of_them() -> None:
    code = "import sys, kdnas_env; kdnas_env.agent_names(); print({'kdnas_env.agents', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
