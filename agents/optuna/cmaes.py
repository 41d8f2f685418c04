"""CMA-ES of Optuna, which keeps its state in a study: here as JSON, where Optuna pickles it.

Studies are kept in files that anyone may have written, and whoever loads a pickle runs what it says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from kdnas_env.errors import RunError
from kdnas_env.support.untrusted import parse_json, shown

_LEARNT = ("_g", "_sigma", "_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma")
"""Numbers that change as an optimiser learns, beside its arrays; all others follow from the options."""

_GENERATOR = "_rng"
"""Attribute of the optimisers of cmaes that is no part of their state: it is seeded anew for every trial."""


class PlainCmaEsSampler(CmaEsSampler):
    """Makes the proposals of Optuna's sampler (Hansen 2016, arXiv:1604.00772), without unpickling anything.

    What Optuna's own sampler has written into a study is left alone, so that the strategy starts afresh there.
    """

    _optimizer: Any = None
    _asked: tuple[dict[str, BaseDistribution], StudyDirection]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample parameters together."""
        if search_space:  # it is empty, too, where there are several objectives
            self._asked = search_space, study.direction
        return super().sample_relative(study, trial, search_space)

    @property
    def _attr_key_optimizer(self) -> str:
        return f"{self._attr_prefix}plain"

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """Return the attributes to keep; what Optuna has pickled is dropped."""
        return super()._split_optimizer_str(json.dumps(_plain(self._optimizer)))

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        self._optimizer = super()._init_optimizer(trans, direction)
        return self._optimizer

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            prefix = f"{self._attr_key_optimizer}:"
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            if parts:
                try:
                    state = parse_json("".join(parts[f"{prefix}{part}"] for part in range(len(parts))))
                    return _restored(self._fresh(), state)
                except (KeyError, TypeError, ValueError, OverflowError) as error:
                    raise RunError(
                        f"the state of CMA-ES in trial {trial.number} of the study is damaged: {error}; start another"
                    ) from error
        return None

    def _fresh(self) -> Any:
        """Return an optimiser that has learnt nothing; no random number is used up."""
        search_space, direction = self._asked
        generator = self._cma_rng.rng
        before = generator.get_state()
        try:
            trans = _SearchSpaceTransform(search_space, transform_step=not self._with_margin, transform_0_1=True)
            return self._init_optimizer(trans, direction)
        finally:
            generator.set_state(before)


def _state(optimizer: Any) -> dict[str, Any]:
    return {name: value for name, value in optimizer.__getstate__().items() if name != _GENERATOR}


def _plain(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimiser as JSON holds it."""
    return {name: _plain_value(value) for name, value in _state(optimizer).items()}


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return _plain(value)


def _restored(fresh: Any, state: Any) -> Any:
    """Give an optimiser the state of another, each part of the kind and shape that it has now.

    Raises:
        ValueError: If a part is missing or of another kind or shape.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"it is {shown(state)}")
    parts = {name: _restored_value(name, now, state.get(name)) for name, now in _state(fresh).items()}
    if hasattr(type(fresh), "__setstate__"):
        fresh.__setstate__(parts)
    else:
        vars(fresh).update(parts)
    return fresh


def _restored_value(name: str, now: Any, value: Any) -> Any:
    if now is None:  # it is computed when it is asked for
        return None
    if isinstance(now, np.ndarray):
        if not now.size:
            return now
        array = np.array(value if isinstance(value, Sequence) else [], dtype=now.dtype)
        if array.shape != now.shape:
            raise ValueError(f"{name} has the shape {array.shape}, expected {now.shape}")
        return array
    if isinstance(now, bool | int | float | np.generic):
        if name not in _LEARNT:
            return now
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {shown(value)}")
        return type(now)(value)
    return _restored(now, value)
