"""What every agent has to keep to; to be subclassed in tests of your own. Needs pytest.

    class TestMine(AskTellConformance):
        @pytest.fixture
        def make_agent(self):
            return MyAgent

Agents that derive from :class:`kdnas_env.agents.base.Agent` only are held to :class:`AgentConformance`, those that
propose and are told to :class:`AskTellConformance`, which is more.
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

from kdnas_env.core.space import SearchSpace
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
"""A space with impossible points, and two names for one activation; two students can be built."""


class AgentConformance:
    """The contract of :class:`kdnas_env.agents.base.Agent`, clause by clause.

    A subclass provides the fixture ``make_agent`` and may set the class attributes.

    Attributes:
        DETERMINED: Whether the proposals do not depend on the seed.
        LARGEST: Spaces of more points are left out, for agents that cannot act in them.
    """

    DETERMINED = False
    LARGEST = float("inf")

    @pytest.fixture
    def make_agent(self) -> MakeAgent:
        """A function that makes the agent; settings that make it fast are welcome."""
        raise NotImplementedError("provide a fixture 'make_agent'")

    @pytest.mark.parametrize("nvec", SPACES.values(), ids=SPACES.keys())
    def test_any_space(self, make_agent: MakeAgent, nvec: list[int]) -> None:
        """Clause *search*: it searches spaces of any shape, and tells what happened."""
        size = int(np.prod(nvec, dtype=float))
        if size > self.LARGEST:
            pytest.skip(f"the agent does not claim to search {size:,} points")
        env = BowlEnv(nvec)
        result = make_agent().search(env, budget=20, round_size=8, seed=3)
        count = min(20, size)
        clause("search", len(env.actions) == count, f"{len(env.actions)} evaluations of {size} points, budget 20")
        repeated = len(env.actions) - len({tuple(action) for action in env.actions})
        clause("search", not repeated, f"{repeated} of {count} candidates were evaluated before")
        clause("search", result.actions.dtype == np.int64, f"result.actions is {result.actions.dtype}, expected int64")
        clause("search", result.actions.tolist() == env.actions, "result.actions is not what was evaluated, in order")
        earned = [env.reward(action) for action in env.actions]
        clause("search", result.rewards.tolist() == earned, "result.rewards is not what was earned, in order")
        clause("search", len(result.infos) == count, f"{len(result.infos)} infos of {count} evaluations")
        best = int(np.argmax(earned))
        clause("search", result.best_index == best, f"best_index is {result.best_index}, expected {best}")
        clause("search", result.best_reward == earned[best], f"best_reward is {result.best_reward}")
        clause("search", result.best_action.tolist() == env.actions[best], f"best_action is {result.best_action}")
        sizes = [len(record.rewards) for record in result.rounds]
        expected = [8] * (count // 8) + [count % 8] * (count % 8 > 0)
        clause("search", sizes == expected, f"rounds of {sizes} candidates, expected {expected}")

    def test_the_budget(self, make_agent: MakeAgent) -> None:
        """Clause *budget*: it is spent, and never exceeded."""
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
        """Clause *budget*: where the environment has one, that is the most that is spent."""
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
        """Clause *end*: where the environment ends the episode, the search ends."""
        env = BowlEnv([5, 5], ends_after=7)
        result = make_agent().search(env, budget=20, round_size=5)
        sizes = [len(record.rewards) for record in result.rounds]
        clause("end", len(env.actions) == 7 and sizes == [5, 2], f"{len(env.actions)} steps, rounds of {sizes}")

    @pytest.mark.filterwarnings("ignore:.*will not be spent:UserWarning")  # 10 evaluations are no whole rounds of 4
    def test_a_vector_environment(self, make_agent: MakeAgent) -> None:
        """Clause *vector*: a vector environment is searched like a single one, however it resets, or refused."""
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
        with pytest.raises(KDNASError, match="a round of a vector environment is one step of its 4 seats"):
            make_agent().search(together, round_size=5)

    def test_the_seed(self, make_agent: MakeAgent) -> None:
        """Clause *seed*: it decides the search, whatever the agent did before."""
        agent, env = make_agent(), gym.make("kdnas/Planted-v0", noise=0.05)
        first, same, other = (_points(agent.search(env, budget=16, seed=seed)) for seed in (1, 1, 2))
        fresh = _points(make_agent().search(gym.make("kdnas/Planted-v0", noise=0.05), budget=16, seed=1))
        clause("seed", first == same, "a second search with the same seed proposes otherwise")
        clause("seed", first == fresh, "a new agent with the same seed proposes otherwise")
        clause("seed", (first == other) == self.DETERMINED, "another seed makes the same proposals")

    def test_the_environment_gets_the_seed(self, make_agent: MakeAgent) -> None:
        """Clause *seed*: the environment is reset once, with the seed."""
        env = BowlEnv([4, 4])
        make_agent().search(env, budget=3, seed=17)
        clause("seed", env.seeds == [17], f"reset was called with the seeds {env.seeds}, expected [17]")

    def test_rounds_are_reported(self, make_agent: MakeAgent) -> None:
        """Clause *on_round*."""
        seen: list[Any] = []
        result = make_agent().search(BowlEnv([6, 6]), budget=20, round_size=8, on_round=seen.append)
        calls = [ranking.evaluations for ranking in seen]
        clause("on_round", calls == [8, 16, 20], f"called after {calls} evaluations, expected [8, 16, 20]")
        clause("on_round", seen[-1].rounds == result.rounds, "the last report has other rounds than the result")
        clause("on_round", seen[-1].global_best == result.best, "the last report has another best than the result")

    def test_global_generators(self, make_agent: MakeAgent) -> None:
        """Clause *generators*: the global ones are neither read nor left changed."""

        def search() -> list[tuple[int, ...]]:
            return _points(make_agent().search(gym.make("kdnas/Planted-v0"), budget=16, seed=5))

        expected = search()  # imports what it needs
        with shaken_generators():
            before = global_states()
            proposed = search()
            clause("generators", global_states() == before, "a global random generator is not what it was")
        clause("generators", proposed == expected, "the proposals depend on a global random generator")

    def test_temporary_files(self, make_agent: MakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Clause *files*: a search that was not asked to write leaves nothing among the temporary files."""
        make_agent().search(BowlEnv([4, 4]), budget=16, seed=5)  # imports what it needs
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        make_agent().search(BowlEnv([4, 4]), budget=16, seed=5)
        left = sorted(path.name for path in tmp_path.iterdir())
        clause("files", not left, f"the search has left {left} among the temporary files")

    def test_failures(self, make_agent: MakeAgent) -> None:
        """Clause *failures*: they are tolerated, and never best."""
        env = gym.make("kdnas/Planted-v0", failures=0.2, seed=4)
        result = make_agent().search(env, budget=24, seed=1)
        usable = np.array([info["status"] == "ok" for info in result.infos])
        clause("failures", len(usable) == 24, f"the search ended after {len(usable)} of 24 evaluations")
        clause("failures", usable.any() and usable[result.best_index], "a failed evaluation is best")
        clause("failures", result.best_reward == result.rewards[usable].max(), "the best is not the best that worked")

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
        """Clause *masks*: where the environment lists the actions worth a step, no other is proposed."""
        if not make_agent().capabilities.masks:
            pytest.skip("the agent does not claim to avoid what cannot be built")
        awkward = make_agent().search(gym.make("kdnas/Planted-v0", space=AWKWARD, budget=12))
        statuses = [info["status"] for info in awkward.infos]
        clause("masks", statuses == ["ok", "ok"], f"of two students that can be built it made {statuses}")
        capped = make_agent().search(gym.make("kdnas/Planted-v0", max_parameters=30_000_000, budget=16))
        ends = {info["status"] for info in capped.infos}
        clause("masks", ends == {"ok"}, f"with a cap on the parameters evaluations ended as {ends}")

    def test_other_action_spaces(self, make_agent: MakeAgent) -> None:
        """Clause *spaces*: what it cannot act in is refused, saying what is expected."""
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
        """Clause *arguments*: malformed ones are named."""
        with pytest.raises(KDNASError, match=message):
            make_agent().search(BowlEnv([3]), **arguments)

    def test_configuration(self, make_agent: MakeAgent) -> None:
        """Clause *config*: a dataclass of hyper-parameters; anything else is refused."""
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
            clause("config", named, f"what is no {kind.__name__} is refused as {str(error)!r}, which names neither")
        else:
            clause("config", False, f"the text 'fast' is taken in the place of a {kind.__name__}")

    def test_pickling(self, make_agent: MakeAgent) -> None:
        """Clause *pickle*."""
        agent = make_agent()
        clause("pickle", pickle.loads(pickle.dumps(agent)).config == agent.config, "it changes when pickled")


