from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.render import (
    FRONT_ROWS,
    draw_search,
    pareto_records,
    search_text,
)


def searched(steps: int, **options: Any) -> KDNASEnv:
    env = gym.make("kdnas/Planted-v0", **options).unwrapped
    assert isinstance(env, KDNASEnv)
    env.reset(seed=0)
    env.action_space.seed(1)
    for _ in range(steps):
        env.step(env.action_space.sample())
    return env


def test_text_before_the_first_step() -> None:
    text = searched(0, budget=20, render_mode="ansi").render()
    assert text == "KD-NAS search: 0 of 20 evaluations, round 1 of 3\nnothing evaluated yet"


def test_text_names_best_last_and_front() -> None:
    env = searched(50, budget=60, render_mode="ansi")
    text = env.render()
    assert isinstance(text, str)
    lines = text.splitlines()
    best, last = env.history.best, env.history.last
    assert best is not None
    assert last is not None
    assert "50 of 60 evaluations, round 7 of 8" in lines[0]
    (best_line,) = [line for line in lines if line.startswith("best")]
    (last_line,) = [line for line in lines if line.startswith("last")]
    assert str(best.evaluation.config) in best_line
    assert f"{best.reward.reward:.4f}" in best_line
    assert f"{best.reward.speedup:.2f}x" in best_line
    assert str(last.evaluation.config) in last_line
    front = pareto_records(env.history)
    shown = lines[lines.index("Pareto front of loss and latency, fastest first") + 2 :]
    assert [line.split("  ")[-1] for line in shown[:FRONT_ROWS]] == [
        str(record.evaluation.config) for record in front[:FRONT_ROWS]
    ]
    assert len(lines[3]) < len(best_line) <= 120


def test_text_of_failures() -> None:
    env = searched(6, failures=0.99, render_mode="ansi", budget=6, seed=2)
    assert all(not record.usable for record in env.history)
    text = search_text(env.history, budget=6)
    assert "6 failed" in text
    assert "best  none yet" in text
    assert "planted" in text
    assert "Pareto" not in text


def test_pareto_records_are_undominated_and_fastest_first() -> None:
    env = searched(100)
    front = pareto_records(env.history)
    points = [(record.reward.latency_ratio, record.reward.loss) for record in front]
    assert points == sorted(points)
    for record in env.history:
        ratio, loss = record.reward.latency_ratio, record.reward.loss
        assert any(a <= ratio and b <= loss for a, b in points)


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (0, {}),
        (1, {}),
        (40, {"failures": 0.5, "duplicates": "free"}),
        (5, {"failures": 0.99, "seed": 2}),
    ],
)
def test_picture_of_any_search(steps: int, options: dict[str, Any]) -> None:
    env = searched(steps, render_mode="rgb_array", **options)
    pixels, again = env.render(), env.render()
    assert isinstance(pixels, np.ndarray)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (450, 1100, 3)
    assert pixels.std() > 5
    assert pixels is not again
    np.testing.assert_array_equal(pixels, again)


def test_picture_shows_every_student_once_the_front_and_the_best() -> None:
    env = searched(200, budget=220)
    figure = draw_search(env.history, budget=220, round_size=8, reference=0.5, reference_label="random", title="T")
    left, right = figure.axes[:2]
    unique = {record.evaluation.config: record for record in env.history}
    every, front, best = (np.asarray(points.get_offsets()) for points in left.collections[:3])
    expected = {(record.reward.latency_ratio, record.reward.loss) for record in unique.values()}
    assert len(every) == len(unique) < len(env.history)
    assert set(map(tuple, every.tolist())) == expected
    assert [tuple(point) for point in front.tolist()] == [
        (record.reward.latency_ratio, record.reward.loss) for record in pareto_records(env.history)
    ]
    assert env.history.best is not None
    assert best.tolist() == [[env.history.best.reward.latency_ratio, env.history.best.reward.loss]]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in right.lines}
    rewards = [record.reward.reward for record in env.history]
    np.testing.assert_array_equal(lines["best so far"], np.maximum.accumulate(rewards))
    np.testing.assert_array_equal(lines["random"], [0.5, 0.5])
    assert right.get_xlim()[1] >= 220
    assert left.get_xlabel()
    assert left.get_ylabel() == "held-out unexplained variance"
    assert draw_search(env.history, loss="train_raw").axes[0].get_ylabel() == "training loss of the last epoch"


def test_drawing_leaves_no_global_state() -> None:
    code = (
        "import sys, gymnasium, kdnas_env\n"
        "env = gymnasium.make('kdnas/Planted-v0', render_mode='rgb_array'); env.reset(); env.render()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_render_without_a_mode_says_how() -> None:
    env = searched(1)
    with pytest.warns(UserWarning, match="without a render mode"):
        assert env.render() is None
