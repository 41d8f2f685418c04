"""CMA-ES with its state stored as JSON in the study, because loading a pickle can run code."""

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
"""Scalar attributes of an optimizer that change as it learns. Its other scalars follow from the options."""

_GENERATOR = "_rng"
"""Attribute of an optimizer that is not part of its state, because it is seeded for every trial."""


class JSONCmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES sampler (Hansen 2016, arXiv:1604.00772) with the same proposals, but without pickles.

    It ignores pickled states that Optuna's own sampler has written to a study, and starts afresh in this case.
    """

    _optimizer: Any = None
    _stored: tuple[int, str] | None = None  # number of the trial that holds the state, and the state as JSON

    @property
    def _attr_key_optimizer(self) -> str:
        return f"{self._attr_prefix}plain"

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """Return the attributes that store the state; Optuna's pickle (``optimizer_str``) is discarded."""
        return super()._split_optimizer_str(json.dumps(optimizer_to_json(self._optimizer)))

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """Find the stored state; :meth:`_init_optimizer`, which Optuna calls next, restores it."""
        prefix, self._stored = f"{self._attr_key_optimizer}:", None
        for trial in reversed(completed_trials):
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            if parts:
                text = "".join(str(parts.get(f"{prefix}{part}")) for part in range(len(parts)))
                self._stored = trial.number, text
                break
        return None

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        generator = self._cma_rng.rng
        before = generator.get_state()
        self._optimizer = super()._init_optimizer(trans, direction)
        if self._stored is not None:
            # Optuna's sampler creates no optimizer here, so it draws no random numbers.
            generator.set_state(before)
            number, text = self._stored
            try:
                _restore(self._optimizer, parse_json(text))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RunError(
                    f"the state of CMA-ES in trial {number} of the study is damaged: {error}; use another study_name, "
                    "to start a new study"
                ) from error
        return self._optimizer


def optimizer_to_json(value: Any) -> Any:
    """Return an optimizer, or a part of its state, as JSON values, without its random generator."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {name: optimizer_to_json(part) for name, part in _state(value).items()}


def _state(optimizer: Any) -> dict[str, Any]:
    return {name: value for name, value in optimizer.__getstate__().items() if name != _GENERATOR}


def _restore(optimizer: Any, state: Any) -> None:
    """Set the state of a new optimizer; each part must have the type and shape of the new optimizer's part.

    Raises:
        ValueError: If a part is missing, or has another type or shape.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"it is {shown(state)}, expected a mapping")
    parts = {name: _restored(name, current, state.get(name)) for name, current in _state(optimizer).items()}
    if hasattr(type(optimizer), "__setstate__"):
        optimizer.__setstate__(parts)
    else:
        vars(optimizer).update(parts)


def _restored(name: str, current: Any, value: Any) -> Any:
    """Return the stored value of a learnt part, or the current value of any other part."""
    if isinstance(current, np.ndarray) and current.size:
        array = np.array(value if isinstance(value, Sequence) else [], dtype=current.dtype)
        if array.shape != current.shape:
            raise ValueError(f"{name} has the shape {array.shape}, expected {current.shape}")
        return array
    if name in _LEARNT:
        if not is_number(value):
            raise ValueError(f"{name} is {shown(value)}, expected a number")
        return type(current)(value)
    if hasattr(current, "__dict__"):  # an optimizer inside another one
        _restore(current, value)
    return current
