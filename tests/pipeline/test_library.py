"""The commands as functions: from a notebook, a search and a distillation are two calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import kdnas_env
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.assemble import SearchSettings
from kdnas_env.envs.mini_kd import MiniKDEnv
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.evaluators.mini_kd import Distilled, MiniKDEvaluator
from kdnas_env.pipeline.options import CorpusOptions, options_of
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.support.progress import Tone

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds", "only_blank_pictures")


class Heard:
    """Progress that records its reports, and can interrupt a search as stopping a notebook cell does."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.begun: list[str] = []
        self.said: list[str] = []
        self.notes: list[str] = []
        self.reached: list[tuple[int, int]] = []
        self.done = (0, 0)
        self._stop_after = stop_after

    def begin(self, name: str) -> None:
        self.begun.append(name)

    def advance(self, done: int, total: int) -> None:
        self.done = (done, total)
        if self.begun[-1] == "searching":
            self.reached.append(self.done)
        if self.begun[-1] == "searching" and done == self._stop_after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)

    def say(self, text: str, tone: Tone = "plain") -> None:
        self.said.append(text)

    def end(self) -> None:
        pass


def weights(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def asked(small_in: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of ``searched``."""
    return small_in(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def heard() -> Heard:
    """The progress of ``searched``."""
    return Heard()


@pytest.fixture(scope="module")
def searched(asked: dict[str, Any], heard: Heard) -> kdnas_env.SearchRun:
    """A finished search. Do not write into its folder."""
    return kdnas_env.search(progress=heard, **asked)


def test_a_search_tells_how_many_students_broke_a_limit(small: dict[str, Any]) -> None:
    """Students that break a limit cost no budget. Progress counts only students that cost budget, from 0 on."""
    heard = Heard()
    run = kdnas_env.search(progress=heard, **{**small, "limits": {"speedup": 2.0}, "budget": 2})
    broke = sum(record.reward.cost > 0 for record in run.records if not record.duplicate)
    assert 0 < broke < len(run.records)
    assert heard.notes[-1] == f"{broke} broke a limit"
    assert (heard.reached[0], heard.reached[-1]) == ((0, 2), (2, 2))


def test_a_search_is_one_call(asked: dict[str, Any], searched: kdnas_env.SearchRun, heard: Heard) -> None:
    run = searched
    assert run.path == Path(asked["out"])
    assert heard.begun[:3] == ["preparing teacher", "preparing corpus", "preparing hidden states"]
    assert heard.done == (4, 4)
    assert sum("bert" in line for line in heard.said) >= 4
    assert run.best is not None
    assert run.best.reward.reward == max(record.reward.reward for record in run.records)
    ended = run.outcomes
    assert ended.students == ended.usable + ended.stopped + ended.infeasible + ended.broke + ended.failed == 4
    assert 0 <= ended.harmed <= ended.usable
    assert run.front
    assert isinstance(run.plot(), Figure)
    frame = pd.DataFrame(run.table())
    assert len(frame) == 4
    assert frame["reward"].max() == run.best.reward.reward
    assert StudentConfig.parse(str(frame.sort_values("reward")["student"].iloc[-1])) == run.best.evaluation.config
    assert (frame["float32_mb"] * 1e6 >= 4 * frame["parameters"]).all()
    assert (frame["parameters"] < frame["int8_mb"] * 1e6).all()
    assert (frame["int8_mb"] < 0.3 * frame["float32_mb"]).all()
    student = run.student()
    assert student.config.hidden_size == run.best.evaluation.config.hidden_size
    results = json.loads((run.path / "results.json").read_text())
    assert [row["reward"] for row in results["students"]] == list(frame["reward"])
    readme = (run.path / "README.md").read_text()
    assert f"kdnas search --resume {run.path}\n" in readme
    assert f"kdnas_env.search(resume={str(run.path)!r})" in readme


@pytest.fixture
def distilled(monkeypatch: pytest.MonkeyPatch) -> list[StudentConfig]:
    """Every student that is distilled, in order."""
    students: list[StudentConfig] = []
    distil = MiniKDEvaluator.distil

    def counted(self: MiniKDEvaluator, config: StudentConfig, fidelity: Fidelity, **more: Any) -> Distilled:
        students.append(config)
        return distil(self, config, fidelity, **more)

    monkeypatch.setattr(MiniKDEvaluator, "distil", counted)
    return students


def test_the_best_student_is_distilled_once(small: dict[str, Any], distilled: list[StudentConfig]) -> None:
    run = kdnas_env.search(**small)
    assert len(distilled) == len(set(distilled)) == 4
    kept = weights(run.path)
    for file in run.path.joinpath("student").iterdir():
        file.unlink()
    run.path.joinpath("student").rmdir()
    heard = Heard()
    kdnas_env.search(resume=run.path, cache_dir=small["cache_dir"], progress=heard)
    assert len(distilled) == 5
    assert heard.begun[-1].startswith("distilling the best student once more")
    assert weights(run.path) == kept


def test_the_best_student_within_the_limits_is_distilled_once(
    small: dict[str, Any], distilled: list[StudentConfig]
) -> None:
    """Without the limit, a faster student that breaks it would have a higher reward."""
    run = kdnas_env.search(**{**small, "limits": {**small["limits"], "keep": 0.75}, "reward": {"alpha": -1.0}})
    assert run.best is not None
    assert any(
        record.reward.cost > 0 and KDReward(alpha=-1.0)(record.evaluation).reward > run.best.reward.reward
        for record in run.records
    )
    assert distilled.count(run.best.evaluation.config) == 1


def test_an_interrupted_search_goes_on(
    asked: dict[str, Any], searched: kdnas_env.SearchRun, distilled: list[StudentConfig], tmp_path: Path
) -> None:
    part = {**asked, "out": str(tmp_path / "part")}
    with pytest.raises(kdnas_env.Interrupted, match="resume with: kdnas_env") as caught:
        kdnas_env.search(progress=Heard(stop_after=2), **part)
    assert caught.value.go_on == f"kdnas_env.search(resume={part['out']!r}, cache_dir={part['cache_dir']!r})"
    assert json.loads((tmp_path / "part" / "run.json").read_text())["state"] == "interrupted"
    run = eval(caught.value.go_on)
    assert len(distilled) == len(set(distilled)) == 4
    assert [record.action for record in run.records] == [record.action for record in searched.records]
    assert weights(run.path) == weights(searched.path)
    with pytest.raises(RunError, match="`budget` is 9, the run has 4"):
        kdnas_env.search(resume=run.path, budget=9)


def test_a_finished_search_is_opened_again(
    asked: dict[str, Any], searched: kdnas_env.SearchRun, tmp_path: Path
) -> None:
    run = searched
    assert run.best is not None
    again = kdnas_env.load_run(run.path)
    assert again.table() == run.table()
    assert again.best == run.best
    assert again.drawn == run.drawn
    assert again.options.to_dict() == run.options.to_dict()
    assert repr(again) == f"SearchRun({asked['out']!r}, students=4, best='{run.best.evaluation.config}')"
    assert kdnas_env.load_run(run).table() == run.table()
    assert kdnas_env.search(resume=run, cache_dir=asked["cache_dir"]).path == run.path
    other = Path(shutil.copytree(run.path, tmp_path / "run"))
    state = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**state, "state": "interrupted"}))
    with pytest.raises(RunError, match=r"resume it with `kdnas_env\.search\(resume='.*'\)`, then distil"):
        kdnas_env.load_run(other)


def test_a_search_is_distilled_from(asked: dict[str, Any], searched: kdnas_env.SearchRun, tmp_path: Path) -> None:
    run = kdnas_env.load_run(Path(shutil.copytree(searched.path, tmp_path / "run")))
    more: dict[str, Any] = {"epochs": 1, "corpus": {"max_length": 24, "heldout_samples": 16}, "threads": 1}
    made = kdnas_env.distill(run, cache_dir=asked["cache_dir"], **more)
    (student,) = made.students
    assert run.best is not None
    assert student.name == "best"
    assert student.config == run.best.evaluation.config
    assert student.unexplained <= student.started_at
    assert student.model().config.hidden_size == student.config.hidden_size
    heard = Heard()
    again = kdnas_env.distill(str(run.path), cache_dir=asked["cache_dir"], progress=heard)
    assert again.students == made.students
    assert not heard.begun, "it is distilled already"


def test_a_student_that_is_named_is_distilled_even_if_it_breaks_a_limit_of_the_search(small: dict[str, Any]) -> None:
    run = kdnas_env.search(**{**small, "limits": {"speedup": 2}, "budget": 2})
    slow = next(record.evaluation.config for record in run.records if record.reward.cost > 0)
    more: dict[str, Any] = {"epochs": 1, "corpus": {"max_length": 24, "heldout_samples": 16}, "threads": 1}
    made = kdnas_env.distill(run, students=[str(slow)], cache_dir=small["cache_dir"], **more)
    assert [student.config for student in made.students] == [slow]


def test_settings_may_be_groups_or_plain_data(small: dict[str, Any]) -> None:
    small["corpus"] = CorpusOptions(source=small["corpus"]["source"], max_length=30)
    small["agent"], small["agent_settings"] = "evolution", {"population_size": 2}
    run = kdnas_env.search(**{**small, "budget": 2})
    assert run.options.corpus.max_length == 30
    assert run.options.agent_settings == ("population_size=2",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kdnas_env.search(progress=True), "progress is True, which has no method 'begin'"),  # type: ignore[arg-type]
        (lambda: kdnas_env.distill(None), "run is None; expected a folder"),  # type: ignore[arg-type]
        (lambda: kdnas_env.distill(3), "run is 3; expected a text"),  # type: ignore[arg-type]
        (lambda: kdnas_env.export(None), "None is no model; expected a folder"),  # type: ignore[arg-type]
        (lambda: kdnas_env.score(3.5), "3.5 is no model; expected a folder"),  # type: ignore[arg-type]
        (lambda: kdnas_env.score("./nowhere", tasks=["rte"]), "unknown model './nowhere'"),
        (
            lambda: kdnas_env.search(reward={"alpha": 0, "beta": 0.5}),
            r"`reward.beta` has no effect with `reward.alpha=0`",
        ),
    ],
)
def test_wrong_arguments_are_named_as_such(call: Callable[[], object], message: str) -> None:
    with pytest.raises(KDNASError, match=message) as caught:
        call()
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budgets": 3}, "unknown field"),
        ({"budget": "many"}, "budget is 'many'"),
        ({"corpus": {"max_lenght": 3}}, "max_lenght"),
        ({"agent": "nobody"}, "unknown agent 'nobody'"),
        ({"timeout": 3.0}, "has no effect without workers"),
    ],
)
def test_wrong_settings_are_refused_and_leave_no_folder(
    small: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(KDNASError, match=message):
        kdnas_env.search(**{**small, **wrong})
    assert not Path(small["out"]).exists()


def test_environment_and_command_are_put_together_alike(asked: dict[str, Any], searched: kdnas_env.SearchRun) -> None:
    usual, made = SearchOptions().settings, SearchSettings()
    assert Constraints.of(usual.limits) == Constraints(speedup=5)
    assert not Constraints.of(made.limits)
    plain = {field.name for field in fields(SearchSettings)} - {"corpus", "latency", "limits"}
    assert {name: getattr(usual, name) for name in plain} == {name: getattr(made, name) for name in plain}
    shared = {name: asked[name] for name in ("teacher", "corpus", "budget", "round_size", "data_fraction", "cache_dir")}
    env = gym.make("kdnas/MiniKDAnalytic-v0", space=asked["space"]["file"], device="cpu", threads=1, **shared).unwrapped
    assert isinstance(env, MiniKDEnv)
    env.reset()
    for record in searched.records:
        _, reward, _, _, _ = env.step(np.array(record.action))
        assert reward == record.reward.reward
    env.close()


def test_names_of_0_2_still_work() -> None:
    from kdnas_env.envs.benchmark_task import Task
    from kdnas_env.envs.task import Task as FormerTask

    assert kdnas_env.TaskProgress is kdnas_env.ConsoleProgress
    assert FormerTask is Task


def test_public_names() -> None:
    assert set(kdnas_env.__all__) <= set(dir(kdnas_env))
    assert not {"Any", "register", "version"} & set(dir(kdnas_env))
    assert all(getattr(kdnas_env, name) is not None for name in kdnas_env.__all__)
    assert not hasattr(kdnas_env, "nothing")
    for name in ("search", "distill", "score", "export", "run", "study", "race"):
        assert callable(getattr(kdnas_env, name)), name


def test_importing_the_package_is_light() -> None:
    code = "import sys, kdnas_env; print({'torch', 'transformers', 'tyro', 'matplotlib', 'rich'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_options_of_commands_need_no_torch() -> None:
    code = "import sys, kdnas_env.cli.commands; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(("recipe", "data_fraction", "warned"), [("default", 0.1, 1), ("few-texts", 0.1, 0)])
def test_a_search_says_where_the_text_has_too_few_tokens(
    small: dict[str, Any], recipe: str, data_fraction: float, warned: int
) -> None:
    heard = Heard()
    run = kdnas_env.search(
        progress=heard, **small | {"recipe": recipe, "data_fraction": data_fraction, "budget": 1, "round_size": 1}
    )
    assert sum("tokens, which are few for states up to" in line for line in heard.said) == warned
    assert run.best is not None


def test_settings_by_their_names_of_earlier_versions() -> None:
    options = options_of(PipelineOptions, {"glue": {"seeds": 2}})
    assert options.score.seeds == 2
    recorded = {**options.to_dict(), "stages": ["search", "glue"]}
    recorded["glue"] = recorded.pop("score")
    assert PipelineOptions.from_dict(recorded).to_dict() == replace(options, stages=("search", "score")).to_dict()
