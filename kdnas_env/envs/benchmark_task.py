"""Benchmark tasks: a table or a surrogate with reward settings, described by a task name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from kdnas_env.core.constraints import HANDLING, UNLIMITED, Constraints
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.problem import INFEASIBLE
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_choice, check_number
from kdnas_env.support.specs import format_spec, parse_spec
from kdnas_env.support.untrusted import shown
from kdnas_env.tables.external import is_external
from kdnas_env.tables.surrogates.storage import is_surrogate

OF_EXTERNAL = ("seed", "duplicates")
"""Settings of a task on an external table."""


@dataclass(frozen=True)
class Task:
    """A task for comparing agents: a table or a surrogate, with reward settings.

    Attributes:
        table: Name of a table of the package, or path of the npz file of a table, an external table or a surrogate
            (without a colon).
        alpha: Exponent of the latency factor.
        beta: Target latency as a share of the teacher's.
        loss: Loss of the reward.
        device: Device for latencies; None for the table's first.
        epochs: Epochs of every evaluation; None for all of the table. The reference values always use all epochs.
        seed: Source of evaluations: ``sample`` (one of the table's seeds for each student, drawn by the seed of the
            run: noisy like real evaluations), ``mean``, or a seed of the table (any seed for a surrogate).
        duplicates: Cost of a repeated student: ``charge``, ``free`` or ``reject``.
        limits: Limits of students.
        constraints: Effect of a broken limit: ``reward`` lowers the reward, ``cost`` leaves it and reports a cost.
        infeasible: Whether a student that breaks a limit costs an evaluation: ``free`` or ``charge``.

    Raises:
        KDNASError: If a setting is malformed. Device, seed and epochs are checked when the table is loaded.
    """

    table: str
    alpha: float = KDReward.alpha
    beta: float = KDReward.beta
    loss: str = "heldout"
    device: str | None = None
    epochs: int | None = None
    seed: int | str = "sample"
    duplicates: str = "charge"
    limits: Constraints = UNLIMITED
    constraints: str = "reward"
    infeasible: str = "free"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        self.reward  # noqa: B018  (checks alpha, beta and loss)
        if not self.limits.speedup:
            object.__setattr__(self, "limits", replace(self.limits, speedup=None))
        check_choice("constraints", self.constraints, HANDLING)
        check_choice("infeasible", self.infeasible, INFEASIBLE)
        if not self.limits and (self.constraints, self.infeasible) != (Task.constraints, Task.infeasible):
            raise KDNASError("constraints and infeasible have no effect without a limit; set one, such as speedup=8")
        if self.limits.size_mb is None and self.limits.format != UNLIMITED.format:
            raise KDNASError(
                f"format {self.limits.format!r} has no effect without size_mb; set it, or leave format out"
            )
        format_spec(self.table, {})

    @classmethod
    def parse(cls, text: str) -> Task:
        """Parse a task such as ``rotten-tomatoes`` or ``rotten-tomatoes:alpha=-0.2,speedup=8``; limits by name.

        Raises:
            KDNASError: If the text is malformed, or a setting is unknown.
        """
        table, settings = parse_spec(text)
        known = [setting.name for setting in fields(cls)[1:] if setting.name != "limits"]
        limits = [limit.name for limit in fields(Constraints)]
        unknown = sorted(set(settings) - {*known, *limits})
        if unknown:
            raise KDNASError(
                f"task {shown(text)} has unknown setting(s) {shown(unknown)}; expected some of {[*known, *limits]}"
            )
        given = {name: settings.pop(name) for name in limits if name in settings}
        return cls(table, **settings, limits=Constraints(**given))

    def __str__(self) -> str:
        return format_spec(self.table, self._settings)

    @property
    def title(self) -> str:
        """The name of the task without the folder of the table."""
        table = Path(self.table)
        return format_spec(table.stem if table.suffix == ".npz" else self.table, self._settings)

    @property
    def reward(self) -> KDReward:
        """The reward of a student that keeps the limits."""
        return KDReward(self.alpha, self.beta, loss=self.loss)

    def make_env(self, budget: Budget, **episode: Any) -> gym.Env[Any, Any]:
        """Make the environment of one search.

        Args:
            budget: Budget of the search.
            **episode: Further arguments of :class:`kdnas_env.envs.making.Episode`.

        Raises:
            KDNASError: If the table does not exist, or does not support the task.
        """
        spending: dict[str, Any] = {"budget": budget.amount, "budget_unit": budget.unit}
        if is_external(self.table):
            return gym.make("kdnas/External-v0", disable_env_checker=True, **self.external, **spending, **episode)
        settings = {**asdict(self), **spending, **episode}
        if is_surrogate(self.table):
            return gym.make("kdnas/Surrogate-v0", disable_env_checker=True, **settings)
        # A masked cell is a failed evaluation for the agent, not an error of the comparison.
        return gym.make("kdnas/Tabular-v0", disable_env_checker=True, missing="failed", **settings)

    @property
    def external(self) -> dict[str, Any]:
        """Arguments of the environment of an external table.

        Raises:
            KDNASError: If a setting does not apply to external tables.
        """
        others = sorted(set(self._settings) - {*OF_EXTERNAL})
        if others:
            raise KDNASError(
                f"{', '.join(others)} has no effect on an external table; expected some of {list(OF_EXTERNAL)}"
            )
        return {name: getattr(self, name) for name in ("table", *OF_EXTERNAL)}

    @property
    def _settings(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if name not in ("table", "limits")}
        defaults = {setting.name: setting.default for setting in fields(self)}
        changed = {name: value for name, value in values.items() if value != defaults[name]}
        limits = {name: getattr(self.limits, name) for name in self.limits.names}
        if self.limits.format != UNLIMITED.format:
            limits["format"] = self.limits.format
        return changed | {name: _shortest(limit) for name, limit in limits.items()}


def _shortest(value: Any) -> Any:
    """Return a number in its shortest form, so that 8 and 8.0 give one limit and one task name."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
