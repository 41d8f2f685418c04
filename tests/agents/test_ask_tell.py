"""Direct calls of ``ask`` and ``tell`` on the simplest agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kdnas_env
from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import NoSettings
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.state import read_state, write_state
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.wrappers.linear_reward import LinearReward
from kdnas_env.wrappers.multi_objective import MultiObjectiveReward


def started(nvec: Any = (4, 3), **options: Any) -> RandomAgent:
    agent = RandomAgent()
    agent.reset(nvec, **{"budget": 12, "round_size": 4, **options})
    return agent


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None)
def test_nothing_is_proposed_that_was_evaluated_or_is_pending(sizes: list[int], seed: int, data: st.DataObject) -> None:
    agent = started([3, 3, 2], seed=seed)
    asked: list[list[int]] = []
    waiting: list[list[int]] = []
    for n in sizes:
        actions = agent.ask(n)
        assert len(actions) == min(n, 18 - len(asked))
        asked += actions.tolist()
        waiting += actions.tolist()
        told = data.draw(st.lists(st.sampled_from(waiting), unique_by=tuple)) if waiting else []
        if told:
            agent.tell(told, np.zeros(len(told)))
        waiting = [action for action in waiting if action not in told]
        assert agent.pending.tolist() == waiting
    assert len({tuple(action) for action in asked}) == len(asked)


def test_candidates_that_were_not_asked_for_are_welcome() -> None:
    agent = started()
    agent.tell([[3, 2], [0, 0]], [0.5, 0.7])
    best = agent.result().best_action
    assert best is not None
    assert best.tolist() == [0, 0]
    rest = agent.ask(100)
    assert len(rest) == 10
    assert not {(3, 2), (0, 0)} & {tuple(action) for action in rest.tolist()}


def test_a_candidate_told_twice_is_kept_twice() -> None:
    agent = started()
    agent.tell([[1, 1], [1, 1]], [0.5, 0.6])
    assert agent.result().best_index == 1
    assert len(agent.ask(100)) == 11


def test_the_round_remembers_what_was_known_when_it_was_proposed() -> None:
    agent = started()
    early, late = agent.ask(2), agent.ask(1)
    agent.tell(late, [0.0])
    agent.tell(np.concatenate([early, agent.ask(1)]), [0.1, 0.2, 0.3])
    assert agent.ranking.rounds[1].known_rounds.tolist() == [0, 0, 1]
    assert agent.ranking.rounds[1].random.tolist() == [True, True, True]
    assert agent.ranking.rounds[1].exploration == 1.0


def test_what_is_done_to_the_proposals_does_not_change_the_agent() -> None:
    agent = started()
    actions = agent.ask(3)
    kept = actions.tolist()
    actions[:] = 0
    assert agent.pending.tolist() == kept
    agent.evaluated.fill(0)
    agent.pending.fill(0)
    assert agent.pending.tolist() == kept


def test_infos_are_returned_as_they_were_told() -> None:
    agent = started()
    actions = agent.ask(2)
    agent.tell(actions, [0.1, 0.2], [{"status": "ok", "note": 1}, {}])
    assert agent.result().infos == ({"status": "ok", "note": 1}, {})


@pytest.mark.parametrize(
    ("actions", "rewards", "infos", "message"),
    [
        ([], [], None, "actions are float64 of shape"),
        (
            np.empty((0, 2), dtype=int),
            [],
            None,
            r"received 0 action\(s\).* expected the same number of each, at least one",
        ),
        ([[0, 0], [1, 1]], [0.5], None, r"received 2 action\(s\), rewards of shape \(1,\) and 2 info\(s\)"),
        ([[0, 0]], [[0.5]], None, r"rewards of shape \(1, 1\)"),
        ([[0, 0]], [0.5], [{}, {}], r"and 2 info\(s\)"),
        ([[0, 3]], [0.5], None, r"action \[0, 3\] is out of range; expected indices from 0 to \[3, 2\]"),
    ],
)
def test_a_malformed_tell_is_refused_and_changes_nothing(actions: Any, rewards: Any, infos: Any, message: str) -> None:
    agent = started()
    pending = agent.ask(2).tolist()
    with pytest.raises(KDNASError, match=message):
        agent.tell(actions, rewards, infos)
    assert agent.ranking.evaluations == 0
    assert agent.pending.tolist() == pending


@dataclass(frozen=True)
class NamesConfig:
    names: tuple[str, ...] = ("a",)
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)


class NamesAgent(AskTellAgent[NamesConfig]):
    Config = NamesConfig

    def _propose(self, n: int) -> Proposal:
        return Proposal(self.grid.draw(self.rng, n, self.seen))


def test_a_state_with_settings_that_json_knows_no_type_of_is_loaded(tmp_path: Path) -> None:
    agent = NamesAgent()
    agent.reset([4, 3], budget=12, round_size=4)
    agent.save(tmp_path / "state.npz")
    loaded = NamesAgent()
    loaded.load(tmp_path / "state.npz")
    assert loaded.ask(3).tolist() == agent.ask(3).tolist()
    with pytest.raises(RunError, match=r"the saved state has names \['a'\], but this agent has \['b'\]"):
        NamesAgent(NamesConfig(names=("b",))).load(tmp_path / "state.npz")


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_malformed_ask_is_refused(n: Any) -> None:
    with pytest.raises(KDNASError, match=r"n is .*; expected a whole number, at least 1"):
        started().ask(n)


def test_before_a_search_there_is_nothing_to_do(tmp_path: Path) -> None:
    agent = RandomAgent()
    for call in (
        lambda: agent.ask(1),
        lambda: agent.tell([[0]], [0.0]),
        agent.result,
        agent.state_dict,
        lambda: agent.save(tmp_path / "state"),
    ):
        with pytest.raises(KDNASError, match=r"this RandomAgent has no search; call reset\(\), load\(\) or search\(\)"):
            call()


def test_a_state_that_lacks_something_is_refused(tmp_path: Path) -> None:
    agent = started()
    agent.tell(agent.ask(3), [0.1, 0.2, 0.3])
    agent.ask(2)
    agent.save(tmp_path / "whole")
    whole = read_state(tmp_path / "whole")
    for name in whole.keys() - {"free"}:  # missing in states of version 0.1
        write_state(tmp_path / "part", {key: value for key, value in whole.items() if key != name})
        with pytest.raises(RunError):
            RandomAgent().load(tmp_path / "part")
    write_state(tmp_path / "older", {key: value for key, value in whole.items() if key != "free"})
    older = RandomAgent()
    older.load(tmp_path / "older")
    assert older.spent == 3
    for name, value in (("rewards", np.zeros(2)), ("nvec", np.array([2, 2])), ("rng", {"bit_generator": "PCG64"})):
        write_state(tmp_path / "part", {**whole, name: value})
        with pytest.raises(RunError, match="is not a complete state of a RandomAgent"):
            RandomAgent().load(tmp_path / "part")
    write_state(tmp_path / "part", {**whole, "version": 0})
    with pytest.raises(RunError, match="the saved state has version 0, but this agent has 1"):
        RandomAgent().load(tmp_path / "part")


def test_a_search_goes_on_only_over_the_same_actions() -> None:
    from kdnas_env.testing.bowl import BowlEnv

    with pytest.raises(KDNASError, match=r"the environment's actions are \[5 5\], but the search is over \[4 3\]"):
        started().resume(BowlEnv([5, 5]))


@pytest.mark.parametrize("agent", ["random", "optuna"])
def test_rewards_that_are_vectors_are_refused_at_once(agent: str) -> None:
    env = MultiObjectiveReward(gym.make("kdnas/Planted-v0", budget=9))
    with pytest.raises(KDNASError, match=r"the reward is array.*; expected a number. Wrap .* with LinearReward"):
        kdnas_env.make_agent(agent).search(env)
    assert len(env.get_wrapper_attr("history")) == 1
    assert len(kdnas_env.make_agent(agent).search(LinearReward(env, [1.0, 0.5])).actions) == 9


def test_rewards_that_are_vectors_are_not_told() -> None:
    agent = RandomAgent()
    agent.reset([4, 4], budget=9, round_size=2)
    with pytest.raises(KDNASError, match=r"expected a number. Wrap the environment with LinearReward"):
        agent.tell([[0, 0]], [[1.0, 2.0]])


def test_a_proposal_is_filled_up_with_random_points() -> None:
    class Preferring(AskTellAgent[NoSettings]):
        def _propose(self, n: int) -> Proposal:
            return self._fill([[0, 1], [0, 1], [1, 1], [1, 0]], n, exploration=0.5)

    agent = Preferring()
    agent.reset([2, 3], budget=6, round_size=3, candidates=[0, 1, 2, 3, 5])  # without [1, 1]
    first = agent.ask(3)
    assert first[:2].tolist() == [[0, 1], [1, 0]]
    assert len({tuple(action) for action in first.tolist()} - {(1, 1)}) == 3
    agent.tell(first, [1.0, 2.0, 3.0])
    assert agent.ranking.rounds[0].random.tolist() == [False, False, True]
    assert agent.ranking.rounds[0].exploration == 0.5
    assert len(agent.ask(3)) == 2  # all that is left
