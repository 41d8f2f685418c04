"""The black box for Syne Tune; skipped if Syne Tune is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked_tasks import TASKS, env_rewards, points

from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.tabular import TabularEvaluator

pytest.importorskip("syne_tune", reason="the extra syne-tune is not installed")

from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend.simulator_backend.simulator_callback import SimulatorCallback
from syne_tune.blackbox_repository import UserBlackboxBackend, add_surrogate
from syne_tune.optimizer import baselines

from kdnas_env.integrations.syne_tune import ELAPSED, EPOCHS, OBJECTIVES, REWARD, TaskBlackbox

SCHEDULERS: dict[str, dict[str, Any]] = {
    "RandomSearch": {"metrics": [REWARD]},
    "REA": {"metric": REWARD},
    "TPE": {"metric": REWARD},
    "BORE": {"metric": REWARD},
    "CQR": {"metric": REWARD},
    "ASHA": {"metric": REWARD, "time_attr": EPOCHS, "max_t": 3},
    "ASHABORE": {"metric": REWARD, "time_attr": EPOCHS, "max_t": 3},
    "ASHACQR": {"metric": REWARD, "time_attr": EPOCHS, "max_t": 3},
    "BOHB": {"metric": REWARD, "time_attr": EPOCHS, "max_t": 3},
}


@pytest.mark.parametrize("task", TASKS)
def test_the_values_are_those_of_the_environment(task: str) -> None:
    blackbox, actions = TaskBlackbox(task), points()
    last = int(blackbox.fidelity_values[-1])
    configurations = [blackbox.configuration(action) for action in actions]
    for seed in (7, 8):
        curves = [blackbox(one, seed=seed) for one in configurations]
        assert [float(curve[-1, 0]) for curve in curves] == env_rewards(task, seed, actions)
        values = [blackbox(one, last, seed=seed) for one in configurations]
        assert [[*value.values()] for value in values] == [curve[-1].tolist() for curve in curves]
    truth = Truth.of(Task.parse(task))
    assert blackbox.true_reward(blackbox.optimum) == blackbox.optimal_reward == truth.best


def test_the_epochs_are_the_curve_of_the_table() -> None:
    table = TabularEvaluator.of("imdb", seed=1)
    blackbox = TaskBlackbox("imdb:seed=1")
    for one in blackbox.all_configurations()[::50]:
        evaluation = table.query(table.space.decode(blackbox.action(one)))
        curve = blackbox(one)
        assert curve[:, OBJECTIVES.index("metric_loss")].tolist() == [*evaluation.heldout_unexplained[1:]]
        assert np.allclose(curve[:, -1], np.cumsum(evaluation.epoch_seconds)[1:])
        assert [blackbox(one, {EPOCHS: epoch})[REWARD] for epoch in (1, 2, 3)] == curve[:, 0].tolist()
        assert curve[0, 0] == TaskBlackbox("imdb:seed=1,epochs=1")(one)[-1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_runs_on_the_simulator(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNETUNE_FOLDER", str(tmp_path))
    blackbox = TaskBlackbox("rotten-tomatoes:speedup=8")
    kind = getattr(baselines, name)
    callback = SimulatorCallback()
    tuner = Tuner(
        trial_backend=UserBlackboxBackend(blackbox, elapsed_time_attr=ELAPSED),
        scheduler=kind(blackbox.configuration_space, do_minimize=False, random_seed=0, **SCHEDULERS[name]),
        stop_criterion=StoppingCriterion(max_num_trials_finished=12),
        n_workers=4,
        sleep_time=0,
        callbacks=[callback],
        results_update_interval=600,
        print_update_interval=600,
        save_tuner=False,
    )
    tuner.run()
    results = callback.dataframe()
    assert results["trial_id"].nunique() >= 12
    for row in results.to_dict("records"):
        configuration = {name: row[f"config_{name}"] for name in blackbox.configuration_space}
        assert row[REWARD] == blackbox(configuration, int(row[EPOCHS]))[REWARD]


@pytest.mark.slow
def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "elsewhere.md"
    [block] = [text for text in page.read_text(encoding="utf-8").split("```py\n") if "import ASHA" in text]
    exec(block.split("```")[0], {})
    found, optimum = map(float, capsys.readouterr().out.split()[-2:])
    assert 0.5 < found <= optimum + 0.01


def test_a_surrogate_of_it_can_be_fitted() -> None:
    from sklearn.neighbors import KNeighborsRegressor

    blackbox = TaskBlackbox("imdb:seed=mean")
    surrogate = add_surrogate(blackbox, KNeighborsRegressor(n_neighbors=1))
    one = blackbox.optimum
    assert np.allclose(surrogate(one), blackbox(one))
    inputs, outputs = blackbox.hyperparameter_objectives_values()
    assert inputs.shape == (1980, 6)
    assert outputs[REWARD].max() == blackbox.optimal_reward


def test_bad_input_is_named() -> None:
    blackbox = TaskBlackbox("imdb")
    with pytest.raises(KDNASError, match="has 0 epochs"):
        TaskBlackbox("imdb:epochs=0")
    with pytest.raises(KDNASError, match="epochs is 4; expected 1 to 3"):
        blackbox(blackbox.optimum, 4)
    with pytest.raises(KDNASError, match="hidden_size is 100; expected one of"):
        blackbox({**blackbox.optimum, "hidden_size": 100})
