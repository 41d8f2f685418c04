from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Latency, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.errors import KDNASError

rewards = st.builds(
    KDReward, alpha=st.floats(-3, 0), beta=st.floats(1e-3, 10), floor=st.floats(-10, -1e-3), loss=st.just("heldout")
)
losses = st.floats(0, 1e6)
ratios = st.floats(0, 1e6, exclude_min=True)


def evaluation(loss: float = 0.4, ratio: float = 0.25, status: Status = Status.OK) -> Evaluation:
    probe = Latency(5.0 * ratio, 0.1, 30, 5.0, 0.1, ratio, 0.01, "torch")
    return Evaluation(
        StudentConfig(2, 2, 64, 128),
        Fidelity(),
        status,
        train_loss=(9.0, 0.2),
        heldout_loss=(9.0, 0.3),
        train_unexplained=(9.0, 0.5),
        heldout_unexplained=(9.0, loss),
        latency=probe,
    )


@given(rewards, losses, ratios)
def test_bounded(reward: KDReward, loss: float, ratio: float) -> None:
    score = reward.score(loss, ratio)
    assert math.isfinite(score)
    assert reward.floor <= score <= reward.upper_bound


@given(rewards, ratios)
def test_continuous_where_the_student_predicts_no_more_than_the_mean(reward: KDReward, ratio: float) -> None:
    above, below = reward.score(1 - 1e-12, ratio), reward.score(1 + 1e-12, ratio)
    assert reward.score(1.0, ratio) == 0
    assert below <= 0 <= above
    assert above - below < 1e-9 * reward.upper_bound + 1e-11


@given(rewards, losses, ratios, ratios)
def test_faster_is_never_worse(reward: KDReward, loss: float, one: float, other: float) -> None:
    fast, slow = sorted((one, other))
    assert reward.score(loss, fast) >= reward.score(loss, slow)


@given(rewards, losses, losses, ratios)
def test_lower_loss_is_never_worse(reward: KDReward, one: float, other: float, ratio: float) -> None:
    better, worse = sorted((one, other))
    assert reward.score(better, ratio) >= reward.score(worse, ratio)


@given(losses, ratios, ratios)
def test_alpha_zero_ignores_latency(loss: float, one: float, other: float) -> None:
    reward = KDReward(alpha=0.0)
    assert reward.score(loss, one) == reward.score(loss, other)


@given(rewards, st.floats(1e-3, 10), losses, ratios)
def test_beta_multiplies_all_positive_rewards_by_one_constant(
    reward: KDReward, beta: float, loss: float, ratio: float
) -> None:
    other, scale = replace(reward, beta=beta), (beta / reward.beta) ** -reward.alpha
    one = reward.score(loss, ratio)
    assert other.score(loss, ratio) == pytest.approx(one * scale if one > 0 else one, rel=1e-9)


@given(st.floats(0, 0.999), st.floats(1e-3, 1e3))
def test_equals_the_formula_of_the_paper_where_that_is_sound(loss: float, ratio: float) -> None:
    assert KDReward().score(loss, ratio) == pytest.approx((1 - loss) * (ratio / 0.6**6) ** -0.06, rel=1e-12)


@given(rewards, st.floats(0, 2), ratios)
def test_components_make_up_the_reward(reward: KDReward, loss: float, ratio: float) -> None:
    assume(1 / ratio < 1e300)
    parts = reward(evaluation(loss, ratio))
    assert parts.reward == reward.score(loss, ratio)
    assert parts.quality == 1 - parts.loss
    if parts.quality > 0:
        assert parts.reward == pytest.approx(parts.quality * parts.latency_factor)
    assert reward.MIN_RATIO <= parts.latency_ratio <= reward.MAX_RATIO
    assert all(type(value) is float for value in parts.to_dict().values())


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_failures_get_the_floor(status: Status) -> None:
    assert KDReward(floor=-2.0)(evaluation(status=status)).reward == -2.0


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_or_the_penalty_that_is_set(status: Status) -> None:
    reward = KDReward(penalty=0.3)
    assert reward(evaluation(status=status)).reward == reward.failure == 0.3
    assert reward(evaluation()).reward == KDReward()(evaluation()).reward


def test_missing_loss_or_latency_gets_the_floor() -> None:
    assert KDReward()(replace(evaluation(), latency=None)).reward == -1.0
    assert KDReward()(replace(evaluation(), heldout_unexplained=())).reward == -1.0


@pytest.mark.parametrize(("loss", "value"), [("heldout", 0.4), ("heldout_raw", 0.3), ("train_raw", 0.2)])
def test_the_loss_can_be_chosen(loss: str, value: float) -> None:
    assert KDReward(loss=loss)(evaluation()).loss == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.1}, "alpha is 0.1; expected 0 or less"),
        ({"beta": 0.0}, "beta is 0.0; expected a positive share"),
        ({"floor": 0.0}, "floor is 0.0; expected a negative number"),
        ({"alpha": float("nan")}, "alpha is nan; expected a finite number"),
        ({"alpha": -400.0}, "with which rewards go beyond 1e30"),
        ({"beta": 10**400}, "beta is"),
        ({"floor": "low"}, "floor is 'low'"),
        ({"penalty": -2.0}, "penalty is -2.0; expected None, or a number from the floor, -1, to the upper bound"),
        ({"penalty": math.nan}, "penalty is nan"),
        ({"penalty": True}, "penalty is True"),
        ({"loss": ["heldout"]}, r"loss is \['heldout'\]; expected one of"),
        ({"quality": "speed"}, r"quality is 'speed'; expected one of"),
        ({"quality": "task", "loss": "train_raw"}, "loss is train_raw, which has no effect with quality task"),
        ({"loss": "mse"}, r"loss is 'mse'; expected one of \['heldout', 'heldout_raw', 'train_raw'\]"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KDReward(**arguments)  # type: ignore[arg-type]


def test_one_evaluation_is_rewarded_by_either_quality() -> None:
    both = replace(evaluation(loss=0.4), task_divergence=0.05, task_unexplained=0.2)
    assert KDReward()(both) == KDReward()(evaluation(loss=0.4))
    by_task = KDReward(quality="task")(both)
    assert (by_task.loss, by_task.quality) == (0.2, 0.8)
    assert by_task.reward == KDReward().score(0.2, 0.25)


def test_a_quality_that_was_not_measured_is_not_made_up() -> None:
    reward = KDReward(quality="task")
    with pytest.raises(KDNASError, match="quality is 'task', but it was not measured for bert"):
        reward(evaluation())
    with pytest.raises(KDNASError, match="quality is task, which tables do not contain"):
        _ = reward.curve
    assert reward(evaluation(status=Status.DIVERGED)).reward == reward.floor
