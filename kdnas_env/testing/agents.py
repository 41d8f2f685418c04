"""Conformance tests of agents, to be subclassed in your own tests. They need pytest.

    class TestMine(AskTellConformance):
        @pytest.fixture
        def make_agent(self):
            return MyAgent

:class:`AgentConformance` tests a subclass of :class:`kdnas_env.agents.base.Agent`. :class:`AskTellConformance` has
further tests of a subclass of :class:`kdnas_env.agents.ask_tell.AskTellAgent`.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from kdnas_env.core.evaluation import EpochReport, Evaluation, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.book import Stopping
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.simulated import SimulatedBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.testing.bowl import BowlEnv
from kdnas_env.testing.clauses import clause, global_states, shaken_generators

MakeAgent = Callable[[], Any]

SPACES: dict[str, list[int]] = {
    "one point": [1],
    "two points": [2],
    "one dimension": [13],
    "with idle dimensions": [1, 5, 1, 4],
    "not a multiple of the round": [6, 3],
    "listed to draw from, not scored whole": [11] * 5,
    "drawn from by rejection": [40] * 4,
    "more points than 64 bits": [10] * 20,
}
AWKWARD = {"num_hidden_layers": [3, 6, 24], "num_attention_heads": [5, 12], "hidden_act": ["gelu", "gelu_python"]}
"""A space with invalid points, and with two names of one activation; only two students can be built."""


class AgentConformance:
    """The contract of :class:`kdnas_env.agents.base.Agent`, clause by clause.

    A subclass provides the fixture ``make_agent`` and may set the class attributes.

    Attributes:
        DETERMINED: Whether the proposals are the same for every seed.
        LARGEST: Largest number of points of a space that the agent can search; larger spaces are skipped.
    """

    DETERMINED = False
    LARGEST = float("inf")

    @pytest.fixture
    def make_agent(self) -> MakeAgent:
        """Function that makes the agent, best with settings that make it fast."""
        raise NotImplementedError("provide a fixture 'make_agent'")

    @pytest.mark.parametrize("nvec", SPACES.values(), ids=SPACES.keys())
    def test_any_space(self, make_agent: MakeAgent, nvec: list[int]) -> None:
        """Clause *search*: the agent searches spaces of any shape, and the result is what was evaluated."""
        size = int(np.prod(nvec, dtype=float))
        if size > self.LARGEST:
            pytest.skip(f"the agent does not support spaces of {size:,} points")
        env = BowlEnv(nvec)
        result = make_agent().search(env, budget=20, round_size=8, seed=3)
        count = min(20, size)
        clause("search", len(env.actions) == count, f"{len(env.actions)} evaluations of {size} points, budget 20")
        repeated = len(env.actions) - len({tuple(action) for action in env.actions})
        clause("search", not repeated, f"{repeated} of {count} candidates were evaluated before")
        clause("search", result.actions.dtype == np.int64, f"result.actions is {result.actions.dtype}, expected int64")
        clause("search", result.actions.tolist() == env.actions, "result.actions are not the evaluated actions")
        earned = [env.reward(action) for action in env.actions]
        clause(
            "search",
            result.rewards.tolist() == earned,
            "result.rewards are not the environment's rewards",
        )
        clause("search", len(result.infos) == count, f"{len(result.infos)} infos of {count} evaluations")
        best = int(np.argmax(earned))
        clause("search", result.best_index == best, f"best_index is {result.best_index}, expected {best}")
        clause("search", result.best_reward == earned[best], f"best_reward is {result.best_reward}")
        clause("search", result.best_action.tolist() == env.actions[best], f"best_action is {result.best_action}")
        sizes = [len(record.rewards) for record in result.rounds]
        expected = [8] * (count // 8) + [count % 8] * (count % 8 > 0)
        clause("search", sizes == expected, f"rounds of {sizes} candidates, expected {expected}")

    def test_the_budget(self, make_agent: MakeAgent) -> None:
        """Clause *budget*: the agent spends the whole budget and not more."""
        rng = np.random.default_rng(11)
        for _ in range(6):
            nvec = rng.integers(1, 5, size=rng.integers(1, 5)).tolist()
            budget, round_size, seed = int(rng.integers(1, 21)), int(rng.integers(1, 10)), int(rng.integers(2**40))
            env = BowlEnv(nvec)
            make_agent().search(env, budget=budget, round_size=round_size, seed=seed)
            expected = min(budget, int(np.prod(nvec)))
            case = f"a budget of {budget} in rounds of {round_size} over {nvec}"
            clause("budget", len(env.actions) == expected, f"{len(env.actions)} evaluations with {case}")
            clause("budget", len({tuple(action) for action in env.actions}) == expected, f"repetitions with {case}")

    def test_budget_and_rounds_of_the_environment(self, make_agent: MakeAgent) -> None:
        """Clause *budget*: the agent never exceeds the budget of the environment."""
        env = gym.make("kdnas/Planted-v0", budget=11, round_size=4)
        cases: list[tuple[dict[str, int], list[int]]] = [
            ({}, [4, 4, 3]),
            ({"budget": 6}, [4, 2]),
            ({"budget": 100}, [4, 4, 3]),
            ({"round_size": 6}, [6, 5]),
        ]
        for arguments, expected in cases:
            sizes = [len(record.rewards) for record in make_agent().search(env, **arguments).rounds]
            clause("budget", sizes == expected, f"with {arguments} rounds of {sizes}, expected {expected}")

    def test_the_end_of_an_episode(self, make_agent: MakeAgent) -> None:
        """Clause *end*: the search ends when the environment ends the episode."""
        env = BowlEnv([5, 5], ends_after=7)
        result = make_agent().search(env, budget=20, round_size=5)
        sizes = [len(record.rewards) for record in result.rounds]
        clause("end", len(env.actions) == 7 and sizes == [5, 2], f"{len(env.actions)} steps, rounds of {sizes}")

    @pytest.mark.filterwarnings("ignore:.*will not be spent:UserWarning")  # 10 is no multiple of 4
    def test_a_vector_environment(self, make_agent: MakeAgent) -> None:
        """Clause *vector*: a vector environment, with any autoreset mode, is searched like a single one, or refused."""
        expected = make_agent().search(gym.make("kdnas/Planted-v0", round_size=4, budget=8), seed=3)
        for mode in ("NextStep", "SameStep", "Disabled"):
            together = gym.make_vec("kdnas/Planted-v0", num_envs=4, budget=10, autoreset_mode=mode)
            if not make_agent().capabilities.vector:
                with pytest.raises(KDNASError, match="vector"):
                    make_agent().search(together, seed=3)
                return
            result = make_agent().search(together, seed=3)
            clause("vector", _points(result) == _points(expected), "other candidates than in a single environment")
            clause("vector", result.rewards.tolist() == expected.rewards.tolist(), "other rewards")
            clause("vector", result.best == expected.best, "another best")
            losses = [[info["loss"] for info in search.infos] for search in (result, expected)]
            clause("vector", losses[0] == losses[1], "infos are not those of the candidates")
        with pytest.raises(KDNASError, match="a round of a vector environment is one step of its 4 sub-environments"):
            make_agent().search(together, round_size=5)

    def test_the_seed(self, make_agent: MakeAgent) -> None:
        """Clause *seed*: the seed determines the proposals, also of an agent that has searched before."""
        agent, env = make_agent(), gym.make("kdnas/Planted-v0", noise=0.05)
        first, same, other = (_points(agent.search(env, budget=16, seed=seed)) for seed in (1, 1, 2))
        fresh = _points(make_agent().search(gym.make("kdnas/Planted-v0", noise=0.05), budget=16, seed=1))
        clause("seed", first == same, "a second search with the same seed makes other proposals")
        clause("seed", first == fresh, "a new agent with the same seed makes other proposals")
        clause("seed", (first == other) == self.DETERMINED, "another seed makes the same proposals")

    def test_the_environment_gets_the_seed(self, make_agent: MakeAgent) -> None:
        """Clause *seed*: the environment is reset once, with the seed."""
        env = BowlEnv([4, 4])
        make_agent().search(env, budget=3, seed=17)
        clause("seed", env.seeds == [17], f"reset was called with the seeds {env.seeds}, expected [17]")

    def test_rounds_are_reported(self, make_agent: MakeAgent) -> None:
        """Clause *on_round*: the callback gets a report after each round."""
        seen: list[Any] = []
        result = make_agent().search(BowlEnv([6, 6]), budget=20, round_size=8, on_round=seen.append)
        calls = [ranking.evaluations for ranking in seen]
        clause("on_round", calls == [8, 16, 20], f"called after {calls} evaluations, expected [8, 16, 20]")
        clause("on_round", seen[-1].rounds == result.rounds, "the last report has other rounds than the result")
        clause("on_round", seen[-1].global_best == result.best, "the last report has another best than the result")

    def test_global_generators(self, make_agent: MakeAgent) -> None:
        """Clause *generators*: the agent neither reads nor changes global random generators."""

        def search() -> list[tuple[int, ...]]:
            return _points(make_agent().search(gym.make("kdnas/Planted-v0"), budget=16, seed=5))

        expected = search()  # so that later imports do not change the states
        with shaken_generators():
            before = global_states()
            proposed = search()
            clause("generators", global_states() == before, "the state of a global random generator has changed")
        clause("generators", proposed == expected, "the proposals depend on a global random generator")

    def test_temporary_files(self, make_agent: MakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Clause *files*: a search leaves no temporary files behind."""
        make_agent().search(BowlEnv([4, 4]), budget=16, seed=5)  # so that later imports write no files
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        make_agent().search(BowlEnv([4, 4]), budget=16, seed=5)
        left = sorted(path.name for path in tmp_path.iterdir())
        clause("files", not left, f"the search has left {left} among the temporary files")

    def test_failures(self, make_agent: MakeAgent) -> None:
        """Clause *failures*: the search continues after failed evaluations, and none of them is best."""
        env = gym.make("kdnas/Planted-v0", failures=0.2, seed=4)
        result = make_agent().search(env, budget=24, seed=1)
        usable = np.array([info["status"] == "ok" for info in result.infos])
        clause("failures", len(usable) == 24, f"the search ended after {len(usable)} of 24 evaluations")
        clause("failures", usable.any() and usable[result.best_index], "a failed evaluation is best")
        clause(
            "failures",
            result.best_reward == result.rewards[usable].max(),
            "the best is no successful one",
        )

    def test_a_failure_with_the_highest_reward(self, make_agent: MakeAgent) -> None:
        """Clause *failures*: a failed or infinite evaluation is not best, however high its reward."""

        def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
            return {0: (5.0, {"status": "failed"}), 3: (np.nan, {}), 9: (np.inf, {})}.get(step, (step / 100, {}))

        result = make_agent().search(BowlEnv([6, 6], answer), budget=20, round_size=5)
        clause("failures", result.best_index == 19, f"best_index is {result.best_index}, expected 19")
        bests = [record.best.index for record in result.rounds]
        clause("failures", bests == [4, 8, 14, 19], f"bests of the rounds are {bests}, expected [4, 8, 14, 19]")

    def test_all_fails(self, make_agent: MakeAgent) -> None:
        """Clause *failures*: a search without a usable evaluation ends without a best."""
        result = make_agent().search(BowlEnv([6, 6], lambda step, action: (-1.0, {"status": "diverged"})), budget=20)
        clause("failures", len(result.actions) == 20, f"the search ended after {len(result.actions)} of 20 evaluations")
        nothing = (result.best, result.best_action, result.best_reward, result.best_index)
        clause("failures", nothing == (None,) * 4, f"there is a best where all failed: {nothing}")

    def test_points_that_cannot_be_built(self, make_agent: MakeAgent) -> None:
        """Clause *masks*: if the environment lists its valid actions, only these are proposed."""
        if not make_agent().capabilities.masks:
            pytest.skip("the agent does not support masks")
        awkward = make_agent().search(gym.make("kdnas/Planted-v0", space=AWKWARD, budget=12))
        statuses = [info["status"] for info in awkward.infos]
        clause("masks", statuses == ["ok", "ok"], f"with two valid students evaluations ended as {statuses}")
        capped = make_agent().search(gym.make("kdnas/Planted-v0", max_parameters=30_000_000, budget=16))
        ends = {info["status"] for info in capped.infos}
        clause("masks", ends == {"ok"}, f"with a cap on the parameters evaluations ended as {ends}")

    def test_other_action_spaces(self, make_agent: MakeAgent) -> None:
        """Clause *spaces*: other action spaces are refused, and the message names the expected one."""
        others: list[Any] = [
            spaces.Discrete(4),
            spaces.Box(0, 1, (2,)),
            spaces.MultiDiscrete(np.full((2, 2), 2)),
            spaces.MultiDiscrete([2, 2], start=[1, 0]),
        ]
        for space in others:
            env = BowlEnv([2])
            env.action_space = space
            with pytest.raises(KDNASError, match="expected a one-dimensional MultiDiscrete that starts at 0"):
                make_agent().search(env, budget=2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "the environment has no attribute 'budget'; pass budget="),
            ({"budget": 0}, "budget is 0; expected a whole number, at least 1"),
            ({"budget": 2.5}, "budget is 2.5"),
            ({"budget": "ten"}, "budget is 'ten'"),
            ({"budget": 2, "round_size": 0}, "round_size is 0"),
            ({"budget": 2, "round_size": True}, "round_size is True"),
            ({"budget": 2, "seed": -1}, "seed is -1; expected a whole number, at least 0"),
        ],
    )
    def test_malformed_arguments(self, make_agent: MakeAgent, arguments: dict[str, Any], message: str) -> None:
        """Clause *arguments*: the message names a malformed argument."""
        with pytest.raises(KDNASError, match=message):
            make_agent().search(BowlEnv([3]), **arguments)

    def test_configuration(self, make_agent: MakeAgent) -> None:
        """Clause *config*: the hyper-parameters are a dataclass; other objects are refused."""
        agent = make_agent()
        kind = type(agent).Config
        clause("config", is_dataclass(kind), f"Config is {kind!r}, not a dataclass")
        clause(
            "config", type(agent.config) is kind, f"config is a {type(agent.config).__name__}, not a {kind.__name__}"
        )
        clause("config", replace(agent.config) == agent.config, "a copy of config is not equal to it")
        try:
            type(agent)("fast")
        except KDNASError as error:
            named = kind.__name__ in str(error) and "'fast'" in str(error)
            clause("config", named, f"the message {str(error)!r} names neither {kind.__name__} nor the given object")
        else:
            clause("config", False, f"the text 'fast' is accepted instead of a {kind.__name__}")

    def test_pickling(self, make_agent: MakeAgent) -> None:
        """Clause *pickle*: a pickled agent keeps its hyper-parameters."""
        agent = make_agent()
        clause(
            "pickle",
            pickle.loads(pickle.dumps(agent)).config == agent.config,
            "pickling changes the config",
        )