class AskTellConformance(AgentConformance):
    """The contract of :class:`kdnas_env.agents.ask_tell.AskTellAgent`: asked and told, stopped, saved and resumed."""

    @pytest.mark.parametrize(("rounds", "pending"), [(0, True), (1, False), (3, True)])
    def test_a_loaded_agent(self, make_agent: MakeAgent, rounds: int, pending: bool, tmp_path: Path) -> None:
        """Clause *resume*: a loaded agent proposes what the saved one would have."""
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
            clause("resume", actions.tolist() == same.tolist(), "a loaded agent proposes otherwise")
            for player in (agent, loaded):
                player.tell(actions, [env.reward(action) for action in actions])
        clause("resume", agent.result().best == loaded.result().best, "a loaded agent has another best")
        draws = [[record.random.tolist() for record in player.ranking.rounds] for player in (agent, loaded)]
        clause("resume", draws[0] == draws[1], "a loaded agent draws otherwise")

    def test_an_interrupted_search(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *interrupt*: what was found is kept, and what was proposed comes first when it goes on."""

        def interrupt(step: int, action: list[int]) -> None:
            if step == 13:
                raise KeyboardInterrupt

        agent, env = make_agent(), BowlEnv([7, 6, 5], interrupt)
        with pytest.raises(KeyboardInterrupt):
            agent.search(env, budget=24, round_size=8, seed=5)
        kept = agent.result()
        clause("interrupt", kept.actions.tolist() == env.actions, "the result is not what was evaluated")
        sizes = [len(record.rewards) for record in kept.rounds]
        clause("interrupt", sizes == [8, 5], f"rounds of {sizes}, expected [8, 5]")
        waiting = agent.pending.tolist()
        clause("interrupt", len(waiting) == 3, f"{len(waiting)} candidates are pending, expected 3")
        agent.save(tmp_path / "state.npz")
        agent = make_agent()
        agent.load(tmp_path / "state.npz")
        whole = agent.resume(BowlEnv([7, 6, 5]))
        clause("interrupt", _points(whole)[:13] == _points(kept), "what was found before is lost")
        clause("interrupt", whole.actions[13:16].tolist() == waiting, "what was pending does not come first")
        clause("interrupt", len({*_points(whole)}) == len(whole.actions) == 24, "the budget is not spent")

    def test_one_worker(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *drivers*: without rounds, one worker searches as rounds of one do."""
        env = gym.make("kdnas/Planted-v0", budget=9)
        in_rounds = make_agent().search(env, round_size=1, seed=5)
        without = _search_without_rounds(make_agent(), tmp_path, workers=1, budget=9, seed=5)
        clause("drivers", _points(without) == _points(in_rounds), "other candidates than in rounds of one")
        clause("drivers", without.rewards.tolist() == in_rounds.rewards.tolist(), "the rewards differ")

    def test_several_workers(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *drivers*: without rounds, several workers spend the budget on different candidates."""
        result = _search_without_rounds(make_agent(), tmp_path, workers=3, budget=9, seed=5)
        clause("drivers", len({*_points(result)}) == 9, f"{len({*_points(result)})} candidates with a budget of 9")

    def test_a_finished_search(self, make_agent: MakeAgent) -> None:
        """Clause *resume*: a finished search is not gone on with."""
        agent, env = make_agent(), BowlEnv([7, 6])
        result = agent.search(env, budget=9)
        clause("resume", _points(agent.resume(env)) == _points(result), "a finished search changes")
        clause("resume", len(env.actions) == 9, "a finished search spends more")

    def test_states_of_others(self, make_agent: MakeAgent, tmp_path: Path) -> None:
        """Clause *resume*: what is not a state of this agent is refused."""
        agent = make_agent()
        agent.search(BowlEnv([3, 3]), budget=4)
        state = agent.state_dict()
        with pytest.raises(RunError, match="agent 'Somebody', but this agent has"):
            make_agent().load_state_dict({**state, "agent": "Somebody"})
        with pytest.raises(RunError, match="cannot be read as the saved state of an agent"):
            make_agent().load(tmp_path / "missing.npz")


def _points(result: Any) -> list[tuple[int, ...]]:
    return [tuple(action) for action in result.actions.tolist()]


def _search_without_rounds(agent: Any, folder: Path, *, workers: int, budget: int, seed: int) -> Any:
    """Search the planted landscape on simulated workers; return the agent's result."""
    space = SearchSpace.from_teacher(PLANTED_TEACHER)
    planted = PlantedEvaluator(space)
    with (
        StoredEvaluator(planted, folder / "evaluations.sqlite") as store,
        WorkerPool(SimulatedBackend(planted), workers) as pool,
    ):
        search_asynchronously(agent, KDNASEnv(space, store, budget=budget), store, pool, seed=seed)
    return agent.result()
