"""Asynchronous searches: proposals and results, what is stored, and how searches resume."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Started, workers_of
from troubled import SPACE, Troubled

from kdnas_env.agents.classic.evolution import EvolutionAgent
from kdnas_env.agents.classic.local_search import LocalSearchAgent
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.optuna import OptunaConfig
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.evaluators.planted import PlantedEvaluator, random_failures
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.simulated import SimulatedBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.searching.journal import ASKED, TOLD, Journal, read_entries
from kdnas_env.searching.stopping import StoppingRule

FIDELITY = Fidelity(epochs=3)
BUDGET = 30
AGENTS = {"random": RandomAgent, "evolution": EvolutionAgent, "local-search": LocalSearchAgent, "optuna": OptunaAgent}
PLANTED = PlantedEvaluator(SPACE, failures=random_failures(SPACE, 0.2, np.random.default_rng(1)))


class Cut(Exception):
    """Simulates a power failure."""


@dataclass
class Search:
    """An asynchronous search in a folder, on simulated workers."""

    folder: Path
    agent: Any = field(default_factory=EvolutionAgent)
    workers: int = 3
    evaluator: PlantedEvaluator = PLANTED
    stop: StoppingRule | None = None
    cut_after: int | None = None
    pending: list[int] = field(default_factory=list)

    def run(self) -> KDNASEnv:
        with StoredEvaluator(self.evaluator, self.folder / "store.sqlite") as store:
            self.env = KDNASEnv(SPACE, store, fidelity=FIDELITY, budget=BUDGET, round_size=4, stop=self.stop)
            self.backend = SimulatedBackend(self.evaluator, start_seconds=1.0)
            with WorkerPool(self.backend, self.workers) as pool, Journal(self.folder / "journal.jsonl") as journal:
                search_asynchronously(
                    self.agent,
                    self.env,
                    store,
                    pool,
                    seed=7,
                    journal=journal,
                    on_answer=self.answered,
                )
        return self.env

    def answered(self, env: KDNASEnv) -> None:
        self.pending.append(len(self.agent.pending))
        if len(env.history) == self.cut_after:
            raise Cut

    def journal(self) -> list[tuple[str, tuple[int, ...]]]:
        path = self.folder / "journal.jsonl"
        return [(entry.kind, entry.action) for entry in read_entries(path)] if path.exists() else []


def actions(env: KDNASEnv) -> list[tuple[int, ...]]:
    return [record.action for record in env.history]


@pytest.mark.parametrize("name", AGENTS)
def test_one_worker_searches_like_rounds_of_one(name: str, tmp_path: Path) -> None:
    alone = Search(tmp_path, AGENTS[name](), workers=1).run()
    env = KDNASEnv(SPACE, PLANTED, fidelity=FIDELITY, budget=BUDGET)
    AGENTS[name]().search(env, round_size=1, seed=7)
    assert actions(alone) == actions(env)
    assert [record.reward for record in alone.history] == [record.reward for record in env.history]


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("workers", [2, 7, 64])
def test_the_budget_is_spent_once_with_all_workers_at_work(name: str, workers: int, tmp_path: Path) -> None:
    search = Search(tmp_path, AGENTS[name](), workers)
    env = search.run()
    history = env.history
    assert len(history) == BUDGET
    assert not any(record.duplicate for record in history)
    assert search.agent.result().best_reward == max(record.reward.reward for record in history if record.usable)
    # While proposals remain, all other workers are busy whenever a result is reported.
    busy = [min(workers, BUDGET) - 1] * (BUDGET - min(workers, BUDGET))
    assert search.pending[: len(busy)] == busy
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        assert store.count() == BUDGET
        kept = {record.config: record for record in store.records()}
    assert all(kept[record.evaluation.config] == record.evaluation for record in history)
    assert Counter(kind for kind, _ in search.journal()) == {ASKED: BUDGET, TOLD: BUDGET}


def test_students_are_told_in_the_order_in_which_they_are_finished(tmp_path: Path) -> None:
    history = Search(tmp_path, RandomAgent(), workers=BUDGET).run().history
    seconds = [record.evaluation.wall_seconds for record in history]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) > 10


def test_more_workers_take_less_time(tmp_path: Path) -> None:
    clocks = []
    for workers in (1, 2, 4):
        (folder := tmp_path / str(workers)).mkdir()
        search = Search(folder, RandomAgent(), workers)
        search.run()
        clocks.append(search.backend.now())
    assert clocks[0] > 1.6 * clocks[1] > 2.4 * clocks[2]


def test_a_space_that_is_exhausted_ends_the_search(tmp_path: Path) -> None:
    space = type(SPACE).from_dict(
        {
            "num_hidden_layers": [3, 6],
            "num_attention_heads": [12],
            "hidden_size": [384, 768],
            "intermediate_size": [768],
        },
        SPACE.teacher,
    )
    planted = PlantedEvaluator(space)
    agent = RandomAgent()
    with StoredEvaluator(planted, tmp_path / "store.sqlite") as store:
        env = KDNASEnv(space, store, budget=20)
        with WorkerPool(SimulatedBackend(planted), 3) as pool:
            search_asynchronously(agent, env, store, pool, seed=1)
    assert sorted(actions(env)) == sorted(tuple(space.from_index(index).tolist()) for index in range(4))


@given(
    cut_after=st.integers(0, BUDGET - 1), workers=st.integers(1, 5), torn=st.integers(0, 400), lost=st.integers(0, 3)
)
@settings(max_examples=20, deadline=None)
def test_a_search_goes_on_where_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut_after: int, workers: int, torn: int, lost: int
) -> None:
    """This holds even if the journal lost its last bytes, or the store its last records, as after a power failure."""
    folder = tmp_path_factory.mktemp("cut")
    first = Search(folder, workers=workers, cut_after=max(1, cut_after))
    with pytest.raises(Cut):
        first.run()
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[: -torn or None])
    with StoredEvaluator(PLANTED, folder / "store.sqlite") as store:
        before = store.count()
        store._execute("DELETE FROM evaluations WHERE id > ?", (before - lost,))
    kept = first.journal()
    second = Search(folder, workers=workers)
    env = second.run()
    assert second.journal()[: len(kept)] == kept
    assert Counter(second.journal()).most_common(1)[0][1] == 1
    assert len(env.history) == BUDGET
    assert [action for kind, action in second.journal() if kind == TOLD] == actions(env)
    with StoredEvaluator(PLANTED, folder / "store.sqlite") as store:
        assert store.count() >= BUDGET


def test_what_was_pending_is_begun_anew_first(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        Search(tmp_path, workers=4, cut_after=10).run()
    asked = [action for kind, action in Search(tmp_path).journal() if kind == ASKED]
    told = {action for kind, action in Search(tmp_path).journal() if kind == TOLD}
    pending = [action for action in asked if action not in told]
    assert len(pending) == 3
    second = Search(tmp_path, workers=1)
    assert actions(second.run())[10:13] == pending


def test_the_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        Search(tmp_path, cut_after=BUDGET - 1).run()
    with pytest.raises(RunError, match=r"entry \d+ asked for .* now the agent proposes"):
        Search(tmp_path, LocalSearchAgent()).run()


def test_a_journal_with_a_result_that_was_not_proposed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"told": [0, 0, 0, 0, 0]}\n')
    with pytest.raises(RunError, match="not proposed"):
        Search(tmp_path).run()


def test_early_stopping_frees_workers_and_is_lived_again(tmp_path: Path) -> None:
    clocks = {}
    for name in ("none", "asha"):
        (folder := tmp_path / name).mkdir()
        search = Search(folder, RandomAgent(), workers=2, stop=None if name == "none" else StoppingRule(name, 3))
        env = search.run()
        clocks[name] = search.backend.now()
    stopped = [record.evaluation for record in env.history if record.evaluation.status is Status.STOPPED]
    assert 5 < len(stopped) < BUDGET
    assert clocks["asha"] < 0.8 * clocks["none"]
    again = Search(tmp_path / "asha", RandomAgent(), workers=2, stop=StoppingRule("asha", 3))
    assert [record.evaluation for record in again.run().history] == [record.evaluation for record in env.history]
    assert again.backend.busy_seconds == 0


def test_the_median_rule_stops_students(tmp_path: Path) -> None:
    env = Search(tmp_path, RandomAgent(), workers=2, stop=StoppingRule("median", FIDELITY.epochs)).run()
    statuses = Counter(record.evaluation.status for record in env.history)
    assert statuses[Status.STOPPED] >= 3
    assert statuses[Status.OK] >= 3


def test_who_breaks_a_limit_costs_no_evaluation(tmp_path: Path) -> None:
    agent = RandomAgent()
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, budget=BUDGET, limits={"speedup": 3.0})
        with WorkerPool(SimulatedBackend(PLANTED), 3) as pool:
            search_asynchronously(agent, env, store, pool, seed=7)
    statuses = Counter(record.evaluation.status for record in env.history if not record.counted)
    assert set(statuses) == {Status.INFEASIBLE}
    assert env.history.evaluations == BUDGET
    assert agent.spent == BUDGET


def test_an_agent_with_a_pruner_stops_students_itself(tmp_path: Path) -> None:
    agent = OptunaAgent(OptunaConfig(sampler="random", pruner="median"))
    env = Search(tmp_path, agent, workers=2).run()
    statuses = Counter(record.evaluation.status for record in env.history)
    assert statuses[Status.STOPPED] >= 3
    assert statuses[Status.OK] >= 3


def test_agents_without_ask_and_tell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KDNASError, match="has no start and no ask and no tell"):
        Search(tmp_path, object()).run()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_budget_in_epochs_is_spent_to_the_last(workers: int, tmp_path: Path) -> None:
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, fidelity=FIDELITY, budget=20, budget_unit="epochs")
        with WorkerPool(SimulatedBackend(PLANTED), workers) as pool:
            search_asynchronously(RandomAgent(), env, store, pool, seed=7)
    epochs = [record.evaluation.fidelity.epochs for record in env.history]
    assert sorted(epochs) == [2, 3, 3, 3, 3, 3, 3]
    assert env.history.spent == 20


def test_a_budget_in_seconds_needs_an_end_on_the_clock(tmp_path: Path) -> None:
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, budget=10.0, budget_unit="seconds")
        with WorkerPool(SimulatedBackend(PLANTED), 1) as pool, pytest.raises(KDNASError, match="budget is in seconds"):
            search_asynchronously(RandomAgent(), env, store, pool)


def test_no_agent_decides_blindly_where_answers_are_known(tmp_path: Path) -> None:
    first = Search(tmp_path, LocalSearchAgent(), workers=1)
    first.run()
    (tmp_path / "journal.jsonl").unlink()
    again = Search(tmp_path, LocalSearchAgent(), workers=1)
    assert actions(again.run()) == actions(first.env)
    assert again.pending == [0] * BUDGET
    assert again.backend.busy_seconds == 0


def search_with_workers(folder: Path) -> None:
    """Run or resume a search with worker processes. Tests run this in a process that they kill."""
    with StoredEvaluator(PlantedEvaluator(SPACE), folder / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, fidelity=FIDELITY, budget=BUDGET)
        pool = WorkerPool(LocalBackend(Troubled(0.02, str(folder / "begun"))), 2, attempts=1000)
        with pool, Journal(folder / "journal.jsonl") as journal:
            search_asynchronously(EvolutionAgent(), env, store, pool, seed=7, journal=journal)
    print("done")


def _start(folder: Path) -> Started:
    return Started(search_with_workers, folder, output=folder / "output.txt")


def _evaluations(folder: Path) -> list[Evaluation]:
    with StoredEvaluator(PlantedEvaluator(SPACE), folder / "store.sqlite") as store:
        return store.records()


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["driver", "worker", "both"])
def test_killed_at_random_instants_it_loses_and_repeats_nothing(victims: str, tmp_path: Path, moments: Random) -> None:
    import psutil

    (tmp_path / "begun").mkdir()
    kept: list[tuple[str, tuple[int, ...]]] = []
    records: list[Evaluation] = []
    for _ in range(2):
        driver = _start(tmp_path)
        progress = len(kept) + moments.randint(3, 9)
        end = time.monotonic() + 60
        while len(Search(tmp_path).journal()) < progress and driver.poll() is None:
            assert time.monotonic() < end, "the search does not get on"
            time.sleep(0.02)
        workers = workers_of(driver.pid) if driver.poll() is None else []
        if victims != "driver" and workers:
            moments.choice(workers).kill()
        if victims != "worker":
            driver.kill()
            driver.wait()
            # No worker process is left that could still write or use a core.
            _, alive = psutil.wait_procs(workers, timeout=20)
            assert not alive
        else:
            time.sleep(0.1)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        after = Search(tmp_path).journal()
        assert after[: len(kept)] == kept
        kept, previous = after, records
        records = _evaluations(tmp_path)
        assert records[: len(previous)] == previous
    _start(tmp_path).wait(timeout=120)
    assert (tmp_path / "output.txt").read_text() == "done\n"
    told = [action for kind, action in Search(tmp_path).journal() if kind == TOLD]
    assert len(told) == len(set(told)) == BUDGET
    assert len(_evaluations(tmp_path)) == BUDGET


@pytest.mark.slow
def test_copies_at_random_instants_open_and_go_on(tmp_path: Path, moments: Random) -> None:
    """As after a power failure: the files are copied one after another, while the search writes them."""
    (tmp_path / "begun").mkdir()
    driver = _start(tmp_path)
    copies: list[Path] = []
    while driver.poll() is None:
        time.sleep(moments.uniform(0.02, 0.2))
        copy = tmp_path / f"copy{len(copies)}"
        copy.mkdir()
        for name in ("store.sqlite", "store.sqlite-wal", "journal.jsonl"):
            if (tmp_path / name).exists():
                shutil.copy(tmp_path / name, copy / name)
        copies.append(copy)
    assert driver.wait() == 0
    assert len(copies) >= 3
    for copy in moments.sample(copies, 3):
        kept = Search(copy, evaluator=PlantedEvaluator(SPACE)).journal()
        search = Search(copy, workers=2, evaluator=PlantedEvaluator(SPACE))
        env = search.run()
        assert search.journal()[: len(kept)] == kept
        assert len(env.history) == BUDGET
        assert not any(record.duplicate for record in env.history)


def test_the_journal_is_plain_json(tmp_path: Path) -> None:
    Search(tmp_path).run()
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert {key for line in lines for key in json.loads(line)} <= {ASKED, TOLD, "evaluation"}