class AskTellConformance(AgentConformance):
    """The contract of :class:`kdnas_env.agents.ask_tell.AskTellAgent`: stopping, saving and resuming a search."""

    @pytest.mark.parametrize(("rounds", "pending"), [(0, True), (1, False), (3, True)])
    def test_a_loaded_agent(self, make_agent: MakeAgent, rounds: int, pending: bool, tmp_path: Path) -> None:
        """Clause *resume*: a loaded agent makes the same proposals as the saved one."""
        env = BowlEnv([7, 6, 5])
        agent, loaded = make_agent(), make_agent()
        agent.reset(env.action_space.nvec, budget=64, round_size=8, seed=5)
        for _ in range(rounds):
            actions = agent.ask(8)
            agent.tell(actions, [env.reward(action) for action in actions], [{"status": "ok"}] * 8)
        if pending:
            agent.ask(3)
        agent.save(tmp_path / "state.npz")
        loaded.load(tmp_path / "state.npz")
        for _ in range(2):
            actions, same = agent.ask(8), loaded.ask(8)
            clause("resume", actions.tolist() == same.tolist(), "a loaded agent makes other proposals")
            for player in (agent, loaded):
                player.tell(actions, [env.reward(action) for action in actions])
        clause("resume", agent.result().best == loaded.result().best, "a loaded agent has another best")
        draws = [[record.random.tolist() for record in player.ranking.rounds] for player in (agent, loaded)]
        clause("resume", draws[0] == draws[1], "a loaded agent draws other candidates at random")

    def test_an_interrupted_search(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *interrupt*: an interrupted search keeps its evaluations, and resumes with the pending candidates."""

        def interrupt(step: int, action: list[int]) -> None:
            if step == 13:
                raise KeyboardInterrupt

        agent, env = make_agent(), BowlEnv([7, 6, 5], interrupt)
        with pytest.raises(KeyboardInterrupt):
            agent.search(env, budget=24, round_size=8, seed=5)
        partial = agent.result()
        clause("interrupt", partial.actions.tolist() == env.actions, "the result is not what was evaluated")
        sizes = [len(record.rewards) for record in partial.rounds]
        clause("interrupt", sizes == [8, 5], f"rounds of {sizes}, expected [8, 5]")
        waiting = agent.pending.tolist()
        clause("interrupt", len(waiting) == 3, f"{len(waiting)} candidates are pending, expected 3")
        agent.save(tmp_path / "state.npz")
        agent = make_agent()
        agent.load(tmp_path / "state.npz")
        whole = agent.resume(BowlEnv([7, 6, 5]))
        clause("interrupt", _points(whole)[:13] == _points(partial), "evaluations before the interruption are lost")
        clause("interrupt", whole.actions[13:16].tolist() == waiting, "pending candidates are not evaluated first")
        clause("interrupt", len({*_points(whole)}) == len(whole.actions) == 24, "the budget is not spent")

    def test_one_worker(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *drivers*: an asynchronous search with one worker is the same as rounds of one candidate."""
        env = gym.make("kdnas/Planted-v0", budget=9)
        in_rounds = make_agent().search(env, round_size=1, seed=5)
        without = _search_without_rounds(make_agent(), tmp_path, workers=1, budget=9, seed=5)
        clause("drivers", _points(without) == _points(in_rounds), "other candidates than in rounds of one")
        clause("drivers", without.rewards.tolist() == in_rounds.rewards.tolist(), "the rewards differ")

    def test_several_workers(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *drivers*: in an asynchronous search, several workers evaluate different candidates."""
        result = _search_without_rounds(make_agent(), tmp_path, workers=3, budget=9, seed=5)
        clause("drivers", len({*_points(result)}) == 9, f"{len({*_points(result)})} candidates with a budget of 9")

    @pytest.mark.parametrize("in_rounds", [True, False])
    def test_early_stopping(self, make_agent: MakeAgent, in_rounds: bool, tmp_path: Path) -> None:
        """Clause *drivers*: early stopping stops students, and receives every evaluation, in rounds and without."""
        rule, agent = _EverySecond(), make_agent()
        if in_rounds:
            agent.search(gym.make("kdnas/Planted-v0", budget=9, epochs=2, stop=rule), seed=5)
        else:
            _search_without_rounds(agent, tmp_path, workers=2, budget=9, seed=5, stop=rule)
        statuses = [evaluation.status for evaluation in rule.learnt]
        clause("drivers", {*statuses} == {Status.OK, Status.STOPPED}, f"students end as {sorted({*statuses})}")
        evaluated = len({*_points(agent.result())})
        clause("drivers", len(statuses) == evaluated, f"the rule learns {len(statuses)} of {evaluated} evaluations")

    def test_a_finished_search(self, make_agent: MakeAgent) -> None:
        """Clause *resume*: resuming a finished search changes nothing."""
        agent, env = make_agent(), BowlEnv([7, 6])
        result = agent.search(env, budget=9)
        clause("resume", _points(agent.resume(env)) == _points(result), "resuming changed a finished search")
        clause("resume", len(env.actions) == 9, "resuming a finished search evaluated more candidates")

    def test_states_of_others(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *resume*: the state of another agent is refused."""
        agent = make_agent()
        agent.search(BowlEnv([3, 3]), budget=4)
        state = agent.state_dict()
        with pytest.raises(RunError, match="agent 'Somebody', but this agent has"):
            make_agent().load_state_dict({**state, "agent": "Somebody"})
        with pytest.raises(RunError, match="cannot be read as the saved state of an agent"):
            make_agent().load(tmp_path / "missing.npz")


def _points(result: Any) -> list[tuple[int, ...]]:
    return [tuple(action) for action in result.actions.tolist()]


def _search_without_rounds(
    agent: Any, folder: Path, *, workers: int, budget: int, seed: int, stop: Stopping | None = None
) -> Any:
    """Search the planted landscape on simulated workers; return the agent's result."""
    space = SearchSpace.from_teacher(PLANTED_TEACHER)
    planted = PlantedEvaluator(space)
    with (
        StoredEvaluator(planted, folder / "evaluations.sqlite") as store,
        WorkerPool(SimulatedBackend(planted), workers) as pool,
    ):
        env = KDNASEnv(space, store, budget=budget, fidelity=Fidelity(epochs=2), stop=stop)
        search_asynchronously(agent, env, store, pool, seed=seed)
    return agent.result()


class _EverySecond:
    """Stops every second student after its first epoch.

    Attributes:
        learnt: The evaluations that were passed to :meth:`learn`.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.learnt: list[Evaluation] = []
        self._begun = 0

    def __call__(self, report: EpochReport) -> bool:
        self._begun += report.epoch == 0
        return report.epoch == 1 and self._begun % 2 == 0

    def learn(self, evaluation: Evaluation) -> None:
        self.learnt.append(evaluation)
