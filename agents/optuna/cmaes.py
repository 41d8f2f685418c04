"""CMA-ES that keeps its state in the study as JSON: a pickle, as Optuna writes it, can run code when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.samplers import CmaEsSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from kdnas_env.errors import RunError
from kdnas_env.support.untrusted import is_number, parse_json, shown

_LEARNT = ("_g", "_sigma", "_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma")
"""Numbers that change as an optimiser learns, beside its arrays; all others follow from the options."""

_GENERATOR = "_rng"
"""Attribute of the optimisers of cmaes that is no part of their state: it is seeded anew for every trial."""


class PlainCmaEsSampler(CmaEsSampler):
    """Makes the proposals of Optuna's sampler (Hansen 2016, arXiv:1604.00772), without unpickling anything.

    What Optuna's own sampler has written into a study is left alone, so that the strategy starts afresh there.
    """

    _optimizer: Any = None
    _known: tuple[int, str] | None = None  # the number of the trial that has the state, and the state

    @property
    def _attr_key_optimizer(self) -> str:
        return f"{self._attr_prefix}plain"

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """Return the attributes to keep; what Optuna has pickled is dropped."""
        return super()._split_optimizer_str(json.dumps(_plain(self._optimizer)))

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """Find the state; what it is restored to is made by :meth:`_init_optimizer`, which Optuna calls next."""
        prefix, self._known = f"{self._attr_key_optimizer}:", None
        for trial in reversed(completed_trials):
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            if parts:
                text = "".join(str(parts.get(f"{prefix}{part}")) for part in range(len(parts)))
                self._known = trial.number, text
                break
        return None

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        generator = self._cma_rng.rng
        before = generator.get_state()
        self._optimizer = super()._init_optimizer(trans, direction)
        if self._known is not None:
            generator.set_state(before)  # as if none had been made
            number, text = self._known
            try:
                _restore(self._optimizer, parse_json(text))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RunError(
                    f"the state of CMA-ES in trial {number} of the study is damaged: {error}; start another"
                ) from error
        return self._optimizer


def _state(optimizer: Any) -> dict[str, Any]:
    return {name: value for name, value in optimizer.__getstate__().items() if name != _GENERATOR}


def _plain(value: Any) -> Any:
    """Return an optimiser, or a part of its state, as JSON holds it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {name: _plain(part) for name, part in _state(value).items()}


def _restore(optimizer: Any, state: Any) -> None:
    """Give an optimiser the state of another, each part of the kind and shape that it has now.

    Raises:
        ValueError: If a part is missing or of another kind or shape.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"it is {shown(state)}")
    parts = {name: _restored(name, now, state.get(name)) for name, now in _state(optimizer).items()}
    if hasattr(type(optimizer), "__setstate__"):
        optimizer.__setstate__(parts)
    else:
        vars(optimizer).update(parts)


def _restored(name: str, now: Any, value: Any) -> Any:
    """Return a part of a state: what it is now, unless it is learnt."""
    if isinstance(now, np.ndarray) and now.size:
        array = np.array(value if isinstance(value, Sequence) else [], dtype=now.dtype)
        if array.shape != now.shape:
            raise ValueError(f"{name} has the shape {array.shape}, expected {now.shape}")
        return array
    if name in _LEARNT:
        if not is_number(value):
            raise ValueError(f"{name} is {shown(value)}")
        return type(now)(value)
    if hasattr(now, "__dict__"):  # an optimiser within another
        _restore(now, value)
    return now
